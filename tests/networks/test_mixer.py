"""MLP-Mixers: counts printed in the paper, a dense reference, names, and layers."""

import pytest
import torch
from torch.nn import functional as F

from shaketable.networks import build, construct
from shaketable.params import layers

BLOCK = ["norm0", "token_mixing.dense0", "token_mixing.dense1", "norm1"]
BLOCK += ["channel_mixing.dense0", "channel_mixing.dense1"]


@pytest.mark.parametrize(("name", "printed"), [("mixer-12x768", 59_880_472), ("mixer-24x1024", 208_196_168)])
def test_mixer_b_16_and_l_16_have_the_numbers_of_parameters_that_the_paper_prints(name, printed):
    network = construct(name, (3, 224, 224), 1000, patch=16)
    assert sum(parameter.numel() for parameter in network.parameters()) == printed


def test_the_logits_are_those_of_the_formula():
    network = build("mixer-1x8", (2, 4, 8), 3, patch=4, init="torch").double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():  # layer norms away from the identity
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    image = torch.randn(2, 4, 8, generator=generator, dtype=torch.float64)
    p = dict(network.named_parameters())

    def affine(name, columns):
        return p[f"{name}.weight"] @ columns + p[f"{name}.bias"][:, None]

    def norm(name, table):
        centred = table - table.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]

    def gelu(values):
        return F.gelu(values, approximate="tanh")

    patches = torch.stack([image[:, :, 4 * i : 4 * i + 4].flatten() for i in (0, 1)], 1)
    table = (p["stem.weight"].flatten(1) @ patches + p["stem.bias"][:, None]).T  # [patches, channels]
    block = "blocks.00"
    mixed = gelu(affine(f"{block}.token_mixing.dense0", norm(f"{block}.norm0", table)))
    table = table + affine(f"{block}.token_mixing.dense1", mixed)
    mixed = gelu(affine(f"{block}.channel_mixing.dense0", norm(f"{block}.norm1", table).T))
    table = table + affine(f"{block}.channel_mixing.dense1", mixed).T
    logits = p["head.weight"] @ norm("final_norm", table).mean(0) + p["head.bias"]
    torch.testing.assert_close(network(image[None])[0], logits)


def test_layers_by_module_are_the_sub_layers_of_figure_9_and_by_block_the_blocks():
    network = build("mixer-2x16", (3, 8, 8), 5)
    images = torch.zeros(1, 3, 8, 8)
    blocks = [f"blocks.{number}.{name}" for number in ("00", "01") for name in BLOCK]
    assert [layer.name for layer in layers(network, "module", images)] == ["stem", *blocks, "final_norm", "head"]
    by_block = [layer.name for layer in layers(network, "block", images)]
    assert by_block == ["stem", "blocks.00", "blocks.01", "final_norm", "head"]
