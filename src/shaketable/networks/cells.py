"""Cells of linked networks as plain numbers, and the long-range links that are drawn for them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from shaketable.errors import InputError
from shaketable.identity import generator_from

CELL = r"[1-9]\d*x[1-9]\d*t\d+"
"""A cell as it stands in a name: depth, width, links, as in ``20x32t90``."""
MOST = 10**6
"""Layers of a cell, and channels of a layer."""


@dataclass(frozen=True)
class Cell:
    r"""One cell :math:`\{d_c, w_c, t_c\}`: how many layers, channels of each, and earlier channels that a layer may be linked to.

    Args:
        depth: :math:`d_c`, from 1 to a million.
        width: :math:`w_c`, from 1 to a million.
        links: :math:`t_c`, from 0; where a layer has fewer earlier channels, it is linked to all of them.

    Raises:
        InputError: a size that is no whole number, too small or too large.

    Example:
        >>> Cell(4, 2, 3).sources
        (0, 0, 2, 3)
        >>> str(Cell(4, 2, 3))
        '4x2t3'

    References: "Towards unifying neural architecture space exploration and generalization" (NN-Mass), 2020, section 3.1.
    """

    depth: int
    width: int
    links: int

    def __post_init__(self) -> None:
        for name, value, lowest in (("depth", self.depth, 1), ("width", self.width, 1), ("links", self.links, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise InputError(f"a cell's {name} is {value!r}; give a whole number from {lowest}.")
            if value > MOST and name != "links":  # links are capped by what there is
                raise InputError(f"a cell's {name} is {value}; give at most {MOST:,}.")

    def __str__(self) -> str:
        return f"{self.depth}x{self.width}t{self.links}"

    @property
    def sources(self) -> tuple[int, ...]:
        """How many earlier channels each layer is linked to: min{w_c (i - 1), t_c} for the layers i from 2, before them 0."""
        return tuple(min(self.width * max(0, i - 1), self.links) for i in range(self.depth))

    @property
    def capped(self) -> bool:
        """Whether no layer has as many earlier channels as it could be linked to, so that fewer links would do."""
        return self.links > self.width * max(0, self.depth - 2)


def cells_from(text: str) -> tuple[Cell, ...]:
    """The cells that a text such as ``4x2t3-4x3t4`` names.

    Raises:
        InputError: another form.

    Example:
        >>> cells_from("4x2t3-4x3t4")
        (Cell(depth=4, width=2, links=3), Cell(depth=4, width=3, links=4))
    """
    if not re.fullmatch(rf"{CELL}(?:-{CELL})*", text):
        raise InputError(
            f"{text!r} names no cells; write each as <depth>x<width>t<links>, with - between, as in 4x2t3-4x3t4."
        )
    return tuple(Cell(*map(int, re.split("[xt]", cell))) for cell in text.split("-"))


Link = tuple[int, int]
"""An earlier channel: its layer in the cell, and its number there."""


def draw_links(
    widths: Sequence[int], counts: Sequence[int], seed: int, *words: str | int
) -> tuple[tuple[Link, ...], ...]:
    """The earlier channels that each layer of a cell is linked to, drawn without replacement from all up to two layers before.

    Args:
        widths: channels of each layer.
        counts: how many each layer is linked to.
        seed, words: of the draw.

    Returns: for each layer its links, in the order of layers and channels.

    Example:
        >>> draw_links((2, 2, 2), (0, 0, 2), seed=0)
        ((), (), ((0, 0), (0, 1)))
    """
    places = [(layer, channel) for layer, width in enumerate(widths) for channel in range(width)]
    found = []
    for layer, count in enumerate(counts):
        candidates = sum(widths[: max(0, layer - 1)])
        generator = generator_from(seed, "links", *words, layer)
        chosen = torch.randperm(candidates, generator=generator, device="cpu")[:count].sort().values.tolist()
        found.append(tuple(places[index] for index in chosen))
    return tuple(found)
