"""The operators of a network's graph, with what is fused behind each, and which of them a change reaches."""

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from shaketable.engine.replica import Replica, Unsuitable
from shaketable.engine.tracing import draws, has_multiple, traced
from shaketable.forward import Inputs, name_of

ACTIVATIONS = re.compile(
    "relu|gelu|silu|sigmoid|tanh|hardtanh|hardswish|hardsigmoid|leaky_relu|elu|softplus|mish|clamp|clamp_min"
)
OPERATIONS = re.compile(
    "view|_unsafe_view|permute|transpose|t|unsqueeze|squeeze|expand|repeat|slice|select|detach|alias|clone|cat|stack|"
    "add|sub|rsub|mul|div|neg|abs|exp|log|sqrt|rsqrt|pow|reciprocal|square|maximum|minimum|clamp_max|mean|sum|amax|"
    "max_pool[23]d_with_indices|adaptive_max_pool2d|avg_pool[123]d|_adaptive_avg_pool2d|upsample_nearest2d|"
    "constant_pad_nd|re(flec|plica)tion_pad[12]d|mm|addmm|bmm|baddbmm|convolution|embedding|_prelu_kernel|"
    "native_layer_norm|native_group_norm|_softmax|_log_softmax|_safe_softmax|_scaled_dot_product_flash_attention_for_cpu|"
    "(new_)?(zeros|ones|full)(_like)?|arange|triu|tril|eq|ne|ge|gt|le|lt|logical_(and|or|not)|bitwise_(and|or|not)|"
    "where|masked_fill|slice_scatter|select_scatter|sin|cos|cumsum|gather|index|zero|fill|copy|_to_copy"
)
"""Other operations that run as they stand; of several results the first one."""
FRESH = re.compile("add|sub|mul|cat")
"""Operations whose result is a new tensor, so that an activation behind them can be done in place."""
BATCH_NORMS = {"native_batch_norm": 5, "_native_batch_norm_legit_no_training": None}
"""Names of batch norm in evaluation mode, with the position of the argument that says otherwise."""


@dataclass
class Step:
    """One operator: an operation of the graph and what was fused behind it."""

    kind: str  # conv, linear, affine or call
    node: Node  # the operation itself
    result: Node  # the node whose value comes out
    x: Any = None  # conv, linear, affine: the input
    affine: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)  # per channel, in order
    other: Node | None = None  # is added
    activation: Node | None = None
    names: frozenset[str] = frozenset()  # tensors that it reads
    own: frozenset[str] = frozenset()  # those among them that are the operator's, not of what follows it
    below: frozenset[str] = frozenset()  # tensors that its value depends on


