"""Pruning: which entries go, at which sparsity, of which tensors."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from shaketable.errors import InputError
from shaketable.params import state
from shaketable.pruning import ordered, prunable


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5)).eval()


def test_global_magnitude_pruning_is_that_of_torch():
    ours, theirs = network(), network()
    modules = [(theirs[0], "weight"), (theirs[3], "weight")]
    prune.global_unstructured(modules, prune.L1Unstructured, amount=0.6)
    pruned = ordered(state(ours), prunable(ours)).at(0.6)
    assert set(pruned) == {"0.weight", "3.weight"}
    assert torch.equal(pruned["0.weight"], theirs[0].weight)
    assert torch.equal(pruned["3.weight"], theirs[3].weight)


def test_by_layer_the_same_fraction_goes_of_each():
    ours = network()
    found = ordered(state(ours), prunable(ours, "layer")).at(1 / 3)
    assert [int((tensor == 0).sum()) for tensor in found.values()] == [9, 20]
    kept = found["3.weight"].abs()[found["3.weight"] != 0]
    assert kept.min() >= np.sort(state(ours)["3.weight"].abs().flatten())[20]


def test_all_parameters_are_biases_and_normalisations_too_but_no_statistics():
    assert set(prunable(network(), "global", "all")[0]) == {name for name, _ in network().named_parameters()}
    assert len(prunable(network(), "layer", "all")) == 3


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_what_is_gone_at_one_sparsity_is_gone_at_every_larger_one_and_all_is_gone_at_1(method):
    ours = network()
    order = ordered(state(ours), prunable(ours), method)
    before = order.removed(0)
    assert not any(gone.any() for gone in before.values())
    for sparsity in (0.1, 0.35, 0.9, 1):
        gone = order.removed(sparsity)
        assert all(bool((now | ~old).all()) for now, old in zip(gone.values(), before.values(), strict=True))
        assert sum(int(mask.sum()) for mask in gone.values()) == round(sparsity * 87)
        before = gone
    assert not any(tensor.any() for tensor in order.at(1).values())


def test_random_orders_are_uniform_and_those_of_their_seed_and_draw():
    weights = {"a": torch.ones(4), "b": torch.ones(6)}
    counts = torch.zeros(10)
    for draw in range(2000):
        gone = ordered(weights, [["a", "b"]], "random", 0, draw).removed(0.3)
        counts += torch.cat(list(gone.values()))
    assert (counts / 2000 - 0.3).abs().max() < 4 * (0.21 / 2000) ** 0.5
    first, again, other, seeded = (
        ordered(weights, [["a", "b"]], "random", seed, draw).places["b"]
        for seed, draw in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, seeded)


def test_of_equal_entries_the_first_go():
    assert ordered({"w": torch.tensor([1.0, 2.0, -1.0, 1.0])}, [["w"]]).at(0.5)["w"].tolist() == [0, 2, 0, 1]


def test_the_params_that_were_given_stay_as_they_are():
    weights = {"w": torch.tensor([1.0, 2.0])}
    ordered(weights, [["w"]]).at(1)
    assert weights["w"].tolist() == [1, 2]


def test_what_cannot_be_pruned_is_one_clear_error():
    with pytest.raises(InputError, match="method='l0': use 'magnitude' or 'random'"):
        ordered({}, [], "l0")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="scope='all'"):
        prunable(network(), "all")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="parameters='bias'"):
        prunable(network(), "global", "bias")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="has no linear layer"):
        prunable(nn.BatchNorm1d(3))
    with pytest.raises(InputError, match="computes its weight from other parameters"):
        prunable(nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2))))
