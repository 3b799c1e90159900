"""Cells on disk survive being cut off at any byte."""

import pytest

from shaketable.errors import InputError
from shaketable.probes.cells import Cells


def test_a_file_cut_at_any_byte_loses_at_most_the_last_cell_and_can_be_gone_on_with(tmp_path):
    path = tmp_path / "cells.jsonl"
    with Cells(path, "me") as cells:
        for key in "abc":
            cells.get(key, lambda key=key: {"value": key})
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with Cells(path, "me") as cells:
            kept = len(cells)
            assert kept >= whole[:cut].count(b"\n") - 1
            assert [cells.get(key, lambda key=key: {"value": key})["value"] for key in "abc"] == ["a", "b", "c"]
        assert path.read_bytes() == whole


def test_cells_of_another_identity_and_damaged_ones_are_refused(tmp_path):
    path = tmp_path / "cells.jsonl"
    with Cells(path, "me") as cells:
        cells.get("a", lambda: {"value": 1})
    with pytest.raises(InputError, match="belongs to other weights"):
        Cells(path, "somebody else")
    path.write_bytes(b"{broken\n")
    with pytest.raises(InputError, match="is damaged"):
        Cells(path, "me")


def test_without_a_path_cells_are_kept_in_memory():
    with Cells(None, "me") as cells:
        assert cells.get("a", lambda: {"value": 1}) == cells.get("a", lambda: {"value": 2}) == {"value": 1}
