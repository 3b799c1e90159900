"""Perturbations: pure functions of params, and fresh draws from the right distribution."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from shaketable.data import Data
from shaketable.errors import InputError
from shaketable.identity import fingerprint, generator_from
from shaketable.networks import build
from shaketable.params import layers, snapshot, state
from shaketable.perturb import fresh_params, reestimated_statistics, replace_layer, source_of


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


def test_a_fresh_draw_of_a_network_of_this_package_has_its_own_initial_distribution():
    fresh, sources = fresh_params(build("fcn-1x200-bn", (100,), 10), seed=0)
    assert set(sources.values()) == {"initialiser"}
    bound = math.sqrt(6 / (100 + 200))  # Xavier's uniform distribution
    assert bound * 0.99 < fresh["layer1.weight"].abs().max() <= bound
    assert fresh["layer1.weight"].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not fresh["layer2.bias"].any()


def test_a_given_initialiser_comes_first_and_what_it_leaves_out_falls_to_the_next_source():
    fresh, sources = fresh_params(nn.Linear(2, 2), 0, initialise=lambda net, g: nn.init.constant_(net.weight, 7.0))
    assert sources == {"weight": "initialiser", "bias": "reset_parameters"}
    assert (fresh["weight"] == 7).all()
    assert fresh["bias"].abs().max() < 1


def test_an_initialiser_that_draws_from_the_global_state_repeats_and_leaves_that_state_alone():
    network, before = nn.Linear(2, 2), torch.random.get_rng_state()
    draws = [fresh_params(network, s, initialise=lambda n, g: nn.init.normal_(n.weight))[0] for s in (1, 1, 2)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(draws[0]["weight"], draws[1]["weight"])
    assert not torch.equal(draws[0]["weight"], draws[2]["weight"])


def test_the_outermost_reset_parameters_that_sets_a_tensor_is_the_one_that_counts():
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

        def reset_parameters(self):
            nn.init.constant_(self.fc.weight, 7.0)

    fresh, sources = fresh_params(Outer(), 0)
    assert (fresh["fc.weight"] == 7).all()
    assert fresh["fc.bias"].abs().max() < 1  # the linear layer's own
    assert (fresh["norm.weight"] == 1).all()
    assert set(sources.values()) == {"reset_parameters"}


def test_attention_is_redrawn_by_its_private_method():
    fresh, sources = fresh_params(nn.MultiheadAttention(64, 4), 0)
    assert sources["in_proj_weight"] == "reset_parameters"
    assert fresh["in_proj_weight"].abs().max() <= math.sqrt(6 / (64 + 3 * 64))


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


def test_a_reset_that_needs_arguments_is_passed_over():
    class Gained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(3))

        def reset_parameters(self, gain):
            raise AssertionError

    assert fresh_params(Gained(), 0) == ({}, {})


def test_buffers_are_never_drawn_from_their_own_values():
    network = nn.Linear(3, 3)
    network.register_buffer("mask", torch.ones(3, 3).tril().bool())
    fresh, sources = fresh_params(network, 0, init=snapshot(network))
    assert set(sources) == set(fresh) == {"weight", "bias"}


def with_norms():
    """Two batch norms, dropout between them, and data."""
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(12, 4),
        nn.BatchNorm1d(4),
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in state(network).values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))
    inputs = torch.randn(40, 1, 4, 4, generator=generator)
    return network, Data(inputs, torch.arange(40) % 4, 4)


def test_reestimated_statistics_are_those_of_torchs_update_bn_without_dropout():
    network, data = with_norms()
    weights = {name: tensor + 0.5 if "5." in name else tensor for name, tensor in snapshot(network).items()}
    found = reestimated_statistics(network, weights, data, batches=4, batch_size=10, seed=3)

    torchs = nn.Sequential(*(module for module in copy.deepcopy(network) if not isinstance(module, nn.Dropout)))
    with torch.no_grad():
        for index, here in ((0, 0), (1, 1), (4, 5), (5, 6)):  # behind the dropout numbers are one lower
            for name, tensor in state(torchs[index]).items():
                tensor.copy_(weights[f"{here}.{name}"])
    order = torch.randperm(40, generator=generator_from(3, "statistics"))
    update_bn([data.inputs[order[start : start + 10]] for start in range(0, 40, 10)], torchs)
    for index, here in ((1, 1), (5, 6)):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(found.pop(f"{here}.{name}"), getattr(torchs[index], name))
    assert not found


def test_reestimating_leaves_network_weights_and_random_state_alone_and_repeats_exactly():
    network, data = with_norms()
    weights, state_before = snapshot(network), torch.get_rng_state()
    before = fingerprint(weights)
    found = [reestimated_statistics(network, weights, data, batches=2, batch_size=15) for _ in range(2)]
    assert fingerprint(found[0]) == fingerprint(found[1])
    assert fingerprint(weights) == fingerprint(state(network)) == before
    assert not any(module.training for module in network.modules())
    assert network[1].momentum == 0.1
    assert torch.equal(torch.get_rng_state(), state_before)


def test_what_cannot_be_reestimated_is_refused():
    network, data = with_norms()
    for arguments, message in (
        ({"batches": 5, "batch_size": 10}, "5 batches of 10 need 50 examples, and there are 40"),
        ({"batches": 0}, "batches=0"),
        ({"batches": 1, "batch_size": 1}, "batch_size=1"),
    ):
        with pytest.raises(InputError, match=message):
            reestimated_statistics(network, state(network), data, **arguments)
    with pytest.raises(InputError, match="no batch norms"):
        reestimated_statistics(nn.Linear(1, 1), {}, data, batches=1, batch_size=2)
