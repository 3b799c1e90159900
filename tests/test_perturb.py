"""Perturbations: pure functions of params, and fresh draws from the right distribution."""

import math

import pytest
import torch
from torch import nn

from shaketable.errors import InputError
from shaketable.params import layers, snapshot, state
from shaketable.perturb import fresh_params, replace_layer, source_of


class Ours(nn.Module):
    """A network with its own initialiser."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(50, 50)

    def initialise(self, generator):
        with torch.no_grad():
            self.linear.weight.normal_(0, 3, generator=generator)
            self.linear.bias.zero_()


class Bare(nn.Module):
    """A foreign module that owns a parameter and has no reset_parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(1, 1)
        self.inner = nn.Module()
        self.inner.table = nn.Parameter(torch.tensor([-1.0, 2.0]).repeat(500))


def test_replacing_a_layer_changes_that_layer_only_and_copies_nothing():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    params, source = snapshot(network), {name: tensor + 1 for name, tensor in snapshot(network).items()}
    norm = layers(network)[1]
    changed = replace_layer(params, norm, source)
    assert {name for name in params if changed[name] is source[name]} == {"1.weight", "1.bias"}
    assert all(changed[name] is params[name] for name in params if not name.startswith("1.") or "running" in name)
    rewound = replace_layer(params, norm, source, statistics="rewind")
    assert rewound["1.running_mean"] is source["1.running_mean"]


def test_wrong_arguments_of_a_replacement_are_named():
    network = nn.Linear(2, 2)
    (layer,) = layers(network)
    with pytest.raises(InputError, match="has no 'weight'"):
        replace_layer(state(network), layer, {})
    with pytest.raises(InputError, match="use 'keep' or 'rewind'"):
        replace_layer(state(network), layer, state(network), statistics="reset")  # pyright: ignore


def test_a_fresh_draw_has_the_networks_own_initial_distribution():
    fresh, sources = fresh_params(Ours(), seed=0)
    assert set(sources.values()) == {"initialiser"}
    assert fresh["linear.weight"].std().item() == pytest.approx(3, abs=3 * 3 / math.sqrt(2 * 2500))
    assert not fresh["linear.bias"].any()


def test_a_given_initialiser_comes_before_reset_parameters():
    fresh, sources = fresh_params(nn.Linear(2, 2), 0, initialise=lambda net, g: nn.init.constant_(net.weight, 7.0))
    assert set(sources.values()) == {"initialiser"}
    assert (fresh["weight"] == 7).all()


def test_a_foreign_network_is_redrawn_by_its_own_reset_parameters():
    network = nn.Linear(400, 100)
    with torch.no_grad():
        network.weight.fill_(5)
    fresh, sources = fresh_params(network, seed=3)
    assert set(sources.values()) == {"reset_parameters"}
    bound = 1 / math.sqrt(400)  # PyTorch's default for a linear layer is uniform within this bound
    assert fresh["weight"].abs().max() <= bound
    assert fresh["weight"].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert (network.weight == 5).all()


def test_without_reset_parameters_initial_values_are_drawn_with_replacement():
    network = Bare()
    fresh, sources = fresh_params(network, 0, init=snapshot(network))
    assert sources["inner.table"] == "empirical init"
    assert sources["scale.weight"] == "reset_parameters"
    assert set(fresh["inner.table"].tolist()) == {-1.0, 2.0}
    assert fresh["inner.table"].mean().item() == pytest.approx(0.5, abs=3 * 1.5 / math.sqrt(1000))


def test_without_any_source_a_tensor_is_left_out_and_its_layer_has_none():
    network = Bare()
    fresh, sources = fresh_params(network, 0)
    assert "inner.table" not in fresh
    table = next(layer for layer in layers(network) if layer.name == "inner")
    assert source_of(table, sources) is None


def test_tied_tensors_are_drawn_once_by_the_module_that_names_them():
    network = nn.Module()
    network.embed = nn.Embedding(300, 20)
    network.predict = nn.Linear(20, 300, bias=False)
    network.predict.weight = network.embed.weight
    fresh, _ = fresh_params(network, 0)
    assert fresh["embed.weight"].std().item() == pytest.approx(1, rel=0.05)  # the embedding's N(0, 1)


def test_the_same_seed_gives_the_same_draw_and_the_global_random_state_is_left_alone():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    before = torch.random.get_rng_state()
    one, two, three = (fresh_params(network, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one["0.weight"], two["0.weight"])
    assert not torch.equal(one["0.weight"], three["0.weight"])
