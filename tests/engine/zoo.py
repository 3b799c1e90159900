"""Small networks that make recording and replaying of module calls hard, each with a few examples.

``CASES`` are deterministic. ``STOCHASTIC`` draw random numbers in forward. A case is a function without arguments that
returns the network, in evaluation mode, and its inputs; the same call gives the same weights and inputs, and leaves the
global random state alone. Logits are [N, C], or [N, T, C].
"""

import re
import types
import warnings
import zlib
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from shaketable.forward import Inputs
from shaketable.params import state

Case = Callable[[], tuple[nn.Module, Inputs]]

CASES: dict[str, Case] = {}
STOCHASTIC: dict[str, Case] = {}

MIXES_EXAMPLES: set[str] = set()
"""Cases whose logits of an example depend on the other examples of the batch, or that take batches of one size only."""

REMEMBERS: set[str] = set()
"""Cases that write into their buffers: a second plain call differs; through ``functional_call`` on copies it does not."""

BRANCHES: set[str] = set()
"""Cases in which the modules that run, or how often they run, depend on values."""

UNUSED: dict[str, set[str]] = {}
"""By case, the layers (by module) on which the logits do not depend once the network has run with its own weights."""

N, CLASSES, WIDTH, TOKENS, VOCABULARY = 6, 4, 8, 5, 20


# How cases are made


@contextmanager
def seeded(name: str):
    """Torch's global random state seeded from a name, and put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(zlib.crc32(name.encode()))
        yield


def settled(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, as if trained: no constant parameter, running statistics that are not 0 and 1."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(getattr(module, "running_mean", None), Tensor):
                module.running_mean.copy_(torch.randn_like(module.running_mean) * 0.3)
                module.running_var.copy_(torch.rand_like(module.running_var) + 0.5)
        for parameter in network.parameters():
            if parameter.numel() and (parameter == parameter.flatten()[0]).all():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return network.eval()


def another(network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Other params of the same network: parameters of the same mean and size drawn afresh, floating buffers rescaled."""
    trained, drawn = dict(network.named_parameters()), {}
    with seeded(f"another {seed}"):
        for name, tensor in state(network).items():
            if name in trained:
                spread = (tensor - tensor.mean()).abs().square().mean().sqrt() + 0.1
                drawn[name] = tensor.mean() + torch.randn_like(tensor) * spread
            else:
                drawn[name] = tensor * (torch.rand(()) + 0.5) if tensor.is_floating_point() else tensor
    return drawn


def case(
    draw: Callable[[], Inputs],
    *,
    name: str = "",
    into: dict[str, Case] = CASES,
    mixes_examples: bool = False,
    remembers: bool = False,
    branches: bool = False,
    unused: tuple[str, ...] = (),
):
    """Register a function or class that makes a network, under its own name in snake case, with what draws its inputs."""

    def register(make):
        key = name or re.sub(r"(?<!^)(?=[A-Z])", "_", make.__name__).lower()
        assert key not in CASES | STOCHASTIC, key

        def build() -> tuple[nn.Module, Inputs]:
            with seeded(key):
                return settled(make()), draw()

        into[key] = build
        for flag, keys in ((mixes_examples, MIXES_EXAMPLES), (remembers, REMEMBERS), (branches, BRANCHES)):
            if flag:
                keys.add(key)
        if unused:
            UNUSED[key] = set(unused)
        return make

    return register


def images() -> Tensor:
    return torch.randn(N, 3, 8, 8)


def vectors() -> Tensor:
    return torch.randn(N, WIDTH)


def sequences() -> Tensor:
    return torch.randn(N, TOKENS, WIDTH)


def tokens() -> Tensor:
    return torch.randint(0, VOCABULARY, (N, TOKENS))


class Vectors(nn.Module):
    """A stem and a head around what a case does with vectors [N, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)


class Images(nn.Module):
    """A stem and a head around what a case does with images [N, WIDTH, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Linear(WIDTH, CLASSES)

    def pooled(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


def conv(inputs: int = WIDTH, outputs: int = WIDTH, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, **{"padding": 1, **options})


def linear(inputs: int = WIDTH, outputs: int = WIDTH) -> nn.Linear:
    return nn.Linear(inputs, outputs)


# Residual connections and writing in place


class Residual(nn.Module):
    """As torchvision's: activations in place, and the input added to a module's output in place."""

    def __init__(self, width: int = WIDTH, norm=nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(width, width, bias=False), norm(width)
        self.conv2, self.norm2 = conv(width, width, bias=False), norm(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += x
        return self.relu(out)


@case(images)
class ResidualInPlaceAdd(Images):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Residual(), Residual())

    def forward(self, x):
        return self.pooled(self.blocks(self.stem(x)))


@case(images)
class ResidualAddedToTheShortcutInPlace(Images):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down, self.last = conv(), nn.Conv2d(WIDTH, WIDTH, 1), conv()

    def forward(self, x):
        x = self.stem(x)
        shortcut = self.down(x)
        shortcut += self.conv(x)
        x += shortcut  # the stem's output, which two modules have read
        return self.pooled(self.last(x))


@case(images)
def conv_relu_in_place():
    layers = [conv(3), nn.ReLU(inplace=True), conv(), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(WIDTH, CLASSES))


@case(images)
def conv_norm_relu_in_place():
    layers = [conv(3), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True), conv(), nn.BatchNorm2d(WIDTH), nn.ReLU6(True)]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), linear(WIDTH * 16, CLASSES))


@case(vectors)
class InPlaceReluResultIgnored(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.stem(x)
        self.relu(y)
        return self.head(y)


@case(vectors)
def in_place_on_the_networks_input():
    return nn.Sequential(nn.ReLU(inplace=True), linear(), nn.Hardtanh(inplace=True), linear(WIDTH, CLASSES))


class Preactivation(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.norm, self.relu, self.conv = nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=in_place), conv()

    def forward(self, x):
        return x + self.conv(self.relu(self.norm(x)))


@case(images)
class PreactivationResidual(Images):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Preactivation(False), Preactivation(True))

    def forward(self, x):
        return self.pooled(self.blocks(self.stem(x)))


class ReluFirst(nn.Module):
    """The shortcut is a tensor that the activation writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.conv = nn.ReLU(inplace=True), conv()

    def forward(self, x):
        return self.conv(self.relu(x)).add_(x)


@case(images)
class InPlaceReluOnTheShortcut(Images):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(ReluFirst(), ReluFirst())

    def forward(self, x):
        return self.pooled(self.blocks(self.stem(x)))


@case(vectors)
class WritesToAnInputAfterItWasRead(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(), linear()

    def forward(self, x):
        y = self.stem(x)
        z = self.a(y)
        y.clamp_(min=0)
        w = self.b(y)
        y.zero_()
        return self.head(w + z + y)


class AddsBias(nn.Module):
    """Writes to its argument and returns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x) -> None:
        x.add_(self.bias)


