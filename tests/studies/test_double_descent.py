"""The study of double descent: its grids, means over seeds by hand, and a toy from training to figures."""

import json

import polars as pl
import pytest
from studies.common import Options

from shaketable.measures import MEASURES
from shaketable.networks import construct
from shaketable.params import linear_layers
from shaketable.zoo import Plan
from studies import double_descent


def test_the_full_setting_is_the_papers():
    plans = double_descent.SETTINGS["full"].plans
    assert {name: len(plan) for name, plan in plans.items()} == {"cnn5": 160, "resnet18k": 160}
    recipe = plans["cnn5"].networks[0].recipe
    assert (recipe.data, recipe.epochs, recipe.learning_rate, recipe.weight_decay) == ("cifar100", 200, 0.01, 1e-4)
    assert [entry.hyperparameters["width"] for entry in double_descent.SETTINGS["small"].plans["cnn5"].networks][
        -1
    ] == 20


@pytest.mark.parametrize("name", ["small", "full"])
def test_the_network_compared_and_every_output_layer_are_there(name):
    setting = double_descent.SETTINGS[name]
    assert set(double_descent.MEASURES) <= set(MEASURES)
    for kind, plan in setting.plans.items():
        assert setting.compared in {entry.hyperparameters["width"] for entry in plan.networks}
        network = construct(plan.networks[0].recipe.network, (3, 32, 32), 10)
        found = [layer.name for layer in linear_layers(network, None)]
        assert found[-1] == double_descent.OUTPUT[kind]["layer"]


def test_a_row_of_a_width_is_the_mean_over_seeds_with_its_standard_error():
    losses = {"train_loss": 0.0, "train_error": 0.0, "test_error": 0.0}
    rows = [
        losses | {"network": f"{w}{s}", "hp_width": w, "test_loss": w + s, "measure": "prunability", "value": 2.0 * s}
        for w in (1, 2)
        for s in (0, 1)
    ]
    found = double_descent.by_width(pl.DataFrame(rows))
    one = found.filter(width=2, quantity="test_loss").row(0, named=True)
    assert (one["value"], one["stderr"], one["seeds"]) == pytest.approx((2.5, 0.5, 2))
    assert found.filter(width=1, quantity="prunability")["value"].item() == 1


@pytest.mark.slow
def test_a_toy_runs_from_training_to_figures(tmp_path):
    base = double_descent.SMALL.replace(
        data="digits",
        data_args={"train_examples": 60, "test_examples": 40, "pad": 12},
        epochs=2,
        milestones=(1, 2),
        checkpoints=(0, 2),
        evaluate_every=2,
    )
    arguments = {"effective_dimensionality": {"examples": 20, "count": 3}, "sum_of_training_losses": {"running": True}}
    plan = Plan.grid(base, {"width": [1, 2], "seed": [0, 1]})
    chosen = Options("small", None, tmp_path / "out", tmp_path / "runs", "cpu", "a toy")
    double_descent.study(double_descent.Setting({"cnn5": plan}, arguments, 2, 1), chosen)
    out = tmp_path / "out"
    ranking = pl.read_csv(out / "double-descent-cnn5-ranking.csv")
    assert set(ranking["measure"]) == set(double_descent.MEASURES)
    assert set(ranking["networks"]) <= {0, 1, 2, 3, 4}
    assert len((out / "double-descent-cnn5.md").read_text().splitlines()) == 2 + 2 + 1 + 2 + len(
        double_descent.MEASURES
    )
    assert {path.name for path in out.glob("*.png")} == {"double-descent-cnn5.png", "pruning-cnn5.png"}
    assert len((out / "pruning-cnn5.md").read_text().splitlines()) == 2 + 11
    assert json.loads((out / "double-descent.json").read_text())["cnn5"]["networks"] == 4
