"""Random small networks: a front, three to eight stages, a head.

``plans()`` is a hypothesis strategy that shrinks to few and simple stages; ``network_of(plan)`` builds what a plan says,
the same weights and inputs each time. ``random_network(seed)`` does both from a number.
"""

import random
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from tests.engine.zoo import seeded, settled
from torch import Tensor, nn

from shaketable.forward import Inputs

WIDTH, CLASSES, TOKENS, VOCABULARY = 8, 4, 5, 20


@dataclass(frozen=True)
class Plan:
    """What a random network is made of; its repr rebuilds it."""

    front: str
    stages: tuple[str, ...]
    per_token: bool = False
    examples: int = 5
    seed: int = 0


class Images(nn.Module):
    """A module over images [N, C, H, W]; tokens [N, T, C] are an image one pixel high."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) if x.dim() == 4 else self.inner(x.transpose(1, 2)[:, :, None])[:, :, 0].transpose(1, 2)


class Tokens(nn.Module):
    """A module over tokens [N, T, C]; the pixels of an image are tokens."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        if x.dim() == 3:
            return self.inner(x)
        return self.inner(x.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(x)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.inner, self.in_place = inner, in_place

    def forward(self, x):
        out = self.inner(x)
        if not self.in_place:
            return x + out
        out += x
        return out


class Preactivation(nn.Module):
    """Its activation writes to the output of its norm, never to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act, self.conv = nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True), conv()

    def forward(self, x):
        return self.conv(self.act(self.norm(x))).add_(x)


class Concatenation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.grow, self.more, self.squeeze = conv(WIDTH, 4), conv(WIDTH + 4, 4), nn.Conv2d(WIDTH + 8, WIDTH, 1)

    def forward(self, x):
        features = [x, self.grow(x).relu()]
        features.append(self.more(torch.cat(features, 1)).relu_())
        return self.squeeze(torch.cat(features, 1))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        one, two = nn.Conv2d(WIDTH, 4, 1), nn.Sequential(conv(WIDTH, 4), nn.ReLU(inplace=True), nn.BatchNorm2d(4))
        self.branches, self.last = nn.ModuleList([one, two]), nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x):
        return self.last(torch.cat([branch(x) for branch in self.branches], 1)) + x


class Tied(nn.Module):
    """Two convolutions share a weight, which the parent reads once more."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x).tanh()) + nn.functional.conv2d(x, self.b.weight)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(WIDTH), nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x):
        y = self.norm(x)
        return x + self.attention(y, y, y, need_weights=False)[0]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0]


class Gate(nn.Module):
    """Channels are scaled by what the average over places says."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(WIDTH, 4), nn.Linear(4, WIDTH)

    def forward(self, x):
        scale = self.excite(self.squeeze(x.mean(1)).relu_()).sigmoid()
        return x * scale[:, None]


class Choice(nn.Module):
    """One of two modules, by the values in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.high(x) if x.mean() > 0 else self.low(x)


class Pool(nn.Module):
    """Half the places, at least one; of tokens, a view of the first ones."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, x):
        return self.pool(x) if x.dim() == 4 else x[:, : (x.shape[1] + 1) // 2]


class Flat(nn.Module):
    """The pixels of an image as tokens, a view."""

    def forward(self, x):
        return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x


def conv(inputs: int = WIDTH, outputs: int = WIDTH, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH))


def convolutions() -> nn.Module:
    return nn.Sequential(conv(bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True), conv())


MODULES = {
    "linear": lambda: Tokens(nn.Linear(WIDTH, WIDTH)),
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "silu in place": lambda: nn.SiLU(inplace=True),
    "gelu": nn.GELU,
    "convolution": lambda: Images(conv()),
    "grouped": lambda: Images(conv(groups=2)),
    "depth-wise": lambda: Images(conv(groups=WIDTH)),
    "batch norm": lambda: Images(nn.BatchNorm2d(WIDTH)),
    "group norm": lambda: Images(nn.GroupNorm(2, WIDTH)),
    "layer norm": lambda: Tokens(nn.LayerNorm(WIDTH)),
    "residual": lambda: Residual(Images(convolutions()), in_place=False),
    "residual in place": lambda: Residual(Images(convolutions()), in_place=True),
    "residual mlp": lambda: Residual(Tokens(mlp()), in_place=False),
    "pre-activation": lambda: Images(Preactivation()),
    "concatenation": lambda: Images(Concatenation()),
    "branches": lambda: Images(Branches()),
    "tied": lambda: Images(Tied()),
    "attention": lambda: Tokens(Attention()),
    "recurrent": lambda: Tokens(Recurrent()),
    "gate": lambda: Tokens(Gate()),
    "choice": lambda: Tokens(Choice()),
    "pool": Pool,
    "flat": Flat,
}
"""Stages that are one module: the network's running value goes in, and what comes out takes its place."""

