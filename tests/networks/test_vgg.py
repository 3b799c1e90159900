"""VGG."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shaketable.errors import InputError
from shaketable.networks import build, construct


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_the_depth_is_the_number_of_layers_with_weights(depth):
    network = construct(f"vgg{depth}-bn", (3, 32, 32), 10)
    layers = [name for name, module in network.named_children() if isinstance(module, nn.Conv2d | nn.Linear)]
    convolutions = [f"conv{i}" for i in range(1, depth - 2)]
    assert layers == [*convolutions, "fc1", "fc2", "final_linear"]
    norms = [name for name, module in network.named_children() if isinstance(module, nn.BatchNorm2d)]
    assert norms == [f"bn{i}" for i in range(1, depth - 2)]


def test_vgg16_has_the_channels_of_the_paper():
    network = construct("vgg16", (3, 32, 32), 10)
    channels = [module.out_channels for module in network if isinstance(module, nn.Conv2d)]
    assert channels == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert [m.out_features for m in network if isinstance(m, nn.Linear)] == [4096, 4096, 10]


def test_width_multiplies_channels_and_hidden_units():
    network = construct("vgg11", (3, 32, 32), 10, width=0.5, hidden=100)
    assert [m.out_channels for m in network if isinstance(m, nn.Conv2d)] == [32, 64, 128, 128, 256, 256, 256, 256]
    assert [m.out_features for m in network if isinstance(m, nn.Linear)] == [50, 50, 10]


@pytest.mark.parametrize("ending", ["", "-bn"])
def test_the_network_equals_a_computation_by_hand(ending):
    network = build("vgg11" + ending, (3, 64, 32), 10, width=0.05).double()
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = network.state_dict()
    x, number = images, 0
    for convolutions in (1, 1, 2, 2, 2):
        for _ in range(convolutions):
            number += 1
            x = F.conv2d(x, p[f"conv{number}.weight"], p.get(f"conv{number}.bias"), padding=1)
            if ending:
                x = x / (1 + 1e-5) ** 0.5  # a fresh batch norm in evaluation mode
            x = torch.relu(x)
        x = F.max_pool2d(x, 2)
    x = x.flatten(1)
    for name in ("fc1", "fc2"):
        x = torch.relu(F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"]))
    torch.testing.assert_close(network(images), F.linear(x, p["final_linear.weight"], p["final_linear.bias"]))


@pytest.mark.parametrize(("dropped", "modules"), [(1, ["drop_fc1"]), (2, ["drop_fc1", "drop_fc2"])])
def test_dropout_stands_behind_the_hidden_linear_layers_that_are_asked_for(dropped, modules):
    network = construct("vgg11", (3, 32, 32), 10, dropout=0.3, dropped=dropped)
    found = {name: module for name, module in network.named_children() if isinstance(module, nn.Dropout)}
    assert list(found) == modules
    assert {module.p for module in found.values()} == {0.3}
    names = [name for name, _ in network.named_children()]
    assert names[names.index("drop_fc1") - 1] == "relu_fc1"


def test_without_dropout_a_network_has_no_such_module():
    assert not any(isinstance(module, nn.Dropout) for module in construct("vgg11", (3, 32, 32), 10).modules())


@pytest.mark.parametrize(
    ("arguments", "message"), [({"dropout": 1.0}, "from 0 to below 1"), ({"dropout": 0.5, "dropped": 3}, "give 1 or 2")]
)
def test_a_dropout_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        construct("vgg11", (3, 32, 32), 10, **arguments)
