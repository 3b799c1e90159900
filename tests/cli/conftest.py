"""A run, trained once, and files of the user's own."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.cli.commands import TINY

from shaketable import cli
from shaketable.networks import build
from shaketable.params import snapshot


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run, trained once."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", *TINY, "--out", str(folder), "--json"])
    assert not stopped.value.code
    (path,) = (p for p in folder.iterdir() if p.is_dir())
    return path


@pytest.fixture
def foreign(tmp_path):
    """Weights and data of the user's own, as files."""
    network = build("fcn-2x8", (4,), 3)
    torch.save(network.state_dict(), tmp_path / "init.pt")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5)
    save_file(snapshot(network), tmp_path / "final.safetensors")
    generator = np.random.default_rng(0)
    arrays = {f"{split}_inputs": generator.normal(size=(30, 4)).astype("float32") for split in ("train", "test")}
    arrays |= {f"{split}_labels": generator.integers(0, 3, 30) for split in ("train", "test")}
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path
