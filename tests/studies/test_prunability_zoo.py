"""The study of the prunability paper's tables: its grids, its margin baselines by hand, and a toy from training to tables."""

import json

import numpy as np
import polars as pl
import pytest
from studies.common import Options
from studies.prunability_tables import COMPARED

from shaketable.estimators.features import MARGINS
from shaketable.measures import MEASURES
from shaketable.zoo import Plan
from studies import prunability_margins, prunability_zoo


def test_the_full_grid_is_the_papers_and_the_small_one_has_no_less_than_96_networks():
    full, small = (prunability_zoo.SETTINGS[name].plan for name in ("full", "small"))
    assert len(full) == 324
    assert len(small) == 96
    assert full.axes == small.axes
    recipes = [entry.recipe for entry in full.networks]
    assert {recipe.epochs for recipe in recipes} == {380}
    assert {recipe.network for recipe in recipes} == {f"nin-{b}x{c}-bn" for b in (2, 3, 4) for c in (192, 288, 384)}


@pytest.mark.parametrize("name", ["small", "full"])
def test_only_named_measures_are_left_out(name):
    setting = prunability_zoo.SETTINGS[name]
    absent = {name for name, kind in MEASURES.items() if not kind.installed}
    assert set(MEASURES) - set(setting.measures) - absent == set(prunability_zoo.TOO_SLOW if name == "small" else ())
    assert set(COMPARED) - set(setting.measures) == {prunability_margins.FITTED, prunability_margins.BEST}


def test_the_fitted_margins_are_the_least_squares_prediction_and_the_best_variable_is_turned_by_its_sign():
    random = np.random.default_rng(0)
    x = random.normal(size=(30, 3)) * [1, 10, 0.1]
    gap = 2 * x[:, 0] - 0.5 * x[:, 1] + 0.1 * random.normal(size=30)
    networks = [f"n{index}" for index in range(30)]
    table = pl.DataFrame({"network": networks, "measure": "path_norm", "value": 1.0, "log10": 0.0, "gap": gap})
    table = table.with_columns(direction=pl.lit("lower"), status=pl.lit("ok"), reason=pl.lit(None, pl.String))
    parts = [
        table.with_columns(measure=pl.lit(MARGINS[k]), value=pl.Series(x[:, k]), log10=pl.lit(None, pl.Float64))
        for k in range(3)
    ]
    found, facts = prunability_margins.fitted_margins(pl.concat([table, *parts]))
    assert not set(MARGINS) & set(found["measure"])
    design = np.column_stack([x, np.ones(30)])
    expected = design @ np.linalg.lstsq(design, gap, rcond=None)[0]
    fitted = found.filter(measure=prunability_margins.FITTED)
    assert fitted["value"].to_numpy() == pytest.approx(expected)
    best = found.filter(measure=prunability_margins.BEST)
    assert facts["best"] == MARGINS[1]
    assert best["value"].to_list() == x[:, 1].tolist()
    assert set(best["direction"]) == {"higher"}


@pytest.mark.slow
def test_a_toy_runs_from_training_to_tables_and_figures(tmp_path):
    base = prunability_zoo.SMALL.replace(
        data="digits",
        data_args={"train_examples": 60, "test_examples": 40},
        epochs=2,
        milestones=(1,),
        checkpoints=(0, 2),
    )
    axes = {"blocks": [2, 3], "channels": [12, 16], "network_args.dropout": [0.0, 0.2], "seed": [0, 1, 2]}
    names = ("prunability", "training_loss", "sum_of_training_losses", "number_of_parameters")
    setting = prunability_zoo.Setting(Plan.grid(base, axes), names, prunability_zoo.RUNNING)
    chosen = Options("small", None, tmp_path / "out", tmp_path / "runs", "cpu", "a toy")
    prunability_zoo.study(setting, chosen)
    out = tmp_path / "out"
    assert len(pl.read_csv(out / "networks.csv")) == 24
    ranking = pl.read_csv(out / "ranking.csv")
    assert set(ranking["measure"]) == {*names, prunability_margins.FITTED, prunability_margins.BEST}
    assert ranking.filter(measure="training_loss")["networks"].item() == 24
    assert len((out / "table3.md").read_text().splitlines()) == 2 + 5
    assert len((out / "table1.md").read_text().splitlines()) == 2 + 6
    pictures = {path.name for path in out.glob("*.png")}
    assert {"granulated-tau.png", "relations.png", "scatter-prunability.png", "ranks-prunability.png"} <= pictures
    facts = json.loads((out / "zoo.json").read_text())
    assert facts["networks"] == 24
    assert facts["normalised_margins"]["variables"] == 20
