"""Vision transformers: counts printed in the paper, torch's own encoder, names, and layers."""

import pytest
import torch
from torch import nn

from shaketable.networks import build, construct
from shaketable.params import layers, linear_layers
from shaketable.probes import robustness
from shaketable.study import Study

IMAGENET = (3, 224, 224)
BLOCK = ["norm0", "attention.query", "attention.key", "attention.value", "attention.output", "norm1"]
BLOCK += ["mlp.dense0", "mlp.dense1"]


@pytest.mark.parametrize(
    ("name", "arguments", "printed"),
    [
        ("vit-12x768", {"patch": 16, "heads": 12}, 86_567_656),
        ("vit-24x1024", {"patch": 16, "heads": 16}, 304_326_632),
    ],
)
def test_vit_b_16_and_l_16_have_the_numbers_of_parameters_that_the_paper_prints(name, arguments, printed):
    network = construct(name, IMAGENET, 1000, **arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == printed


def torch_encoder(network, heads, hidden):
    """torch's own encoder with the blocks' weights."""
    encoder = []
    for block in network.blocks:
        layer = nn.TransformerEncoderLayer(
            16, heads, hidden, 0.0, lambda x: nn.functional.gelu(x, approximate="tanh"), 1e-6, True, True
        ).double()
        names = ("query", "key", "value")
        parts = [getattr(block.attention, name) for name in names]
        with torch.no_grad():
            layer.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
            layer.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        layer.self_attn.out_proj.load_state_dict(block.attention.output.state_dict())
        layer.linear1.load_state_dict(block.mlp.dense0.state_dict())
        layer.linear2.load_state_dict(block.mlp.dense1.state_dict())
        layer.norm1.load_state_dict(block.norm0.state_dict())
        layer.norm2.load_state_dict(block.norm1.state_dict())
        encoder.append(layer.eval())
    return nn.Sequential(*encoder)


def test_the_blocks_compute_what_torchs_encoder_does():
    network = build("vit-2x16", (3, 8, 12), 5, heads=4, expansion=2.0, init="torch").double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():  # layer norms and positions away from where they start
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    images = torch.randn(3, 3, 8, 12, generator=generator, dtype=torch.float64)
    tokens = network.embedding(images)
    assert tokens.shape == (3, 1 + 2 * 3, 16)
    torch.testing.assert_close(network.blocks(tokens), torch_encoder(network, 4, 32)(tokens))


def test_a_token_is_the_linear_image_of_its_patch_and_the_first_one_is_the_class_token():
    network = build("vit-1x8", (2, 4, 8), 3, patch=4, heads=2).double()
    images = torch.randn(1, 2, 4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    embedding = network.embedding
    weight = embedding.patches.weight.flatten(1)
    tokens = [embedding.cls[0, 0], *(weight @ images[0, :, :, 4 * i : 4 * i + 4].flatten() for i in (0, 1))]
    torch.testing.assert_close(embedding(images)[0], torch.stack(tokens) + embedding.pos_embedding[0])


def test_layers_by_module_are_the_sub_layers_of_figure_8_and_by_block_the_blocks():
    network = build("vit-2x16", (3, 8, 8), 5)
    images = torch.zeros(1, 3, 8, 8)
    first = ["embedding.cls", "embedding.pos_embedding", "embedding.patches"]
    blocks = [f"blocks.{number}.{name}" for number in ("00", "01") for name in BLOCK]
    assert [layer.name for layer in layers(network, "module", images)] == [*first, *blocks, "final_norm", "head"]
    by_block = [layer.name for layer in layers(network, "block", images)]
    assert by_block == [*first, "blocks.00", "blocks.01", "final_norm", "head"]
    tables = {"embedding.cls", "embedding.pos_embedding"}
    assert not tables & {layer.name for layer in linear_layers(network, images)}


def test_fresh_positions_are_normal_with_standard_deviation_002_and_the_class_token_is_0():
    network = build("vit-1x64", (3, 32, 32), 5)
    positions = network.embedding.pos_embedding.flatten()  # 65 x 64 numbers: the error of their deviation is 1 in 91
    assert positions.std().item() == pytest.approx(0.02, rel=3 / (2 * len(positions)) ** 0.5)
    assert not network.embedding.cls.any()
    assert (network.final_norm.weight == 1).all()


def test_initialise_redraws_all_but_what_starts_constant():
    network = build("vit-1x8", (3, 8, 8), 5, heads=2)
    before = {name: value.clone() for name, value in network.named_parameters()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    network.initialise(torch.Generator().manual_seed(1))
    same = {name for name, value in network.named_parameters() if torch.equal(value, before[name])}
    constant = {name for name in before if "norm" in name or name.endswith((".bias", ".cls"))}
    assert same == constant


@pytest.mark.parametrize("name", ["vit-1x8", "mixer-1x8"])
def test_the_engine_measures_the_robustness_that_the_plain_loop_does(name):
    from shaketable.evaluate import evaluate

    network = build(name, (1, 8, 8), 3)
    init = {key: value.clone() for key, value in network.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    data = torch.randn(20, 1, 8, 8, generator=generator), torch.arange(20) % 3
    study = Study(network, init=init, test=data)
    table = robustness(study, by="module", draws=0).table.filter(perturbation="reinitialise")
    assert len(table) == len(layers(network))
    for row, layer in zip(table.iter_rows(named=True), layers(network, "module", data[0]), strict=True):
        variant = {**study.final, **{key: init[key] for key in layer.params}}
        expected = evaluate(network, variant, study.test)
        assert (row["layer"], row["errors"]) == (layer.name, expected.errors)
        assert row["loss"] == pytest.approx(expected.mean_loss, rel=1e-4)
