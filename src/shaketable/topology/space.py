"""Every design of some depths, widths and links, with mass, parameters and FLOPs, a chunk at a time; and Pareto sets."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shaketable.errors import InputError
from shaketable.networks.cells import Cell
from shaketable.topology.mass import flops, long_range_sources, parameters

CHUNK = 1 << 20
"""Designs that are in memory at a time."""


@dataclass(frozen=True)
class Space:
    """The designs that are tried: cells of one depth, each with its width, and every combination of links.

    Args:
        depths: of the cells, each from 3.
        widths: of the cells of a network, one tuple for each kind of network.
        step: between numbers of links; each cell is tried with 0, step, ... up to all earlier channels of its last layer.

    Raises:
        InputError: nothing to try, or a size that there is not.

    Example:
        >>> Space((4, 5), ((2, 3, 4),)).count
        1225
    """

    depths: tuple[int, ...]
    widths: tuple[tuple[int, ...], ...]
    step: int = 1

    def __post_init__(self) -> None:
        if not self.depths or not self.widths or not all(self.widths):
            raise InputError("a space of designs needs one depth and one tuple of widths at least.")
        for name, values, lowest in (
            ("depth", self.depths, 3),
            ("width", [w for one in self.widths for w in one], 1),
            ("step", [self.step], 1),
        ):
            for value in values:
                if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                    raise InputError(f"{name}={value!r} in a space of designs: give whole numbers from {lowest}.")

    def links(self, depth: int, width: int) -> np.ndarray:
        """The numbers of links that a cell is tried with."""
        return np.arange(0, width * (depth - 2) + 1, self.step)

    @property
    def count(self) -> int:
        """How many designs there are."""
        return sum(math.prod(len(self.links(d, w)) for w in widths) for d in self.depths for widths in self.widths)


@dataclass(frozen=True)
class Block:
    """Some designs of one depth and widths, as flat arrays; ``links[c][places[c]]`` are the links of cell c."""

    depth: int
    widths: tuple[int, ...]
    links: list[np.ndarray]
    shape: tuple[int, ...]
    mass: np.ndarray
    parameters: np.ndarray
    flops: np.ndarray

    def cells(self, index: int) -> list[Cell]:
        """The cells of one design."""
        places = np.unravel_index(index, self.shape)
        return [Cell(self.depth, w, int(one[p])) for w, one, p in zip(self.widths, self.links, places, strict=True)]


def blocks(space: Space, input_shape: Sequence[int], classes: int) -> Iterator[Block]:
    """All designs, a chunk at a time: every number is a sum over cells."""
    for depth in space.depths:
        for widths in space.widths:
            links = [space.links(depth, w) for w in widths]
            bare = [Cell(depth, w, 0) for w in widths]
            base = parameters(bare, input_shape, classes), flops(bare, input_shape, classes)
            sums = []
            for index, (w, tried) in enumerate(zip(widths, links, strict=True)):
                sources = long_range_sources(depth, w, tried)
                pixels = math.prod(-(-side // 2**index) for side in input_shape[1:])
                sums.append(
                    (
                        sources * (2 * depth / ((depth - 1) * (depth - 2))),
                        sources * (9 * w + 2),
                        sources * 18 * w * pixels,
                    )
                )
            # the axis that is cut into chunks: those behind it are whole, those before it are taken one by one
            axis = next(k for k in range(len(links)) if math.prod(map(len, links[k + 1 :])) <= CHUNK)
            rows = max(1, CHUNK // math.prod(map(len, links[axis + 1 :])))
            for lead in np.ndindex(*map(len, links[:axis])):
                for start in range(0, len(links[axis]), rows):
                    cuts = [slice(place, place + 1) for place in lead] + [slice(start, start + rows)]
                    cuts += [slice(None)] * (len(links) - len(cuts))
                    kept = [one[cut] for one, cut in zip(links, cuts, strict=True)]
                    mass, count, work = (
                        _outer([one[k][cut] for one, cut in zip(sums, cuts, strict=True)]) for k in range(3)
                    )
                    yield Block(depth, widths, kept, tuple(map(len, kept)), mass, count + base[0], work + base[1])


def _outer(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of one number of each part, for every combination, flat."""
    total = parts[0]
    for part in parts[1:]:
        total = (total[:, None] + part).reshape(-1)
    return total


def pareto(one: np.ndarray, other: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """The indices of points that no other is at most equal to in both numbers, ascending in the first; of equal ones, the least ``tie``.

    Example:
        >>> pareto(np.array([1, 2, 2, 3]), np.array([5, 4, 3, 3]), np.zeros(4)).tolist()
        [0, 2]
    """
    order = np.lexsort((tie, other, one))
    values = other[order]
    before = np.concatenate([[math.inf], np.minimum.accumulate(values)[:-1]]) if len(values) else values
    return order[values < before]
