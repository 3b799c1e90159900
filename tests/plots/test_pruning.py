"""The figure of pruning as data."""

from pathlib import Path

import polars as pl
import pytest
from tests.plots.test_robustness import part, rows_of
from tests.tables import prunability

from shaketable import plots
from shaketable.errors import InputError


def test_the_curves_are_means_over_draws_by_split_and_perturbation() -> None:
    found = prunability(noise=2)
    spec = plots.pruning_curves(found.table, found.summary()).to_dict()
    drawn = {(row["perturbation"], row["split"], row["sparsity"]): row["loss"] for row in rows_of(spec)}
    assert len(drawn) == 2 * 2 * 3
    for (kind, split, sparsity), loss in drawn.items():
        own = found.table.filter(perturbation=kind, split=split, sparsity=sparsity)["loss"]
        assert loss == pytest.approx(own.mean())
    curves = part(spec, "curves")["encoding"]
    assert curves["color"]["scale"]["domain"] == ["train", "test"]
    assert curves["strokeDash"]["scale"]["domain"] == ["pruning", "noise"]


def test_the_line_stands_at_the_largest_sparsity_allowed() -> None:
    found = prunability()
    spec = plots.pruning_curves(found.table, found.summary(), "error").to_dict()
    assert part(spec, "prunability")["encoding"]["x"]["datum"] == 1 - found.summary()["prunability"][0]
    assert [layer["name"] for layer in plots.pruning_curves(found.table).to_dict()["layer"]] == ["curves"]


def test_a_loss_that_is_not_there_interrupts_the_line_and_the_figure_is_written(tmp_path: Path) -> None:
    found = prunability()
    gone = found.table.with_columns(loss=pl.when(pl.col("sparsity") < 1).then("loss"))
    chart = plots.pruning_curves(gone, found.summary(), title="pruned")
    assert {row["loss"] for row in rows_of(chart.to_dict()) if row["sparsity"] == 1} == {None}
    assert plots.save(chart, tmp_path / "pruning.png").stat().st_size > 1000


def test_what_there_is_not_is_one_clear_error() -> None:
    table = prunability().table
    with pytest.raises(InputError, match="'random' is no method"):
        plots.pruning_curves(table, method="random")
    with pytest.raises(InputError, match="has no curve"):
        plots.pruning_curves(table.head(0))
