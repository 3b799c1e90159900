"""Units removed one by one: every answer is that of the network run with a mask."""

from typing import Any

import pytest
import torch
from tests.test_intervene import functional
from torch import Tensor, nn

from shaketable.engine.removals import Removals
from shaketable.errors import RunError
from shaketable.intervene import ablated, masked, site_of, sites
from shaketable.networks import build
from shaketable.params import snapshot

NETWORKS = {
    "fcn-2x12": ((1, 4, 4), {}),
    "vgg11": ((3, 32, 32), {"width": 0.0625}),
    "resnet18-bn": ((3, 8, 8), {"width": 0.0625}),
    "resnet18-v2": ((3, 8, 8), {"width": 0.0625}),
    "vit-1x16": ((3, 16, 16), {}),
    "mixer-1x16": ((3, 16, 16), {}),
}


class Concatenating(nn.Module):
    """Two branches whose channels stand side by side, and positions in a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)
        self.norm, self.pool = nn.BatchNorm2d(8), nn.MaxPool2d(2)
        self.next, self.head = nn.Conv2d(8, 6, 3, padding=1, stride=2), nn.Linear(6 * 4, 4)

    def forward(self, x):
        both = torch.cat([self.left(x).sigmoid(), self.right(x)], 1)
        return self.head(self.next(self.pool(self.norm(both).relu())).relu().flatten(1))


def case(name: str) -> tuple[Any, Tensor, Tensor]:
    """A network with settled norms, inputs, and the labels that it gives them."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if name == "concatenating":
            network, x = Concatenating(), torch.randn(5, 2, 8, 8)
        elif name == "functional":
            network, x = functional(), torch.randn(5, 1, 6, 6)
        else:
            shape, arguments = NETWORKS[name]
            network, x = build(name, shape, 4, **arguments), torch.randn(5, *shape)
            network.initialise(torch.Generator().manual_seed(1))
        with torch.no_grad():
            network.train()(x)
            return network.eval(), x, network(x).argmax(1)


def naive(network: nn.Module, site, x: Tensor, labels: Tensor, order: Tensor) -> Tensor:
    """One example and one set of units at a time."""
    right = torch.zeros(len(x), site.units + 1, dtype=torch.bool)
    for row in range(len(x)):
        for kept in range(site.units + 1):
            with torch.no_grad(), ablated(network, site, order[row, kept:]):
                right[row, kept] = network(x[row : row + 1]).argmax(1)[0] == labels[row]
    return right


def orders(site, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randperm(site.units, generator=generator) for _ in range(count)])


def some_layers(network: nn.Module, x: Tensor) -> list:
    found = sites(network, x[:2])
    return [found[0], found[len(found) // 2], *found[-3:-1]]


@pytest.mark.parametrize("name", [*NETWORKS, "concatenating", "functional"])
def test_every_answer_at_every_layer_is_that_of_the_naive_loop(name):
    network, x, labels = case(name)
    ways = set()
    for site in dict.fromkeys(some_layers(network, x)):
        order = orders(site, len(x))
        removals = Removals(network, snapshot(network), site, x)
        ways.add(removals.way)
        truth = naive(network, site, x, labels, order)
        assert torch.equal(removals.right(removals.record(x), labels, [order])[0], truth), site
        assert truth[:, -1].all()
    assert "sum" in ways or name == "vit-1x16"


@pytest.mark.parametrize(
    ("name", "layer", "way"),
    [
        ("concatenating", "left", "sum"),  # through the concatenation, into a convolution with stride
        ("concatenating", "next", "sum"),  # several positions of a channel in a linear layer
        ("functional", "conv2", "sum"),  # the residual sum, then the concatenation
        ("functional", "conv1", "suffix"),  # read by a convolution, a sum and a concatenation
        ("resnet18-bn", "stage4.resblk2.conv2", "sum"),
        ("resnet18-bn", "stage4.resblk1.conv2", "suffix"),  # the next block's branch and its shortcut
    ],
)
def test_the_running_sum_carries_residual_and_concatenating_successors(name, layer, way):
    network, x, labels = case(name)
    site = site_of(network, layer, x)
    order = orders(site, len(x))
    truth = naive(network, site, x, labels, order)
    removals = Removals(network, snapshot(network), site, x)
    assert removals.way == way
    for other in (way, "suffix", "network"):
        same = Removals(network, snapshot(network), site, x, way=other)
        assert same.way == other
        assert torch.equal(same.right(same.record(x), labels, [order])[0], truth)


@pytest.mark.parametrize("memory", [1, 10**6, None])
def test_answers_do_not_depend_on_the_memory_or_on_which_examples_go_together(memory):
    network, x, labels = case("concatenating")
    site = site_of(network, "left", x)
    order = orders(site, len(x))
    removals = Removals(network, snapshot(network), site, x, memory)
    whole = Removals(network, snapshot(network), site, x)
    expected = whole.right(whole.record(x), labels, [order])[0]
    assert removals.rows() <= whole.rows()
    base = removals.record(x)
    assert torch.equal(removals.right(base, labels, [order])[0], expected)
    alone = [
        removals.right(removals.record(x[i : i + 1]), labels[i : i + 1], [order[i : i + 1]])[0] for i in range(len(x))
    ]
    assert torch.equal(torch.cat(alone), expected)
    picked = torch.tensor([4, 1])
    assert torch.equal(removals.right(base.of(picked), labels[picked], [order[picked]])[0], expected[picked])


def test_ties_go_to_the_lowest_class_as_in_the_network_itself():
    first, last = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    network = nn.Sequential(first, nn.ReLU(), last).eval()
    with torch.no_grad():
        first.weight.copy_(torch.eye(3))
        last.weight.copy_(torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]))
    x, labels = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]]), torch.tensor([0, 1, 2, 2])
    site = site_of(network, "0", x)
    order = orders(site, 4)
    removals = Removals(network, snapshot(network), site, x)
    assert removals.way == "sum"
    assert torch.equal(removals.right(removals.record(x), labels, [order])[0], naive(network, site, x, labels, order))


