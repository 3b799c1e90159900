"""The zoo of the sparsity paper: which networks it has."""

from collections import Counter

import pytest

from studies import sparsity_zoo

DROPOUT = {"small": [0, 0.1, 0.3], "full": [0, 0.3, 0.5]}
COUNTS = {"small": sparsity_zoo.SMALL, "full": sparsity_zoo.FULL}


@pytest.mark.parametrize("setting", COUNTS)
def test_a_plan_has_so_many_networks_of_each_architecture(setting):
    plan = sparsity_zoo.plan(setting)
    names = Counter(entry.recipe.network.replace("vgg16-bn", "vgg16") for entry in plan.networks)
    assert names == COUNTS[setting]
    assert len(plan) >= 60


@pytest.mark.parametrize("setting", COUNTS)
def test_the_vgg16_of_a_plan_take_every_value_of_appendix_d_as_often_as_any_other(setting):
    recipes = [
        entry.recipe for entry in sparsity_zoo.plan(setting).networks if entry.recipe.network.startswith("vgg16")
    ]
    columns = {
        "network": [recipe.network for recipe in recipes],
        "dropout": [recipe.network_args["dropout"] for recipe in recipes],
        "corruption": [recipe.label_corruption for recipe in recipes],
    }
    columns |= {
        name: [getattr(recipe, name) for recipe in recipes] for name in ("momentum", "weight_decay", "batch_size")
    }
    values = {name: sorted(set(column)) for name, column in columns.items()}
    assert values["corruption"] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert values["network"] == ["vgg16", "vgg16-bn"]
    assert (values["dropout"], values["momentum"], values["weight_decay"]) == (
        DROPOUT[setting],
        [0, 0.5, 0.9],
        [0, 1e-4],
    )
    assert len(values["batch_size"]) == 3
    for name, column in columns.items():
        counts = Counter(column).values()
        assert max(counts) - min(counts) <= 1, name


def test_a_step_without_momentum_is_ten_times_as_long_as_with_nine_tenths_of_it():
    recipes = [entry.recipe for entry in sparsity_zoo.plan("small").networks if entry.recipe.network == "mobilenet"]
    rates = {recipe.momentum: recipe.learning_rate for recipe in recipes}
    assert rates[0.0] == pytest.approx(10 * rates[0.9])
    assert rates[0.5] == pytest.approx(5 * rates[0.9])


def test_drawn_combinations_repeat_exactly_and_depend_on_the_seed():
    axes = {"first": [0, 1, 2], "second": list(range(5))}
    one, again, other = (sparsity_zoo.drawn(axes, 30, seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert [row["first"] for row in one] == [0, 1, 2] * 10
