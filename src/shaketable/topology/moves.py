"""How channels move through a graph: reshapes, permutations, flips, indices, slices, splits and means."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from shaketable.errors import RunError
from shaketable.forward import name_of


@dataclass(frozen=True)
class Channels:
    """The numbers of a tensor's channels, and the dimension that they stand in."""

    numbers: np.ndarray
    dim: int


def _reshaped(node: Node, path: Channels, integers: dict[Node, Tensor]) -> Channels:
    """Channels behind a reshape: the dimension as it was, or together with those behind it."""
    before, after = shape_of(node.all_input_nodes[0]), shape_of(node)
    lead, size = math.prod(before[: path.dim]), before[path.dim]
    for dim in range(len(after)):
        if math.prod(after[:dim]) == lead:
            if after[dim] == size:
                return Channels(path.numbers, dim)
            if after[dim] and after[dim] % size == 0 and math.prod(before[path.dim :]) % after[dim] == 0:
                return Channels(np.repeat(path.numbers, after[dim] // size), dim)
    raise not_followed(node, "channels are spread over several dimensions (a shuffle of channels, heads)")


def _permuted(node: Node, path: Channels, integers: dict[Node, Tensor]) -> Channels:
    """Channels in another dimension."""
    rank = len(shape_of(node))
    if name_of(node) == "permute":
        order = [dim % rank for dim in args_of(node)[1]]
        return Channels(path.numbers, order.index(path.dim))
    one, other = (args_of(node)[1] % rank, args_of(node)[2] % rank) if name_of(node) == "transpose" else (0, 1)
    return Channels(path.numbers, {one: other, other: one}.get(path.dim, path.dim))


def _indexed(node: Node, path: Channels, integers: dict[Node, Tensor]) -> Channels:
    """Some of the channels."""
    rank = len(shape_of(node.all_input_nodes[0]))
    if name_of(node) == "index_select":
        dim, index = args_of(node)[1] % rank, args_of(node)[2]
    else:
        given = [(dim, one) for dim, one in enumerate(args_of(node)[1]) if one is not None]
        if len(given) != 1:
            raise not_followed(node, "several dimensions are indexed at once")
        dim, index = given[0]
    if dim != path.dim:
        return path
    numbers = integers.get(index)
    if numbers is None or numbers.ndim != 1:
        raise not_followed(node, "which channels it takes depends on the data")
    return Channels(path.numbers[numbers.numpy()], path.dim)


def _flipped(node: Node, path: Channels, integers: dict[Node, Tensor]) -> Channels:
    """The channels in the reverse order."""
    rank = len(shape_of(node))
    return Channels(path.numbers[::-1], path.dim) if path.dim in {dim % rank for dim in args_of(node)[1]} else path


def _rolled(node: Node, path: Channels, integers: dict[Node, Tensor]) -> Channels:
    """The channels moved on around a ring."""
    shifts, dims = args_of(node)[1], args_of(node)[2] if len(args_of(node)) > 2 else []
    if not dims:
        raise not_followed(node, "it rolls all dimensions as one")
    moved = sum(shift for shift, dim in zip(shifts, dims, strict=True) if dim % len(shape_of(node)) == path.dim)
    return Channels(np.roll(path.numbers, moved), path.dim)


def _sliced(node: Node, path: Channels, integers: dict[Node, Tensor]) -> Channels:
    """A range of the channels."""
    given: list[Any] = list(args_of(node)[1:])
    dim, start, end, step = [*given, *[0, None, None, 1][len(given) :]]
    if dim % len(shape_of(node)) != path.dim:
        return path
    return Channels(path.numbers[start:end:step], path.dim)


def _split(node: Node, path: Channels, integers: dict[Node, Tensor]) -> list[Channels]:
    """The channels of each part."""
    dim = args_of(node)[2] if len(args_of(node)) > 2 else 0
    parts = node.meta["val"]
    if dim % parts[0].ndim != path.dim:
        return [path] * len(parts)
    ends = np.cumsum([part.shape[path.dim] for part in parts])[:-1]
    return [Channels(numbers, path.dim) for numbers in np.split(path.numbers, ends)]


def _reduced(node: Node, path: Channels, integers: dict[Node, Tensor]) -> Channels:
    """Channels behind a mean, sum or maximum over other dimensions."""
    before = len(shape_of(node.all_input_nodes[0]))
    dims = {
        dim % before for dim in (args_of(node)[1] if isinstance(args_of(node)[1], list | tuple) else [args_of(node)[1]])
    }
    if path.dim in dims:
        raise not_followed(node, "it sums over channels")
    gone = 0 if len(shape_of(node)) == before else sum(dim < path.dim for dim in dims)
    return Channels(path.numbers, path.dim - gone)


MOVES = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "expand"), _reshaped),
    **dict.fromkeys(("permute", "transpose", "t"), _permuted),
    **dict.fromkeys(("index", "index_select"), _indexed),
    "flip": _flipped,
    "roll": _rolled,
    "slice": _sliced,
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    **dict.fromkeys(("mean", "sum", "amax"), _reduced),
}
"""Operations that move channels."""


def args_of(node: Node) -> Any:
    """The arguments of an operation."""
    return node.args


def shape_of(node: Node) -> tuple[int, ...]:
    """The shape of a node's value; of several, of the first one."""
    value = node.meta.get("val")
    value = value[0] if isinstance(value, tuple | list) and value else value
    return tuple(getattr(value, "shape", ()))


def not_followed(node: Node, why: str) -> RunError:
    return RunError(
        f"the channels of this network cannot be followed through {name_of(node)!r}: {why}; NN-Mass is defined for convolutions and "
        "linear layers with concatenations."
    )