@case(vectors)
class ModuleWritesToItsArgument(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.add, self.middle = AddsBias(), linear()

    def forward(self, x):
        y = self.stem(x)
        self.add(y)
        z = self.middle(y.relu())
        self.add(z)
        return self.head(z)


@case(vectors)
class GrandparentWritesInPlace(Vectors):
    """What an inner module returned is passed up twice and written to by the network."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Sequential(linear(), nn.Tanh()), nn.Identity())
        self.middle = linear()

    def forward(self, x):
        y = self.inner(self.stem(x))
        z = self.middle(y)
        y += z
        return self.head(y)


@case(sequences)
class ViewOfInputWrittenInPlace(Vectors):
    """Modules return views of their input, and the parent writes through them."""

    class Rest(nn.Module):
        def forward(self, x):
            return x[:, 1:]

    class Swapped(nn.Module):
        def forward(self, x):
            return x.transpose(1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.rest, self.swap, self.middle = self.Rest(), self.Swapped(), linear()

    def forward(self, x):
        x = self.stem(x)
        rest = self.rest(x)
        rest.mul_(2)
        y = self.middle(x)  # has seen the doubling
        self.swap(y)[:, 0].zero_()
        return self.head(y.mean(1) + x[:, 0])


@case(sequences)
class WritesToASliceOfAnOutput(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.middle = linear()

    def forward(self, x):
        out = self.stem(x)
        out[:, 0] = 0
        out[:, 1:3] += 1
        return self.head(self.middle(out).relu().mean(1))


@case(vectors)
class IdentityThenInPlace(Vectors):
    """Dropout in evaluation mode and Identity return the very object that they got."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.same, self.middle = nn.Dropout(0.5), nn.Identity(), linear()

    def forward(self, x):
        y = self.stem(x)
        dropped = self.drop(y)
        dropped.relu_()
        same = self.same(y)
        assert same is y
        same.add_(1)
        return self.head(self.middle(y) * y)


@case(images)
class PreallocatedOutput(Images):
    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(conv(WIDTH, 4) for _ in range(3))
        self.last = conv(12)

    def forward(self, x):
        x = self.stem(x)
        out = x.new_zeros(x.shape[0], 12, *x.shape[2:])
        for index, branch in enumerate(self.branches):
            out[:, 4 * index : 4 * index + 4] = branch(x)
        return self.pooled(self.last(out.relu_()))


@case(vectors)
class OutArgument(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(), linear()

    def forward(self, x):
        x = self.stem(x)
        a, b = self.a(x), self.b(x)
        with torch.no_grad():
            torch.mul(a, b, out=a)
        return self.head(a + x)


@case(vectors)
class WritesThroughData(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.middle = linear()

    def forward(self, x):
        y = self.stem(x)
        z = self.middle(y)
        y.data.mul_(3)
        return self.head(y + z)


@case(vectors)
class WritesThroughNumpy(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.middle = linear()

    def forward(self, x):
        y = self.stem(x)
        z = self.middle(y)
        array = y.detach().numpy()
        array *= 0.5
        scale = torch.from_numpy(np.abs(z.detach().numpy()).max(1, keepdims=True))
        return self.head(y + z / scale)


@case(vectors)
class SameTensorTwice(Vectors):
    """A module returns one tensor under two names; one is written to."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = linear()

        def forward(self, x):
            y = self.fc(x)
            return y, y, y.view(-1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.two, self.middle = self.Two(), linear()

    def forward(self, x):
        a, b, c = self.two(self.stem(x))
        a.mul_(2)
        c[:, 0].relu_()
        return self.head(self.middle(b) + c.view_as(a))


# Shape of the graph


@case(images)
class DenselyConnected(Images):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(WIDTH + 4 * depth) for depth in range(3))
        self.convs = nn.ModuleList(conv(WIDTH + 4 * depth, 4) for depth in range(3))
        self.squeeze = nn.Conv2d(WIDTH + 12, WIDTH, 1)

    def forward(self, x):
        features = [self.stem(x)]
        for norm, layer in zip(self.norms, self.convs):
            features.append(layer(norm(torch.cat(features, 1)).relu()))
        return self.pooled(self.squeeze(torch.cat(features, 1)))


@case(images)
class DenseLayersAppendToAList(Images):
    """The list of features is an argument, and each module appends to it."""

    class Dense(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            self.conv = conv(WIDTH + 4 * depth, 4)

        def forward(self, features: list) -> None:
            features.append(self.conv(torch.cat(features, 1)).relu())

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.ModuleList(self.Dense(depth) for depth in range(3))
        self.squeeze = nn.Conv2d(WIDTH + 12, WIDTH, 1)

    def forward(self, x):
        features = [self.stem(x)]
        for dense in self.dense:
            dense(features)
        return self.pooled(self.squeeze(torch.cat(features, 1)))


@case(vectors)
class ModulesFillADict(Vectors):
    class Writes(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.fc, self.name = linear(), name

        def forward(self, x, seen):
            seen[self.name] = self.fc(x)
            return seen[self.name].tanh()

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = self.Writes("a"), self.Writes("b")

    def forward(self, x):
        seen: dict[str, Tensor] = {}
        y = self.b(self.a(self.stem(x), seen), seen=seen)
        seen["a"].mul_(seen.pop("b"))
        return self.head(y + sum(seen.values()))


@case(images)
class Inception(Images):
    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                nn.Conv2d(WIDTH, 4, 1),
                nn.Sequential(nn.Conv2d(WIDTH, 4, 1), nn.ReLU(inplace=True), conv(4, 4)),
                nn.Sequential(nn.Conv2d(WIDTH, 4, 1), nn.BatchNorm2d(4), conv(4, 4), nn.ReLU(inplace=True)),
                nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(WIDTH, 4, 1)),
            ]
        )
        self.last = conv(16)

    def forward(self, x):
        x = self.stem(x)
        return self.pooled(self.last(torch.cat([branch(x) for branch in self.branches], 1)).relu())


@case(images)
class ParallelBranchesAdded(Images):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(), nn.Conv2d(WIDTH, WIDTH, 1), nn.BatchNorm2d(WIDTH)
        self.last = conv()

    def forward(self, x):
        x = self.stem(x).relu()
        return self.pooled(self.last(self.a(x) + self.b(x) + self.c(x)))


@case(images)
class Unet(Images):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = conv(stride=2), conv(stride=2), conv()
        self.up = nn.ConvTranspose2d(WIDTH, WIDTH, 2, stride=2)
        self.merge1, self.merge2 = conv(2 * WIDTH), conv(2 * WIDTH)

    def forward(self, x):
        a = self.stem(x).relu()
        b = self.down1(a).relu()
        c = self.middle(self.down2(b).relu())
        b = self.merge1(torch.cat([self.up(c), b], 1)).relu()
        a = self.merge2(torch.cat([F.interpolate(b, scale_factor=2, mode="bilinear"), a], 1))
        return self.pooled(a)


@case(vectors)
def nested_sequential():
    inner = nn.Sequential(OrderedDict(fc=linear(), act=nn.GELU(), more=nn.Sequential(linear(), nn.Sequential())))
    return nn.Sequential(nn.Sequential(nn.Sequential(linear())), nn.ReLU(), inner, linear(WIDTH, CLASSES))


@case(vectors)
class ModuleListIndexedDynamically(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.list = nn.ModuleList(linear() for _ in range(3))
        self.dict = nn.ModuleDict({"even": nn.Tanh(), "odd": linear()})

    def forward(self, x):
        x = self.stem(x)
        for step in range(2 * len(self.list)):
            x = x + self.list[step % len(self.list)](x).relu()
            x = self.dict["odd" if step % 2 else "even"](x)
        return self.head(x)


@case(vectors, unused=("unused", "ignored"))
class UnusedLayer(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.unused, self.ignored = linear(), linear()

    def forward(self, x):
        x = self.stem(x)
        self.ignored(x)  # runs, and nothing reads its result
        return self.head(x)


@case(vectors)
def one_module():
    return linear(WIDTH, CLASSES)


@case(vectors)
class NoModules(nn.Module):
    """The root owns every parameter and calls nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(WIDTH, WIDTH)), nn.Parameter(torch.randn(WIDTH, CLASSES))

    def forward(self, x):
        return (x @ self.first).relu() @ self.second


# Sharing


@case(vectors)
class TwoLinearsShareAWeight(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(), linear()
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(self.b(self.a(self.stem(x)).relu()).relu())


@case(tokens)
class EmbeddingTiedToTheHead(nn.Module):
    """The parent reads the embedding's weight for the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block = nn.Embedding(VOCABULARY, WIDTH), linear()

    def forward(self, ids):
        return F.linear(self.block(self.embed(ids)).relu(), self.embed.weight)


@case(tokens)
class EmbeddingAndHeadShareAParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Embedding(VOCABULARY, WIDTH), linear(), linear(WIDTH, VOCABULARY)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.block(self.embed(ids)).tanh())


@case(vectors)
class TiedAutoencoder(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.bias = linear(WIDTH, 5), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        x = self.stem(x)
        return self.head(F.linear(self.encoder(x).relu(), self.encoder.weight.t(), self.bias))


@case(vectors)
class ParentReadsAChildsParameter(Vectors):
    """Two children that are never called."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.fc = nn.LayerNorm(WIDTH), linear()

    def forward(self, x):
        x = self.stem(x) * self.scale.weight + self.scale.bias
        return self.head(torch.addmm(self.fc.bias, x, self.fc.weight.t()).relu())


@case(vectors)
class ModuleCalledOnAParameter(Vectors):
    """An embedding is not called; a norm is, on its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.norm, self.key = nn.Embedding(TOKENS, WIDTH), nn.LayerNorm(WIDTH), linear()

    def forward(self, x):
        keys = self.key(self.norm(self.places.weight))
        return self.head((self.stem(x) @ keys.t()).softmax(-1) @ keys)


@case(vectors)
class ParameterPassedToBlocks(Vectors):
    """As DeBERTa's relative positions: the parent gives each block its child's weight, and the blocks project it."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key = linear(), linear()

        def bias(self, x, places):
            places = places[1:].unsqueeze(0)
            return x @ self.key(places)[0].t()

        def forward(self, x, places=None):
            return x + self.bias(self.query(x), places).softmax(-1) @ places[1:]

    def __init__(self) -> None:
        super().__init__()
        self.places, self.blocks = nn.Embedding(TOKENS, WIDTH), nn.ModuleList(self.Block() for _ in range(2))

    def forward(self, x):
        x, places = self.stem(x), self.places.weight
        for block in self.blocks:
            x = block(x, places=places)
        return self.head(x)


@case(vectors)
class ForwardCalledPastTheHooks(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Sequential(linear(), nn.ReLU(inplace=True))

    def forward(self, x):
        return self.head.forward(self.middle.forward(self.stem.forward(x)))


@case(images)
class BlockAppliedThreeTimes(Images):
    def __init__(self) -> None:
        super().__init__()
        self.block = Residual()

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = self.block(x)
        return self.pooled(x)


@case(vectors)
class OneModuleOnTwoInputs(Vectors):
    """Siamese; the first call does not depend on the layer between the two."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.between = nn.Sequential(linear(), nn.Tanh()), linear()

    def forward(self, x):
        x = self.stem(x)
        a, b = self.shared(x), self.shared(self.between(x.flip(1)))
        return self.head((a - b).abs() + self.shared(x))


@case(vectors)
class OneModuleUnderTwoNames(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = self.a
        self.list = nn.ModuleList([self.a, linear(), self.stem])

    def forward(self, x):
        x = self.b(self.stem(x)).relu()
        for layer in self.list:
            x = layer(x).relu()
        return self.head(self.a(x))


@case(vectors, mixes_examples=True)
class Recursive(Vectors):
    class Node(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = linear()

        def forward(self, x, depth):
            if depth == 0:
                return self.fc(x)
            return self.fc(self(x, depth - 1).relu() + self(x.flip(0).flip(1), depth - 1))

    def __init__(self) -> None:
        super().__init__()
        self.node = self.Node()

    def forward(self, x):
        return self.head(self.node(self.stem(x), 2))


@case(vectors)
class WeightReachedThroughAList(Vectors):
    """A module that another one knows without having registered it."""

    class Reads(nn.Module):
        def __init__(self, other: nn.Linear) -> None:
            super().__init__()
            self.others, self.fc = [other], linear()

        def forward(self, x):
            return self.fc(x) @ self.others[0].weight + self.others[0](x)

    def __init__(self) -> None:
        super().__init__()
        self.middle = linear()
        self.reads = self.Reads(self.middle)

    def forward(self, x):
        return self.head(self.reads(self.stem(x)).relu())


@case(vectors, unused=("kept",))
class StaleReference(Vectors):
    """A list holds the parameter itself, so that replaced params do not reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = linear()
        self.stale = [self.kept.weight]

    def forward(self, x):
        return self.head(F.linear(self.stem(x), self.stale[0].detach()).relu())


@case(vectors)
class HiddenModules(Vectors):
    """Modules in a plain list: their weights are constants that nobody can name."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [linear().eval().requires_grad_(False), nn.LayerNorm(WIDTH)]

    def forward(self, x):
        return self.head(self.hidden[1](self.hidden[0](self.stem(x))))


@case(vectors)
class ReadsAllParameters(Vectors):
    """The temperature is a function of every weight."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = linear()

    def forward(self, x):
        temperature = 1 + sum(parameter.norm() for parameter in self.parameters())
        return self.head(self.middle(self.stem(x)).relu()) / temperature


@case(vectors)
class ReadsWeightsByName(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.middle = linear()

    def forward(self, x):
        named = dict(self.named_parameters())
        for name in ("stem", "middle"):
            weight = getattr(self, name)._parameters["weight"]
            x = F.linear(x, weight / weight.norm(), named[f"{name}.bias"]).tanh()
        return self.head(x)


@case(vectors)
class ParameterContainers(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.list = nn.ParameterList([torch.randn(WIDTH, WIDTH) / 3, torch.randn(WIDTH)])
        self.dict = nn.ParameterDict({"scale": torch.randn(WIDTH)})

    def forward(self, x):
        x = self.stem(x) @ self.list[0] + self.list[1]
        return self.head(x.relu() * self.dict["scale"])


@case(images)
class Hypernetwork(Images):
    """One module makes the weights of an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.hyper = nn.Parameter(torch.randn(4)), linear(4, WIDTH * WIDTH)

    def forward(self, x):
        kernel = self.hyper(self.code).view(WIDTH, WIDTH, 1, 1)
        return self.pooled(F.conv2d(self.stem(x).relu(), kernel))


@case(vectors)
class LowRankAdapter(Vectors):
    """As LoRA: around a linear module, whose weight is merged or not."""

    class Adapted(nn.Module):
        def __init__(self, merged: bool) -> None:
            super().__init__()
            self.base, self.merged = linear(), merged
            self.a, self.b = nn.Parameter(torch.randn(2, WIDTH)), nn.Parameter(torch.randn(WIDTH, 2))

        def forward(self, x):
            if self.merged:
                return F.linear(x, self.base.weight + self.b @ self.a, self.base.bias)
            return self.base(x) + x @ self.a.t() @ self.b.t()

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = self.Adapted(False), self.Adapted(True)

    def forward(self, x):
        return self.head(self.second(self.first(self.stem(x)).relu()))


# Operators


@case(images)
def convolutions_of_every_kind():
    return nn.Sequential(
        conv(3),
        conv(groups=2),
        nn.ReLU(),
        conv(groups=WIDTH),
        conv(WIDTH, 2 * WIDTH, groups=WIDTH, bias=False),
        nn.SiLU(inplace=True),
        conv(2 * WIDTH, dilation=2, padding=2),
        conv(stride=2),
        nn.ConvTranspose2d(WIDTH, WIDTH, 3, stride=2, groups=2, output_padding=1),
        conv(padding_mode="reflect"),
        conv(padding="same"),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        linear(4 * WIDTH, CLASSES),
    )


@case(lambda: torch.randn(N, 3, 16))
def convolutions_in_one_dimension():
    layers = [nn.Conv1d(3, WIDTH, 3), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Conv1d(WIDTH, WIDTH, 3, dilation=2)]
    layers += [nn.ConvTranspose1d(WIDTH, WIDTH, 2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), linear(WIDTH, CLASSES)]
    return nn.Sequential(*layers)


@case(lambda: torch.randn(N, 2, 4, 4, 4))
def convolutions_in_three_dimensions():
    layers = [nn.Conv3d(2, WIDTH, 2), nn.BatchNorm3d(WIDTH), nn.PReLU(), nn.ConvTranspose3d(WIDTH, 4, 2)]
    return nn.Sequential(*layers, nn.Flatten(2), nn.Linear(64, 2), nn.Flatten(), linear(8, CLASSES))


@case(images)
class NormsOfEveryKind(Images):
    def __init__(self) -> None:
        super().__init__()
        self.batch, self.group = nn.BatchNorm2d(WIDTH), nn.GroupNorm(2, WIDTH)
        self.instance = nn.InstanceNorm2d(WIDTH, affine=True)
        self.tracked = nn.InstanceNorm2d(WIDTH, affine=True, track_running_stats=True)
        self.layer, self.rms = nn.LayerNorm([WIDTH, 8, 8]), nn.RMSNorm(WIDTH)
        self.plain, self.local = nn.BatchNorm2d(WIDTH, affine=False), nn.LocalResponseNorm(2)

    def forward(self, x):
        x = self.plain(self.stem(x))
        for norm in (self.batch, self.group, self.instance, self.tracked, self.layer):
            x = norm(x + 0.3 * x.relu()) + x
        return self.head(self.rms(self.local(x).amax((2, 3))))


@case(images, mixes_examples=True)
class BatchNormWithoutStatistics(Images):
    """Normalises with the statistics of the batch, also in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm2d(WIDTH, track_running_stats=False), conv()

    def forward(self, x):
        return self.pooled(self.last(self.norm(self.stem(x)).relu()))


@case(images)
class StandardisedConvolution(nn.Module):
    """A subclass of Conv2d that computes with a function of its weight."""

    class Conv(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return self._conv_forward(x, weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5), self.bias)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = self.Conv(3, WIDTH, 3, padding=1), self.Conv(WIDTH, WIDTH, 3, padding=1)
        self.head = linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.b(self.a(x).relu()).mean((2, 3)))


@case(sequences)
class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.lstm = linear(), nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True, bidirectional=True)
        self.head = linear(2 * WIDTH, CLASSES)

    def forward(self, x):
        outputs, (hidden, _) = self.lstm(self.stem(x))
        return self.head(outputs[:, -1] + torch.cat([hidden[0], hidden[1]], -1))


@case(sequences)
class Gru(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, x):
        return self.head(self.gru(self.stem(x))[1][-1])


@case(sequences)
class RnnWithTheSequenceFirst(Vectors):
    """Examples are in the second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.norm = nn.RNN(WIDTH, WIDTH, nonlinearity="relu"), nn.LayerNorm(WIDTH)

    def forward(self, x):
        return self.head(self.norm(self.rnn(self.stem(x).transpose(0, 1))[0]).mean(0))


@case(sequences)
class RecurrentCells(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTMCell(WIDTH, WIDTH), nn.GRUCell(WIDTH, WIDTH)

    def forward(self, x):
        hidden = state_of_cell = third = x.new_zeros(x.shape[0], WIDTH)
        for step in self.stem(x).unbind(1):
            hidden, state_of_cell = self.lstm(step, (hidden, state_of_cell))
            third = self.gru(hidden, third)
        return self.head(third)


@case(lambda: {"x": sequences(), "lengths": torch.tensor([5, 2, 3, 1, 4, 5])})
class PackedSequences(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(self.stem(x), lengths, batch_first=True, enforce_sorted=False)
        packed = self.first(packed)[0]
        packed = PackedSequence(packed.data.relu(), *packed[1:])
        return self.head(pad_packed_sequence(self.second(packed)[0], batch_first=True)[0].sum(1))


@case(sequences)
class Attention(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(WIDTH, 2, batch_first=True), nn.LayerNorm(WIDTH)

    def forward(self, x):
        x = self.stem(x)
        y, weights = self.attention(x, x, x, need_weights=True)
        z, _ = self.attention(self.norm(x), y, value=y, need_weights=False)
        return self.head((weights @ z).mean(1))


@case(sequences)
def transformer_encoder_layer():
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)  # has a fast path that calls no module
    return nn.Sequential(linear(), layer, linear(WIDTH, CLASSES))


@case(lambda: (sequences(), torch.arange(TOKENS).expand(N, -1) >= torch.tensor([5, 2, 3, 1, 4, 5])[:, None]))
class TransformerEncoderWithPadding(Vectors):
    """The fast path of the encoder computes with nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True), 2)
        with warnings.catch_warnings():  # torch warns once that nested tensors are a prototype
            warnings.simplefilter("ignore", UserWarning)
            torch._nested_tensor_from_mask(torch.ones(1, 2, 1), torch.tensor([[True, False]]))

    def forward(self, x, padded):
        return self.head(self.encoder(self.stem(x), src_key_padding_mask=padded).sum(1))


@case(sequences)
class TransformerDecoder(Vectors):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(WIDTH, 2, 16, batch_first=True, norm_first=True, activation="gelu")
        self.decoder = nn.TransformerDecoder(layer, 2, norm=nn.LayerNorm(WIDTH))

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.decoder(self.stem(x), x, tgt_mask=mask))


@case(tokens)
class EmbeddingBag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.embed = nn.EmbeddingBag(VOCABULARY, WIDTH), nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.head = linear(2 * WIDTH, CLASSES)

    def forward(self, ids):
        return self.head(torch.cat([self.bag(ids), self.embed(ids).amax(1)], -1).relu())


@case(lambda: (vectors(), vectors()))
class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.both = linear(), linear(), nn.Bilinear(WIDTH, WIDTH, CLASSES)

    def forward(self, x, y):
        return self.both(self.a(x).relu(), self.b(y).relu())


@case(sequences)
class GatedMlp(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.gate, self.up, self.down = nn.RMSNorm(WIDTH), linear(), linear(), linear()

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(x)
        return self.head(x + self.down(F.silu(self.gate(y), inplace=True).mul_(self.up(y))))


@case(sequences)
class RotaryAttention(Vectors):
    """Buffers that are not in the state_dict, and projections in one."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.arange(TOKENS)[:, None] / 10 ** torch.arange(0, WIDTH, 2).div(WIDTH)
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angles.sin().repeat(1, 2), persistent=False)
        self.qkv, self.out = linear(WIDTH, 3 * WIDTH), linear()

    def rotated(self, x):
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, x):
        x = self.stem(x)
        q, k, v = self.qkv(x).chunk(3, -1)
        x += self.out(F.scaled_dot_product_attention(self.rotated(q), self.rotated(k), v, is_causal=True))
        return self.head(x)


@case(images)
class ClassToken(nn.Module):
    """A small vision transformer, whose root owns a token and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, WIDTH)), nn.Parameter(torch.randn(1, 5, WIDTH))
        self.norm, self.attention = nn.LayerNorm(WIDTH), nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.head = linear(WIDTH, CLASSES)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        y = self.norm(x)
        return self.head((x + self.attention(y, y, y)[0])[:, 0])


@case(sequences, branches=True, mixes_examples=True)
class MixtureOfExperts(Vectors):
    """Top-2 routing; each expert gets the tokens that chose it, and none is called without tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 4)
        self.experts = nn.ModuleList(nn.Sequential(linear(), nn.SiLU(), linear()) for _ in range(4))

    def forward(self, x):
        x = self.stem(x)
        flat = x.reshape(-1, WIDTH)[:4]  # few, so that an expert may stay without
        weights, chosen = self.router(flat).softmax(-1).topk(2)
        out = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            rows, slot = (chosen == index).nonzero(as_tuple=True)
            if len(rows):
                out.index_add_(0, rows, expert(flat[rows]) * weights[rows, slot, None])
        x = torch.cat([flat + out, x.reshape(-1, WIDTH)[4:]]).view_as(x)
        return self.head(x.mean(1))


@case(vectors)
class VectorQuantised(Vectors):
    """Integers stand between two modules."""

    class Nearest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.codes = nn.Parameter(torch.randn(12, WIDTH))

        def forward(self, x):
            return torch.cdist(x, self.codes).argmin(-1)

    def __init__(self) -> None:
        super().__init__()
        self.nearest, self.embed = self.Nearest(), nn.Embedding(12, WIDTH)

    def forward(self, x):
        return self.head(self.embed(self.nearest(self.stem(x) * 3)))


@case(sequences)
class FourierMixing(Vectors):
    """Complex tensors between modules."""

    class Mix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.filter = nn.Parameter(torch.randn(WIDTH, dtype=torch.complex64))

        def forward(self, x):
            return torch.fft.fft2(x.to(torch.complex64), dim=(1, 2)) * self.filter

    def __init__(self) -> None:
        super().__init__()
        self.mix = self.Mix()

    def forward(self, x):
        mixed = self.mix(self.stem(x))
        return self.head(torch.view_as_real(mixed).flatten(2)[..., :WIDTH].mean(1) + mixed.abs().amax(1))


@case(vectors)
def weight_norm():
    a, b = parametrizations.weight_norm(linear()), parametrizations.weight_norm(linear(), dim=None)
    return nn.Sequential(a, nn.ReLU(), b, nn.ReLU(), linear(WIDTH, CLASSES))


@case(images)
def spectral_norm():
    a, b = parametrizations.spectral_norm(conv(3)), parametrizations.spectral_norm(linear(WIDTH, CLASSES))
    return nn.Sequential(a, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), b)


@case(vectors)
class CachedParametrization(Vectors):
    class Symmetric(nn.Module):
        def forward(self, weight):
            return weight.triu() + weight.triu(1).t()

    def __init__(self) -> None:
        super().__init__()
        self.middle = linear()
        parametrize.register_parametrization(self.middle, "weight", self.Symmetric())

    def forward(self, x):
        x = self.stem(x)
        with parametrize.cached():
            for _ in range(3):
                x = self.middle(x).tanh()
        return self.head(x)


# Values that steer the computation


@case(vectors, branches=True, mixes_examples=True)
class BranchOnData(Vectors):
    """Which module runs depends on the batch; a perturbed stem takes the other way."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.after = linear(), nn.Sequential(linear(), nn.ReLU(inplace=True), linear()), linear()

    def forward(self, x):
        x = self.stem(x)
        x = self.high(x) if x.mean() > 0 else self.low(x)
        return self.head(self.after(x).relu())


@case(vectors, branches=True, mixes_examples=True)
class BranchBehindAnotherLayer(Vectors):
    """The branch is taken after modules that do not depend on it, and both branches share a module."""

    def __init__(self) -> None:
        super().__init__()
        self.side, self.gate, self.shared, self.extra = linear(), linear(WIDTH, 1), linear(), linear()

    def forward(self, x):
        side = self.side(x)
        x = self.stem(x)
        if bool((self.gate(x) > 0).sum() > N // 2):
            x = self.extra(x).relu()
        return self.head(self.shared(x) + self.shared(side))


@case(vectors, branches=True, mixes_examples=True)
class LoopsUntilItHalts(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.halt, self.exits = linear(), linear(WIDTH, 1), nn.ModuleList(linear() for _ in range(9))

    def forward(self, x):
        x, steps = self.stem(x), 0
        while steps < 8 and self.halt(x).mean() > -0.1:
            x, steps = x + self.block(x).tanh(), steps + 1
        return self.head(self.exits[steps](x))


@case(vectors, branches=True, mixes_examples=True)
class LeavesByAnException(Vectors):
    class Enough(Exception):
        pass

    class Guarded(nn.Module):
        def __init__(self, enough) -> None:
            super().__init__()
            self.fc, self.enough = linear(), enough

        def forward(self, x):
            y = self.fc(x)
            if y.mean() > 0:
                raise self.enough(y)
            return y.tanh()

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(self.Guarded(self.Enough) for _ in range(4)))

    def forward(self, x):
        try:
            x = self.blocks(self.stem(x))
        except self.Enough as enough:
            x = enough.args[0].relu()
        return self.head(x)


@case(vectors, mixes_examples=True)
class ScaleAsAPythonNumber(Vectors):
    """A value leaves torch as a float, and comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(), linear()

    def forward(self, x):
        x = self.stem(x)
        scale = self.a(x).abs().max().item()
        order = sorted(range(WIDTH), key=x.sum(0).tolist().__getitem__)
        return self.head(self.b(x[:, order]) / scale)


@case(vectors, branches=True, mixes_examples=True)
class BooleanMask(Vectors):
    """Examples that pass a test go through more modules: shapes depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.test, self.more, self.last = linear(WIDTH, 1), linear(), linear()

    def forward(self, x):
        x = self.stem(x)
        chosen = self.test(x).squeeze(1) > -0.46
        if chosen.sum() > 2:
            x[chosen] = self.more(x[chosen]).relu()
        return self.head(self.last(x))


@case(vectors)
class CountsItsCallsOnItself(Vectors):
    """Each call of a block reads how many calls were made before it."""

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.calls = linear(), 0

        def forward(self, x):
            self.calls += 1
            return self.fc(x) * self.calls

    def __init__(self) -> None:
        super().__init__()
        self.counts, self.between = self.Counts(), linear()

    def forward(self, x):
        self.counts.calls = 0
        x = self.counts(self.stem(x))
        return self.head(self.counts(self.between(x.tanh())))


@case(vectors)
class GeneratorPassedThrough(Vectors):
    """Deterministic noise: modules draw in turn from a generator that is seeded in forward."""

    class Noise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(WIDTH))

        def forward(self, x, generator):
            return x + self.scale * torch.randn(WIDTH, generator=generator)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.second = self.Noise(), linear(), self.Noise()

    def forward(self, x):
        generator = torch.Generator().manual_seed(1)
        x = self.first(self.stem(x), generator)
        return self.head(self.second(self.middle(x).relu(), generator))


# Inputs and outputs of every form


@case(lambda: {"image": images(), "ids": tokens()})
class DictInputs(Images):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)

    def forward(self, image, ids, scale=None):
        x = self.stem(image) + self.embed(ids).sum(1)[:, :, None, None]
        return self.pooled(x.relu() if scale is None else x * scale)


