"""The IDX format of MNIST: a magic number, the sizes, then bytes."""

import math
import struct
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shaketable.errors import InputError


def parse(content: bytes, name: str, dimensions: int) -> Tensor:
    """The uint8 tensor in an IDX file.

    Args:
        content: the file's bytes, uncompressed.
        name: what the file is called in error messages.
        dimensions: how many sizes it must have: 3 for images [N, H, W], 1 for labels [N].

    Raises:
        InputError: another magic number, another type than unsigned bytes, or more or fewer bytes than the sizes say.
    """
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise InputError(f"{name}: has {len(content)} bytes, too few for an IDX header; delete it and fetch it again.")
    if content[:4] != bytes((0, 0, 8, dimensions)):
        raise InputError(
            f"{name}: begins with 0x{content[:4].hex()}, not 0x000008{dimensions:02x}, so it is no such IDX file."
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise InputError(
            f"{name}: its header promises {math.prod(shape)} values {list(shape)} and it holds "
            f"{len(content) - header}; it is cut short or damaged: delete it and fetch it again."
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())


def read(files: Sequence[tuple[str, bytes]]) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 1, H, W] and labels int64 [N] from an image file and a label file."""
    (images_name, images_content), (labels_name, labels_content) = files
    images, labels = parse(images_content, images_name, 3), parse(labels_content, labels_name, 1)
    if len(images) != len(labels):
        raise InputError(
            f"{images_name} holds {len(images)} images and {labels_name} {len(labels)} labels; fetch both again."
        )
    return images.unsqueeze(1), labels.long()
