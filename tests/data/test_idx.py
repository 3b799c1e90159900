"""The IDX format."""

import struct

import pytest
import torch

from shaketable.data import idx
from shaketable.errors import InputError

IMAGES = struct.pack(">4i", 0x803, 2, 2, 3) + bytes(range(12))
LABELS = struct.pack(">2i", 0x801, 2) + bytes([7, 9])


def test_images_and_labels_are_read_row_by_row():
    images, labels = idx.read([("images", IMAGES), ("labels", LABELS)])
    assert images.dtype == torch.uint8
    assert images.tolist() == [[[[0, 1, 2], [3, 4, 5]]], [[[6, 7, 8], [9, 10, 11]]]]
    assert labels.tolist() == [7, 9]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (IMAGES[:-1], "cut short"),
        (IMAGES + b"\0", "promises"),
        (IMAGES[:10], "header"),
        (b"", "header"),
        (LABELS + bytes(9), "0x00000801"),
        (b"\0\0\x0d\x03" + IMAGES[4:], "0x00000d03"),
        (b"\x1f\x8b\x08\0" + IMAGES[4:], "no such IDX"),
    ],
)
def test_damaged_files_are_refused_by_name(content, problem):
    with pytest.raises(InputError, match=f"some/file: .*{problem}"):
        idx.parse(content, "some/file", 3)


def test_images_and_labels_of_different_number_are_refused():
    with pytest.raises(InputError, match="2 images and labels 1 labels"):
        idx.read([("images", IMAGES), ("labels", struct.pack(">2i", 0x801, 1) + b"\1")])
