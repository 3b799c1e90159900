"""Networks that are trained at once have the weights that each has alone."""

import pytest
import torch

from shaketable import train
from shaketable.errors import InputError, RunError
from shaketable.training import Recipe, Run
from shaketable.training.together import OWN, shape_of, train_together

SMALL = {"data_args": {"train_examples": 50, "test_examples": 20}, "batch_size": 16, "epochs": 3}
BASE = Recipe(network="nin-1x4-bn", augmentation=("shift:1",), **SMALL)


def assert_equal_runs(found, alone):
    for epoch in alone.checkpoints:
        expected = alone.checkpoints[epoch]
        for name, tensor in found.checkpoints[epoch].items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)
    assert list(found.checkpoints) == list(alone.checkpoints)
    for column in ("running_loss", "train_loss", "test_loss"):
        one, other = (run.history[column].drop_nulls().to_list() for run in (found, alone))
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize(("network", "optimiser"), [("nin-1x4-bn", "sgd"), ("fcn-2x8", "sgd"), ("fcn-2x8", "adam")])
def test_weights_and_history_are_those_of_each_alone(network, optimiser, tmp_path):
    base = BASE.replace(network=network, optimiser=optimiser, learning_rate=0.01)
    recipes = [
        base,
        base.replace(seed=1, learning_rate=0.02, weight_decay=0.01),
        base.replace(seed=2, epochs=2, label_corruption=0.5, augmentation=(), momentum=0.5),
    ]
    together = train_together(recipes, out=tmp_path / "together")
    for recipe, found in zip(recipes, together, strict=True):
        assert isinstance(found, Run)
        assert found.finished
        assert_equal_runs(found, train(recipe, out=tmp_path / "alone"))


def test_a_network_that_diverges_leaves_the_others_alone(tmp_path):
    recipes = [BASE, BASE.replace(learning_rate=1e38), BASE.replace(seed=3)]
    found = train_together(recipes, out=tmp_path)
    assert isinstance(found[1], RunError)
    assert "lower the learning rate" in str(found[1])
    assert_equal_runs(found[2], train(recipes[2], out=tmp_path / "alone"))


def test_runs_that_were_stopped_at_different_epochs_go_on_together(tmp_path):
    recipes = [BASE.replace(network="fcn-1x8", seed=seed) for seed in (0, 1)]

    def stop(record, step):
        if step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipes[0], out=tmp_path, callback=stop)
    for recipe, found in zip(recipes, train_together(recipes, out=tmp_path), strict=True):
        assert_equal_runs(found, train(recipe, out=tmp_path / "alone"))


def test_networks_that_drop_units_are_trained_one_by_one_bit_for_bit(tmp_path):
    recipes = [BASE.replace(network_args={"dropout": 0.5}, seed=seed) for seed in (0, 1)]
    for recipe, found in zip(recipes, train_together(recipes, out=tmp_path), strict=True):
        last = train(recipe, out=tmp_path / "alone").checkpoints[3]
        assert all(torch.equal(tensor, last[name]) for name, tensor in found.checkpoints[3].items())


def test_recipes_that_cannot_be_trained_together_are_one_error():
    assert shape_of(BASE) != shape_of(BASE.replace(batch_size=8))
    assert shape_of(BASE.replace(precision="bfloat16")) is None
    for recipes in ([BASE, BASE.replace(batch_size=8)], [BASE.replace(sam_rho=0.1)], []):
        with pytest.raises(InputError, match="cannot be trained together; they may differ in seed"):
            train_together(recipes)
    assert set(OWN) <= set(BASE.to_dict())
