"""Figures of estimators: what they show is what the table has."""

import polars as pl
import pytest

from shaketable import plots
from shaketable.errors import InputError

POINTS = pl.DataFrame(
    {
        "network": ["a", "b", "c"],
        "part": ["train", "train", "test"],
        "gap": [0.1, 0.5, 0.3],
        "estimate": [0.12, 0.46, 0.35],
        "low": [None, None, 0.2],
        "high": [None, None, 0.6],
    }
)


def layer(chart, name):
    return next(one for one in chart.to_dict()["layer"] if one["name"] == name)


def rows(chart):
    (data,) = [rows for name, rows in chart.to_dict()["datasets"].items() if len(rows) == 3]
    return data


def test_estimates_stand_over_true_gaps_with_their_intervals_and_the_line_of_equal_values():
    chart = plots.estimate_scatter(POINTS)
    assert rows(chart) == POINTS.to_dicts()
    dots, bars = layer(chart, "networks")["encoding"], layer(chart, "intervals")["encoding"]
    assert (dots["x"]["field"], dots["y"]["field"], dots["color"]["field"]) == ("gap", "estimate", "part")
    assert (bars["y"]["field"], bars["y2"]["field"]) == ("low", "high")
    line = layer(chart, "line")
    ends = chart.to_dict()["datasets"][line["data"]["name"]] if "name" in line["data"] else line["data"]["values"]
    assert [end["at"] for end in ends] == [0.1, 0.6]


def test_a_plane_is_coloured_by_a_number_or_by_a_text():
    table = pl.DataFrame(
        {"zeta": [0.1, 0.2, 0.3], "kappa": [0.5, 0.4, 0.3], "gap": [0.1, 0.2, 0.9], "corrupted": ["0", "0", "1"]}
    )
    chart = plots.plane(table)
    assert rows(chart) == table.to_dicts()
    assert layer(chart, "points")["encoding"]["color"]["type"] == "quantitative"
    assert layer(plots.plane(table, colour="corrupted"), "points")["encoding"]["color"]["type"] == "nominal"
    assert "value" in layer(plots.plane(table, colour=None), "points")["encoding"]["color"]


def test_a_number_that_is_not_finite_is_no_point():
    chart = plots.estimate_scatter(POINTS.with_columns(estimate=pl.Series([float("nan"), 0.1, 0.2])))
    assert rows(chart)[0]["estimate"] is None


@pytest.mark.parametrize("draw", [plots.estimate_scatter, plots.plane, plots.ssr_histogram])
def test_an_empty_table_is_refused(draw):
    with pytest.raises(InputError, match="there is nothing to draw"):
        draw(POINTS.with_columns(zeta=0.0, kappa=0.0, ssr=0.0).clear())


def test_a_column_that_there_is_not_is_refused():
    with pytest.raises(InputError, match="'zeta' is no column of this table"):
        plots.plane(POINTS)