ACTIONS = ("ignored relu in place", "save", "add saved", "add saved in place", "write a slice", "again")
"""Stages that the network does itself: "again" calls the last module with parameters once more."""

FRONTS = ("vectors", "image", "tokens")


class Staged(nn.Module):
    """A front, the stages in turn, and a head over the mean of all places, or over each."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        fronts = {"image": lambda: conv(3), "tokens": lambda: nn.Embedding(VOCABULARY, WIDTH)}
        self.front = fronts.get(plan.front, lambda: nn.Linear(3, WIDTH))()
        self.relu = nn.ReLU(inplace=True)
        self.stages = nn.ModuleDict({str(i): MODULES[s]() for i, s in enumerate(plan.stages) if s in MODULES})
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        x = saved = self.front(x)
        last: nn.Module = nn.Identity()
        for index, stage in enumerate(self.plan.stages):
            if stage in MODULES:
                module = self.stages[str(index)]
                x = module(x)
                last = module if any(True for _ in module.parameters()) else last
            elif stage == "ignored relu in place":
                self.relu(x)
            elif stage == "save":
                saved = x
            elif stage == "add saved" and saved.shape == x.shape:
                x = x + saved
            elif stage == "add saved in place" and saved.shape == x.shape:
                x += saved
            elif stage == "write a slice":
                x[..., :1] *= 2
            elif stage == "again":
                x = last(x)
        x = x.flatten(2).transpose(1, 2) if x.dim() == 4 else x
        return self.head(x if self.plan.per_token else x.mean(1))


def plans(least: int = 3, most: int = 8) -> st.SearchStrategy[Plan]:
    """Plans of networks; a simple front and few stages with the first names are where shrinking goes."""
    return st.builds(
        Plan,
        front=st.sampled_from(FRONTS),
        stages=st.lists(st.sampled_from([*MODULES, *ACTIONS]), min_size=least, max_size=most).map(tuple),
        per_token=st.booleans(),
        examples=st.integers(1, 7),
        seed=st.integers(0, 3),
    )


def network_of(plan: Plan) -> tuple[nn.Module, Inputs]:
    """The network of a plan in evaluation mode, and its inputs."""
    shapes: dict[str, tuple[int, ...]] = {"image": (3, 8, 8), "vectors": (TOKENS, 3)}
    with seeded(repr(plan)):
        network = settled(Staged(plan))
        if plan.front == "tokens":
            return network, torch.randint(0, VOCABULARY, (plan.examples, TOKENS))
        inputs: Tensor = torch.randn(plan.examples, *shapes[plan.front])
        return network, inputs


def random_network(seed: int) -> tuple[nn.Module, Inputs]:
    """A network and inputs from a number."""
    draw = random.Random(seed)
    stages = tuple(draw.choices([*MODULES, *ACTIONS], k=draw.randint(3, 8)))
    return network_of(Plan(draw.choice(FRONTS), stages, draw.random() < 0.3, draw.randint(1, 7), seed))
