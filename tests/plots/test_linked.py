"""Figures of linked networks, as data."""

import polars as pl
import pytest

from shaketable import plots
from shaketable.errors import InputError
from shaketable.networks import construct
from shaketable.report import Cells

CELLS = Cells.of(construct("linked-4x2t3-4x3t4", (1, 8, 8), 2), "linked")


def rows(chart) -> list[dict]:
    return next(iter(chart.to_dict()["datasets"].values()))


def test_a_cell_is_drawn_with_every_channel_and_every_link_once():
    assert CELLS is not None
    found = rows(plots.cell_diagram(CELLS.table, CELLS.links, 2))
    assert sum(row["what"] == "channel" for row in found) == 12
    links = {(row["layer"], row["channel"], row["to"]) for row in found if row["what"] == "link"}
    wanted = CELLS.links.filter(pl.col("cell") == 2).select("source_layer", "source_channel", "layer").rows()
    assert links == set(wanted)
    assert {row["end"] for row in found if row["what"] == "link"} == {1.0}


def test_the_matrix_counts_the_channels_that_each_layer_is_linked_to():
    assert CELLS is not None
    found = {(row["from"], row["to"]): row["linked"] for row in rows(plots.link_heatmap(CELLS.table, CELLS.links, 1))}
    assert set(found) == {("0", "2"), ("0", "3"), ("1", "3")}
    assert found["0", "2"] == 2
    assert found["0", "3"] + found["1", "3"] == 3


def test_a_cell_that_there_is_not_is_one_clear_error():
    assert CELLS is not None
    for draw in (plots.cell_diagram, plots.link_heatmap):
        with pytest.raises(InputError, match="'3' is no cell of this network; take one of: 1, 2"):
            draw(CELLS.table, CELLS.links, 3)
