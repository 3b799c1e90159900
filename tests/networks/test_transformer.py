"""Decoder-only transformers: their sub-layers, their count of parameters, causality, and what they compute."""

import math

import pytest
import torch
from torch.nn import functional as F

from shaketable import params
from shaketable.networks import build, construct


def tokens(n: int = 3, t: int = 7, classes: int = 11) -> torch.Tensor:
    return torch.randint(classes, (n, t), generator=torch.Generator().manual_seed(0))


def test_the_count_of_parameters_is_the_one_that_the_paper_prints():
    network = construct("decoder-12x768", (128,), 30_000)
    assert sum(parameter.numel() for parameter in network.parameters()) == 112_242_480


def test_sub_layers_are_named_as_in_figure_7_and_run_in_this_order():
    network = build("decoder-2x8", (7,), 11)
    block = ["norm0", "query", "key", "value", "output", "norm1", "dense0", "dense1"]
    names = [layer.name for layer in params.layers(network, "module", tokens())]
    assert names == [
        "embedding",
        *(f"blocks.{number}.{name}" for number in ("00", "01") for name in block),
        "final_norm",
        "prediction",
    ]


@pytest.mark.parametrize("blocks", [1, 2, 12])
def test_by_block_each_block_is_one_layer(blocks):
    network = construct(f"decoder-{blocks}x8", (7,), 11)
    found = params.layers(network, "block")
    inside = [f"blocks.{number:02}" for number in range(blocks)]
    assert [layer.name for layer in found] == ["embedding", *inside, "final_norm", "prediction"]
    assert [len(layer.params) for layer in found] == [1, *[12] * blocks, 2, 2]


def test_no_position_sees_a_later_token():
    network = build("decoder-2x8", (7,), 11, head_width=4).double()
    first, other = tokens(), tokens()
    other[:, 4:] = (other[:, 4:] + 1) % 11
    one, two = network(first), network(other)
    torch.testing.assert_close(one[:, :4], two[:, :4], rtol=0, atol=1e-12)
    assert (one[:, 4:] - two[:, 4:]).abs().amin(-1).min() > 0  # and what is seen counts


def test_the_order_of_earlier_tokens_counts():
    network = build("decoder-1x8", (7,), 11).double()
    swapped = tokens()[:, [1, 0, 2, 3, 4, 5, 6]]
    assert not torch.allclose(network(tokens())[:, -1], network(swapped)[:, -1])


def test_the_network_equals_a_computation_by_hand():
    network = build("decoder-2x6", (5,), 11, head_width=3, expansion=2.0).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # biases and norms that a mistake would show
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    p = dict(network.named_parameters())
    given = tokens(2, 5)
    x = p["embedding.weight"][given]
    for t in range(5):
        for i in range(3):
            x[:, t, 2 * i] += math.sin(t / 10_000 ** (2 * i / 6))
            x[:, t, 2 * i + 1] += math.cos(t / 10_000 ** (2 * i / 6))
    for block in ("blocks.00", "blocks.01"):
        y = F.layer_norm(x, (6,), p[f"{block}.norm0.weight"], p[f"{block}.norm0.bias"])
        q, k, v = (y @ p[f"{block}.{name}.weight"].T for name in ("query", "key", "value"))
        attended = torch.zeros_like(x)
        for head in (slice(0, 3), slice(3, 6)):
            for t in range(5):
                scores = torch.einsum("nd,nsd->ns", q[:, t, head], k[:, : t + 1, head]) / math.sqrt(3)
                attended[:, t, head] = torch.einsum("ns,nsd->nd", scores.softmax(1), v[:, : t + 1, head])
        x = x + attended @ p[f"{block}.output.weight"].T
        y = F.layer_norm(x, (6,), p[f"{block}.norm1.weight"], p[f"{block}.norm1.bias"])
        hidden = torch.relu(y @ p[f"{block}.dense0.weight"].T + p[f"{block}.dense0.bias"])
        x = x + hidden @ p[f"{block}.dense1.weight"].T + p[f"{block}.dense1.bias"]
    x = F.layer_norm(x, (6,), p["final_norm.weight"], p["final_norm.bias"])
    # positions are sines in float32, as in every precision of the network
    expected = x @ p["prediction.weight"].T + p["prediction.bias"]
    torch.testing.assert_close(network(given), expected, rtol=1e-6, atol=1e-6)


def test_initial_weights_have_the_moments_of_their_distributions():
    network = build("decoder-1x96", (8,), 500, seed=3)
    embedding, query = network.embedding.weight, network.get_submodule("blocks.00").query.weight
    assert float(embedding.detach().std()) == pytest.approx(1, abs=3 / math.sqrt(2 * embedding.numel()))
    assert float(embedding.detach().mean()) == pytest.approx(0, abs=3 / math.sqrt(embedding.numel()))
    bound = math.sqrt(6 / 192)
    assert 0.99 * bound < float(query.detach().abs().max()) <= bound
    norm = network.final_norm
    assert bool((norm.weight == 1).all() & (norm.bias == 0).all())


def test_redrawing_depends_on_the_generator_alone():
    one, other = build("decoder-1x8", (7,), 11, seed=1), build("decoder-1x8", (7,), 11, seed=2)
    before = torch.random.get_rng_state()
    for network in (one, other):
        with torch.no_grad():
            network.final_norm.weight.mul_(2)
        network.initialise(torch.Generator().manual_seed(5))
    assert torch.equal(before, torch.random.get_rng_state())
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_other_lengths_than_the_one_that_it_was_built_for_work():
    network = build("decoder-1x8", (7,), 11)
    assert network(tokens(2, 20)).shape == (2, 20, 11)