@case(lambda: (vectors(), vectors()))
class TupleInputs(Vectors):
    """The second input enters late."""

    def __init__(self) -> None:
        super().__init__()
        self.late = linear()

    def forward(self, x, y):
        return self.head(self.stem(x).relu() + self.late(y))


@case(lambda: {"x": vectors(), "weight": torch.rand(N, 1)})
class KeywordOnlyInputs(Vectors):
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = linear()

        def forward(self, *, weight, x, **rest):
            return self.fc(x) * weight + rest.get("offset", 0)

    def __init__(self) -> None:
        super().__init__()
        self.weighted = self.Weighted()

    def forward(self, *, x, weight):
        x = self.stem(x)
        return self.head(self.weighted(x=x, weight=weight, offset=x) + self.weighted(weight=weight, x=x.relu()))


@case(vectors)
class PositionalAndKeywordCalls(Vectors):
    """One module called with the same values in different orders and forms."""

    class Mix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = linear(), linear()

        def forward(self, x, y=None, *more, z=1.0, **rest):
            return self.a(x) - (0 if y is None else self.b(y)) * z + sum(more) + sum(rest.values())

    def __init__(self) -> None:
        super().__init__()
        self.mix = self.Mix()

    def forward(self, x):
        x = self.stem(x)
        y = x.tanh()
        out = self.mix(x, y) + self.mix(y, x) + self.mix(y=y, x=x) + self.mix(x=y, y=x, z=2.0) + self.mix(x)
        return self.head(out + self.mix(x, y, x, y, z=y.mean(1, keepdim=True), w=x).relu())


