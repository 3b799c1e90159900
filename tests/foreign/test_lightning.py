"""Lightning checkpoints: made by hand in the form that Lightning documents."""

from pathlib import Path

import pytest
import torch
from torch import nn

from shaketable.errors import InputError
from shaketable.params import snapshot
from shaketable.study import Study

DATA = (torch.eye(2), [0, 1])


def network(value: float = 0.0) -> nn.Sequential:
    made = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    for parameter in made.parameters():
        nn.init.constant_(parameter, value)
    return made


def checkpoint(path: Path, value: float, prefix: str = "model.", **more) -> Path:
    weights = {f"{prefix}{name}": tensor for name, tensor in network(value).state_dict().items()}
    content = {"epoch": 4, "global_step": 10, "pytorch-lightning_version": "2.5.0", "hyper_parameters": {"lr": 0.1}}
    torch.save(content | {"state_dict": weights | more, "optimizer_states": [{}], "loops": {}, "callbacks": {}}, path)
    return path


@pytest.mark.parametrize("prefix", ["model.", "", "net.backbone.", "_orig_mod.model."])
def test_the_prefix_is_found_and_removed(tmp_path, prefix):
    study = Study.from_lightning(checkpoint(tmp_path / "last.ckpt", 1.0, prefix), network(), DATA)
    expected = snapshot(network(1.0))
    assert set(study.final) == set(expected)
    assert all(torch.equal(study.final[name], tensor) for name, tensor in expected.items())
    assert study.provenance["prefix"] == prefix
    assert len(study.data("test")) == 2


def test_what_is_not_the_networks_is_left_aside_and_named(tmp_path):
    file = checkpoint(tmp_path / "last.ckpt", 1.0, **{"loss.weight": torch.ones(2), "metric.total": torch.tensor(3)})
    assert Study.from_lightning(file, network(), DATA).provenance["left_out"] == ["loss.weight", "metric.total"]


def test_init_and_a_trajectory_come_from_checkpoints_too_and_are_read_when_they_are_asked_for(tmp_path):
    files = {epoch: checkpoint(tmp_path / f"epoch={epoch - 1}.ckpt", float(epoch)) for epoch in (1, 2)}
    files[9] = tmp_path / "missing.ckpt"
    last, first = checkpoint(tmp_path / "last.ckpt", 3.0), checkpoint(tmp_path / "first.ckpt", 0.5)
    study = Study.from_lightning(last, network(), DATA, init=first, checkpoints=files)
    assert study.epochs == (0, 1, 2, 9)
    assert [float(study.checkpoint(epoch)["0.bias"][0]) for epoch in (0, 1, 2)] == [0.5, 1.0, 2.0]
    with pytest.raises(InputError, match="there is no such file"):
        study.checkpoint(9)


def test_two_networks_in_one_file_ask_for_a_choice(tmp_path):
    ema = {f"ema.{name}": tensor for name, tensor in network(2.0).state_dict().items()}
    file = checkpoint(tmp_path / "last.ckpt", 1.0, **ema)
    with pytest.raises(InputError, match="fit below 'ema.', 'model.'; choose one with prefix="):
        Study.from_lightning(file, network(), DATA)
    assert float(Study.from_lightning(file, network(), DATA, prefix="ema.").final["0.bias"][0]) == 2


def test_names_that_do_not_fit_and_files_that_cannot_be_read_are_one_clear_error(tmp_path):
    file = checkpoint(tmp_path / "last.ckpt", 1.0)
    with pytest.raises(InputError, match=r"no prefix gives the names of Linear.*'model.0.weight'"):
        Study.from_lightning(file, nn.Linear(5, 5).eval().requires_grad_(False), DATA)
    with pytest.raises(InputError, match="no name begins with 'net.'"):
        Study.from_lightning(file, network(), DATA, prefix="net.")
    with pytest.raises(InputError, match="there is no such file"):
        Study.from_lightning(tmp_path / "other.ckpt", network(), DATA)
    with pytest.raises(InputError, match="give a mapping from epochs to files"):
        Study.from_lightning(file, network(), DATA, checkpoints=[file])


def test_a_checkpoint_with_objects_in_it_is_refused_without_running_their_code(tmp_path):
    torch.save({"state_dict": network().state_dict(), "hyper_parameters": {"path": Path("x")}}, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match="weights_only=True.*state_dict"):
        Study.from_lightning(tmp_path / "last.ckpt", network(), DATA)
