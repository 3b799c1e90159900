"""Mass of networks from their graph: linked networks, DenseNet by hand, residual networks, and what is not followed."""

import logging
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from shaketable.errors import InputError, RunError
from shaketable.networks import build
from shaketable.topology import Cell, cell_density, nn_density, nn_mass, traced, traced_topology

IMAGES = torch.zeros(2, 3, 16, 16)
sizes = st.builds(Cell, st.integers(3, 6), st.integers(1, 5), st.integers(1, 20))


@given(st.lists(sizes, min_size=1, max_size=2), st.booleans())
@settings(max_examples=6, deadline=None)
def test_mass_and_density_of_a_linked_network_are_those_of_its_design(cells, mlp):
    name = ("linked-mlp-" if mlp else "linked-") + "-".join(map(str, cells))
    found = traced_topology(build(name, (3, 16, 16), 4), IMAGES)
    assert found.nn_mass == pytest.approx(nn_mass(cells))
    assert found.nn_density == pytest.approx(nn_density(cells))
    assert [cell.density for cell in found.cells] == pytest.approx([cell_density(cell) for cell in cells])
    assert [cell.channels for cell in found.cells] == [cell.depth * cell.width for cell in cells]


def densenet_by_hand(growth: int) -> tuple[float, list[float]]:
    """Links and channels of DenseNet-121, counted from its definition: 1x1 to 4 k channels, 3x3 to k, transitions halve."""
    mass, densities, features = 0.0, [], 2 * growth
    blocks = (6, 12, 24, 16)
    for number, layers in enumerate(blocks):
        widths, there = [features], 0
        for layer in range(layers):
            # the 1x1 sees the block's input and all 3x3 before it; the last of these made its input and is no long-range link
            seen = features + growth * (layer - 1) if layer else 0
            there += 4 * growth * seen
            widths += [4 * growth, growth]
        total = features + growth * layers
        if number < len(blocks) - 1:
            widths.append(total // 2)  # the transition sees all, the last 3x3 is next to it
            there += (total - growth) * (total // 2)
        else:
            widths.pop()  # the last 3x3 takes no long-range link, and supplies the classifier alone
        possible = sum(w * sum(widths[: i - 1]) for i, w in enumerate(widths) if i >= 2)
        densities.append(there / possible)
        mass += densities[-1] * sum(widths)
        features = total // 2
    return mass, densities


@pytest.mark.parametrize("name", ["densenet121", "densenet121-bn"])
def test_mass_of_densenet_is_that_of_its_graph_counted_by_hand(name):
    found = traced_topology(build(name, (3, 32, 32), 10, width=0.125), torch.zeros(2, 3, 32, 32))
    mass, densities = densenet_by_hand(4)
    assert [cell.density for cell in found.cells] == pytest.approx(densities)
    assert found.nn_mass == pytest.approx(mass)
    assert found.layers == 121


class Dense(nn.Module):
    """Each layer sees all before it, in one of the ways in which people write that."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.layers = nn.ModuleList(nn.Conv2d(3 if not i else 4 * i, 4, 3, padding=1) for i in range(4))
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        outputs = [self.layers[0](images)]
        for layer in self.layers[1:]:
            if self.way == "cat":
                x = torch.cat(outputs, 1)
            elif self.way == "permuted":
                x = torch.cat([one.permute(0, 2, 3, 1) for one in outputs], -1).movedim(-1, 1)
            elif self.way == "sliced":
                every = torch.cat([*outputs, outputs[0]], 1)
                x = every[:, : every.shape[1] - 4]
            else:
                a, b = torch.cat(outputs, 1).chunk(2, 1)
                x = torch.cat([b, a], 1)
            outputs.append(layer(F.leaky_relu(x)))
        return self.head(F.adaptive_avg_pool2d(outputs[-1], 1).flatten(1))


@pytest.mark.parametrize("way", ["cat", "permuted", "sliced", "split"])
def test_however_all_earlier_channels_are_brought_together_the_density_is_one(way):
    found = traced_topology(Dense(way).eval(), IMAGES)
    assert (found.nn_density, found.nn_mass, len(found.cells)) == (1.0, 16.0, 1)


@pytest.mark.parametrize(
    ("reorder", "long"),
    [(lambda x: x.flip(1)[:, :6], 4), (lambda x: x.roll(4, 1)[:, :6], 4), (lambda x: x.flip(2)[:, :6], 2)],
)
def test_channels_are_followed_where_their_order_changes(reorder, long):
    class Reordered(nn.Module):
        """A third layer sees six of the channels of the second and the first one."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.third, self.head = nn.Conv2d(6, 5, 1), nn.Linear(5, 2)

        def forward(self, images):
            x = self.first(images)
            x = self.third(reorder(torch.cat([self.second(x), x], 1)))
            return self.head(x.mean((2, 3)))

    found = traced_topology(Reordered().eval(), IMAGES)
    assert [cell.links for cell in found.cells] == [5 * long]


def test_a_network_that_does_not_take_the_inputs_is_one_error_and_torch_logs_nothing():
    said = []
    handler = logging.Handler()
    handler.emit = said.append
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.addHandler(handler)
    try:
        with pytest.raises(RunError, match="Linear cannot be traced"):
            traced(nn.Linear(3, 2), torch.zeros(2, 5))
    finally:
        logger.removeHandler(handler)
    assert (said, logger.disabled) == ([], False)


def test_a_network_without_concatenation_has_mass_zero_and_it_is_said_what_that_means():
    found = traced_topology(build("vgg11", (3, 32, 32), 3, width=0.05), torch.zeros(2, 3, 32, 32))
    assert (found.nn_mass, found.nn_density, found.cells) == (0.0, 0.0, ())
    assert "0 by definition, which says nothing about how good the network is" in found.notes[0]


def test_residual_skips_count_for_nothing_unless_the_follow_up_s_form_is_asked_for():
    network = build("resnet18-bn", (3, 16, 16), 3, width=0.125)
    plain = traced_topology(network, IMAGES)
    assert (plain.nn_mass, plain.additions) == (0.0, 8)
    assert any("8 additions of two paths" in note for note in plain.notes)
    widths = [8, 8, 8, 16, 16, 32, 32, 64, 64]
    # w_0 + w_1 for each basic block: the channels of its input and of its first convolution
    assert traced_topology(network, IMAGES, "bhardwaj2021").nn_mass == sum(a + b for a, b in pairwise(widths))


def test_the_follow_up_s_form_of_bottlenecks_is_that_of_its_code():
    network = build("resnet50-bn", (3, 16, 16), 3, width=0.125)
    found = traced_topology(network, IMAGES, "bhardwaj2021")
    total, inputs = 0.0, 8
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 8 * 2**stage
        for _ in range(blocks):
            total += (inputs + 2 * inner) * inputs / (2 * inputs + inner)
            inputs = 4 * inner
    assert found.nn_mass == pytest.approx(total)


def test_an_addition_that_is_no_block_counts_for_nothing_and_is_said():
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 4)
            self.inner = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
            self.head = nn.Linear(4, 2)

        def forward(self, inputs):
            x = self.first(inputs)
            return self.head(x + self.inner(x))

    found = traced_topology(Long().eval(), torch.zeros(2, 3), "bhardwaj2021")
    assert found.additive_mass == 0
    assert any("no blocks of two or three operators" in note for note in found.notes)


def test_a_gate_scales_channels_and_makes_none():
    class Gated(nn.Module):
        """Squeeze and excitation between two layers that a third one sees."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)
            self.squeeze, self.excite = nn.Linear(4, 2), nn.Linear(2, 4)
            self.third, self.head = nn.Linear(8, 4), nn.Linear(4, 2)

        def forward(self, inputs):
            x = self.first(inputs)
            y = self.second(x)
            y = y * self.excite(self.squeeze(y).relu()).sigmoid()
            return self.head(self.third(torch.cat([y, x], 1)).relu())

    found = traced_topology(Gated().eval(), torch.zeros(2, 3))
    assert (found.additions, [(cell.layers, cell.links) for cell in found.cells]) == (0, [((0, 2), 16)])


def test_what_is_not_followed_or_not_given_is_one_clear_error():
    with pytest.raises(RunError, match="cannot be followed through"):
        traced_topology(build("vit-1x8", (3, 16, 16), 3, patch=8), IMAGES)
    with pytest.raises(InputError, match="give two examples"):
        traced_topology(nn.Linear(2, 2))
    with pytest.raises(InputError, match="additive='resnet'"):
        traced_topology(nn.Linear(2, 2), torch.zeros(2, 2), "resnet")  # pyright: ignore

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, inputs):
            return self.inner(inputs) if inputs.sum() > 0 else inputs

    with pytest.raises(RunError, match="Branching cannot be traced"):
        traced(Branching().eval(), torch.zeros(2, 2))


def test_tracing_leaves_network_modes_and_random_state_alone():
    network = build("linked-4x3t4", (3, 16, 16), 3).train()
    before, state = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    traced_topology(network, IMAGES)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
