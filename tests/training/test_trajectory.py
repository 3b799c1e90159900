"""Checkpoints of a folder: in order, read when asked for."""

import pytest
import torch

from shaketable.errors import InputError
from shaketable.files import save_tensors
from shaketable.training import Checkpoints


@pytest.fixture
def checkpoints(tmp_path):
    kept = Checkpoints(tmp_path)
    for epoch in (10, 0, 2, 12345):
        save_tensors(kept.path(epoch), {"weight": torch.full((2,), float(epoch))})
    (tmp_path / ".epoch-0003.safetensors.part1").write_text("half")
    (tmp_path / "epoch-x.safetensors").write_text("not ours")
    return kept


def test_epochs_come_in_order_and_half_written_files_are_none(checkpoints):
    assert list(checkpoints) == [0, 2, 10, 12345]
    assert len(checkpoints) == 4


def test_an_epoch_gives_its_weights(checkpoints):
    assert checkpoints[12345]["weight"].tolist() == [12345.0, 12345.0]


def test_an_epoch_without_file_is_a_key_error_that_names_those_that_are_there(checkpoints):
    assert 3 not in checkpoints
    assert checkpoints.get(3) is None
    with pytest.raises(KeyError, match="epoch 3; there are 0, 2, 10, 12345"):
        checkpoints[3]


def test_asking_what_is_there_reads_no_file(checkpoints):
    checkpoints.path(2).write_bytes(b"damaged")
    assert 2 in checkpoints
    assert list(checkpoints) == [0, 2, 10, 12345]
    with pytest.raises(InputError, match=r"epoch-0002\.safetensors"):
        checkpoints[2]


def test_a_folder_that_is_not_there_has_no_checkpoints(tmp_path):
    assert list(Checkpoints(tmp_path / "absent")) == []
