"""Sites of units, and networks with some of them at zero."""

import pytest
import torch
from torch import nn

from shaketable.errors import InputError
from shaketable.intervene import ablated, masked, recorded, site_of, sites
from shaketable.networks import build
from shaketable.params import snapshot


class Functional(nn.Module):
    """A ReLU that is shared and called twice, one that is a function, sums in place, a concatenation."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv3 = nn.Conv2d(8, 4, 1)
        self.relu, self.head = nn.ReLU(inplace=inplace), nn.Linear(4, 3)

    def forward(self, x):
        first = self.relu(self.bn1(self.conv1(x)))
        second = self.bn2(self.conv2(first))
        second += first
        second = self.relu(second)
        third = self.conv3(torch.cat([first, second], 1)).relu()
        return self.head(third.mean((2, 3)))


def functional(inplace: bool = True) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Functional(inplace).eval()


@pytest.mark.parametrize("inplace", [True, False])
def test_the_activation_is_behind_the_norm_the_sum_and_the_nonlinearity_in_place_or_not(inplace):
    network = functional(inplace)
    found = {site.layer: (site.module, site.call) for site in sites(network, torch.randn(2, 1, 5, 5))}
    assert found == {"conv1": ("relu", 0), "conv2": ("relu", 1), "conv3": ("conv3", 0), "head": ("head", 0)}


def test_a_value_that_is_read_twice_or_concatenated_ends_the_way_to_the_activation():
    v2 = build("resnet18-v2-bn", (3, 8, 8), 4, width=0.0625).eval()
    found = {site.layer: site.module for site in sites(v2, torch.randn(2, 3, 8, 8))}
    assert found["stage1.resblk1.conv1"] == "stage1.resblk1.relu2"
    assert found["stage1.resblk1.conv2"] == "stage1.resblk1.conv2"  # the stream goes on in two ways
    assert found["stage4.resblk2.conv2"] == "final_relu"
    dense = build("densenet121-bn", (3, 8, 8), 4, width=0.125).eval()
    found = {site.layer: site.module for site in sites(dense, torch.randn(2, 3, 8, 8))}
    assert found["stage1.dense1.conv2"] == "stage1.dense1.conv2"


def test_without_a_name_the_last_convolution_is_meant_or_the_last_hidden_layer():
    x = torch.randn(2, 3, 32, 32)
    assert site_of(build("vgg11", (3, 32, 32), 4, width=0.0625).eval(), None, x).module == "relu8"
    fcn = build("fcn-2x6", (3, 32, 32), 4).eval()
    site = site_of(fcn, None, x)
    assert (site.layer, site.module, site.units) == ("layer2", "relu2", 6)


@pytest.mark.parametrize("layer", ["conv1", "conv2", "conv3"])
def test_ablated_units_are_zero_at_their_call_alone_and_the_others_as_they_were(layer):
    network, x = functional(), torch.randn(3, 1, 5, 5)
    site = site_of(network, layer, x)
    with torch.no_grad(), recorded(network, site) as before:
        network(x)
    with torch.no_grad(), ablated(network, site, [0, 3]), recorded(network, site) as after:
        network(x)
    assert torch.equal(after[0][:, 1:3], before[0][:, 1:3])
    assert not after[0][:, [0, 3]].any()
    assert before[0][:, [0, 3]].any()


def test_everything_is_as_it_was_afterwards_also_when_the_block_raises():
    network, x = functional(), torch.randn(3, 1, 5, 5)
    before, weights = network(x), snapshot(network)
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), ablated(network, site_of(network, "conv1", x), [0]):
        assert not torch.equal(network(x), before)
        _ = 1 / 0
    assert torch.equal(network(x), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in snapshot(network).items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_each_example_may_have_a_mask_of_its_own():
    network, x = functional(), torch.randn(2, 1, 5, 5)
    site = site_of(network, "conv2", x)
    with torch.no_grad(), masked(network, site, torch.tensor([[0.0, 1, 1, 1], [1, 1, 1, 0]])):
        both = network(x)
    for row, unit in enumerate((0, 3)):
        with torch.no_grad(), ablated(network, site, [unit]):
            assert torch.allclose(network(x[row : row + 1])[0], both[row], atol=1e-6)


def test_units_that_are_removed_are_exactly_zero_however_large_they_were():
    network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[3e38, 3e38], [1.0, 0.0], [0.0, 1.0]]))
    inputs = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    site, rest = site_of(network, "0", inputs), network[2].weight[:, 1:]
    with torch.no_grad():
        assert network[0](inputs)[:, 0].isinf().all()
        with ablated(network, site, [0]):
            found = network(inputs)
        with masked(network, site, torch.tensor([[0.0, 1, 1], [0, 1, 0]])):
            by_example = network(inputs)
    torch.testing.assert_close(found, inputs @ rest.T + network[2].bias)
    torch.testing.assert_close(by_example[1], 2.0 * network[2].weight[:, 1] + network[2].bias)


def test_tokens_have_their_units_in_the_last_dimension():
    last = nn.Linear(5, 2)
    network = nn.Sequential(nn.Linear(3, 5), nn.GELU(), last).eval()
    x = torch.randn(2, 4, 3)
    site = site_of(network, "0", x)
    assert (site.module, site.axis, site.units) == ("1", -1, 5)
    with torch.no_grad(), masked(network, site, torch.zeros(2, 5)):
        assert torch.allclose(network(x), last.bias.expand(2, 4, 2))


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (
            "bn1",
            "'bn1' has no units: it is no convolution or linear layer that runs; give one of conv1, conv2, conv3, head",
        ),
        ("nothing", "layer 'nothing' is not there; give one of conv1"),
    ],
)
def test_a_layer_without_units_is_one_clear_error(layer, said):
    with pytest.raises(InputError, match=said):
        site_of(functional(), layer, torch.randn(2, 1, 5, 5))


def test_one_unit_no_layer_and_a_unit_that_is_not_there_are_one_clear_error():
    x = torch.randn(2, 3)
    with pytest.raises(InputError, match="layer '0' has one unit"):
        site_of(nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 2)).eval(), "0", x)
    with pytest.raises(InputError, match="no convolution and no linear layer"):
        sites(nn.Flatten().eval(), x)
    network = nn.Linear(3, 4).eval()
    with (
        pytest.raises(InputError, match=r"units=\[4\]: layer '' has 4 units"),
        ablated(network, sites(network, x)[0], [4]),
    ):
        pass
