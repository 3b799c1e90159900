"""Linked networks: their links, their contributions, and the counts of the paper's table 1."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from shaketable.data import Data
from shaketable.engine import Engine
from shaketable.errors import InputError
from shaketable.networks import build, construct
from shaketable.networks.cells import Cell, cells_from, draw_links
from shaketable.networks.linked import folded

CIFAR = (3, 32, 32)
# Depth of a cell, links, parameters in millions and FLOPs in billions as table 1 prints (truncates) them; width multiplier 2.
TABLE_1 = [
    (20, (90, 170, 300), "11.89", "3.63"),
    (20, (50, 100, 150), "8.15", "2.54"),
    (12, (60, 130, 170), "5.02", "1.59"),
    (11, (70, 140, 180), "4.69", "1.51"),
    (9, (70, 140, 200), "3.82", "1.20"),
]
sizes = st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(0, 40))


def named(depth: int, links: tuple[int, ...]) -> str:
    """The network of three cells of 16, 32, 64 channels; the argument width multiplies them."""
    return "linked-" + "-".join(f"{depth}x{16 * 2**c}t{t}" for c, t in enumerate(links))


def truncated(number: int, unit: int) -> str:
    return f"{number * 100 // unit / 100:.2f}"


@pytest.mark.parametrize(("depth", "links", "parameters", "flops"), TABLE_1)
def test_parameters_and_flops_are_those_of_table_1(depth, links, parameters, flops):
    network = construct(named(depth, links), CIFAR, 10, width=2).eval()
    assert truncated(sum(p.numel() for p in network.parameters()), 10**6) == parameters
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, *CIFAR, device="meta"))
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert truncated(convolutions, 10**9) == flops


@given(sizes)
@settings(max_examples=60, deadline=None)
def test_the_links_that_are_drawn_are_as_many_as_the_formula_says_each_once_and_long(size):
    cell = Cell(*size)
    drawn = draw_links((cell.width,) * cell.depth, cell.sources, 3)
    for layer, links in enumerate(drawn):
        assert len(links) == len(set(links)) == min(max(0, layer - 1) * cell.width, cell.links)
        assert all(source <= layer - 2 and 0 <= channel < cell.width for source, channel in links)


def test_links_belong_to_the_architecture_and_weights_to_the_seed():
    one, two = (build("linked-5x6t4", (1, 8, 8), 3, seed=seed) for seed in (0, 1))
    assert one.cell1.links == two.cell1.links
    assert torch.equal(one.cell1.layer4.operator.contributions, two.cell1.layer4.operator.contributions)
    assert not torch.equal(one.stem.weight, two.stem.weight)
    other = build("linked-5x6t4", (1, 8, 8), 3, link_seed=1)
    assert other.cell1.links != one.cell1.links
    assert torch.equal(other.stem.weight, one.stem.weight)


def test_every_earlier_channel_is_drawn_as_often_as_any_other():
    counts = torch.zeros(12)
    for seed in range(600):
        for layer, channel in draw_links((4,) * 5, (0, 0, 0, 0, 3), seed)[4]:
            counts[4 * layer + channel] += 1
    expected, spread = 600 * 3 / 12, (600 * 0.25 * 0.75) ** 0.5
    assert (counts - expected).abs().max() < 3.5 * spread


def test_a_layer_computes_what_the_formula_says():
    network = build("linked-4x3t4", (1, 6, 6), 2, seed=1).double()
    images = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs, before = [], F.conv2d(images, network.stem.weight, padding=1)
    for index in range(4):
        layer = network.cell1.get_submodule(f"layer{index}")
        linked = [outputs[source][:, [channel]] for source, channel in layer.links]
        x = torch.cat([outputs[-1] if outputs else before, *linked], 1)
        x = (x / (1 + 1e-5) ** 0.5).relu()  # a fresh norm: mean 0, variance 1
        outputs.append(F.conv2d(x, layer.operator.free * layer.operator.contributions, padding=1))
    pooled = (outputs[-1] / (1 + 1e-5) ** 0.5).relu().mean((2, 3))
    expected = F.linear(pooled, network.final_linear.weight, network.final_linear.bias)
    torch.testing.assert_close(network(images), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("contributions", ["random", "constant", "ones"])
def test_contributions_of_an_output_are_probabilities_or_ones_and_stay_as_they_are_in_training(contributions):
    network = build("linked-4x6t5", (1, 8, 8), 2, contributions=contributions).train()
    operator = network.cell1.layer3.operator
    if contributions == "ones":
        assert type(operator) is nn.Conv2d
        return
    before = operator.contributions.clone()
    assert before.shape == (6, 11, 1, 1)
    torch.testing.assert_close(before.sum(1), torch.ones(6, 1, 1))
    assert (before == 1 / 11).all() == (contributions == "constant")
    step = torch.optim.SGD(network.parameters(), lr=1.0)
    network(torch.ones(4, 1, 8, 8)).square().sum().backward()
    step.step()
    assert torch.equal(operator.contributions, before)
    assert "cell1.layer3.operator.contributions" not in dict(network.named_parameters())


@pytest.mark.parametrize(
    ("name", "shape", "arguments"),
    [
        ("linked-4x3t4-3x5t9", CIFAR, {}),
        ("linked-4x3t4-3x5t9", CIFAR, {"contributions": "constant"}),
        ("linked-4x3t4-3x5t9", CIFAR, {"one_cell": True}),
        ("linked-mlp-4x6t9", (1, 5, 5), {}),
    ],
)
def test_folding_leaves_outputs_and_takes_the_contributions_away(name, shape, arguments):
    network = build(name, shape, 4, **arguments)
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    plain = folded(network)
    assert torch.equal(plain(images), network(images))
    assert not any("contributions" in key for key in plain.state_dict())
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in network.parameters())


def test_in_one_cell_links_reach_over_the_groups_and_maps_are_averaged_down():
    network = build("linked-3x4t99-3x6t99", (1, 8, 8), 2, one_cell=True)
    assert [name for name, _ in network.named_children()][:2] == ["stem", "cell1"]
    assert [len(links) for links in network.cell1.links] == [0, 0, 4, 8, 12, 18]
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 2)


def test_the_network_of_appendix_b_has_46_layers_by_the_papers_count_and_eight_million_parameters():
    network = construct(named(14, (200, 200, 200)), CIFAR, 10, width=2, one_cell=True)
    assert sum(p.numel() for p in network.parameters()) // 10**6 == 8


@pytest.mark.parametrize("name", ["linked-1x4t3", "linked-2x4t3", "linked-5x4t0", "linked-mlp-2x4t3"])
def test_cells_too_short_for_links_and_cells_without_run(name):
    network = build(name, (1, 8, 8), 2)
    assert all(not links for links in network.cell1.links)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 2)


def test_a_state_is_loaded_into_a_network_of_the_same_name():
    one, two = build("linked-4x3t4", (1, 8, 8), 2), build("linked-4x3t4", (1, 8, 8), 2, seed=1)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(torch.ones(1, 1, 8, 8)), two(torch.ones(1, 1, 8, 8)))
    assert one.state_dict()["cell1.layer3.channels"].tolist() == [channel for _, channel in one.cell1.layer3.links]


def test_the_engine_evaluates_a_changed_layer_as_the_plain_network_does():
    network = build("linked-4x5t6-3x6t6", (1, 8, 8), 3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1e-3)
    generator = torch.Generator().manual_seed(0)
    data = Data(torch.randn(40, 1, 8, 8, generator=generator), torch.randint(3, (40,), generator=generator), 3)
    weight = network.cell1.layer2.operator.free.detach()
    changed = {"cell1.layer2.operator.free": weight + torch.randn(weight.shape, generator=generator)}
    found = Engine(network).sums([changed], data)
    plain = build("linked-4x5t6-3x6t6", (1, 8, 8), 3)
    plain.load_state_dict(network.state_dict() | changed)
    wrong = (plain(data.inputs).argmax(1) != data.labels).sum()
    assert found[0].errors == int(wrong)


@pytest.mark.parametrize("size", [(0, 2, 3), (4, -1, 3), (4, 2, -1), (4, 2, 1.5), (True, 2, 3)])
def test_a_cell_of_a_size_that_there_is_not_is_one_clear_error(size):
    with pytest.raises(InputError, match=r"a cell's (depth|width|links) is .*; give a whole number from [01]"):
        Cell(*size)


def test_a_name_that_is_none_is_one_clear_error():
    with pytest.raises(InputError, match="'4x2' names no cells; write each as <depth>x<width>t<links>"):
        cells_from("4x2")
    with pytest.raises(InputError, match="Did you mean 'linked-"):
        construct("linked-4x2t3-4x3t4-4x", CIFAR, 10)
    with pytest.raises(InputError, match="no contributions to fold"):
        folded(build("linked-3x2t2", (1, 4, 4), 2, contributions="ones"))