Pair = namedtuple("Pair", ["loss", "logits"])


@dataclass
class Result:
    logits: Tensor
    hidden: list


class Slotted:
    __slots__ = ("hidden", "logits")

    def __init__(self, logits, hidden) -> None:
        self.logits, self.hidden = logits, hidden


class ModelOutput(OrderedDict):
    """As in transformers: a dict with attributes."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class Returns(Vectors):
    """The network and a module within it return their results in a container."""

    class Inner(nn.Module):
        def __init__(self, wrap) -> None:
            super().__init__()
            self.fc, self.wrap = linear(), wrap

        def forward(self, x):
            y = self.fc(x)
            return self.wrap(y.relu(), y)

    def __init__(self, wrap, unwrap) -> None:
        super().__init__()
        self.inner, self.wrap, self.unwrap = self.Inner(wrap), wrap, unwrap

    def forward(self, x):
        result = self.inner(self.stem(x))
        a, b = self.unwrap(result)
        b.mul_(2)
        a = a + self.unwrap(result)[1]
        return self.wrap(self.head(a), b)


CONTAINERS = {
    "a_tuple": (lambda logits, hidden: (logits, hidden, None, 3), lambda r: (r[0], r[1])),
    "a_list_in_a_tuple": (
        lambda logits, hidden: (logits, [hidden, {"same": hidden}]),
        lambda r: (r[0], r[1][1]["same"]),
    ),
    "a_loss_and_logits": (lambda logits, hidden: (hidden.sum(), logits, hidden), lambda r: (r[1], r[2])),
    "a_dict": (lambda logits, hidden: {"logits": logits, "hidden": [hidden]}, lambda r: (r["logits"], r["hidden"][0])),
    "a_namespace": (lambda logits, hidden: SimpleNamespace(logits=logits, b=hidden), lambda r: (r.logits, r.b)),
    "a_named_tuple": (lambda logits, hidden: Pair(hidden, logits), lambda r: (r.logits, r.loss)),
    "a_dataclass": (lambda logits, hidden: Result(logits, [hidden]), lambda r: (r.logits, r.hidden[0])),
    "a_class_with_slots": (Slotted, lambda r: (r.logits, r.hidden)),
    "a_model_output": (lambda logits, hidden: ModelOutput(logits=logits, b=hidden), lambda r: (r.logits, r["b"])),
}
for _name, _pair in CONTAINERS.items():
    case(vectors, name=f"returns_{_name}")(lambda pair=_pair: Returns(*pair))


@case(vectors)
class ReturnsAClosure(Vectors):
    """A module returns a function over what it computed, another one a generator."""

    class Closes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = linear()

        def forward(self, x):
            y = self.fc(x)
            return lambda z: y * z

    class Yields(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = linear(), linear()

        def forward(self, x):
            yield self.a(x)
            yield self.b(x)

    def __init__(self) -> None:
        super().__init__()
        self.closes, self.yields = self.Closes(), self.Yields()

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.closes(x)(sum(self.yields(x)).tanh()))


@case(tokens)
class LanguageModel(nn.Module):
    """Logits [N, T, C], causal, with positions from a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.register_buffer("places", torch.arange(TOKENS))
        self.norm, self.mlp = nn.LayerNorm(WIDTH), nn.Sequential(linear(), nn.GELU(), linear())
        self.head = linear(WIDTH, VOCABULARY)

    def forward(self, ids):
        x = self.embed(ids) + self.position(self.places[: ids.shape[1]])
        x = x + F.scaled_dot_product_attention(x, x, x, is_causal=True)
        return SimpleNamespace(logits=self.head(x + self.mlp(self.norm(x))))


