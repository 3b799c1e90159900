"""The zoo of the sparsity paper: which networks it has."""

from collections import Counter

import pytest

from studies import sparsity_zoo

DROPOUT = {"small": [0, 0.1, 0.3], "full": [0, 0.3, 0.5]}
COUNTS = {"small": sparsity_zoo.SMALL, "full": sparsity_zoo.FULL}


@pytest.mark.parametrize("setting", COUNTS)
def test_a_plan_has_so_many_networks_of_each_architecture(setting):
    plan = sparsity_zoo.plan(setting)
    recipes = [entry.recipe for entry in plan.networks]
    names = Counter(
        one.network.replace("vgg16-bn", "vgg16")
        for one in recipes
        if one not in sparsity_zoo.models(setting == "small")
    )
    assert names == COUNTS[setting]
    assert len(recipes) == sum(COUNTS[setting].values()) + 5
    assert len(plan) >= 60


@pytest.mark.parametrize("setting", COUNTS)
def test_the_vgg16_of_a_plan_take_every_value_of_appendix_d_as_often_as_any_other(setting):
    recipes = sparsity_zoo.varied("vgg16", 30, setting == "small")
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
    recipes = sparsity_zoo.varied("mobilenet", 12, small=True)
    rates = {recipe.momentum: recipe.learning_rate for recipe in recipes}
    assert rates[0.0] == pytest.approx(10 * rates[0.9])
    assert rates[0.5] == pytest.approx(5 * rates[0.9])


@pytest.mark.parametrize("network", sparsity_zoo.RECIPES)
def test_a_series_differs_in_the_corruption_of_labels_alone(network):
    recipes = sparsity_zoo.series(network, small=True)
    assert [one.label_corruption for one in recipes] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert len({one.replace(label_corruption=0.0) for one in recipes}) == 1


def test_the_small_models_a_to_e_leave_out_one_thing_more_each_as_the_full_ones_do():
    small, full = (sparsity_zoo.models(small) for small in (True, False))
    assert [bool(one.augmentation) for one in small] == [bool(one.augmentation) for one in full]
    for name in ("momentum", "weight_decay"):
        assert [getattr(one, name) for one in small] == [getattr(one, name) for one in full]
    assert [one.network_args.get("dropout") for one in small] == [0.3, 0.3, 0.3, 0.1, None]
    assert [one.network_args.get("dropped") for one in small] == [one.network_args.get("dropped") for one in full]


def test_drawn_combinations_repeat_exactly_and_depend_on_the_seed():
    axes = {"first": [0, 1, 2], "second": list(range(5))}
    one, again, other = (sparsity_zoo.drawn(axes, 30, seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert [row["first"] for row in one] == [0, 1, 2] * 10
