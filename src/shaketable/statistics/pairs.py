"""How many pairs of networks two columns order alike, within groups: exact, in less than all pairs' time."""

import math
from collections.abc import Sequence

import numpy as np


def greater(x: np.ndarray, y: np.ndarray, groupings: Sequence[np.ndarray]) -> list[np.ndarray]:
    r"""For each grouping of networks, the pairs in which the first is greater in both columns, by the groups of the two.

    .. math:: N_{ab} = |\{(i, j) : g_i = a, g_j = b, x_i > x_j, y_i > y_j\}|

    The networks are cut into about :math:`\sqrt n` blocks of neighbours in ``x``, and as many in ``y``: between blocks that
    differ in both, counts of blocks are multiplied; within blocks every pair is looked at.

    Args:
        x, y: [n] each, without NaN. A tie is not greater.
        groupings: [n] codes from 0 each.

    Returns: an array [groups, groups] of whole numbers (float64) each.

    Cost: about 2 n sqrt(n) comparisons, and as many multiplications for each group of each grouping.
    """
    n = len(x)
    size = math.ceil(math.sqrt(n))
    in_x, in_y = _orders(x, y)
    place_x, place_y = np.argsort(in_x), np.argsort(in_y)
    within = _masks(in_x, size, place_x, place_y)
    across = _masks(in_y, size, place_x // size, place_y)
    cells = place_x // size * size + place_y // size
    return [
        _between(cells, size, groups) + _inside(within, in_x, size, groups) + _inside(across, in_y, size, groups)
        for groups in groupings
    ]


def _orders(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The networks in ascending order of x, and of y; what is equal stands so that it is greater in one order alone."""
    rank_x, rank_y = (np.unique(column, return_inverse=True)[1] for column in (x, y))
    index = np.arange(len(x))
    return np.lexsort((index, -rank_y, rank_x)), np.lexsort((-index, -rank_x, rank_y))


def _masks(order: np.ndarray, size: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """For each block of an order, which of its members are greater than which in both of two places: [blocks, size, size]."""
    first, second = (_blocks(place[order], size, -1) for place in (one, other))
    found = (first[:, :, None] > first[:, None, :]) & (second[:, :, None] > second[:, None, :])
    return found.astype(np.float32)


def _blocks(values: np.ndarray, size: int, fill: int) -> np.ndarray:
    """A column cut into rows of one size, the last one filled up."""
    rest = -len(values) % size
    return np.concatenate((values, np.full(rest, fill, values.dtype))).reshape(-1, size)


def _inside(masks: np.ndarray, order: np.ndarray, size: int, groups: np.ndarray) -> np.ndarray:
    """The pairs that the masks of the blocks show, by their groups."""
    kinds = int(groups.max()) + 1
    member = (_blocks(groups[order], size, -1)[:, :, None] == np.arange(kinds)).astype(np.float32)
    lower = masks @ member  # of each network, how many of each group it is greater than: at most a block, exact
    return member.reshape(-1, kinds).T.astype(np.float64) @ lower.reshape(-1, kinds).astype(np.float64)


def _between(cells: np.ndarray, size: int, groups: np.ndarray) -> np.ndarray:
    """The pairs in blocks that differ in both orders, by their groups."""
    kinds = int(groups.max()) + 1
    counts = np.bincount(cells * kinds + groups, minlength=size * size * kinds).reshape(size, size, kinds)
    lower = np.zeros_like(counts)
    lower[1:, 1:] = counts.cumsum(0).cumsum(1)[:-1, :-1]
    flat = (array.reshape(-1, kinds).astype(np.float64) for array in (counts, lower))
    return next(flat).T @ next(flat)
