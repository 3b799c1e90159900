"""Initial distributions against their closed forms and against torch's own."""

import math

import pytest
import torch
from torch import nn

from shaketable.errors import InputError
from shaketable.identity import fingerprint
from shaketable.networks import INITIALISERS, Network, build

SHAPES = {"linear": (lambda: nn.Linear(300, 200), 300, 200), "conv": (lambda: nn.Conv2d(20, 60, 5), 500, 1500)}
shapes = pytest.mark.parametrize("kind", list(SHAPES))


def drawn(kind: str, init: str, seed: int = 0) -> tuple[nn.Module, int, int]:
    make, fan_in, fan_out = SHAPES[kind]
    network = Network({"layer": make()}, init)
    network.initialise(torch.Generator().manual_seed(seed))
    return network.layer, fan_in, fan_out


def assert_has_moments(sample: torch.Tensor, std: float, kurtosis: float) -> None:
    """Mean 0 and this standard deviation, within three standard errors of each."""
    n = sample.numel()
    assert abs(sample.double().mean().item()) < 3 * std / math.sqrt(n)
    assert abs(sample.double().std().item() - std) < 3 * std * math.sqrt((kurtosis - 1) / (4 * n))


@shapes
def test_kaiming_normal_is_a_normal_with_variance_two_by_fan_in(kind):
    layer, fan_in, _ = drawn(kind, "kaiming-normal")
    std = math.sqrt(2 / fan_in)
    assert_has_moments(layer.weight, std, kurtosis=3)
    # A normal, not a truncated one: among 30,000 draws some lie beyond three standard deviations.
    beyond = (layer.weight.abs() > 3 * std).double().mean().item()
    assert abs(beyond - 0.0027) < 3 * math.sqrt(0.0027 / layer.weight.numel())
    assert not layer.bias.any()


@shapes
def test_xavier_uniform_fills_the_interval_of_glorot_and_bengio(kind):
    layer, fan_in, fan_out = drawn(kind, "xavier-uniform")
    bound = math.sqrt(6 / (fan_in + fan_out))
    assert_has_moments(layer.weight, bound / math.sqrt(3), kurtosis=1.8)
    assert 0.999 * bound < layer.weight.abs().max() <= bound * (1 + 1e-6)
    assert not layer.bias.any()


@shapes
def test_torch_fills_the_interval_of_one_by_root_fan_in_biases_too(kind):
    layer, fan_in, _ = drawn(kind, "torch")
    bound = 1 / math.sqrt(fan_in)
    for tensor in (layer.weight, layer.bias):
        assert_has_moments(tensor, bound / math.sqrt(3), kurtosis=1.8)
        assert 0.9 * bound < tensor.abs().max() <= bound * (1 + 1e-6)


@shapes
def test_the_draws_are_those_of_torchs_own_functions(kind):
    make, _, _ = SHAPES[kind]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        default = make()
    layer, _, _ = drawn(kind, "torch", seed=5)
    torch.testing.assert_close(layer.weight, default.weight, rtol=1e-6, atol=0)
    torch.testing.assert_close(layer.bias, default.bias, rtol=1e-6, atol=0)
    for init, reference in (
        ("kaiming-normal", lambda w, g: nn.init.kaiming_normal_(w, nonlinearity="relu", generator=g)),
        ("xavier-uniform", lambda w, g: nn.init.xavier_uniform_(w, generator=g)),
    ):
        layer, _, _ = drawn(kind, init, seed=5)
        expected = reference(torch.empty_like(layer.weight), torch.Generator().manual_seed(5))
        torch.testing.assert_close(layer.weight, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fcn-2x8-bn", {"init": "kaiming-normal"}),
        ("vgg11-bn", {"width": 0.05, "init": "torch"}),
        ("resnet18", {"width": 0.1, "init": "fixup"}),
        ("resnet50-v2-bn", {"width": 0.1}),
        ("densenet121-bn", {"width": 0.1}),
    ],
)
class TestInitialise:
    def test_every_parameter_and_buffer_is_redrawn_in_place(self, name, arguments):
        network = build(name, (3, 32, 32), 5, seed=1, **arguments)
        before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        addresses = {key: tensor.data_ptr() for key, tensor in network.state_dict().items()}
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.fill_(77)
        generator = torch.Generator().manual_seed(0)
        network.initialise(generator)
        again = build(name, (3, 32, 32), 5, seed=2, **arguments)
        again.initialise(torch.Generator().manual_seed(0))
        after = network.state_dict()
        assert not any((tensor == 77).any() for tensor in after.values())
        assert fingerprint(after) == fingerprint(again.state_dict()) != fingerprint(before)
        assert addresses == {key: tensor.data_ptr() for key, tensor in after.items()}

    def test_the_global_random_state_is_neither_used_nor_changed(self, name, arguments):
        prints = []
        with torch.random.fork_rng():
            for seed in (1, 2):
                torch.manual_seed(seed)
                state = torch.random.get_rng_state()
                prints.append(fingerprint(build(name, (3, 32, 32), 5, **arguments).state_dict()))
                assert torch.equal(state, torch.random.get_rng_state())
        assert prints[0] == prints[1]

    def test_the_precision_of_the_network_does_not_change_the_draw(self, name, arguments):
        single, double = (build(name, (3, 32, 32), 5, **arguments) for _ in range(2))
        double.double()
        for network in (single, double):
            network.initialise(torch.Generator().manual_seed(3))
        for key, tensor in single.state_dict().items():
            torch.testing.assert_close(double.state_dict()[key].to(tensor.dtype), tensor, rtol=1e-6, atol=0)

    def test_a_second_call_with_one_generator_draws_new_weights(self, name, arguments):
        network = build(name, (3, 32, 32), 5, **arguments)
        generator = torch.Generator().manual_seed(0)
        network.initialise(generator)
        first = fingerprint(network.state_dict())
        network.initialise(generator)
        assert fingerprint(network.state_dict()) != first


def test_normalisations_start_as_the_identity():
    network = build("resnet18-bn", (3, 8, 8), 5, width=0.1)
    network.train()(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    norm = network.stage0.bn
    assert norm.running_mean.any()
    network.initialise(torch.Generator().manual_seed(0))
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        assert (norm.weight == 1).all()
        assert (norm.running_var == 1).all()
        assert not norm.bias.any()
        assert not norm.running_mean.any()
        assert norm.num_batches_tracked == 0


def test_each_layer_of_a_network_has_its_own_fan_in():
    network = build("vgg16", (3, 32, 32), 10)
    layers = [layer for layer in network if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 16
    for layer in layers:
        assert_has_moments(layer.weight, math.sqrt(2 / layer.weight[0].numel()), kurtosis=3)


def test_an_unknown_distribution_is_refused():
    with pytest.raises(InputError, match=f"init: 'he' is unknown; choose one of {', '.join(INITIALISERS)}"):
        Network({"layer": nn.Linear(2, 2)}, "he")
