"""What a network computes behind a site, as a graph: for any number of rows, each an example's activation with units removed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from shaketable.engine.kernels import packed, product
from shaketable.engine.replica import Replica, Unsuitable
from shaketable.engine.tracing import draws, filled, has_multiple, traced
from shaketable.forward import Inputs, count_of, map_inputs, name_of, tensors_of
from shaketable.intervene import Site, with_mask
from shaketable.params import Params

PROBED = 64
"""Units whose reach is found out together."""
Values = Mapping[Node, Tensor]


class Suffix:
    """The graph of a network behind a site.

    ``base`` runs what is before the site, and keeps what is read behind it; ``run`` runs the rest, for rows that belong to some
    of the examples. ``linear`` is the one linear operator that takes in everything which depends on the site, where there
    is such a one and each of its inputs depends on one unit at most; None otherwise.

    Raises:
        Unsuitable: the network cannot be traced, or mixes examples.
    """

    def __init__(self, network: nn.Module, params: Params, site: Site, inputs: Inputs) -> None:
        self.site = site
        copy = Replica(network, params).network
        with with_mask(copy, site, inputs, product=True) as name:
            replica = Replica(copy, {})
            graph, self._args, by_example = traced(replica, inputs)
        nodes = list(graph.nodes)
        places = [node for node in nodes if node.op == "placeholder"]
        self._constant: dict[Node, Any] = dict(zip(places, replica.base.values(), strict=False))
        self._low: dict[Node, Any] = {}
        self._packed: dict[Node, tuple[Node, Tensor, Tensor] | None] = {}
        self._inputs = places[len(replica.base) :]
        mask = places[list(replica.base).index(name)]
        self._before: list[Node] = []
        self.behind: list[Node] = []
        reached = {mask}
        for node in nodes:
            if node.op == "output":
                self.output = node.all_input_nodes[0]
            elif node.op != "placeholder":
                self._sort(node, reached)
        (self.cut,) = [node for node in self.behind if mask in node.all_input_nodes]
        self.activation = next(node for node in self.cut.all_input_nodes if node is not mask)
        del self.behind[self.behind.index(self.cut)]
        self.kept = [
            node
            for node in dict.fromkeys(source for node in (*self.behind, self.cut) for source in node.all_input_nodes)
            if node not in reached and node not in self._constant
        ]
        if self.output not in reached or not (set(self.kept) <= by_example or self._goes_by_examples(inputs)):
            raise Unsuitable("what is behind the site does not go by examples")
        self._in_place = {node for node in self.behind if self._may_overwrite(node)}
        self.bytes = self.row_bytes([self.cut, *self.behind])
        self.linear = self._find_linear(inputs)

    def row_bytes(self, nodes: Sequence[Node]) -> int:
        """Memory of the values of some nodes, for one row."""
        return 4 * sum(map(_size, nodes)) // len(self.cut.meta["val"])

    def _sort(self, node: Node, reached: set[Node]) -> None:
        """Constant, before the site, or behind it."""
        if draws(node):
            raise Unsuitable(f"its graph has {name_of(node)}")
        args, kwargs = self._args[node]
        sources = node.all_input_nodes
        if not reached.isdisjoint(sources):
            reached.add(node)
            self.behind.append(node)
        elif all(source in self._constant for source in sources) and not has_multiple([*args, *kwargs.values()]):
            self._constant[node] = self._call(node, self._constant.__getitem__, 0)
        else:
            self._before.append(node)

    def base(self, inputs: Inputs) -> dict[Node, Tensor]:
        """The activation at the site, and what else is read behind it, of each example."""
        given = list(tensors_of(inputs).values())
        values: dict[Node, Any] = dict(zip(self._inputs, given, strict=True))
        last = {source: node for node in self._before for source in node.all_input_nodes}
        for node in self._before:
            values[node] = self._call(node, lambda source: self._value(source, values), len(given[0]))
            for source in node.all_input_nodes:
                if last[source] is node and source not in self.kept:
                    values.pop(source, None)
        return {node: values[node] for node in self.kept}

    def _goes_by_examples(self, inputs: Inputs) -> bool:
        """Whether what is kept has a row an example, in their order, as far as some examples without the first one show."""
        count = count_of(inputs)
        if count < 2:
            return False
        whole, rest = self.base(inputs), self.base(map_inputs(lambda tensor: tensor[1:], inputs))
        return all(
            value.dim() > 0
            and len(value) == count
            and value[1:].shape == rest[node].shape
            and torch.allclose(value[1:], rest[node], 1e-4, 1e-5)
            for node, value in whole.items()
        )

    def run(
        self,
        nodes: Sequence[Node],
        start: Values,
        base: Values,
        rows: Tensor | None,
        count: int,
        end: Node,
        rounded: bool = False,
    ) -> Tensor:
        """The value of ``end``, from the values of ``start``, for ``count`` rows that belong to the examples ``rows``.

        ``rounded``: in bfloat16, as far as operations have no type of their own.
        """
        values: dict[Node, Any] = {node: _rounded(value) if rounded else value for node, value in start.items()}

        def get(node: Node) -> Any:
            if node in values:
                return values[node]
            if node in self._constant:
                return self._rounded_constant(node) if rounded else self._constant[node]
            value = base[node] if rows is None else base[node][rows]
            return _rounded(value) if rounded else value

        last = {source: node for node in nodes for source in node.all_input_nodes}
        for node in nodes:
            linear = self._packed_product(node) if rounded else None
            source = node.all_input_nodes[0] if node in self._in_place else node
            if linear is not None:
                values[node] = product(get(linear[0]), *linear[1:], None, False)
            elif source is not node and values[source] is not start.get(source):
                values[node] = values[source].relu_()
            else:
                values[node] = self._call(node, get, count)
            for source in node.all_input_nodes:
                if last[source] is node and source is not end:
                    values.pop(source, None)
        return values[end]

    def logits(self, activation: Tensor, base: Values, rows: Tensor | None, rounded: bool = False) -> Tensor:
        """Logits [R, classes] of rows of activations [R, ...] that belong to the examples ``rows``."""
        return self.run(self.behind, {self.cut: activation}, base, rows, len(activation), self.output, rounded)

    def _packed_product(self, node: Node) -> tuple[Node, Tensor, Tensor] | None:
        """Of a linear layer with constant weights and bias its input, and both in bfloat16 as oneDNN wants them; None otherwise."""
        if node not in self._packed:
            self._packed[node] = None
            bias = self._args[node][0][0] if name_of(node) == "addmm" and self._is_linear(node) else None
            if bias is not None and self._constant[bias].dim() == 1:
                x, weight = self._args[node][0][1:]
                weight = self._constant[weight].t().contiguous().bfloat16()
                self._packed[node] = x, packed(weight), self._constant[bias].bfloat16()
        return self._packed[node]

    def _rounded_constant(self, node: Node) -> Any:
        if node not in self._low:
            self._low[node] = _rounded(self._constant[node])
        return self._low[node]

    def _value(self, node: Node, values: Mapping[Node, Any]) -> Any:
        return values[node] if node in values else self._constant[node]

    def _call(self, node: Node, get: Callable[[Node], Any], count: int) -> Any:
        args, kwargs = self._args[node]
        args = [filled(arg, get, count) for arg in args]
        if name_of(node) in ("view", "_unsafe_view"):
            return args[0].reshape(args[1])
        return node.target(*args, **{key: filled(value, get, count) for key, value in kwargs.items()})  # pyright: ignore

    def _find_linear(self, inputs: Inputs) -> "Linear | None":
        """The linear operator behind which all that depends on the site goes on."""
        region, ends, rest = {self.cut}, [], []
        for node in self.behind:
            sources = set(node.all_input_nodes)
            if self._is_linear(node) and sources & region and not sources & {*ends, *rest}:
                ends.append(node)
            elif sources & {*ends, *rest}:
                rest.append(node)
                if sources & region:
                    return None  # a part goes around the operator
            else:
                region.add(node)
        if len(ends) != 1 or self.output in region:
            return None
        (end,) = ends
        before = [node for node in self.behind if node in region]
        x = self._args[end][0][_PLACE[name_of(end)][0]]
        if x not in region:
            return None
        reach = self._reach(before, x, inputs, 1 if name_of(end) == "convolution" else -1)
        counts = reach.sum(1)
        if (reach.sum(0) > 1).any() or counts.unique().numel() != 1 or not counts[0]:
            return None
        return Linear(self, end, x, before, rest, reach.nonzero()[:, 1].view(self.site.units, -1))

    def _is_linear(self, node: Node) -> bool:
        """Whether it is a linear layer, or a two-dimensional convolution in one group, with constant weights."""
        name, args = name_of(node), self._args[node][0]
        if name not in _PLACE or self._args[node][1] or any(arg not in self._constant for arg in _weights(node, args)):
            return False
        return name != "convolution" or (not args[6] and args[8] == 1 and len(args[3]) == 2)

    def _may_overwrite(self, node: Node) -> bool:
        """Whether it is a ReLU of a product that nothing else reads."""
        source = node.all_input_nodes[0] if name_of(node) == "relu" else node
        return name_of(source) in PRODUCTS and source in self.behind and len(source.users) == 1 and node is not source

    def multiplies(self, nodes: Sequence[Node]) -> bool:
        """Whether there are products among some nodes, which bfloat16 may make faster."""
        return any(name_of(node) in PRODUCTS for node in nodes)

    def _reach(self, nodes: Sequence[Node], x: Node, inputs: Inputs, axis: int) -> Tensor:
        """Which inputs of the operator depend on which unit [units, features]: those that are NaN if the unit is."""
        base = {node: value[:1] for node, value in self.base(inputs).items()}
        found = []
        for units in torch.arange(self.site.units).split(PROBED):
            mask = torch.ones(len(units), self.site.units).scatter_(1, units[:, None], math.nan)
            a = base[self.activation]
            rows = torch.zeros(len(units), dtype=torch.int64, device=a.device)
            start = {self.cut: a * self.site.shaped(mask.to(a), a.dim())}
            value = self.run(nodes, start, base, rows, len(units), x) if nodes else start[self.cut]
            value = value.reshape(len(units), *([-1] if axis == -1 else []), *value.shape[1:])
            found.append(value.isnan().transpose(1, axis).flatten(2).any(2))
        return torch.cat(found)


@dataclass
class Linear:
    """A linear operator that takes in all that depends on a site: its output is a sum over units.

    ``before`` leads from the site to its input ``x``, ``rest`` from its output to the logits; ``features`` [units, k] are the
    inputs that depend on each unit.
    """

    suffix: Suffix
    node: Node
    x: Node
    before: list[Node]
    rest: list[Node]
    features: Tensor

    def __post_init__(self) -> None:
        args, constant = self.suffix._args[self.node][0], self.suffix._constant
        weight = constant[args[_PLACE[name_of(self.node)][1]]]
        self.geometry: dict[str, Any] = {}
        if name_of(self.node) == "convolution":
            self.geometry = dict(stride=args[3], padding=args[4], dilation=args[5], kernel_size=weight.shape[2:])
            weight = weight.permute(1, 2, 3, 0).flatten(1, 2)  # [in, taps, out]
        else:
            weight = weight.unsqueeze(1)
        self.features = self.features.to(weight.device)
        self.weight = weight[self.features].flatten(1, 2).contiguous()
        """[units, k taps, out]"""
        self.map = tuple(self.node.meta["val"].shape[2:]) if self.geometry else ()
        self.bytes = self.suffix.row_bytes([self.node, *self.rest])
        self.positions = _size(self.node) // self.weight.shape[2] // len(self.suffix.cut.meta["val"])
        self.is_last = not self.rest and self.positions == 1 and not self.geometry
        """Whether its output is the logits."""

    def state(self, base: Values) -> Tensor:
        """The operator's output [N, positions, out] with every unit removed."""
        y = self._of_nothing([*self.before, self.node], self.node, base)
        count = len(base[self.suffix.activation])
        return y.flatten(2).transpose(1, 2).contiguous() if self.geometry else y.reshape(count, -1, y.shape[-1])

    def terms(self, base: Values) -> Tensor:
        """What each unit adds to the operator's input [N, units, positions, k taps]: the output is a product with the weight."""
        a = base[self.suffix.activation]
        there = self.suffix.run(self.before, {self.suffix.cut: a}, base, None, len(a), self.x)
        z = there - self._of_nothing(self.before, self.x, base)
        if not self.geometry:
            return z.reshape(len(a), -1, z.shape[-1])[:, :, self.features].transpose(1, 2)
        patches = F.unfold(z, **self.geometry).unflatten(1, (z.shape[1], -1))  # [N, in, taps, positions]
        return patches[:, self.features].flatten(2, 3).transpose(2, 3)

    def _of_nothing(self, nodes: Sequence[Node], end: Node, base: Values) -> Tensor:
        """The value of ``end`` with every unit removed: computed once where it is the same for all examples."""
        inside = {self.suffix.cut, *nodes, *self.suffix._constant}
        alike = all(source in inside for node in nodes for source in node.all_input_nodes)
        a = base[self.suffix.activation]
        nothing = torch.zeros_like(a[:1] if alike else a)
        found = self.suffix.run(nodes, {self.suffix.cut: nothing}, base, None, len(nothing), end)
        return found.repeat(len(a) // len(nothing), *[1] * (found.dim() - 1))

    def summed(self, terms: Tensor) -> Tensor:
        """What units add to the operator's output [N, positions, out], all together."""
        return torch.einsum("nupk,uko->npo", terms, self.weight)

    def logits(self, state: Tensor, base: Values, rows: Tensor | None, rounded: bool = False) -> Tensor:
        """Logits of rows of the operator's output [R, positions, out]."""
        y = state.unflatten(1, self.map).movedim(-1, 1) if self.geometry else state.flatten(0, 1)
        return self.suffix.run(self.rest, {self.node: y}, base, rows, len(state), self.suffix.output, rounded)


PRODUCTS = {"convolution", "addmm", "mm", "bmm", "baddbmm"}
_PLACE = {"convolution": (0, 1), "addmm": (1, 2), "mm": (0, 1)}
"""By linear operation: where its input and its weight are among the arguments."""


def _weights(node: Node, args: Sequence[Any]) -> list[Any]:
    """The arguments that must be constant: weight, and bias if there is one."""
    name = name_of(node)
    found = args[1:3] if name == "convolution" else (args[0], args[2]) if name == "addmm" else args[1:2]
    return [arg for arg in found if arg is not None]


def _rounded(value: Any) -> Any:
    """The same in bfloat16, if it is a tensor of float32."""
    return value.bfloat16() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def _size(node: Node) -> int:
    """Numbers that a node's value holds."""
    value = node.meta.get("val")
    tensors = value if isinstance(value, tuple | list) else (value,)
    return sum(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor))
