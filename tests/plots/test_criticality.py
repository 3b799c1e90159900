"""Figures of criticality as data: order, values, standard errors, and what stands for 0 and for no number."""

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.plots.test_robustness import EVIL, marks, part, rows_of
from tests.tables import criticality

from shaketable import plots
from shaketable.errors import InputError

KINDS = ["criticality", "PAC-Bayes (alpha = 1)"]


def test_bars_are_the_numbers_of_the_largest_epsilon_in_forward_order() -> None:
    result = criticality()
    spec = plots.criticality_bars(result.table.reverse()).to_dict()
    table = result.table.filter(epsilon=0.1)
    for kind, column in zip(KINDS, ("criticality", "pac_bayes"), strict=True):
        rows = [row for row in rows_of(spec) if row["kind"] == kind]
        assert [row["layer"] for row in rows] == ["in", "mid", "out"]
        assert [row["value"] for row in rows] == table[column].to_list()
    assert spec["encoding"]["y"]["scale"]["domain"] == ["in", "mid", "out"]
    assert part(spec, "bars")["encoding"]["x"]["scale"]["type"] == "log"


def test_error_bars_are_one_standard_error_to_each_side_and_end_at_the_axis() -> None:
    table = criticality().table.with_columns(
        criticality_stderr=pl.when(pl.col("layer") == "in").then(5.0).otherwise(1e9)
    )
    spec = plots.criticality_bars(table, pac_bayes=False).to_dict()
    first, second, _ = rows_of(spec)
    assert (first["low"], first["high"]) == (first["value"] - 5, first["value"] + 5)
    base, top = part(spec, "bars")["encoding"]["x"]["scale"]["domain"]
    assert second["low"] == base, "below 0 there is no place on a logarithmic axis"
    assert top > second["high"]


def test_a_criticality_of_0_is_a_0_and_an_infeasible_layer_is_crossed(tmp_path: Path) -> None:
    chart = plots.criticality_bars(criticality(infeasible=("mid",)).table, pac_bayes=False)
    svg = plots.save(chart, tmp_path / "bars.svg").read_text()
    assert [marks(svg, name) for name in ("unavailable", "bars")] == [1, 1]
    for name, sign in (("zeros", "0"), ("crosses", "×")):
        inside = svg.split(f'{name}_marks"', 1)[1].split("</g>", 1)[0]
        assert inside.count("<text") == 1
        assert f">{sign}<" in inside
    (hole,) = (row for row in rows_of(chart.to_dict()) if row["value"] is None)
    assert (hole["layer"], hole["remark"]) == ("mid", "its error exceeds the bound")


@pytest.mark.parametrize("values", [[0.0] * 3, [None] * 3, [math.nan] * 3, [1e-12, 1.0, 1e12]])
def test_any_numbers_can_be_drawn(values: list[float | None], tmp_path: Path) -> None:
    numbers = pl.Series(values, dtype=pl.Float64)
    table = criticality(epsilons=(0.1,)).table.with_columns(
        criticality=numbers, criticality_stderr=numbers, pac_bayes=numbers, pac_bayes_stderr=numbers
    )
    chart = plots.criticality_bars(table)
    base, top = part(chart.to_dict(), "bars")["encoding"]["x"]["scale"]["domain"]
    assert 0 < base < top
    assert plots.save(chart, tmp_path / "any.png").stat().st_size > 1000


def test_an_epsilon_can_be_chosen_and_must_be_there() -> None:
    table = criticality().table
    spec = plots.criticality_bars(table, 0.05).to_dict()
    assert rows_of(spec)[0]["value"] == table.filter(epsilon=0.05, layer="in")["criticality"][0]
    with pytest.raises(InputError, match="no epsilon 0.2; it has 0.05, 0.1"):
        plots.criticality_bars(table, 0.2)
    with pytest.raises(InputError, match="no row"):
        plots.criticality_bars(table.clear())


def test_the_curve_has_a_point_for_each_network_and_threshold() -> None:
    one, other = criticality().summary(), criticality(("in", "out")).summary()
    spec = plots.criticality_curve({"true": one, "corrupted": other}).to_dict()
    drawn = {(row["network"], row["epsilon"]): row["value"] for row in rows_of(spec)}
    assert drawn[("true", 0.05)] == pytest.approx(one["network_criticality"][0])
    assert drawn[("corrupted", 0.1)] == pytest.approx(other["network_criticality"][1])
    assert len(drawn) == 4
    unknown: Any = "gap"
    with pytest.raises(InputError, match="no quantity"):
        plots.criticality_curve(one, unknown)


def test_a_threshold_without_a_number_is_crossed_on_the_curve(tmp_path: Path) -> None:
    summary = criticality(epsilons=(0.01, 0.05, 0.1)).summary()
    summary = summary.with_columns(network_criticality=pl.Series([None, 5.0, 0.0]))
    svg = plots.save(plots.criticality_curve(summary), tmp_path / "curve.svg").read_text()
    for name in ("crosses", "zeros"):
        assert svg.split(f'{name}_marks"', 1)[1].split("</g>", 1)[0].count("<text") == 1


def test_a_name_from_outside_is_a_value_only() -> None:
    spec = plots.criticality_bars(criticality((EVIL, "a'b")).table).to_dict()
    assert spec["encoding"]["y"]["scale"]["domain"] == [EVIL, "a'b"]
    del spec["datasets"], spec["encoding"]["y"]["scale"]
    assert "<script" not in str(spec)
