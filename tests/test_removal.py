"""Removal: a block that is zeroed in the right place is the identity, and a network without it is a smaller network."""

import pytest
import torch
from torch import nn

from shaketable.engine import Engine
from shaketable.errors import InputError
from shaketable.networks import build
from shaketable.params import layers, snapshot
from shaketable.removal import removals, without

WIDTH = 0.0625
INPUTS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network_of(name: str, **arguments) -> nn.Module:
    """A tiny residual network in which no tensor is zero, statistics and biases included."""
    network = build(name, (3, 8, 8), 10, width=WIDTH, seed=0, **arguments).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.1 * torch.rand(tensor.shape, generator=generator)
    return network


def blocks_of(network: nn.Module) -> list[str]:
    return [layer.name for layer in layers(network, "block") if layer.stage]


def skipped(network: nn.Module, names, inputs: torch.Tensor) -> torch.Tensor:
    """Logits when a hook gives back the input of each block as its output."""
    hooks = [network.get_submodule(name).register_forward_hook(lambda m, args, out: args[0]) for name in names]
    try:
        with torch.no_grad():
            return network(inputs)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("resnet18", ["conv2.weight"]),
        ("resnet18-bn", ["bn2.bias", "bn2.weight"]),
        ("resnet18-v2", ["conv2.weight"]),
        ("resnet18-v2-bn", ["conv2.weight"]),
        ("resnet50-bn", ["bn3.bias", "bn3.weight"]),
    ],
)
def test_a_block_is_dropped_by_zeroing_the_last_operator_or_normalisation_of_its_branch(name, last):
    network = network_of(name)
    found = removals(network, blocks_of(network), INPUTS[:2])
    droppable = [block for block, removal in found.items() if removal.tensors is not None]
    assert {block for block in found if not block.endswith("resblk1")} <= set(droppable)
    for block in droppable:
        tensors = found[block].tensors
        assert tensors is not None
        assert sorted(tensors) == [f"{block}.{tensor}" for tensor in last]
        (logits,) = Engine(network).logits([tensors], INPUTS)
        assert torch.equal(logits, skipped(network, [block], INPUTS))


def test_a_fixup_block_is_dropped_together_with_its_scalars():
    network = network_of("resnet18", init="fixup")
    found = removals(network, blocks_of(network), INPUTS[:2])
    tensors = found["stage3.resblk2"].tensors
    assert tensors is not None
    assert len(tensors) == 2
    (logits,) = Engine(network).logits([tensors], INPUTS)
    assert torch.equal(logits, skipped(network, ["stage3.resblk2"], INPUTS))


@pytest.mark.parametrize("version", ["", "-v2"])
def test_without_its_identity_skip_blocks_a_resnet_50_101_and_152_are_one_network(version):
    bare = []
    for depth in (50, 101, 152):
        network = build(f"resnet{depth}{version}-bn", (3, 8, 8), 10, width=WIDTH, seed=depth).eval()
        found = removals(network, blocks_of(network), INPUTS[:2])
        droppable = [block for block, removal in found.items() if removal.reason is None]
        assert len(droppable) == {50: 16, 101: 33, 152: 50}[depth] - 4
        bare.append(without(network, droppable, INPUTS[:2]))
    first, *others = bare
    for other in others:
        assert {k: v.shape for k, v in other.state_dict().items()} == {
            k: v.shape for k, v in first.state_dict().items()
        }
        other.load_state_dict(first.state_dict())
        with torch.no_grad():
            assert torch.equal(other(INPUTS), first(INPUTS))


def test_the_network_without_blocks_gives_the_logits_of_skipping_them_and_has_none_of_their_parameters():
    network = network_of("resnet18-bn")
    names = ["stage1.resblk1", "stage2.resblk2", "stage4.resblk2"]
    smaller = without(network, names, INPUTS[:2])
    with torch.no_grad():
        assert torch.equal(smaller(INPUTS), skipped(network, names, INPUTS))
    gone = sum(p.numel() for name in names for p in network.get_submodule(name).parameters())
    assert sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in smaller.parameters()) == gone
    assert isinstance(smaller.get_submodule(names[0]), nn.Identity)


def test_the_network_itself_is_left_alone():
    network = network_of("resnet18-bn").train()
    before = snapshot(network)
    without(network, "stage1.resblk2", INPUTS[:2])
    assert all(torch.equal(before[name], tensor) for name, tensor in snapshot(network).items())
    assert all(module.training and not module._forward_hooks for module in network.modules())
    assert not isinstance(network.get_submodule("stage1.resblk2"), nn.Identity)


