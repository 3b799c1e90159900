"""Zero-cost proxies: closed forms, dense references, and what they leave alone."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy

from shaketable.errors import InputError
from shaketable.measures import (
    gradient_norm_at_init,
    naswot_at_init,
    nn_density,
    nn_mass,
    snip_at_init,
    synflow_at_init,
)
from shaketable.networks import build
from shaketable.study import Study
from shaketable.topology import cells_from, topology

NAME = "4x3t4-3x5t5"


def study(network: nn.Module, shape: tuple[int, ...] = (1, 8, 8), count: int = 12) -> Study:
    """Its weights as they are stand for init; the final ones are other ones, and should not matter."""
    generator = torch.Generator().manual_seed(4)
    inputs, labels = torch.randn(count, *shape, generator=generator), torch.arange(count) % 3
    init = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    final = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in init.items()}
    return Study(network, init=init, final=final, train=(inputs, labels))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)
    ).eval()


@pytest.fixture(autouse=True)
def _random_state():
    with torch.random.fork_rng():
        yield


def test_gradient_norm_and_snip_are_those_of_a_dense_reference_in_double_precision():
    given = study(mlp(), (4,))
    network = copy.deepcopy(given.network).double()
    network[1].track_running_stats = False
    network[1].running_mean = network[1].running_var = None  # of the batch, as in training
    weights = {name: given.init[name].double() for name in given.init if name.split(".")[1] in ("weight", "bias")}

    def loss(params):
        return cross_entropy(functional_call(network, params, given.train.inputs.double()), given.train.labels)

    gradients = grad(loss)(weights)
    names = ["0.weight", "3.weight", "5.weight"]
    norm = sum(float(gradients[name].norm()) for name in names)
    snip = sum(float((gradients[name] * weights[name]).abs().sum()) for name in names)
    assert gradient_norm_at_init(given).value == pytest.approx(norm, rel=1e-5)
    assert snip_at_init(given).value == pytest.approx(snip, rel=1e-5)


def test_synaptic_flow_is_that_of_all_paths_times_the_layers_whatever_the_norms_and_biases():
    given = study(mlp(), (4,))
    product = torch.ones(1, 4, dtype=torch.float64)
    for name in ("0.weight", "3.weight", "5.weight"):
        product = product @ given.init[name].double().abs().T
    assert synflow_at_init(given).value == pytest.approx(3 * float(product.sum()), rel=1e-12)


def test_synaptic_flow_does_not_overflow_in_a_deep_network():
    found = synflow_at_init(study(build("linked-20x8t20", (1, 8, 8), 3, contributions="ones")))
    assert found.log_value is not None
    assert 40 < found.log_value < math.inf


def test_naswot_is_the_determinant_of_agreements_of_codes_counted_one_by_one():
    given = study(mlp(), (4,), count=6)
    network = copy.deepcopy(given.network)
    network[1].train()
    with torch.no_grad():
        first = network[:3](given.train.inputs)
        second = network[3:5](first)
    codes = [[*(a > 0).tolist(), *(b > 0).tolist()] for a, b in zip(first, second, strict=True)]
    kernel = torch.tensor([[float(sum(a == b for a, b in zip(one, other))) for other in codes] for one in codes])
    assert naswot_at_init(given).value == pytest.approx(float(kernel.double().slogdet()[1]), rel=1e-9)


def test_naswot_sees_relus_that_are_no_modules():
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 6)

        def forward(self, inputs):
            return self.inner(inputs).relu()

    torch.manual_seed(0)
    one = Plain().eval()
    other = nn.Sequential(one.inner, nn.ReLU()).eval()
    assert naswot_at_init(study(one, (4,), 4)).value == naswot_at_init(study(other, (4,), 4)).value


def test_what_has_no_relu_or_equal_examples_is_a_row_with_a_reason():
    smooth = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).eval()
    assert naswot_at_init(study(smooth, (4,))).reason == "the network has no ReLU"
    given = study(mlp(), (4,))
    same = Study(given.network, init=given.init, final=given.final, train=(torch.ones(3, 4), [0, 1, 2]))
    assert "one code" in str(naswot_at_init(same).reason)
    narrow = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3)).eval()  # a kernel of rank 11 at most
    assert "too few ReLUs" in str(naswot_at_init(study(narrow, (4,), count=32)).reason)
    with pytest.raises(InputError, match="examples=0"):
        naswot_at_init(given, examples=0)


@pytest.mark.parametrize("proxy", [gradient_norm_at_init, snip_at_init, naswot_at_init])
def test_a_proxy_depends_on_the_examples_that_the_seed_chooses(proxy):
    torch.manual_seed(0)
    given = study(nn.Sequential(nn.Linear(4, 60), nn.ReLU(), nn.Linear(60, 3)).eval(), (4,))
    assert proxy(given, examples=5).value == proxy(given, examples=5).value != proxy(given, examples=5, seed=1).value
    assert proxy(given, examples=12).value == pytest.approx(proxy(given, examples=12, seed=1).value, rel=1e-4)


def test_mass_and_density_of_a_linked_network_are_those_of_its_design():
    given = study(build(f"linked-{NAME}", (1, 8, 8), 3))
    found = topology(cells_from(NAME), (1, 8, 8), 3)
    assert nn_mass(given).value == pytest.approx(found.nn_mass)
    assert nn_density(given).value == pytest.approx(found.nn_density)


def test_proxies_of_a_linked_network_are_finite_though_it_gives_almost_nothing_with_fresh_running_statistics():
    given = study(build(f"linked-{NAME}", (1, 8, 8), 3))
    values = [proxy(given).value for proxy in (gradient_norm_at_init, snip_at_init, synflow_at_init, naswot_at_init)]
    assert all(value is not None and value > 0 for value in values)


def test_a_network_whose_channels_cannot_be_followed_is_a_row_with_a_reason():
    found = nn_mass(study(build("vit-1x8", (1, 8, 8), 3, patch=4)))
    assert found.status == "unavailable"
    assert "cannot be followed" in str(found.reason)


@pytest.mark.parametrize("proxy", [gradient_norm_at_init, snip_at_init, naswot_at_init])
def test_a_batch_norm_that_sees_one_value_of_each_channel_is_a_row_with_a_reason(proxy):
    torch.manual_seed(0)
    one_position = nn.Sequential(nn.Conv2d(1, 6, 8), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3)).eval()
    given = study(one_position)
    found = proxy(given, examples=1)
    assert found.status == "unavailable"
    assert "take two or more examples" in str(found.reason)
    assert proxy(given, examples=2).status == "ok"
    larger = nn.Sequential(nn.Conv2d(1, 6, 7), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)).eval()
    assert proxy(study(larger), examples=1).status == "ok"  # four values of each channel


def test_synaptic_flow_needs_one_example_whatever_the_batch_norms():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    assert synflow_at_init(study(network, (4,), count=1)).status == "ok"
