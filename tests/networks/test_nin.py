"""Network in Network."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shaketable.errors import InputError
from shaketable.networks import build, construct


@pytest.mark.parametrize("channels", [192, 288, 384])
def test_the_network_of_demogen_has_its_layers_and_parameters(channels):
    network = construct(f"nin-3x{channels}-bn", (3, 32, 32), 10)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [(c.kernel_size[0], c.stride[0]) for c in convolutions] == [(3, 2), (1, 1), (1, 1)] * 3 + [(4, 1)]
    assert {c.out_channels for c in convolutions[:-1]} == {channels}
    c = channels
    kernels = 27 * c + 2 * 9 * c * c + 6 * c * c + 16 * c * 10
    assert sum(p.numel() for p in network.parameters()) == kernels + 9 * c + 10 + 18 * c


@pytest.mark.parametrize(("blocks", "kernel", "positions"), [(2, 4, 25), (3, 4, 1), (4, 2, 1)])
def test_the_head_is_one_kernel_whose_positions_are_averaged(blocks, kernel, positions):
    network = build(f"nin-{blocks}x4", (3, 32, 32), 10)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = images
    for number in range(1, blocks + 1):
        for layer in (1, 2, 3):
            c = network.get_submodule(f"block{number}.conv{layer}")
            x = F.relu(F.conv2d(x, c.weight, c.bias, stride=2 if layer == 1 else 1, padding=1 if layer == 1 else 0))
    maps = F.conv2d(x, network.head.weight, network.head.bias)
    assert network.head.kernel_size == (kernel, kernel)
    assert maps[0, 0].numel() == positions
    torch.testing.assert_close(network(images), maps.mean((2, 3)))


def test_dropout_stands_behind_each_block_and_only_in_training():
    network = build("nin-2x4", (3, 32, 32), 10, dropout=0.5)
    assert [name for name, module in network.named_modules() if isinstance(module, nn.Dropout)] == [
        "block1.dropout",
        "block2.dropout",
    ]
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(images), build("nin-2x4", (3, 32, 32), 10, dropout=0.0)(images))
    assert not torch.equal(network.train()(images), network.eval()(images))


def test_what_cannot_be_built_is_one_clear_error():
    with pytest.raises(InputError, match="nothing is left of 4x4; take fewer blocks"):
        construct("nin-3x8", (1, 4, 4), 10)
    with pytest.raises(InputError, match="dropout=1.5"):
        construct("nin-2x8", (3, 32, 32), 10, dropout=1.5)