class Attention(nn.Module):
    """A block with two branches, called by keyword, that gives a tuple; the second branch ends in a dead unit."""

    def __init__(self, projection: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.mix = nn.Linear(4, 4)
        self.up = nn.Linear(4, 8)
        self.down = projection or nn.Linear(8, 4)

    def forward(self, hidden: torch.Tensor, scale: float = 1.0) -> tuple[torch.Tensor]:
        hidden = hidden + scale * self.mix(self.norm(hidden))
        return (hidden + self.down((self.up(hidden) - 50).relu()),)


class Reader(nn.Module):
    """Some blocks and a classifier."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(4, 3)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            (hidden,) = block(scale=2.0, hidden=hidden)
        return self.head(hidden)


def reader(shared: bool = False) -> Reader:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        projection = nn.Linear(8, 4) if shared else None
        network = Reader(Attention(projection), Attention(projection)).eval()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.endswith("down.bias"):
                    parameter.zero_()
        return network


def test_both_branches_of_a_transformer_block_are_zeroed_also_one_that_is_silent_on_the_examples():
    network, inputs = reader(), torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    tensors = removals(network, ["blocks.0"], inputs)["blocks.0"].tensors
    assert tensors is not None
    assert {"blocks.0.mix.weight", "blocks.0.mix.bias"} <= set(tensors)
    with torch.no_grad():
        large = 300 * inputs  # here the second branch speaks
        (variant,) = Engine(network).logits([tensors], large)
        smaller = without(network, "blocks.0", inputs)(large)
        assert torch.equal(variant, smaller)
        (wanted,) = network.blocks[1](large, 2.0)
        assert torch.equal(smaller, network.head(wanted))


def test_tensors_that_another_block_shares_are_never_zeroed():
    network, inputs = reader(shared=True), 300 * torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    found = removals(network, ["blocks.0"], inputs)["blocks.0"]
    assert found.tensors is None or not any("down" in name for name in found.tensors)


def test_a_block_that_shares_its_branch_with_another_says_so_and_not_that_its_shortcut_is_no_identity():
    class Block(nn.Module):
        def __init__(self, branch: nn.Module) -> None:
            super().__init__()
            self.branch = branch

        def forward(self, x):
            return x + self.branch(x)

    branch = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network = nn.Sequential(Block(branch), Block(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))), Block(branch)).eval()
    found = removals(network, ["0", "1", "2"], torch.ones(2, 4))
    shared = "it shares weights with modules outside of it, so that it cannot be zeroed alone"
    assert (found["0"].reason, found["1"].reason, found["2"].reason) == (shared, None, shared)


def test_a_block_whose_attributes_the_network_reads_is_refused_and_another_is_dropped():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    inputs = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(without(network, "layers.1", inputs)(inputs), network.layers[0](inputs))
    with pytest.raises(
        InputError, match="layers.0 cannot be removed: the network asks its blocks for more than their out"
    ):
        without(network, "layers.0", inputs)


class Rescaled(nn.Module):
    """A block with a projection of equal shape beside its branch."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.shortcut = nn.Linear(4, 4)

    def forward(self, inputs):
        return self.branch(inputs) + self.shortcut(inputs)


def test_what_cannot_be_removed_is_one_sentence_that_says_why():
    network = network_of("resnet18")
    with pytest.raises(InputError, match=r"'stage2.resblk1' cannot be removed: it makes \[8, 4, 4\] of \[4, 8, 8\]"):
        without(network, ["stage1.resblk2", "stage2.resblk1"], INPUTS)
    with pytest.raises(InputError, match="no block 'stage1.resblk3'; near names: .*stage1.resblk2"):
        without(network, "stage1.resblk3", INPUTS)
    with pytest.raises(InputError, match="'stage1.resblk2' is named twice"):
        without(network, ["stage1.resblk2", "stage1.resblk2"], INPUTS)
    with pytest.raises(InputError, match="no block was named"):
        without(network, [], INPUTS)
    with pytest.raises(InputError, match="'0' cannot be removed: its shortcut is no identity"):
        without(nn.Sequential(Rescaled(), nn.Linear(4, 2)), "0", torch.randn(3, 4))
    unused = nn.Sequential(nn.Linear(4, 2))
    unused.register_module("spare", nn.Linear(2, 2))
    unused.forward = lambda inputs: unused[0](inputs)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="'spare' cannot be removed: it is not run"):
        without(unused, "spare", torch.randn(3, 4))