@case(lambda: torch.randn(N, WIDTH, dtype=torch.float64))
def float64_network():
    return nn.Sequential(linear(), nn.BatchNorm1d(WIDTH), nn.ReLU(inplace=True), linear(WIDTH, CLASSES)).double()


@case(vectors)
class MixedPrecisions(Vectors):
    """Half of the network in bfloat16, an autocast region, and logits in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.cast = linear().bfloat16(), linear()

    def forward(self, x):
        x = self.low(self.stem(x).bfloat16()).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.cast(x)
        return self.head(x.float())


@case(images)
class NonContiguousOutputs(Images):
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()

        def forward(self, x):
            return self.conv(x).permute(0, 2, 3, 1)

    class Strided(nn.Module):
        def forward(self, x):
            return x[:, ::2, :, ::3].expand(2, -1, -1, -1, -1)

    def __init__(self) -> None:
        super().__init__()
        self.turned, self.strided, self.fc = self.Turned(), self.Strided(), linear(3, WIDTH)

    def forward(self, x):
        x = self.strided(self.turned(self.stem(x)))
        return self.head(self.fc(x).sum((0, 2, 3)))


@case(lambda: images().contiguous(memory_format=torch.channels_last))
class ChannelsLast(Images):
    def __init__(self) -> None:
        super().__init__()
        self.block = Residual()
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        x = self.block(self.stem(x))
        scale = 2.0 if x.is_contiguous(memory_format=torch.channels_last) else 1.0
        return self.pooled(x * scale)


class Tagged(Tensor):
    """A subclass of Tensor that carries a number."""

    tag = 1.0


@case(vectors)
class TensorSubclass(Vectors):
    class Tags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = linear()

        def forward(self, x):
            out = self.fc(x).as_subclass(Tagged)
            out.tag = 3.0
            return out

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.middle = self.Tags(), linear()

    def forward(self, x):
        x = self.tags(self.stem(x))
        return self.head(self.middle(x.relu()).as_subclass(Tensor) * getattr(x, "tag", 1.0))


@case(vectors)
class AttributeOnATensor(Vectors):
    """A module leaves a note on the tensor that it returns, another one on the tensor that it was given."""

    class Notes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = linear()

        def forward(self, x):
            out = self.fc(x)
            x.note, out.note = out.tanh(), 2.0
            return out

    def __init__(self) -> None:
        super().__init__()
        self.notes, self.middle = self.Notes(), linear()

    def forward(self, x):
        x = self.stem(x)
        y = self.notes(x)
        return self.head(self.middle(y) * y.note + x.note)


@case(vectors, mixes_examples=True)
class ExamplesAttendToEachOther(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.key, self.value = linear(), linear()

    def forward(self, x):
        x = self.stem(x)
        return self.head((x @ self.key(x).t()).softmax(-1) @ self.value(x))


@case(vectors, mixes_examples=True)
class BatchSizeWrittenInTheCode(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.middle, self.place = linear(), nn.Embedding(N, WIDTH)

    def forward(self, x):
        x = self.stem(x).view(N, -1) + self.place(torch.arange(x.shape[0]))
        return self.head(self.middle(x).relu().reshape(N, 2, -1).flatten(1) / x.shape[0])


@case(vectors, mixes_examples=True)
class ExamplesFoldedTogether(Vectors):
    """Pairs of examples share a row between two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs, self.norm = linear(2 * WIDTH, 2 * WIDTH), nn.LayerNorm(2 * WIDTH)

    def forward(self, x):
        x = self.norm(self.pairs(self.stem(x).view(-1, 2 * WIDTH)).relu())
        return self.head(x.view(-1, WIDTH))