class Program:
    """What a network's graph computes, as operators: each an operation with what was fused behind it.

    ``steps`` are in order; ``inputs`` and ``output`` are nodes of the graph; ``source`` are the nodes of the base's tensors by
    name, ``reads`` those of all functions of them, none of what the network makes from nothing; ``kept`` are the values that
    some variant needs of the base; ``last`` the values that are not needed behind a step. ``picks``: some rows of what is kept
    are those of some examples. ``plain``: each operation is the network's own, nothing is folded. ``head`` is the product whose
    value are the logits, as it is or seen in another shape; None where there is no such one.

    Raises:
        Unsuitable: the graph depends on values, or has operations that are not known here.
    """

    def __init__(self, replica: Replica, inputs: Inputs) -> None:
        graph, self.args, by_example = traced(replica, inputs)
        nodes = list(graph.nodes)
        places = [node for node in nodes if node.op == "placeholder"]
        self.source = names = dict(zip(places, replica.base))
        self.inputs = places[len(names) :]
        self.reads: dict[Node, frozenset[str]] = {node: frozenset((name,)) for node, name in names.items()}
        self._made: dict[Node, Step] = {}
        for node in nodes:
            if node.op == "output":
                self.output = node.all_input_nodes[0] if node.all_input_nodes else node
            elif node.op != "placeholder":
                self._add(node)
        self.steps = list(self._made.values())
        if self.output not in {step.result for step in self.steps}:
            raise Unsuitable("its logits do not depend on its inputs")
        self.last: dict[Node, list[Node]] = {step.result: [] for step in self.steps}
        self.kept = {self.output}
        below: dict[Node, frozenset[str]] = dict.fromkeys(self.inputs, frozenset())
        last: dict[Node, Node] = {}
        for step in self.steps:
            used = self.values_of(step)
            weights = {node for node in self.nodes_of(step) if node in self.reads}
            step.names = frozenset().union(*(self.reads[node] for node in weights))
            if step.kind in ("conv", "linear"):
                step.own = frozenset().union(*(self.reads[node] for node in self.operands(step) if node))
            below[step.result] = step.below = step.names.union(*(below[node] for node in used))
            self.kept |= {node for node in used if step.below - below[node]}
            last |= dict.fromkeys(used, step.result)
        for node, step in last.items():
            self.last[step].append(node)
        own = {step.result for step in self.steps if step.names}
        self.picks = self.kept | own <= by_example
        self.plain = not any(step.kind == "conv" or (step.affine and not _is_one(step)) for step in self.steps)
        self.head = self._head()
        self._plans: dict[frozenset[str], list[tuple[Step, list[Node]]]] = {}

    def _add(self, node: Node) -> None:
        """Make a step of a node, fuse it into one, or leave it to the weights that it is a function of."""
        name, (args, kwargs) = name_of(node), self.args[node]
        if draws(node):
            raise Unsuitable(f"its graph has {name}")
        fixed = not has_multiple([*args, *kwargs.values()])  # else it is another one for each number of examples
        if fixed and all(source in self.reads for source in node.all_input_nodes):
            self.reads[node] = frozenset().union(*(self.reads[source] for source in node.all_input_nodes))
            return
        if node.target is operator.getitem:
            step = self._made.pop(args[0], None)
            if step is None or args[1] != 0:
                raise Unsuitable(f"its graph has {name_of(args[0])} with several results")
            step.result = node
            self._made[node] = step
            return
        step = self._fusable(args[0]) if args else None
        if name in BATCH_NORMS:
            flag = BATCH_NORMS[name]
            if (flag and args[flag]) or args[0] in self.reads or not _weights(args[1:5], self.reads):
                raise Unsuitable("its graph has batch norm over the batch")
            self._scale(node, args[0], ("bn", (*args[1:5], args[-1])))
        elif name == "convolution" and _weights(args[1:3], self.reads) and not args[6] and _is_float32(args[0]):
            self._made[node] = Step("conv", node, node, args[0])
        elif name in ("addmm", "mm") and self._is_linear(node, name):
            self._made[node] = Step("linear", node, node, args[1] if name == "addmm" else args[0])
        elif name in ("add", "mul") and len(args) == 2 and not kwargs and self._is_affine(*args):
            x, factor = args if isinstance(args[0], Node) and args[0] not in self.reads else args[::-1]
            self._scale(node, x, (name, (factor,)))
        elif name == "add" and not kwargs and (step := self._addend(*args)):
            step.other = args[1] if step.result is args[0] else args[0]
            self._extend(step, node)
        elif ACTIVATIONS.fullmatch(name) and step and (step.kind != "call" or FRESH.fullmatch(name_of(step.node))):
            step.activation = node
            self._extend(step, node)
        elif (ACTIVATIONS.fullmatch(name) or OPERATIONS.fullmatch(name)) and not str(node.target).endswith("dtype"):
            self._made[node] = Step("call", node, node)
        else:
            raise Unsuitable(f"its graph has {name}")

    def _fusable(self, node: Any) -> Step | None:
        """The step that computes a node, if nothing else uses the value and no activation is behind it yet."""
        step = self._made.get(node) if isinstance(node, Node) else None
        return step if step and step.activation is None and len(node.users) == 1 else None

    def _extend(self, step: Step, node: Node) -> None:
        """Let a step end with a node, and run where that stood."""
        del self._made[step.result]
        step.result = node
        self._made[node] = step

    def _scale(self, node: Node, x: Any, affine: tuple[str, tuple[Any, ...]]) -> None:
        step = self._fusable(x)
        if step is None or step.kind == "call" or step.other is not None:
            step = self._made[node] = Step("affine", node, node, x)
        else:
            self._extend(step, node)
        step.affine.append(affine)

    def _addend(self, one: Any, two: Any) -> Step | None:
        """The later of two summands, if the other can be added by the operator that computes it."""
        if not (isinstance(one, Node) and isinstance(two, Node)) or one is two or shape_of(one) != shape_of(two):
            return None
        if not (_is_float32(one) and _is_float32(two)):
            return None
        order = list(self._made)
        for node in sorted((n for n in (one, two) if n in self._made), key=order.index, reverse=True):
            step = self._fusable(node)
            if step and step.other is None and step.kind != "call":
                return step
        return None

    def _is_linear(self, node: Node, name: str) -> bool:
        args, kwargs = self.args[node]
        bias, x, weight = args if name == "addmm" else (None, *args)
        if kwargs or x in self.reads or not _is_float32(x):
            return False
        return _weights((bias, weight), self.reads) and _dims(bias) <= 1

    def _is_affine(self, one: Any, two: Any) -> bool:
        """Whether one of two arguments is a number, or one number or a number for each channel out of the weights."""
        x, factor = (one, two) if isinstance(one, Node) and one not in self.reads else (two, one)
        if not isinstance(factor, Node):
            return isinstance(factor, float | int) and isinstance(x, Node) and _is_float32(x)
        if factor not in self.reads or not _is_float32(x) or not _is_float32(factor) or _dims(x) not in (2, 4):
            return False
        shape = (1,) * (_dims(x) - _dims(factor)) + shape_of(factor)
        return (
            len(shape) == _dims(x)
            and all(size == 1 for i, size in enumerate(shape) if i != 1)
            and (shape[1] in (1, shape_of(x)[1]))
        )

    def _head(self) -> Step | None:
        step = self._made[self.output]
        while name_of(step.node) in ("view", "_unsafe_view") and (x := step.node.args[0]) in self._made:
            step = self._made[x]  # pyright: ignore[reportArgumentType]
        return step if step.kind == "linear" else None

    def nodes_of(self, step: Step) -> Iterator[Node]:
        """Every node whose value a step takes, weights too."""
        args, kwargs = self.args[step.node]
        if step.kind == "affine":
            args, kwargs = (step.x,), {}
        affine = [value for _, values in step.affine for value in values]
        yield from _leaves((args, list(kwargs.values()), affine, step.other))

    def values_of(self, step: Step) -> list[Node]:
        return list(dict.fromkeys(node for node in self.nodes_of(step) if node not in self.reads))

    def plan(self, names: frozenset[str]) -> list[tuple[Step, list[Node]]]:
        """The steps that depend on these tensors, each with the values that are not needed after it."""
        if names not in self._plans:
            steps = [step for step in self.steps if not step.below.isdisjoint(names)]
            inside = {step.result for step in steps}
            last = {node: step.result for step in steps for node in self.values_of(step) if node in inside}
            self._plans[names] = [
                (step, [node for node, where in last.items() if where is step.result]) for step in steps
            ]
        return self._plans[names]

    def operands(self, step: Step) -> Sequence[Any]:
        """Weight and bias of a convolution [out, in, ...] or linear layer [in, out]."""
        args = self.args[step.node][0]
        return args[1:3] if step.kind == "conv" else (args[-1], args[0] if len(args) == 3 else None)


def _is_one(step: Step) -> bool:
    """Whether a scale or a shift stands by itself: nothing is folded."""
    return step.kind == "affine" and len(step.affine) == 1 and step.affine[0][0] != "bn"


def _leaves(value: Any) -> Iterator[Node]:
    if isinstance(value, Node):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)


def _weights(args: Sequence[Any], reads: Mapping[Node, Any]) -> bool:
    """Whether these arguments are functions of weights, or not given."""
    return all(arg is None or arg in reads for arg in args)


def shape_of(node: Node) -> torch.Size:
    return node.meta["val"].shape


def _dims(value: Node | Tensor | None) -> int:
    return 0 if value is None else value.dim() if isinstance(value, Tensor) else value.meta["val"].dim()


def _is_float32(node: Node) -> bool:
    """Whether its value is what is folded, and rounded to bfloat16; other types stay as the network has them."""
    return node.meta["val"].dtype == torch.float32
