"""A network that we did not build as layers of channels: which layer's channels reach which, by following its graph."""

import logging
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functionalize
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from shaketable.errors import InputError, RunError
from shaketable.forward import Inputs, evaluation_mode, exchanged, forward, map_inputs, name_of, slots, tensors_of
from shaketable.topology.moves import MOVES, Channels, args_of, not_followed, shape_of

LINEAR = {"convolution": (0, 1), "linear": (0, 1), "mm": (0, 1), "addmm": (1, 2), "bmm": (0, 1)}
"""Operations that make new channels: where their inputs and their weights stand."""
INPUT = -1
"""The number of every channel of the network's input: no layer made it."""


@dataclass
class Traced:
    """A network's graph, and the values of its tensors of whole numbers (indices)."""

    module: GraphModule
    integers: dict[Node, Tensor]
    inputs: tuple[Node, ...]


@dataclass
class Operator:
    """A convolution or linear layer.

    Attributes:
        inputs: the channels that it sees.
        outputs: how many channels it makes, the first of number ``first``.
        depth: operators on the longest way to it.
        groups: of a convolution.
        used: whether another operator sees its channels.
    """

    inputs: np.ndarray
    outputs: int
    first: int
    depth: int
    groups: int = 1
    used: bool = False


@dataclass
class Skip:
    """An addition of two paths: the operator at the end of the longer one, and the channels that the other one brings."""

    end: int
    shortcut: np.ndarray


@dataclass
class ChannelGraph:
    """Operators in the order in which they run, each channel's operator, and the additions."""

    operators: list[Operator] = field(default_factory=list)
    made_by: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    skips: list[Skip] = field(default_factory=list)


def traced(network: nn.Module, inputs: Inputs) -> Traced:
    """The graph of a network for some inputs, without values.

    Args:
        network: in evaluation mode for the trace.
        inputs: two examples or so; only their shapes matter.

    Raises:
        RunError: a network that :func:`torch.fx.experimental.proxy_tensor.make_fx` cannot trace.

    Cost: one pass without values: a few milliseconds an operation of torch.

    Example:
        >>> graph = traced(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.zeros(2, 3))
        >>> [node.op for node in graph.module.graph.nodes][-1]
        'output'
    """
    places = slots(network)
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    held = {name: named[name].detach() for name in places}

    def run(tensors: list[Tensor], examples: list[Tensor]) -> Tensor:
        following = iter(examples)
        with exchanged(places, dict(zip(held, tensors, strict=True))):
            return forward(network, map_inputs(lambda _: next(following), inputs))

    try:
        with evaluation_mode(network), torch.no_grad(), _silent():
            module = make_fx(functionalize(run, remove="mutations"), tracing_mode="fake")(
                list(held.values()), list(tensors_of(inputs).values())
            )
    except InputError:
        raise
    except Exception as error:  # any code may run in a forward pass
        said = next(iter(str(error).splitlines()), "")
        raise RunError(
            f"{type(network).__name__} cannot be traced ({type(error).__name__}: {said[:120]}); its mass is not known."
        ) from error
    module.graph.eliminate_dead_code()
    nodes = list(module.graph.nodes)
    given = dict(zip((node for node in nodes if node.op == "placeholder"), held.values()))
    given |= {node: getattr(module, str(node.target)) for node in nodes if node.op == "get_attr"}
    integers = {node: tensor.cpu() for node, tensor in given.items() if tensor.dtype in (torch.long, torch.int32)}
    placeholders = [node for node in nodes if node.op == "placeholder"]
    return Traced(module, integers, tuple(placeholders[len(held) :]))


def channel_graph_of(graph: Traced) -> ChannelGraph:
    """Operators and the channels that each sees, from a traced graph.

    Convolutions and linear layers make channels; concatenations, slices, indices, splits, reshapes and permutations move them; an
    addition of two paths keeps the channels of the longer one and is noted; whatever else has one path in it passes them on.

    Raises:
        RunError: an operation that mixes channels in a way that is not followed (attention, the shuffling of channels).

    Cost: a millisecond or so an operator.
    """
    found = ChannelGraph()
    made_by: list[np.ndarray] = []
    values: dict[Node, Any] = {}
    integers: dict[Node, Any] = dict(graph.integers)
    for node in graph.module.graph.nodes:
        if node in graph.inputs and node.meta["val"].ndim > 1:
            values[node] = Channels(np.full(node.meta["val"].shape[1], INPUT), 1)
        elif node.op == "call_function" and node.all_input_nodes and set(node.all_input_nodes) <= integers.keys():
            args, kwargs = map_arg((node.args, node.kwargs), integers.__getitem__)
            integers[node] = node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]
        elif node.op == "call_function":
            values[node] = _followed(node, values, integers, found, made_by)
    found.made_by = np.concatenate(made_by) if made_by else found.made_by
    for one in found.operators:
        for index in np.unique(found.made_by[one.inputs[one.inputs >= 0]]):
            found.operators[index].used = True
    return found


