"""What an estimator looks at: columns of a zoo, and margins at four layers."""

import math

import polars as pl
import pytest
import torch

from shaketable.errors import InputError
from shaketable.estimators import MARGINS, fit, margin_statistics, with_margins
from shaketable.estimators.features import Feature, architecture, values_of
from shaketable.measures.margins import normalised_margins
from shaketable.study import Study
from shaketable.training import Recipe


def test_margins_are_the_statistics_of_the_first_and_last_layers_and_two_between(small_zoo):
    study = Study.from_run(small_zoo.runs / small_zoo.plan.networks[0].name)
    found, layers = margin_statistics(study), normalised_margins(study)
    assert tuple(found) == MARGINS
    assert found["margin1_median"] == layers["median"][0]
    assert found["margin4_upper_fence"] == layers["upper_fence"][-1]
    assert len(layers) == 2  # two linear layers: places 1 and 2 are the first, 3 and 4 the last
    assert found["margin2_median"] == found["margin1_median"]


def test_the_margins_of_a_zoo_stand_beside_its_measures_and_are_taken_once(small_zoo, monkeypatch):
    table = with_margins(small_zoo)
    assert len(table) == 12 * (3 + len(MARGINS))
    name = small_zoo.plan.networks[3].name
    study = Study.from_run(small_zoo.runs / name)
    own = table.filter(pl.col("network") == name, pl.col("measure") == "margin1_median")
    assert own["value"].item() == margin_statistics(study)["margin1_median"]
    assert own["gap"].item() == table.filter(pl.col("network") == name, pl.col("measure") == "path_norm")["gap"].item()
    monkeypatch.setattr("shaketable.estimators.features.margin_statistics", lambda study: pytest.fail("taken again"))
    assert with_margins(small_zoo).equals(table)


def test_an_estimator_can_rest_on_margins(small_zoo):
    found = fit(with_margins(small_zoo), ["margin1_median", "margin4_median"], coverage=0.5)
    study = Study.from_run(small_zoo.runs / small_zoo.plan.networks[0].name)
    assert found.estimate(study).features["value"].to_list() == [
        margin_statistics(study)[name] for name in ("margin1_median", "margin4_median")
    ]


def test_a_margin_that_was_fitted_by_its_logarithm_is_looked_at_by_its_logarithm():
    final = {"weight": torch.eye(2), "bias": torch.zeros(2)}
    inputs = torch.tensor([[2.0, 1], [0, 5], [9, 0]])
    study = Study(torch.nn.Linear(2, 2).eval(), final=final, train=(inputs, [0, 1, 0]))
    plain, logarithm = (Feature("margin1_median", 1, {}, way, 0.0, 1.0) for way in (False, True))
    value, found = values_of(study, [plain, logarithm])
    assert value == margin_statistics(study)["margin1_median"] > 0
    assert found == pytest.approx(math.log10(value))


def test_measures_that_were_taken_in_more_than_one_way_are_refused(small_zoo):
    table = small_zoo.table()
    mixed = table.with_columns(version=pl.when(pl.col("network") == table["network"][0]).then(9).otherwise("version"))
    with pytest.raises(InputError, match="measured by path_norm in more than one way"):
        fit(mixed, ["path_norm"], coverage=0.5)


def test_dropout_and_initialisation_make_no_other_architecture_and_width_does():
    recipe = Recipe(network="vgg16", network_args={"width": 0.5, "dropout": 0.1, "init": "torch"})
    assert architecture(recipe) == "vgg16 (width 0.5)"
    assert architecture(recipe.changed(network_args={"width": 0.25})) == "vgg16 (width 0.25)"


def test_a_language_model_has_no_margins():
    import torch

    network = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5))
    tokens = torch.randint(5, (6, 3), generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="margins of this network are not to be had"):
        margin_statistics(Study(network.eval(), train=(tokens, tokens)))
