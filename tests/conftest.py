"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Test workers share few cores: one thread each."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; without it a test skips, except where SHAKETABLE_REQUIRE_DATA=1."""
    root = os.environ.get("SHAKETABLE_DATA")
    if root and Path(root).is_dir():
        return Path(root)
    if os.environ.get("SHAKETABLE_REQUIRE_DATA") == "1":
        pytest.fail("SHAKETABLE_REQUIRE_DATA=1 and SHAKETABLE_DATA names no folder of real data sets")
    pytest.skip("needs the real data sets: set SHAKETABLE_DATA to their folder")


@pytest.fixture(scope="session")
def pretrained() -> Path:
    """The folder of networks that somebody else trained; without it as for ``data_root``."""
    folder = os.environ.get("SHAKETABLE_NETWORKS")
    if folder and Path(folder).is_dir():
        return Path(folder)
    if os.environ.get("SHAKETABLE_REQUIRE_DATA") == "1":
        pytest.fail("SHAKETABLE_REQUIRE_DATA=1 and SHAKETABLE_NETWORKS names no folder of pretrained networks")
    pytest.skip("needs networks that others trained: set SHAKETABLE_NETWORKS to their folder")


@pytest.fixture(scope="session")
def oracles() -> Path:
    """The folder of published tables, beside the repository; without it as for ``data_root``."""
    folder = Path(__file__).parents[2] / "shared" / "oracles"
    if folder.is_dir():
        return folder
    if os.environ.get("SHAKETABLE_REQUIRE_DATA") == "1":
        pytest.fail(f"SHAKETABLE_REQUIRE_DATA=1 and there is no folder {folder} of published tables")
    pytest.skip(f"needs the published tables in {folder}")


@pytest.fixture(scope="session")
def transformers() -> None:
    """Hugging Face's library, for architectures that others wrote; without it as for ``data_root``."""
    if os.environ.get("SHAKETABLE_REQUIRE_DATA") != "1":
        pytest.importorskip("transformers")
