"""Cells on disk survive being cut off at any byte."""

from pathlib import Path

import pytest

from shaketable.errors import InputError
from shaketable.probes.cells import Cells


def filled(folder: Path) -> Path:
    """A file of three cells."""
    path = folder / "cells.jsonl"
    with Cells(path, "me") as cells:
        for key in "abc":
            cells.get(key, lambda key=key: {"value": key})
    return path


def test_a_file_cut_at_any_byte_loses_at_most_the_last_cell_and_can_be_gone_on_with(tmp_path):
    path = filled(tmp_path)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with Cells(path, "me") as cells:
            kept = len(cells)
            assert kept >= whole[:cut].count(b"\n") - 1
            assert [cells.get(key, lambda key=key: {"value": key})["value"] for key in "abc"] == ["a", "b", "c"]
        assert path.read_bytes() == whole


def test_a_damaged_line_and_all_behind_it_are_computed_anew(tmp_path):
    path = filled(tmp_path)
    whole = path.read_bytes()
    lines = whole.split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], b"\0" * 20, *lines[3:]]))
    with Cells(path, "me") as cells:
        assert len(cells) == 1
        assert [cells.get(key, lambda key=key: {"value": key})["value"] for key in "abc"] == ["a", "b", "c"]
    assert path.read_bytes() == whole


def test_cells_of_another_identity_are_refused(tmp_path):
    path = tmp_path / "cells.jsonl"
    with Cells(path, "me") as cells:
        cells.get("a", lambda: {"value": 1})
    with pytest.raises(InputError, match="belongs to other weights"):
        Cells(path, "somebody else")


def test_without_a_path_cells_are_kept_in_memory():
    with Cells(None, "me") as cells:
        assert cells.get("a", lambda: {"value": 1}) == cells.get("a", lambda: {"value": 2}) == {"value": 1}
