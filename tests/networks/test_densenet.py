"""DenseNet-121."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shaketable.networks import build, construct
from shaketable.networks.densenet import DenseLayer

ENDINGS = pytest.mark.parametrize("ending", ["", "-bn"])


def test_it_has_121_layers_with_the_names_of_the_paper():
    network = construct("densenet121-bn", (3, 32, 32), 10)
    operators = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(operators) == 121
    assert operators[:3] == ["stage0.conv", "stage1.dense1.conv1", "stage1.dense1.conv2"]
    assert "transition1.conv" in operators
    assert operators[-2:] == ["stage4.dense16.conv2", "final_linear"]
    layers = [sum(isinstance(m, DenseLayer) for m in network.get_submodule(f"stage{i}")) for i in (1, 2, 3, 4)]
    assert layers == [6, 12, 24, 16]


@ENDINGS
def test_growth_is_32_and_compression_a_half(ending):
    network = construct("densenet121" + ending, (3, 32, 32), 10)
    assert network.stage0.conv.out_channels == 64
    assert network.stage1.dense1.conv1.out_channels == 128
    assert {layer.conv2.out_channels for layer in network.modules() if isinstance(layer, DenseLayer)} == {32}
    transitions = [
        (t.conv.in_channels, t.conv.out_channels)
        for t in (network.transition1, network.transition2, network.transition3)
    ]
    assert transitions == [(256, 128), (512, 256), (1024, 512)]
    assert network.final_linear.in_features == 1024


@ENDINGS
def test_dense_layer_transition_and_head_equal_a_computation_by_hand(ending):
    network = build("densenet121" + ending, (3, 8, 8), 5, width=0.1).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.1 + 0.2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
    p = network.state_dict()

    def activated(x: torch.Tensor, name: str) -> torch.Tensor:
        if f"{name}.weight" in p:
            mean, var, weight, bias = (
                p[f"{name}.{k}"].view(-1, 1, 1) for k in ("running_mean", "running_var", "weight", "bias")
            )
            x = (x - mean) / (var + 1e-5).sqrt() * weight + bias
        return torch.relu(x)

    x = torch.randn(2, network.stage0.conv.out_channels, 6, 6, generator=generator, dtype=torch.float64)
    inner = F.conv2d(activated(x, "stage1.dense1.bn1"), p["stage1.dense1.conv1.weight"])
    new = F.conv2d(activated(inner, "stage1.dense1.bn2"), p["stage1.dense1.conv2.weight"], padding=1)
    torch.testing.assert_close(network.stage1.dense1(x), torch.cat([x, new], 1))

    x = torch.randn(2, network.transition1.conv.in_channels, 6, 6, generator=generator, dtype=torch.float64)
    reduced = F.avg_pool2d(F.conv2d(activated(x, "transition1.bn"), p["transition1.conv.weight"]), 2)
    torch.testing.assert_close(network.transition1(x), reduced)

    images = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    x = F.conv2d(images, p["stage0.conv.weight"], padding=1)
    for name in ("stage1", "transition1", "stage2", "transition2", "stage3", "transition3", "stage4"):
        x = network.get_submodule(name)(x)
    x = activated(x, "final_bn").mean((2, 3))
    torch.testing.assert_close(network(images), F.linear(x, p["final_linear.weight"], p["final_linear.bias"]))
