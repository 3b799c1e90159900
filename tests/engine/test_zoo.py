"""The networks of the engine's tests are what those tests take them for."""

import pytest
import torch
from hypothesis import given, settings
from tests.engine.architectures import ARCHITECTURES
from tests.engine.architectures import UNUSED as UNUSED_IN_ARCHITECTURES
from tests.engine.random_networks import Plan, network_of, plans, random_network
from tests.engine.zoo import BRANCHES, CASES, MIXES_EXAMPLES, REMEMBERS, STOCHASTIC, UNUSED, another, seeded
from torch import nn

from shaketable.forward import forward, map_inputs
from shaketable.params import layers, snapshot, state
from shaketable.perturb import replace_layer


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def logits_repeat(make) -> None:
    """The same finite logits twice through functional_call, and from the same network called plainly."""
    before = torch.get_rng_state()
    network, inputs = make()
    assert torch.equal(before, torch.get_rng_state())
    assert not any(module.training for module in network.modules())
    kept = snapshot(network)
    once = forward(network, inputs, state(network))
    assert once.isfinite().all()
    assert once.ndim in (2, 3)
    assert torch.equal(once, forward(network, inputs, state(network)))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state(network).items())
    again, inputs = make()
    # torch may take another kernel where a weight requires a gradient: equal to the last bit only without
    assert torch.equal(once, forward(again.requires_grad_(False), inputs))


def answers(network: nn.Module, inputs, params) -> tuple[torch.Tensor, list[str]]:
    """Logits, and the modules that ran, sorted."""
    ran: list[str] = []
    hooked = [(n, m) for n, m in network.named_modules() if not isinstance(m, torch.jit.ScriptModule)]
    handles = [m.register_forward_pre_hook(lambda module, args, name=name: ran.append(name)) for name, m in hooked]
    logits = forward(network, inputs, params)
    for handle in handles:
        handle.remove()
    return logits, sorted(ran)


@pytest.mark.parametrize("name", CASES)
def test_a_case_repeats_bit_for_bit_and_its_logits_are_finite(name):
    logits_repeat(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_each_layer_of_a_case_matters_unless_it_says_otherwise(name):
    network, inputs = CASES[name]()
    params, others = state(network), [another(network, seed) for seed in range(4)]
    base, ran = answers(network, inputs, params)
    unused, flipped = set(), False
    found = layers(network, "module", inputs)
    for layer in found:
        variants = [answers(network, inputs, replace_layer(params, layer, other)) for other in others]
        if all(torch.equal(logits, base) for logits, _ in variants):
            unused.add(layer.name)
        flipped = flipped or any(modules != ran for _, modules in variants)
    assert found
    assert flipped == (name in BRANCHES)
    if name not in BRANCHES:
        assert unused == UNUSED.get(name, set())


@pytest.mark.parametrize("name", [name for name in CASES if name not in MIXES_EXAMPLES])
def test_the_logits_of_an_example_depend_on_that_example_only(name):
    network, inputs = CASES[name]()
    whole = forward(network, inputs, state(network))
    for part in (slice(3, None), slice(0, 1), [4, 0]):
        some = forward(network, map_inputs(lambda tensor, part=part: tensor[part], inputs), state(network))
        assert torch.allclose(some, whole[part], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", sorted(REMEMBERS))
def test_a_network_that_remembers_differs_from_call_to_call(name):
    network, inputs = CASES[name]()
    assert not torch.equal(forward(network, inputs), forward(network, inputs))


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_stochastic_network_repeats_only_from_the_same_random_state(name):
    network, inputs = STOCHASTIC[name]()
    with seeded("drawn"):
        drawn = torch.get_rng_state()
        once = forward(network, inputs, state(network))
        assert not torch.equal(once, forward(network, inputs, state(network)))
        torch.set_rng_state(drawn)
        assert torch.equal(once, forward(network, inputs, state(network)))
    assert len(layers(network, "module", inputs)) >= 3


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(plan=plans())
def test_a_random_network_repeats_and_has_layers(plan: Plan):
    logits_repeat(lambda: network_of(plan))
    network, inputs = network_of(plan)
    assert len(layers(network, "module", inputs)) >= 2


def test_a_random_network_is_known_by_its_number():
    (one, x), (same, _), (other, _) = random_network(1), random_network(1), random_network(2)
    assert one.plan == same.plan != other.plan
    assert torch.equal(forward(one, x), forward(same, x))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.usefixtures("transformers")
def test_an_architecture_that_others_wrote_repeats_bit_for_bit_and_has_layers(name):
    logits_repeat(ARCHITECTURES[name])
    network, inputs = ARCHITECTURES[name]()
    assert len(layers(network, "module", inputs)) >= 15


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.usefixtures("transformers")
def test_each_layer_of_an_architecture_matters_unless_it_says_otherwise(name):
    network, inputs = ARCHITECTURES[name]()
    params, other = state(network), another(network)
    base = forward(network, inputs, params)
    unused = {
        layer.name
        for layer in layers(network, "module", inputs)
        if torch.equal(base, forward(network, inputs, replace_layer(params, layer, other)))
    }
    assert unused == UNUSED_IN_ARCHITECTURES.get(name, set())
