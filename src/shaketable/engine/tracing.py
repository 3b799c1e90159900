"""A network as a functional graph, for any number of examples."""

import logging
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx

from shaketable.engine.replica import Replica, Unsuitable
from shaketable.engine.values import alike, attributes_of
from shaketable.forward import Inputs, forward, logits_of, map_inputs, name_of, tensors_of

NUMBERS = {"BoolType", "IntType", "FloatType", "NumberType"}
"""What operations give to Python instead of tensors: traced, it means nothing."""
LOG = logging.getLogger("torch._subclasses.fake_tensor")
UNIFORM = re.compile("expand|repeat|(new_)?(zeros|ones|full|empty)")
"""Operations that make the same row for each example, out of none of them."""


@dataclass(frozen=True)
class Multiple:
    """A number in the graph that is a multiple of the number of examples."""

    times: int


def traced(
    replica: Replica, inputs: Inputs
) -> tuple[Graph, dict[Node, tuple[Sequence[Any], dict[str, Any]]], set[Node]]:
    """A functional graph of the network; the arguments of each node with multiples of the number of examples marked; and
    the nodes whose values have a row an example, in the examples' order: so has all that they are computed from, but weights
    and tensors that the network makes itself, the same for every example.

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
    places = [node for node in one if node.op == "placeholder"]
    fixed, by_example = set(places[: len(replica.base)]), set(places[len(replica.base) :])
    for a, b in zip(one[len(places) :], two[len(places) :]):
        sources, rows = set(a.all_input_nodes), (_rows(a), _rows(b))
        if sources <= fixed and not has_multiple([*args[a][0], *args[a][1].values()]):
            fixed.add(a)  # a function of weights, or made from nothing
        elif sources <= fixed:
            if rows == (count, count + 1) and UNIFORM.fullmatch(name_of(a)):
                by_example.add(a)
        elif sources <= fixed | by_example and not _squeezes(a) and rows == (count, count + 1):
            by_example.add(a)
    return one[0].graph, args, by_example


def _graph(replica: Replica, inputs: Inputs, count: int) -> Graph:
    """The network traced for a number of examples, without values."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # found in the graph below, and refused
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

    before, speaks = [attributes_of(module) for module in replica.modules], LOG.disabled
    LOG.disabled = True  # it prints what it raises
    try:
        with mode, torch.no_grad():  # what the network makes itself has no values either
            graph = make_fx(functionalize(run, remove="mutations"))(fakes, given).graph
    except Unsuitable:
        raise
    except Exception as error:  # any code may run in a forward pass
        raise Unsuitable(f"it cannot be traced ({type(error).__name__}: {str(error).splitlines()[:1]})") from error
    finally:
        LOG.disabled = speaks
    if not all(map(alike, before, map(attributes_of, replica.modules))):
        raise Unsuitable("its modules store things on themselves")
    for node in list(graph.nodes):
        if node.op == "get_attr" and not _emptied(node):
            raise Unsuitable("it uses tensors that are neither parameters nor buffers")
        if node.target is operator.getitem:
            _select(node)
        schema = getattr(node.target, "_schema", None)
        if any(result.type.kind() in NUMBERS for result in getattr(schema, "returns", ())):
            raise Unsuitable(f"its code looks at values ({name_of(node)})")
        if getattr(schema, "is_mutable", False):
            raise Unsuitable(
                f"it writes its weights, buffers or inputs in evaluation mode, or its graph has {name_of(node)}"
            )
    graph.eliminate_dead_code()
    return graph


def _emptied(node: Node) -> bool:
    """Whether it is a tensor without numbers, as caches start with; then the graph makes it itself. Numbers may have come by NumPy."""
    found = getattr(node.graph.owning_module, str(node.target))
    if not isinstance(found, Tensor) or found.numel():
        return False
    with node.graph.inserting_before(node):
        made = node.graph.call_function(torch.ops.aten.zeros.default, (list(found.shape),), {"dtype": found.dtype})
    _replace(node, made, found)
    return True


def _select(node: Node) -> None:
    """Take one of several views by itself, where it is one: then no operation is left that gives several."""
    source, index = node.args
    assert isinstance(source, Node)
    assert isinstance(index, int)
    name, (x, *rest) = name_of(source), source.args
    with node.graph.inserting_before(node):
        if name == "unbind":
            made = node.graph.call_function(torch.ops.aten.select.int, (x, rest[0] if rest else 0, index))
        elif name in ("split", "split_with_sizes"):
            dim = rest[1] if len(rest) > 1 else 0
            sizes = [value.shape[dim] for value in source.meta["val"]]
            ends = (sum(sizes[:index]), sum(sizes[: index + 1]))
            made = node.graph.call_function(torch.ops.aten.slice.Tensor, (x, dim, *ends))
        else:
            return
    _replace(node, made, node.meta["val"])


def _replace(node: Node, made: Node, value: Tensor) -> None:
    """Put another node, with this value, into the place of one."""
    made.meta = {**node.meta, "val": value}
    node.replace_all_uses_with(made)
    node.graph.erase_node(node)


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
        return Multiple(one // count)
    raise Unsuitable("its graph depends on the number of examples")


def has_multiple(arg: Any) -> bool:
    """Whether the number of examples stands in an argument."""
    return isinstance(arg, Multiple) or (isinstance(arg, list) and any(map(has_multiple, arg)))


def filled(arg: Any, get: Callable[[Node], Any], count: int) -> Any:
    """An argument with the values of nodes and the number of examples in it."""
    if isinstance(arg, Node):
        return get(arg)
    if isinstance(arg, Multiple):
        return arg.times * count
    return [filled(item, get, count) for item in arg] if isinstance(arg, list) else arg


def draws(node: Node) -> bool:
    """Whether an operation draws random numbers; attention does where some of its weights are dropped alone."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    places = [argument.name for argument in node.target._schema.arguments]  # pyright: ignore
    given = {**dict(zip(places, node.args)), **node.kwargs}
    return "dropout_p" not in places or bool(given.get("dropout_p"))


def _squeezes(node: Node) -> bool:
    """Whether it takes every dimension of size one away: of a single example, that of the examples too."""
    return name_of(node) == "squeeze" and len(node.args) == 1


def _rows(node: Node) -> int:
    """The size of the first dimension of a node's value (of several, the first one); 0 where it has none."""
    value = node.meta.get("val")
    shape = getattr(value[0] if isinstance(value, tuple | list) and value else value, "shape", ())
    return shape[0] if shape else 0
