"""The figures of ablation as data."""

from pathlib import Path

import polars as pl
import pytest
from tests.plots.test_robustness import part, rows_of
from tests.tables import ablation

from shaketable import plots
from shaketable.errors import InputError


def test_both_curves_are_drawn_with_their_turning_points_and_the_area_between() -> None:
    found = ablation()
    spec = found.plot(group=0).to_dict()
    rows = rows_of(spec)
    assert [row["most first"] for row in rows] == [1, 0.9, 0, 0, 0]
    assert [row["least first"] for row in rows] == [1, 0.9, 0.9, 0.9, 0]
    assert [row["removed"] for row in rows if row["n_0"]] == [2]
    assert [row["removed"] for row in rows if row["n_0_r"]] == [0]
    assert part(spec, "area")["encoding"]["y2"]["field"] == "least first"
    assert part(spec, "chance")["encoding"]["y"]["datum"] == 0.1
    assert part(spec, "curves")["encoding"]["color"]["scale"]["domain"] == ["most first", "least first"]


def test_a_class_or_all_data_can_be_chosen_and_the_figure_is_written(tmp_path: Path) -> None:
    found = ablation((0, 1, None))
    assert [row["most first"] for row in rows_of(found.plot(group=1).to_dict())] == [1, 0, 0, 0, 0]
    chart = plots.ablation_curves(ablation((None,)).table, ablation((None,)).summary(), title="all data")
    assert plots.save(chart, tmp_path / "ablation.png").stat().st_size > 1000


def test_zeta_and_kappa_are_points_of_classes_and_of_their_mean(tmp_path: Path) -> None:
    summary = ablation().summary()
    chart = plots.sparsity_scatter(summary)
    rows = rows_of(chart.to_dict())
    assert [(row["over"], row["class"]) for row in rows] == [("class", 0), ("class", 1), ("mean of classes", None)]
    assert rows[2]["zeta"] == pytest.approx((rows[0]["zeta"] + rows[1]["zeta"]) / 2)
    assert plots.save(chart, tmp_path / "scatter.png").stat().st_size > 1000


def test_what_there_is_not_is_one_clear_error() -> None:
    found = ablation()
    with pytest.raises(InputError, match="'7' is no class of this table; take one of: 0, 1"):
        found.plot(group=7)
    with pytest.raises(InputError, match="has no layer 'x'"):
        found.plot(layer="x")
    with pytest.raises(InputError, match="has no curve"):
        plots.ablation_curves(found.table.with_columns(status=pl.lit("unavailable")), found.summary())