# State outside of tensors and arguments


@case(vectors)
class StoresATensorOnItself(Vectors):
    """A later module reads what an earlier one has stored."""

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.saved = linear(), None

        def forward(self, x):
            self.saved = self.fc(x).tanh()
            return x.relu()

    class Second(nn.Module):
        def __init__(self, first) -> None:
            super().__init__()
            self.fc, self.firsts = linear(), [first]

        def forward(self, x):
            return self.fc(x) * self.firsts[0].saved

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = self.First(), linear()
        self.second = self.Second(self.first)

    def forward(self, x):
        return self.head(self.second(self.middle(self.first(self.stem(x)))))


@case(vectors)
class ParentSetsAnAttributeOfAChild(Vectors):
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.mask = linear(), None

        def forward(self, x):
            return self.fc(x) * self.mask

    def __init__(self) -> None:
        super().__init__()
        self.side, self.masked = linear(), self.Masked()

    def forward(self, x):
        y = self.stem(x)
        self.masked.mask = self.side(x).sigmoid()
        z = self.masked(y)
        self.masked.mask = z.tanh()
        return self.head(self.masked(y))


@case(vectors)
class AppendsToAListOnTheParent(Vectors):
    """As the auxiliary losses of a mixture of experts: collected by the blocks, used by the network."""

    class Block(nn.Module):
        def __init__(self, losses: list) -> None:
            super().__init__()
            self.fc, self.losses = linear(), losses

        def forward(self, x):
            y = self.fc(x)
            self.losses.append(y.square().mean(-1, keepdim=True))
            return y.relu()

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []
        self.blocks = nn.Sequential(*(self.Block(self.losses) for _ in range(3)))

    def forward(self, x):
        self.losses.clear()
        x = self.blocks(self.stem(x))
        return self.head(x + torch.stack(self.losses).sum(0) + len(self.losses))


