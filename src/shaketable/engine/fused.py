"""Fused: the network as a graph; a variant runs only what depends on its change, several operations in one operator."""

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from shaketable.engine.kernels import Geometry, Kernel, channels_last, choose, finish, product
from shaketable.engine.replay import TERMS, halved
from shaketable.engine.replica import Replica, Unsuitable
from shaketable.engine.steps import Program, Step, shape_of
from shaketable.engine.tracing import filled
from shaketable.forward import Inputs, name_of, tensors_of
from shaketable.params import Params

Terms = Sequence[tuple[float, Params]]


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
        self._program = Program(self.replica, inputs)
        self._constant: dict[Node, Tensor] = {}
        self._begin()

    def _begin(self) -> None:
        """Nothing is packed or recorded yet."""
        self._packed: dict[Node, dict[Any, tuple[Any, ...]]] = {step.result: {} for step in self._program.steps}
        self._scratch: Tensor | None = None
        self.clear()

    @property
    def plain(self) -> bool:
        """Whether all that it runs is the network's own operations."""
        return self._program.plain and self._exact is self

    @property
    def picks(self) -> bool:
        """Whether some rows of what is recorded are those of some examples."""
        return self._program.picks

    def rounded(self) -> "Fused":
        """The same graph in bfloat16, for the same batches: it starts from this one's recorded pass, rounded.

        So a variant's logits are off by what the operations behind its change round, and by no others.
        """
        low = copy.copy(self)
        low._dtype, low._exact = torch.bfloat16, self
        low._begin()
        return low

    def rebased(self, changes: Params, exact: "Fused | None" = None) -> "Fused":
        """The same graph with another base, which differs in ``changes``: what is folded and packed of other weights is shared.

        ``exact`` is that of a :meth:`rounded` one.
        """
        new = copy.copy(self)
        new._exact, new._base = exact or new, {**self._base, **changes}
        new._constant = {n: t for n, t in self._constant.items() if self._program.reads[n].isdisjoint(changes)}
        new._packed = {
            step.result: self._packed[step.result] if step.names.isdisjoint(changes) else {}
            for step in self._program.steps
        }
        new._scratch = None
        new.clear()
        return new

    def base(self, inputs: Inputs) -> Tensor:
        """Logits of the base network on a batch, with what its variants need kept.

        Raises:
            Unsuitable: the inputs differ from those it was made for in more than their number.
        """
        self.clear()
        if self._exact is not self:
            if self._exact._of is not inputs:
                self._exact.base(inputs)
            self._count = self._exact._count
            return self._recorded(self._program.output).float()
        self._values = self._through(inputs, {}, self._program.kept)
        self._of = inputs
        return self._values[self._program.output].float()

    def whole(self, changes: Params, inputs: Inputs) -> Tensor:
        """Logits of a variant on any inputs, by running all of the network: nothing is recorded, and nothing recorded is used.

        Raises:
            Unsuitable: as :meth:`base`.
        """
        count = self._count
        try:
            return self._through(inputs, changes, {self._program.output})[self._program.output].float()
        finally:
            self._count = count  # of the recorded pass

    def uses_base(self, names: frozenset[str]) -> bool:
        """Whether a change of these tensors leaves anything of the recorded pass as it is."""
        return len(self._program.plan(names)) < len(self._program.steps)

    def _through(self, inputs: Inputs, changes: Params, kept: Collection[Node]) -> dict[Node, Tensor]:
        """The values of all steps in their order, those that are ``kept``."""
        if _shapes(inputs) != self._shapes:
            raise Unsuitable("its inputs have several shapes")
        given = [self._input(tensor) for tensor in tensors_of(inputs).values()]
        values = dict(zip(self._program.inputs, given, strict=True))
        self._count = len(given[0])
        for step in self._program.steps:
            values[step.result] = self._run(step, values, changes, ())
            for node in self._program.last[step.result]:
                if node not in kept:
                    del values[node]
        return values

    def logits(self, changes: Params, terms: Terms = (), overwrite: bool = False) -> Tensor:
        """Logits of the base network with some tensors changed, on all examples of the batch.

        With ``overwrite`` they may stand where those of the last such call stood: new memory costs a tenth of the product that
        gives the logits of a large vocabulary.
        With ``terms`` the changes are their weighted sum; where the changed layer is one linear operator whose input is
        the base's, its output is the same weighted sum of its outputs for each term, computed once a batch.
        """
        values: dict[Node, Tensor] = {}
        self._overwrites = overwrite
        try:
            for step, free in self._program.plan(frozenset(changes)):
                values[step.result] = self._run(step, values, changes, terms)
                for node in free:
                    del values[node]
        finally:
            self._overwrites = False
        return (
            values[self._program.output] if self._program.output in values else self._recorded(self._program.output)
        ).float()

    def picked(self, several: Sequence[tuple[Params, Tensor]]) -> list[Tensor]:
        """Logits of several variants of the same tensors, each on some rows of the batch; where the graph ``picks``.

        What reads the changed tensors runs once for each variant, all that follows once for all of them.
        """
        assert self.picks
        values: dict[Node, Tensor] = {}
        sizes, whole, names = [len(rows) for _, rows in several], self._count, frozenset(several[0][0])
        everything = torch.cat([rows for _, rows in several])
        try:
            for step, free in self._program.plan(names):
                if step.names.isdisjoint(names):
                    self._count, self._rows = len(everything), everything
                    values[step.result] = self._run(step, values, {}, ())
                else:
                    used = [node for node in self._program.values_of(step) if node in values]
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
            logits = (
                values[self._program.output] if self._program.output in values else self._recorded(self._program.output)
            )
            return list(logits.float().split(sizes))
        finally:
            self._count, self._rows = whole, None

    def _recorded(self, node: Node) -> Tensor:
        """The base's value, of the rows that are asked for."""
        if node not in self._values:  # of a graph in bfloat16
            self._values[node] = halved(self._exact._values[node])
        value = self._values[node]
        return value if self._rows is None else value[self._rows]

    def clear(self) -> None:
        """Let go of what was recorded."""
        self._of: Inputs | None = None
        self._values: dict[Node, Tensor] = {}
        self._count, self._rows = 0, None
        self._layer: Step | None = None
        self._outputs: dict[int, tuple[Params, Tensor]] = {}
        self._written: Tensor | None = None
        self._overwrites = False

    def recorded_bytes(self) -> int:
        """Memory that the recorded pass holds beside the weights and the inputs."""
        held = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in self._values.values()}
        return sum(held.values())

    def _input(self, tensor: Tensor) -> Tensor:
        return channels_last(tensor.to(self._dtype)) if tensor.is_floating_point() else tensor

    def _weight(self, node: Any, changes: Params) -> Any:
        """A function of weights, with the changes; numbers as they are."""
        if not isinstance(node, Node):
            return node
        if node in self._program.source:
            return changes.get(self._program.source[node], self._base[self._program.source[node]])
        if not self._program.reads[node].isdisjoint(changes):
            return self._call(node, lambda source: self._weight(source, changes))
        if node not in self._constant:
            self._constant[node] = self._call(node, lambda source: self._weight(source, {}))
        return self._constant[node]

    def _call(self, node: Node, get: Callable[[Node], Any]) -> Any:
        """The operation of a node as it stands."""
        args, kwargs = self._program.args[node]
        args = [filled(arg, get, self._count) for arg in args]
        if name_of(node) in ("view", "_unsafe_view"):
            return args[0].reshape(args[1])
        return node.target(*args, **{key: filled(value, get, self._count) for key, value in kwargs.items()})  # pyright: ignore

    def _run(self, step: Step, own: Mapping[Node, Tensor], changes: Params, terms: Terms) -> Tensor:
        """The value of a step, out of the variant's own values and the base's."""
        activation = step.activation and name_of(step.activation)
        relu = activation == "relu"

        def value(node: Node) -> Tensor:
            return own[node] if node in own else self._recorded(node)

        other = None if step.other is None else value(step.other)
        if step.kind == "call":
            y = self._call(
                step.node, lambda node: self._cast(node, changes) if node in self._program.reads else value(node)
            )
            y = y[0] if isinstance(y, tuple) else y
            y = y.to(self._dtype) if y.dtype == torch.float32 else y  # made so, or converted
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
            args, kwargs = self._program.args[step.activation]
            y = step.activation.target(y, *args[1:], **kwargs)  # pyright: ignore[reportCallIssue]
        return y

    def _parts(self, step: Step, changes: Params, terms: Terms) -> Terms:
        """What the operator alone is a weighted sum of, where that is cheaper: base weights if only what follows changed,
        or the terms of the change if it is of this operator alone."""
        changed = step.names.intersection(changes)
        if changed.isdisjoint(step.own):
            return ((1.0, {}),) if changed else ()
        plain = all(node is None or node in self._program.source for node in self._program.operands(step))
        return tuple(terms) if plain and set(changes) == step.own else ()

    def _kept_sum(self, step: Step, x: Tensor, parts: Terms) -> Tensor:
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
        return weight.to(self._dtype) if isinstance(weight, Tensor) and weight.dtype == torch.float32 else weight

    def _ready(self, step: Step, key: Any, changes: Params, make: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        """Folded weights, kept if they are the base's."""
        if not step.names.isdisjoint(changes):
            return make()
        packed = self._packed[step.result]
        if key not in packed:
            packed[key] = make()
        return packed[key]

    def _affine(self, step: Step, changes: Params, dims: int = 1) -> tuple[Tensor | None, Tensor | None]:
        """Scale and shift of what follows a step, in its precision: each a number, or one for each channel."""
        scale, shift = self._exact_affine(step, changes)
        shape = (-1, *[1] * (dims - 2))
        return tuple(None if t is None else t.reshape(shape).to(self._dtype) for t in (scale, shift))  # pyright: ignore

    def _exact_affine(self, step: Step, changes: Params) -> tuple[Tensor | None, Tensor | None]:
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

    def _folded(self, step: Step, changes: Params) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with what follows the operator."""
        weight, bias = (self._weight(node, changes) for node in self._program.operands(step))
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
        self, step: Step, x: Tensor, other: Tensor | None, relu: bool, changes: Params, alone: bool = False
    ) -> Tensor:
        """A convolution or linear layer with what follows it, or ``alone``."""
        fresh = alone or not step.names.isdisjoint(changes)
        room = self._room if fresh else x.new_empty
        x = channels_last(x)
        outputs = math.prod(shape_of(step.node)[1:]) * len(x)
        if (
            fresh and not alone and shape_of(self._program.operands(step)[0]).numel() > outputs
        ):  # scale the smaller of the two
            y = self._operate(step, x, None, False, changes, alone=True)
            return finish(_rescaled(y, self._affine(step, changes, y.dim())), None, other, relu)

        def weights() -> tuple[Tensor, Tensor | None]:
            if alone:
                weight, bias = (self._cast(node, changes) for node in self._program.operands(step))
                return weight, bias
            return self._folded(step, changes)

        if step.kind == "linear":
            weight, bias = weights() if fresh else self._ready(step, None, {}, weights)
            out = None
            if self._overwrites and step is self._program.head and not alone:
                shape = len(x), weight.shape[1]
                if self._written is None or self._written.shape != shape:
                    self._written = x.new_empty(shape)
                out = self._written
            return product(x, weight.t(), bias, other, relu, out)
        args = self._program.args[step.node][0]
        stride, padding, dilation = map(tuple, args[3:6])
        geometry = Geometry(stride, padding, dilation, args[8], x.shape, shape_of(args[1])[2:])

        def packed() -> tuple[Kernel, Tensor, Tensor | None]:
            weight, bias = weights()
            kernel = choose(geometry, x, weight, bias, other, relu, self._room)[fresh]
            known = (
                None
                if fresh
                else next((tensor for k, tensor, _ in self._packed[step.result].values() if k is kernel), None)
            )
            return kernel, kernel.pack(geometry, weight, room) if known is None else known, bias

        kernel, weight, bias = packed() if fresh else self._ready(step, len(x), {}, packed)
        return kernel.run(geometry, x, weight, bias, other, relu)

    def _room(self, numbers: int) -> Tensor:
        """Memory that is used again for the packed weights of each variant."""
        if self._scratch is None or len(self._scratch) < numbers:
            self._scratch = torch.empty(numbers, dtype=self._dtype, device=next(iter(self._base.values())).device)
        return self._scratch[:numbers]


def _rescaled(x: Tensor, affine: tuple[Tensor | None, ...]) -> Tensor:
    """A tensor times a scale plus a shift; itself where there are none."""
    scale, shift = affine
    if scale is None:
        return x if shift is None else x + shift
    return x * scale if shift is None else torch.addcmul(shift, x, scale)


def _shapes(inputs: Inputs) -> list[tuple[Any, ...]]:
    """Names, shapes without the number of examples, and types of inputs."""
    return [(name, t.shape[1:], t.dtype, t.device) for name, t in tensors_of(inputs).items()]