@contextmanager
def _silent() -> Iterator[None]:
    """Keep torch from logging a traceback where a pass without values fails: the error says it all."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _followed(
    node: Node,
    values: dict[Node, Any],
    integers: dict[Node, Tensor],
    found: ChannelGraph,
    made_by: list[np.ndarray],
) -> Any:
    """The channels of a node's value: a :class:`Channels`, a list of them, or None where there is no path in it."""
    name = name_of(node)
    paths = [values[one] for one in node.all_input_nodes if values.get(one) is not None]
    if not paths:
        return None
    if name in LINEAR:
        weights = args_of(node)[LINEAR[name][1]]
        if not isinstance(weights, Node) or values.get(weights) is None:
            return _operator(node, name, values[args_of(node)[LINEAR[name][0]]], found, made_by)
        raise not_followed(node, "two paths are multiplied with each other as matrices (attention)")
    if node.target is operator.getitem:
        inner, place = paths[0], int(args_of(node)[1])
        return inner[place] if isinstance(inner, list) else inner if place == 0 else None
    if name == "cat":
        return _concatenated(node, [values.get(one) for one in args_of(node)[0]])
    shape = shape_of(node)
    if len(paths) > 1:
        return _joined(node, name, paths, found, made_by)
    path = paths[0]
    if isinstance(path, list):
        raise not_followed(node, "it takes several tensors at once")
    if name in MOVES:
        return MOVES[name](node, path, integers)
    if shape and path.dim < len(shape) and shape[path.dim] == len(path.numbers):
        return path
    raise not_followed(node, "its channels are not those of its input")


def _operator(node: Node, name: str, path: Channels, found: ChannelGraph, made_by: list[np.ndarray]) -> Channels:
    """The new channels of a convolution or a linear layer."""
    shape = shape_of(node)
    dim = 1 if name == "convolution" else len(shape) - 1
    if path.dim != dim:
        raise not_followed(node, "it runs over another dimension than that of the channels")
    seen = np.unique(path.numbers)
    before = [found.operators[index] for index in np.unique(_makers(seen[seen >= 0], made_by))]
    first = sum(map(len, made_by))
    groups = args_of(node)[8] if name == "convolution" else 1
    depth = 1 + max((one.depth for one in before), default=-1)
    made_by.append(np.full(shape[dim], len(found.operators)))
    found.operators.append(Operator(seen, shape[dim], first, depth, groups))
    return Channels(np.arange(first, first + shape[dim]), dim)


def _makers(numbers: np.ndarray, made_by: list[np.ndarray]) -> np.ndarray:
    """The operators that made some channels."""
    starts = np.cumsum([0, *map(len, made_by)])
    return np.searchsorted(starts, numbers, side="right") - 1


def _concatenated(node: Node, parts: list[Channels | None]) -> Channels:
    """Channels of tensors one after the other; where another dimension grows, those of the first."""
    dim = args_of(node)[1] if len(args_of(node)) > 1 else 0
    known = next(part for part in parts if part is not None)
    if dim % len(shape_of(node)) != known.dim:
        return known
    numbers = [
        np.full(shape_of(one)[known.dim], INPUT) if part is None else part.numbers
        for one, part in zip(args_of(node)[0], parts, strict=True)
    ]
    return Channels(np.concatenate(numbers), known.dim)


def _joined(node: Node, name: str, paths: list[Any], found: ChannelGraph, made_by: list[np.ndarray]) -> Channels:
    """Two paths made one: added, or the one scaled by the other; the channels are those of the longer path."""
    if len(paths) > 2 or any(isinstance(path, list) for path in paths) or name not in ("add", "sub", "mul", "div"):
        raise not_followed(node, "it takes several paths in a way of its own")

    def depth(path: Channels) -> int:
        end = _end(path, found, made_by)
        return found.operators[end].depth if end >= 0 else INPUT

    if name in ("mul", "div"):  # a gate scales channels and makes none: those of the shorter way stay
        return min(paths, key=lambda path: (-len(path.numbers), depth(path)))
    if np.array_equal(paths[0].numbers, paths[1].numbers):
        return paths[0]
    shorter, longer = sorted(paths, key=lambda path: (len(path.numbers), depth(path)))
    found.skips.append(Skip(_end(longer, found, made_by), np.unique(shorter.numbers)))
    return longer


def _end(path: Channels, found: ChannelGraph, made_by: list[np.ndarray]) -> int:
    """The last of the operators that made a path's channels."""
    makers = _makers(path.numbers[path.numbers >= 0], made_by)
    return int(max(makers, key=lambda index: found.operators[index].depth, default=INPUT))