class Cache:
    """As in transformers: blocks add keys and values, and get back what is there."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if layer == len(self.keys):
            self.keys.append(key)
            self.values.append(value)
        else:
            self.keys[layer] = torch.cat([self.keys[layer], key], 1)
            self.values[layer] = torch.cat([self.values[layer], value], 1)
        return self.keys[layer], self.values[layer]


@case(sequences)
class CachePassedThroughBlocks(Vectors):
    """Two passes over the blocks: the second one attends to what the first one left in the cache."""

    class Block(nn.Module):
        def __init__(self, layer: int) -> None:
            super().__init__()
            self.layer, self.query, self.key, self.value = layer, linear(), linear(), linear()

        def forward(self, x, cache=None):
            key, value = cache.update(self.layer, self.key(x), self.value(x))
            return x + F.scaled_dot_product_attention(self.query(x), key, value)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.Block(layer) for layer in range(2))

    def forward(self, x):
        x, cache = self.stem(x), Cache()
        for part in (x[:, :3], x[:, 3:]):
            for block in self.blocks:
                part = block(part, cache=cache)
        return self.head(part.mean(1) + cache.values[0].mean(1))


@case(vectors, remembers=True)
class CountsItsCallsInABuffer(Vectors):
    """The result depends on how often the network ran."""

    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("step", torch.zeros(()))

        def forward(self, x):
            self.step += 1
            return x * self.step

    def __init__(self) -> None:
        super().__init__()
        self.counter, self.middle = self.Counter(), linear()

    def forward(self, x):
        x = self.middle(self.counter(self.stem(x)).tanh())
        return self.head(self.counter(x))


@case(vectors, remembers=True, mixes_examples=True)
class MovingAverageInABuffer(Vectors):
    """A buffer that is replaced, and one outside of the state_dict that is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = linear()
        self.register_buffer("average", torch.zeros(WIDTH))
        self.register_buffer("memory", torch.zeros(WIDTH), persistent=False)

    def forward(self, x):
        x = self.stem(x)
        self.average = 0.5 * self.average + x.mean(0)
        y = self.middle(x - self.average)
        self.memory.mul_(0.5).add_(y.mean(0))
        return self.head(y + self.memory)


