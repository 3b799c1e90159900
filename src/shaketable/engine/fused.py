"""Fused: the network as a graph; a variant runs only what depends on its change, several operations in one operator."""

import copy
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx

from shaketable.engine.kernels import Geometry, Kernel, channels_last, choose, finish, product
from shaketable.engine.replay import TERMS, alike, attributes_of, halved
from shaketable.engine.replica import Replica, Unsuitable
from shaketable.forward import Inputs, forward, logits_of, map_inputs, tensors_of
from shaketable.params import Params

ACTIVATIONS = re.compile(
    "relu|gelu|silu|sigmoid|tanh|hardtanh|hardswish|hardsigmoid|leaky_relu|elu|softplus|mish|clamp|clamp_min"
)
OPERATIONS = re.compile(
    "view|_unsafe_view|permute|transpose|t|unsqueeze|squeeze|expand|slice|select|detach|alias|clone|cat|stack|"
    "add|sub|rsub|mul|div|neg|abs|exp|log|sqrt|rsqrt|pow|reciprocal|square|maximum|minimum|clamp_max|mean|sum|amax|"
    "max_pool[23]d_with_indices|adaptive_max_pool2d|avg_pool[123]d|_adaptive_avg_pool2d|upsample_nearest2d|"
    "constant_pad_nd|re(flec|plica)tion_pad[12]d|mm|addmm|bmm|baddbmm|convolution|embedding|_prelu_kernel|"
    "native_layer_norm|native_group_norm|_softmax|_log_softmax"
)
"""Other operations that run as they stand; of several results the first one."""
FRESH = re.compile("add|sub|mul|cat")
"""Operations whose result is a new tensor, so that an activation behind them can be done in place."""
BATCH_NORMS = {"native_batch_norm": 5, "_native_batch_norm_legit_no_training": None}
"""Names of batch norm in evaluation mode, with the position of the argument that says otherwise."""


Terms = Sequence[tuple[float, Params]]


@dataclass(frozen=True)
class _Batch:
    """A number in the graph that is a multiple of the number of examples."""

    times: int


@dataclass
class _Step:
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
    ready: dict[Any, tuple[Any, ...]] = field(default_factory=dict)  # packed weights of the base


