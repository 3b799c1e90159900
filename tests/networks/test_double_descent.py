"""The networks of the double-descent experiments: sizes of the authors' code, and computations by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shaketable.errors import InputError
from shaketable.networks import build, construct


def test_the_five_layer_network_has_the_parameters_of_the_authors_code():
    network = construct("cnn5-64-bn", (3, 32, 32), 10)
    assert sum(p.numel() for p in network.parameters()) == 1_558_026
    assert [m.out_channels for m in network if isinstance(m, nn.Conv2d)] == [64, 128, 256, 512]


@pytest.mark.parametrize("ending", ["", "-bn"])
def test_the_five_layer_network_equals_a_computation_by_hand(ending):
    network = build(f"cnn5-3{ending}", (3, 64, 32), 10)
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    p, x = network.state_dict(), images
    for number, pool in enumerate((1, 2, 2, 8), start=1):
        x = F.conv2d(x, p[f"conv{number}.weight"], p[f"conv{number}.bias"], padding=1)
        x = F.max_pool2d(torch.relu(x / (1 + 1e-5) ** 0.5 if ending else x), pool)
    expected = F.linear(x.flatten(1), p["final_linear.weight"], p["final_linear.bias"])
    torch.testing.assert_close(network(images), expected)


def test_the_five_layer_network_needs_32_by_32():
    with pytest.raises(InputError, match="needs at least 32x32, not 28x28"):
        construct("cnn5-8", (1, 28, 28), 10)


def test_the_resnet_of_width_64_is_a_pre_activation_resnet18_without_a_last_norm():
    network = construct("resnet18k-64", (3, 32, 32), 10)
    assert (
        sum(p.numel() for p in network.parameters()) == 11_171_146
    )  # PreActResNet18 of the code that theirs is made from
    assert not any(name.startswith("final_") for name, _ in network.named_children() if name != "final_linear")
    widths = [construct(f"resnet18k-{k}", (3, 32, 32), 10).stage4.resblk2.conv2.out_channels for k in (2, 10, 64)]
    assert widths == [16, 80, 512]


def test_the_last_activation_can_be_left_out_of_any_resnet_of_version_2():
    network = build("resnet18-v2", (3, 8, 8), 10, width=0.1, final_activation=False)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x = images
    for name in ("stage0", "stage1", "stage2", "stage3", "stage4"):
        x = network.get_submodule(name)(x)
    torch.testing.assert_close(network(images), network.final_linear(x.mean((2, 3))))