@case(vectors, unused=("table",))
class CachesAFunctionOfItsWeights(Vectors):
    """As LeViT's attention biases: what the first call computes stays, so that later params do not reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cache = nn.Embedding(TOKENS, WIDTH), None

    def forward(self, x):
        if self.cache is None:
            self.cache = self.table.weight.detach().cumsum(0)
        return self.head(self.stem(x) + self.cache[-1])


@case(vectors)
class LazyConstant(Vectors):
    """A table that the first call makes and later calls find."""

    def __init__(self) -> None:
        super().__init__()
        self.middle, self.table = linear(), None

    def forward(self, x):
        if self.table is None or self.table.shape != x.shape[1:]:
            self.table = torch.linspace(-1, 1, x.shape[1])
        return self.head(self.middle(self.stem(x) + self.table).relu())


CONTEXT: ContextVar = ContextVar("zoo", default=None)
BOARD: dict[str, Tensor] = {}


@case(vectors)
class GlobalState(Vectors):
    """Modules speak through a context variable, a dict of the Python module, and an attribute of their class."""

    class Writer(nn.Module):
        latest = None

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = linear(), linear(), linear()

        def forward(self, x):
            CONTEXT.set(self.a(x))
            BOARD["b"] = self.b(x)
            type(self).latest = self.c(x)

    def __init__(self) -> None:
        super().__init__()
        self.writer, self.middle = self.Writer(), linear()

    def forward(self, x):
        x = self.stem(x)
        self.writer(x)
        return self.head(self.middle(x) * CONTEXT.get() + BOARD.pop("b") - self.Writer.latest)


# Ways to call a module


def _adds_one(module, args, output) -> None:
    output.add_(1)


@case(vectors)
class HooksChangeInputsAndOutputs(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.middle, self.last = linear(), linear()
        self.middle.register_forward_hook(lambda module, args, output: output.relu() + args[0])
        self.last.register_forward_pre_hook(lambda module, args, kwargs: ((args[0] * 2,), {}), with_kwargs=True)
        self.last.register_forward_hook(_adds_one)

    def forward(self, x):
        return self.head(self.last(self.middle(self.stem(x))))


@case(vectors)
class HooksCollectFeatures(Vectors):
    """As feature extractors do: hooks of inner modules fill a dict from which the network reads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(linear(), nn.ReLU(), linear(), nn.ReLU(inplace=True))
        self.seen: dict[str, Tensor] = {}
        for name in ("0", "2"):
            self.body.get_submodule(name).register_forward_hook(
                lambda module, args, output, name=name: self.seen.update({name: output})
            )

    def forward(self, x):
        x = self.body(self.stem(x))
        return self.head(x + self.seen["0"] * self.seen["2"])


@case(vectors)
def forward_replaced_on_the_instance():
    class Replaced(Vectors):
        def forward(self, x):
            return self.head(self.stem(x))

    network = Replaced()
    plain = network.stem.forward
    network.stem.forward = lambda x: plain(x).tanh() * 2
    network.head.forward = types.MethodType(lambda self, x: F.linear(x, self.weight.abs(), self.bias), network.head)
    return network


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


@case(vectors)
class CustomFunction(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.middle = linear()

    def forward(self, x):
        return self.head(Square.apply(self.middle(Square.apply(self.stem(x)))))


@case(vectors)
class Checkpointed(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.other = nn.Sequential(linear(), nn.ReLU(inplace=True), linear()), linear()

    def forward(self, x):
        x = checkpoint(self.block, self.stem(x), use_reentrant=False)
        return self.head(checkpoint(lambda y: self.other(y).tanh(), x, use_reentrant=False))


@case(vectors)
def scripted_child():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Sequential(linear(), nn.ReLU()))
    return nn.Sequential(linear(), scripted, linear(WIDTH, CLASSES))


@case(sequences)
class VmapInForward(Vectors):
    """A module sees tensors of a transform, which must not outlive it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(linear(), nn.Tanh())

    def forward(self, x):
        return self.head(torch.vmap(self.block, in_dims=1, out_dims=1)(self.stem(x)).mean(1))


@case(vectors)
class DerivativeInForward(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(linear(), nn.Tanh(), linear())

    def forward(self, x):
        x = self.stem(x)
        value, pull = torch.func.vjp(self.block, x)
        return self.head(value + pull(x.sign())[0])


@case(vectors)
class GradientInForward(Vectors):
    """As energy models: a step along the gradient of what a module computes."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(linear(), nn.Softplus(), linear(WIDTH, 1))

    def forward(self, x):
        x = self.stem(x)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.energy(x).sum(), x)
        return self.head(x.detach() - gradient)


@case(vectors)
class FastWeights(Vectors):
    """A module is called with other weights than its own."""

    def __init__(self) -> None:
        super().__init__()
        self.learner, self.shift = linear(), linear(WIDTH, WIDTH * WIDTH)

    def forward(self, x):
        x = self.stem(x)
        fast = {"weight": self.learner.weight + 0.1 * self.shift.bias.view(WIDTH, WIDTH)}
        y = torch.func.functional_call(self.learner, fast, (x,))
        return self.head(y.relu() + self.learner(x) + self.shift(x)[:, :WIDTH])


@case(vectors)
class Threads(Vectors):
    """Two branches in threads of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Sequential(linear(), nn.ReLU(inplace=True)), linear()

    def forward(self, x):
        x = self.stem(x)
        with ThreadPoolExecutor(2) as pool:
            a, b = pool.map(lambda branch: branch(x).detach(), (self.a, self.b))
        return self.head(a * b)


@case(vectors)
class InferenceModeInside(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = linear()

    @torch.inference_mode()
    def features(self, x):
        return self.frozen(x)

    def forward(self, x):
        x = self.stem(x).detach()
        return self.head(self.features(x).clone() + x)


@case(vectors)
class UnregisteredActivations(Vectors):
    """Modules that forward makes anew."""

    def forward(self, x):
        x = nn.Softmax(dim=1)(nn.LayerNorm(WIDTH)(self.stem(x)))
        return self.head(nn.Sequential(nn.ReLU(inplace=True), nn.Flatten())(x))


# Random numbers


@case(vectors, into=STOCHASTIC)
class FunctionalDropout(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.middle = linear()

    def forward(self, x):
        x = F.dropout(self.stem(x), 0.5, training=True)
        return self.head(F.dropout(self.middle(x).relu(), 0.2, training=True))


@case(vectors, into=STOCHASTIC)
class GaussianNoise(Vectors):
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    def __init__(self) -> None:
        super().__init__()
        self.noise, self.middle = self.Noise(), linear()

    def forward(self, x):
        return self.head(self.noise(self.middle(self.noise(self.stem(x))).relu()))


@case(vectors, into=STOCHASTIC)
class StochasticDepth(Vectors):
    """Which modules run is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(linear() for _ in range(6))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            if torch.rand(()) < 0.5:
                x = x + block(x).tanh()
        return self.head(x)