class Fused:
    """Logits of variants of a network, to the rounding of float32, faster than by running its modules.

    The network is traced to a functional graph. Convolutions and linear layers take in the batch norms, scales and
    biases behind them, an addition and a ReLU; convolutions run in whichever way is fastest for their shape. Nothing
    that a variant does not change is computed again.

    Args:
        network: any module; evaluated in evaluation mode.
        params: the base, by name; the network's own where a name is left out.
        inputs: a few examples.

    Raises:
        Unsuitable: the graph depends on values, or has operations that this level does not know.
    """

    name = "fused"

    def __init__(self, network: nn.Module, params: Params, inputs: Inputs) -> None:
        self.replica = Replica(network, params)
        self._base, self._dtype, self._exact = self.replica.base, torch.float32, self
        if any((t.is_floating_point() and t.dtype != torch.float32) or t.is_complex() for t in self._base.values()):
            raise Unsuitable("its weights are not float32")
        self._shapes = _shapes(inputs)
        graph, self._args, by_example = _traced(self.replica, inputs)
        self._compile(graph)
        own = {
            step.result for step in self._steps if step.names
        }  # whether some rows of these are those of some examples
        self.picks = self._kept | own <= by_example
        self._begin()

    def _begin(self) -> None:
        """Nothing is packed, planned or recorded yet."""
        self._steps = [replace(step, ready={}) for step in self._steps]
        self._plans: dict[frozenset[str], list[tuple[_Step, list[Node]]]] = {}
        self._scratch: Tensor | None = None
        self.clear()

    def rounded(self) -> "Fused":
        """The same graph in bfloat16, for the same batches: it starts from this one's recorded pass, rounded.

        So a variant's logits are off by what the operations behind its change round, and by no others.
        """
        low = copy.copy(self)
        low._dtype, low._exact = torch.bfloat16, self
        low._begin()
        return low

    def base(self, inputs: Inputs) -> Tensor:
        """Logits of the base network on a batch, with what its variants need kept.

        Raises:
            Unsuitable: the inputs differ from those it was made for in more than their number.
        """
        self.clear()
        self._of = inputs
        if self._exact is not self:
            if self._exact._of is not inputs:
                self._exact.base(inputs)
            self._values = {node: halved(value) for node, value in self._exact._values.items()}
            self._count = self._exact._count
            return self._values[self._output].float()
        if _shapes(inputs) != self._shapes:
            raise Unsuitable("its inputs have several shapes")
        given = [self._input(tensor) for tensor in tensors_of(inputs).values()]
        self._values = dict(zip(self._inputs, given, strict=True))
        self._count = len(given[0])
        for step in self._steps:
            self._values[step.result] = self._run(step, {}, {}, ())
            for node in self._last[step.result]:
                if node not in self._kept:
                    del self._values[node]
        return self._values[self._output].float()

    def logits(self, changes: Params, terms: Terms = ()) -> Tensor:
        """Logits of the base network with some tensors changed, on all examples of the batch.

        With ``terms`` the changes are their weighted sum; where the changed layer is one linear operator whose input is
        the base's, its output is the same weighted sum of its outputs for each term, computed once a batch.
        """
        values: dict[Node, Tensor] = {}
        for step, free in self._plan(frozenset(changes)):
            values[step.result] = self._run(step, values, changes, terms)
            for node in free:
                del values[node]
        return (values[self._output] if self._output in values else self._recorded(self._output)).float()

    def picked(self, several: Sequence[tuple[Params, Tensor]]) -> list[Tensor]:
        """Logits of several variants of the same tensors, each on some rows of the batch; where the graph ``picks``.

        What reads the changed tensors runs once for each variant, all that follows once for all of them.
        """
        assert self.picks
        values: dict[Node, Tensor] = {}
        sizes, whole, names = [len(rows) for _, rows in several], self._count, frozenset(several[0][0])
        everything = torch.cat([rows for _, rows in several])
        try:
            for step, free in self._plan(names):
                if step.names.isdisjoint(names):
                    self._count, self._rows = len(everything), everything
                    values[step.result] = self._run(step, values, {}, ())
                else:
                    used = [node for node in self._values_of(step) if node in values]
                    split = {node: values[node].split(sizes) for node in used}
                    parts = []
                    for number, (changes, self._rows) in enumerate(several):
                        self._count = sizes[number]
                        own = {node: parts_of[number] for node, parts_of in split.items()}
                        parts.append(self._run(step, own, changes, ()))
                    values[step.result] = parts[0] if len(parts) == 1 else torch.cat(parts)
                for node in free:
                    del values[node]
            self._rows = everything
            logits = values[self._output] if self._output in values else self._recorded(self._output)
            return list(logits.float().split(sizes))
        finally:
            self._count, self._rows = whole, None

    def _recorded(self, node: Node) -> Tensor:
        """The base's value, of the rows that are asked for."""
        value = self._values[node]
        return value if self._rows is None else value[self._rows]

    def clear(self) -> None:
        """Let go of what was recorded."""
        self._of: Inputs | None = None
        self._values: dict[Node, Tensor] = {}
        self._count, self._rows = 0, None
        self._layer: _Step | None = None
        self._outputs: dict[int, tuple[Params, Tensor]] = {}

    def recorded_bytes(self) -> int:
        """Memory that the recorded pass holds beside the weights and the inputs."""
        held = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in self._values.values()}
        return sum(held.values())

    # the graph

    def _compile(self, graph: Graph) -> None:
        """The steps, in order; which values the variants need; after which step each value is last used."""
        nodes = list(graph.nodes)
        places = [node for node in nodes if node.op == "placeholder"]
        names = dict(zip(places, self._base))
        self._inputs = places[len(self._base) :]
        self._source = names
        self._reads: dict[Node, frozenset[str]] = {node: frozenset((name,)) for node, name in names.items()}
        self._constant: dict[Node, Tensor] = {}
        self._made: dict[Node, _Step] = {}
        for node in nodes:
            if node.op == "output":
                self._output = node.all_input_nodes[0] if node.all_input_nodes else node
            elif node.op != "placeholder":
                self._add(node)
        self._steps = list(self._made.values())
        if self._output not in {step.result for step in self._steps}:
            raise Unsuitable("its logits do not depend on its inputs")
        self._last: dict[Node, list[Node]] = {step.result: [] for step in self._steps}
        self._kept = {self._output}
        below: dict[Node, frozenset[str]] = dict.fromkeys(self._inputs, frozenset())
        last: dict[Node, Node] = {}
        for step in self._steps:
            used = self._values_of(step)
            weights = {node for node in self._nodes_of(step) if node in self._reads}
            step.names = frozenset().union(*(self._reads[node] for node in weights))
            if step.kind in ("conv", "linear"):
                step.own = frozenset().union(*(self._reads[node] for node in self._operands(step) if node))
            below[step.result] = step.below = step.names.union(*(below[node] for node in used))
            self._kept |= {node for node in used if step.below - below[node]}
            last |= dict.fromkeys(used, step.result)
        for node, step in last.items():
            self._last[step].append(node)

    def _add(self, node: Node) -> None:
        """Make a step of a node, fuse it into one, or leave it to the weights that it is a function of."""
        name, args = _name(node), self._args[node][0]
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise Unsuitable(f"its graph has {name}")
        if node.all_input_nodes and all(source in self._reads for source in node.all_input_nodes):
            self._reads[node] = frozenset().union(*(self._reads[source] for source in node.all_input_nodes))
            return
        if node.target is operator.getitem:
            step = self._made.pop(args[0], None)
            if step is None or args[1] != 0:
                raise Unsuitable(f"its graph has {_name(args[0])} with several results")
            step.result = node
            self._made[node] = step
            return
        step = self._fusable(args[0]) if args else None
        if name in BATCH_NORMS:
            flag = BATCH_NORMS[name]
            if (flag and args[flag]) or args[0] in self._reads or not _weights(args[1:5], self._reads):
                raise Unsuitable("its graph has batch norm over the batch")
            self._scale(node, args[0], ("bn", (*args[1:5], args[-1])))
        elif name == "convolution" and _weights(args[1:3], self._reads) and not args[6]:
            self._made[node] = _Step("conv", node, node, args[0])
        elif name in ("addmm", "mm") and self._is_linear(node, name):
            self._made[node] = _Step("linear", node, node, args[1] if name == "addmm" else args[0])
        elif name in ("add", "mul") and len(args) == 2 and not self._args[node][1] and self._is_affine(*args):
            x, factor = args if isinstance(args[0], Node) and args[0] not in self._reads else args[::-1]
            self._scale(node, x, (name, (factor,)))
        elif name == "add" and not self._args[node][1] and (step := self._addend(*args)):
            step.other = args[1] if step.result is args[0] else args[0]
            self._extend(step, node)
        elif ACTIVATIONS.fullmatch(name) and step and (step.kind != "call" or FRESH.fullmatch(_name(step.node))):
            step.activation = node
            self._extend(step, node)
        elif (ACTIVATIONS.fullmatch(name) or OPERATIONS.fullmatch(name)) and not str(node.target).endswith("dtype"):
            self._made[node] = _Step("call", node, node)
        else:
            raise Unsuitable(f"its graph has {name}")

    def _fusable(self, node: Any) -> _Step | None:
        """The step that computes a node, if nothing else uses the value and no activation is behind it yet."""
        step = self._made.get(node) if isinstance(node, Node) else None
        return step if step and step.activation is None and len(node.users) == 1 else None

    def _extend(self, step: _Step, node: Node) -> None:
        """Let a step end with a node, and run where that stood."""
        del self._made[step.result]
        step.result = node
        self._made[node] = step

    def _scale(self, node: Node, x: Any, affine: tuple[str, tuple[Any, ...]]) -> None:
        step = self._fusable(x)
        if step is None or step.kind == "call" or step.other is not None:
            step = self._made[node] = _Step("affine", node, node, x)
        else:
            self._extend(step, node)
        step.affine.append(affine)

    def _addend(self, one: Any, two: Any) -> _Step | None:
        """The later of two summands, if the other can be added by the operator that computes it."""
        if not (isinstance(one, Node) and isinstance(two, Node)) or one is two or _shape(one) != _shape(two):
            return None
        order = list(self._made)
        for node in sorted((n for n in (one, two) if n in self._made), key=order.index, reverse=True):
            step = self._fusable(node)
            if step and step.other is None and step.kind != "call":
                return step
        return None

    def _is_linear(self, node: Node, name: str) -> bool:
        args, kwargs = self._args[node]
        bias, x, weight = args if name == "addmm" else (None, *args)
        return not kwargs and x not in self._reads and _weights((bias, weight), self._reads) and _dims(bias) <= 1

    def _is_affine(self, one: Any, two: Any) -> bool:
        """Whether one of two arguments is a number, or one number or a number for each channel out of the weights."""
        x, factor = (one, two) if isinstance(one, Node) and one not in self._reads else (two, one)
        if not isinstance(factor, Node):
            return isinstance(factor, float | int) and isinstance(x, Node) and _floats(x)
        if factor not in self._reads or not _floats(x) or not _floats(factor) or _dims(x) not in (2, 4):
            return False
        shape = (1,) * (_dims(x) - _dims(factor)) + _shape(factor)
        return (
            len(shape) == _dims(x)
            and all(size == 1 for i, size in enumerate(shape) if i != 1)
            and (shape[1] in (1, _shape(x)[1]))
        )

    def _nodes_of(self, step: _Step) -> Iterator[Node]:
        """Every node whose value a step takes, weights too."""
        args, kwargs = self._args[step.node]
        if step.kind == "affine":
            args, kwargs = (step.x,), {}
        affine = [value for _, values in step.affine for value in values]
        yield from _leaves((args, list(kwargs.values()), affine, step.other))

    def _values_of(self, step: _Step) -> list[Node]:
        return list(dict.fromkeys(node for node in self._nodes_of(step) if node not in self._reads))

    def _plan(self, names: frozenset[str]) -> list[tuple[_Step, list[Node]]]:
        """The steps that depend on these tensors, each with the values that are not needed after it."""
        if names not in self._plans:
            steps = [step for step in self._steps if not step.below.isdisjoint(names)]
            inside = {step.result for step in steps}
            last = {node: step.result for step in steps for node in self._values_of(step) if node in inside}
            self._plans[names] = [
                (step, [node for node, where in last.items() if where is step.result]) for step in steps
            ]
        return self._plans[names]

    # running it

    def _input(self, tensor: Tensor) -> Tensor:
        return channels_last(tensor.float()) if tensor.is_floating_point() else tensor

    def _weight(self, node: Any, changes: Params) -> Any:
        """A function of weights, with the changes; numbers as they are."""
        if not isinstance(node, Node):
            return node
        if node in self._source:
            return changes.get(self._source[node], self._base[self._source[node]])
        if not self._reads[node].isdisjoint(changes):
            return self._call(node, lambda source: self._weight(source, changes))
        if node not in self._constant:
            self._constant[node] = self._call(node, lambda source: self._weight(source, {}))
        return self._constant[node]

    def _call(self, node: Node, get: Callable[[Node], Any]) -> Any:
        """The operation of a node as it stands."""
        args, kwargs = self._args[node]
        args = [_filled(arg, get, self._count) for arg in args]
        if _name(node) in ("view", "_unsafe_view"):
            return args[0].reshape(args[1])
        return node.target(*args, **{key: _filled(value, get, self._count) for key, value in kwargs.items()})  # pyright: ignore

    def _run(self, step: _Step, own: Mapping[Node, Tensor], changes: Params, terms: Terms) -> Tensor:
        """The value of a step, out of the variant's own values and the base's."""
        activation = step.activation and _name(step.activation)
        relu = activation == "relu"

        def value(node: Node) -> Tensor:
            return own[node] if node in own else self._recorded(node)

        other = None if step.other is None else value(step.other)
        if step.kind == "call":
            y = self._call(step.node, lambda node: self._cast(node, changes) if node in self._reads else value(node))
            y = y[0] if isinstance(y, tuple) else y
            y = y.relu_() if relu else y
        elif step.kind == "affine":
            x = value(step.x)
            y = _rescaled(x, self._ready(step, None, changes, lambda: self._affine(step, changes, x.dim())))
            y = finish(x.clone() if y is x else y, None, other, relu)
        elif step.x not in own and self._rows is None and (parts := self._parts(step, changes, terms)):
            y = self._kept_sum(step, value(step.x), parts)
            scaled = _rescaled(y, self._affine(step, changes, y.dim()))
            y = finish(scaled.clone() if scaled is y and len(parts) == 1 else scaled, None, other, relu)
        else:
            y = self._operate(step, value(step.x), other, relu, changes)
        if step.activation is not None and not relu:
            args, kwargs = self._args[step.activation]
            y = step.activation.target(y, *args[1:], **kwargs)  # pyright: ignore[reportCallIssue]
        return y

    def _parts(self, step: _Step, changes: Params, terms: Terms) -> Terms:
        """What the operator alone is a weighted sum of, where that is cheaper: base weights if only what follows changed,
        or the terms of the change if it is of this operator alone."""
        changed = step.names.intersection(changes)
        if changed.isdisjoint(step.own):
            return ((1.0, {}),) if changed else ()
        plain = all(node is None or node in self._source for node in self._operands(step))
        return tuple(terms) if plain and set(changes) == step.own else ()

    def _kept_sum(self, step: _Step, x: Tensor, parts: Terms) -> Tensor:
        """The weighted sum of an operator's outputs for several weights; each is computed once a batch and layer."""
        if self._layer is not step:
            self._layer, self._outputs = step, {}
        total: Tensor | None = None
        for factor, params in parts:
            key = id(params) if params else 0
            if key not in self._outputs:
                if len(self._outputs) >= TERMS:
                    self._outputs.clear()
                self._outputs[key] = (params, self._operate(step, x, None, False, params, alone=True))
            y = self._outputs[key][1]
            if len(parts) == 1 and factor == 1:
                return y
            total = y * factor if total is None else total.add_(y, alpha=factor)
        assert total is not None
        return total

    def _cast(self, node: Any, changes: Params) -> Any:
        """Weights in the precision of the activations."""
        weight = self._weight(node, changes)
        return weight.to(self._dtype) if isinstance(weight, Tensor) and weight.is_floating_point() else weight

    def _ready(self, step: _Step, key: Any, changes: Params, make: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        """Folded weights, kept if they are the base's."""
        if not step.names.isdisjoint(changes):
            return make()
        if key not in step.ready:
            step.ready[key] = make()
        return step.ready[key]

    def _affine(self, step: _Step, changes: Params, dims: int = 1) -> tuple[Tensor | None, Tensor | None]:
        """Scale and shift of what follows a step, in its precision: each a number, or one for each channel."""
        scale, shift = self._exact_affine(step, changes)
        shape = (-1, *[1] * (dims - 2))
        return tuple(None if t is None else t.reshape(shape).to(self._dtype) for t in (scale, shift))  # pyright: ignore

    def _exact_affine(self, step: _Step, changes: Params) -> tuple[Tensor | None, Tensor | None]:
        """The same in float64."""
        scale: Tensor | None = None
        shift: Tensor | None = None
        for kind, nodes in step.affine:
            found = [self._weight(node, changes) for node in nodes]
            if kind == "bn":
                gain, offset, mean, variance = (None if t is None else t.double() for t in found[:4])
                factor = (variance + found[4]).rsqrt() * (1 if gain is None else gain)
                added = -(mean * factor) if offset is None else offset - mean * factor
            else:
                value = torch.as_tensor(found[0], dtype=torch.float64).flatten()
                factor, added = (value, None) if kind == "mul" else (None, value)
            if factor is not None:
                scale = factor if scale is None else scale * factor
                shift = None if shift is None else shift * factor
            if added is not None:
                shift = added if shift is None else shift + added
        return scale, shift

    def _operands(self, step: _Step) -> Sequence[Any]:
        """Weight and bias of a convolution [out, in, ...] or linear layer [in, out]."""
        args = self._args[step.node][0]
        return args[1:3] if step.kind == "conv" else (args[-1], args[0] if len(args) == 3 else None)

    def _folded(self, step: _Step, changes: Params) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with what follows the operator."""
        weight, bias = (self._weight(node, changes) for node in self._operands(step))
        scale, shift = self._exact_affine(step, changes)
        channels = 0 if step.kind == "conv" else 1
        if scale is not None:
            weight = weight * scale.to(weight.dtype).view(-1, *[1] * (weight.dim() - 1 - channels))
            bias = None if bias is None else bias * scale
        if shift is not None:
            bias = shift if bias is None else bias + shift
        bias = None if bias is None else bias.expand(weight.shape[channels]).to(self._dtype).contiguous()
        return weight.to(self._dtype), bias

    def _operate(
        self, step: _Step, x: Tensor, other: Tensor | None, relu: bool, changes: Params, alone: bool = False
    ) -> Tensor:
        """A convolution or linear layer with what follows it, or ``alone``."""
        fresh = alone or not step.names.isdisjoint(changes)
        room = self._room if fresh else x.new_empty
        x = channels_last(x)
        outputs = math.prod(_shape(step.node)[1:]) * len(x)
        if fresh and not alone and _shape(self._operands(step)[0]).numel() > outputs:  # scale the smaller of the two
            y = self._operate(step, x, None, False, changes, alone=True)
            return finish(_rescaled(y, self._affine(step, changes, y.dim())), None, other, relu)

        def weights() -> tuple[Tensor, Tensor | None]:
            if alone:
                weight, bias = (self._cast(node, changes) for node in self._operands(step))
                return weight, bias
            return self._folded(step, changes)

        if step.kind == "linear":
            weight, bias = weights() if fresh else self._ready(step, None, {}, weights)
            return product(x, weight.t(), bias, other, relu)
        args = self._args[step.node][0]
        stride, padding, dilation = map(tuple, args[3:6])
        geometry = Geometry(stride, padding, dilation, args[8], x.shape, _shape(args[1])[2:])

        def packed() -> tuple[Kernel, Tensor, Tensor | None]:
            weight, bias = weights()
            kernel = choose(geometry, x, weight, bias, other, relu, self._room)[fresh]
            known = None if fresh else next((tensor for k, tensor, _ in step.ready.values() if k is kernel), None)
            return kernel, kernel.pack(geometry, weight, room) if known is None else known, bias

        kernel, weight, bias = packed() if fresh else self._ready(step, len(x), {}, packed)
        return kernel.run(geometry, x, weight, bias, other, relu)

    def _room(self, numbers: int) -> Tensor:
        """Memory that is used again for the packed weights of each variant."""
        if self._scratch is None or len(self._scratch) < numbers:
            self._scratch = torch.empty(numbers, dtype=self._dtype, device=self._values[self._inputs[0]].device)
        return self._scratch[:numbers]


def _traced(
    replica: Replica, inputs: Inputs
) -> tuple[Graph, dict[Node, tuple[Sequence[Any], dict[str, Any]]], set[Node]]:
    """A functional graph of the network; the arguments of each node with multiples of the number of examples marked; and
    the nodes whose values have a row an example.

    It is traced for two numbers of examples: what differs must be in proportion to them.
    """
    counts = {len(tensor) for tensor in tensors_of(inputs).values() if tensor.dim()}
    if len(counts) != 1:
        raise Unsuitable("its inputs do not agree in the number of examples")
    count = max(2, *counts)
    one, two = (list(_graph(replica, inputs, number).nodes) for number in (count, count + 1))
    if [(node.op, node.target) for node in one] != [(node.op, node.target) for node in two]:
        raise Unsuitable("its graph depends on the number of examples")
    partner = dict(zip(two, one))
    args = {a: _merged((a.args, dict(a.kwargs)), (b.args, dict(b.kwargs)), count, partner) for a, b in zip(one, two)}
    return one[0].graph, args, {a for a, b in zip(one, two) if _rows(a) == count and _rows(b) == count + 1}


def _graph(replica: Replica, inputs: Inputs, count: int) -> Graph:
    """The network traced for a number of examples, without values."""
    mode = FakeTensorMode()
    fakes = [mode.from_tensor(tensor) for tensor in replica.base.values()]
    with mode:
        given = [t.new_empty((count, *t.shape[1:])) for t in map(mode.from_tensor, tensors_of(inputs).values())]

    def run(tensors: list[Tensor], examples: list[Tensor]) -> Tensor:
        following = iter(examples)
        put = dict(zip(replica.base, tensors, strict=True))
        with replica.changed(put):
            logits = logits_of(forward(replica.network, map_inputs(lambda _: next(following), inputs)))
            if any(table[key] is not put[name] for name, slots in replica.slots.items() for table, key in slots):
                raise Unsuitable("it writes its weights or buffers in evaluation mode")
            return logits

    before = [attributes_of(module) for module in replica.modules]
    try:
        with torch.no_grad():
            graph = make_fx(functionalize(run, remove="mutations"))(fakes, given).graph
    except Unsuitable:
        raise
    except Exception as error:  # any code may run in a forward pass
        raise Unsuitable(f"it cannot be traced ({type(error).__name__}: {str(error).splitlines()[:1]})") from error
    if not all(map(alike, before, map(attributes_of, replica.modules))):
        raise Unsuitable("its modules store things on themselves")
    for node in graph.nodes:
        if node.op == "get_attr":
            raise Unsuitable("it uses tensors that are neither parameters nor buffers")
        if getattr(getattr(node.target, "_schema", None), "is_mutable", False):
            raise Unsuitable(
                f"it writes its weights, buffers or inputs in evaluation mode, or its graph has {_name(node)}"
            )
    graph.eliminate_dead_code()
    return graph


def _merged(one: Any, two: Any, count: int, partner: Mapping[Node, Node]) -> Any:
    """Arguments of two graphs as one, with multiples of the number of examples marked."""
    if isinstance(one, Node) and isinstance(two, Node) and partner[two] is one:
        return one
    if isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        return [_merged(a, b, count, partner) for a, b in zip(one, two)]
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return {key: _merged(one[key], two[key], count, partner) for key in one}
    if type(one) is type(two) and one == two:
        return one
    if type(one) is int and type(two) is int and one % count == 0 and two == one // count * (count + 1):
        return _Batch(one // count)
    raise Unsuitable("its graph depends on the number of examples")


def _filled(arg: Any, get: Callable[[Node], Any], count: int) -> Any:
    """An argument with the values of nodes and the number of examples in it."""
    if isinstance(arg, Node):
        return get(arg)
    if isinstance(arg, _Batch):
        return arg.times * count
    return [_filled(item, get, count) for item in arg] if isinstance(arg, list) else arg


def _rescaled(x: Tensor, affine: tuple[Tensor | None, ...]) -> Tensor:
    """A tensor times a scale plus a shift; itself where there are none."""
    scale, shift = affine
    if scale is None:
        return x if shift is None else x + shift
    return x * scale if shift is None else torch.addcmul(shift, x, scale)


def _leaves(value: Any) -> Iterator[Node]:
    if isinstance(value, Node):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)


def _weights(args: Sequence[Any], reads: Mapping[Node, Any]) -> bool:
    """Whether these arguments are functions of weights, or not given."""
    return all(arg is None or arg in reads for arg in args)


def _name(node: Node) -> str:
    """The name of an operation, as in ``torch.ops.aten``."""
    return node.target._schema.name.removeprefix("aten::") if hasattr(node.target, "_schema") else str(node.target)  # pyright: ignore


def _shape(node: Node) -> torch.Size:
    return node.meta["val"].shape


def _rows(node: Node) -> int:
    """The size of the first dimension of a node's value; 0 where it has none."""
    shape = getattr(node.meta.get("val"), "shape", ())
    return shape[0] if shape else 0


def _dims(value: Node | Tensor | None) -> int:
    return 0 if value is None else value.dim() if isinstance(value, Tensor) else value.meta["val"].dim()


def _floats(node: Node) -> bool:
    return node.meta["val"].is_floating_point()


def _shapes(inputs: Inputs) -> list[tuple[Any, ...]]:
    """Names, shapes without the number of examples, and types of inputs."""
    return [(name, t.shape[1:], t.dtype, t.device) for name, t in tensors_of(inputs).items()]