def test_the_network_its_modes_hooks_and_the_random_state_are_left_alone():
    network, x, labels = case("functional")
    network.train()
    before, state = snapshot(network), torch.get_rng_state()
    removals = Removals(network, snapshot(network), site_of(network, "conv2", x), x)
    removals.right(removals.record(x), labels, [orders(removals.site, len(x))])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(network).items())
    assert all(module.training for module in network.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert set(dict(network.named_buffers())) == set(dict(functional().named_buffers()))


def test_the_params_given_count_and_not_those_of_the_network():
    network, x, labels = case("functional")
    params = {name: t + 0.3 if t.is_floating_point() else t for name, t in snapshot(network).items()}
    site = site_of(network, "conv2", x)
    order = orders(site, len(x))
    removals = Removals(network, params, site, x)
    found = removals.right(removals.record(x), labels, [order])[0]
    network.load_state_dict(params)
    assert torch.equal(found, naive(network, site, x, labels, order))


def test_where_the_sums_are_the_logits_answers_are_those_of_the_naive_loop_ties_too():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        last, x = nn.Linear(40, 5), torch.randn(12, 6)
        network = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), last).eval()
    with torch.no_grad():
        last.bias[0] = 1.0  # the highest where nothing is left
        for tensor in (last.weight, last.bias):
            tensor[1] = tensor[0]  # a tie of two classes: the first has it
    labels = torch.arange(len(x)) % 3
    site = site_of(network, "0", x)
    order = orders(site, len(x))
    removals = Removals(network, snapshot(network), site, x)
    assert removals.linear is not None
    assert removals.linear.is_last
    found = removals.right(removals.record(x), labels, [order])[0]
    assert torch.equal(found, naive(network, site, x, labels, order))
    assert found[labels == 0].any()
    assert not found[labels == 1].any()


class Deciding(nn.Module):
    """Code that depends on values: cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.relu, self.two = nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        y = self.relu(self.one(x))
        return self.two(y) if float(y.detach().sum()) >= 0 else -self.two(y)


def test_what_cannot_be_traced_is_run_whole_and_says_so_where_something_else_was_asked_for():
    network, x = Deciding().eval(), torch.randn(4, 3)
    site, labels = site_of(network, "one", x), network(x).argmax(1)
    removals = Removals(network, snapshot(network), site, x)
    order = orders(site, 4)
    assert removals.way == "network"
    assert torch.equal(removals.right(removals.record(x), labels, [order])[0], naive(network, site, x, labels, order))
    with pytest.raises(RunError, match=r"layer 'one' cannot be ablated by way='sum': it cannot be traced"):
        Removals(network, snapshot(network), site, x, way="sum")


@pytest.mark.parametrize("way", ["sum", "suffix", "network"])
def test_logits_that_are_not_finite_are_wrong_in_every_way(way):
    first, last = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    network = nn.Sequential(first, nn.ReLU(), last).eval()
    with torch.no_grad():
        first.weight.copy_(torch.eye(2))
        last.weight.copy_(torch.tensor([[1.0, 1e38], [0, 0]]))
    x, labels = torch.tensor([[1.0, 100], [1, 1]]), torch.tensor([0, 0])
    removals = Removals(network, snapshot(network), site_of(network, "0", x), torch.ones(2, 2), way=way)
    found = removals.right(removals.record(x), labels, [torch.tensor([[0, 1], [0, 1]])])[0]
    assert found.tolist() == [[True, True, False], [True, True, True]]  # a tie at 0 goes to class 0


@pytest.mark.parametrize("way", ["sum", "suffix", "network"])
def test_a_unit_that_is_infinite_is_zero_when_it_is_removed_in_every_way(way):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[3e38, 3e38], [1, 0], [0, 1]]))
        x = torch.rand(6, 2) + 0.7
        without = nn.functional.linear(x, network[2].weight[:, 1:], network[2].bias)
        labels = network[4](without.relu()).argmax(1)
    site, order = site_of(network, "0", x), torch.tensor([2, 1, 0]).expand(6, 3)
    removals = Removals(network, snapshot(network), site, x, way=way)
    right = removals.right(removals.record(x), labels, [order])[0]
    assert torch.equal(right, naive(network, site, x, labels, order))
    assert right[:, 2].all()  # all but the infinite one
    assert not right[:, 3].any()  # with it


def test_a_mask_of_ones_changes_nothing():
    network, x, _ = case("vgg11")
    with torch.no_grad():
        before = network(x)
        for site in sites(network, x[:2])[:3]:
            with masked(network, site, torch.ones(site.units)):
                assert torch.equal(network(x), before)
