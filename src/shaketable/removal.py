"""Dropping residual blocks: what makes a block the identity, and a network without it."""

import copy
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shaketable.errors import InputError
from shaketable.forward import Inputs, evaluation_mode, exchanged, forward, map_inputs, slots
from shaketable.identity import generator_from
from shaketable.params import Params, state


class Removal(NamedTuple):
    """What drops a block: the tensors of it that are zero then, by name; or why it cannot be dropped."""

    tensors: dict[str, Tensor] | None
    reason: str | None = None


class Dropped(nn.Identity):
    """The identity in a block's place: gives back the first of what it is called with, as the block did."""

    def __init__(self, in_tuple: bool = False) -> None:
        super().__init__()
        self.in_tuple = in_tuple

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        inputs = _first((*args, *kwargs.values()))
        return (inputs,) if self.in_tuple else inputs


class _Call(NamedTuple):
    """One call of a block on the example inputs."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


def without(network: nn.Module, names: Iterable[str] | str, inputs: Inputs) -> nn.Module:
    """A copy of a network from which residual blocks are dropped: the identity stands in their place.

    Nothing is retrained, and the network itself is left as it is. Only a block whose shortcut is the identity can be dropped:
    see :func:`removals`. The copy has no parameters of these blocks: training it is the last column of the paper's table 1.

    Args:
        network: any module.
        names: the blocks, as ``layers(network, by="block")`` names them: paths of modules.
        inputs: a few examples [N, ...].

    Returns: the copy, in the modes that the network is in. Without all blocks but the first of each stage a ResNet-50, 101
        and 152 are one network.

    Raises:
        InputError: an unknown name, no name, a name twice, a down-sampling block (shapes would not fit), a block whose
            shortcut is no identity, or one that the network asks for more than its output (the first layer of
            ``nn.TransformerEncoder``; in joint robustness it can be dropped).

    Cost: a copy of the network, two forward passes, and some passes through the blocks named.

    Example:
        >>> from shaketable.networks import build
        >>> network = build("resnet18", (3, 8, 8), 10, width=0.0625)
        >>> smaller = without(network, ["stage1.resblk2", "stage4.resblk2"], torch.zeros(2, 3, 8, 8))
        >>> type(smaller.stage1.resblk2).__name__, smaller(torch.zeros(2, 3, 8, 8)).shape
        ('Dropped', torch.Size([2, 10]))

    References: Zhang, Bengio, Singer, "Are All Layers Created Equal?", JMLR 2022, section 4 and table 1; Veit, Wilber,
    Belongie, "Residual networks behave like ensembles of relatively shallow networks", 2016.
    """
    chosen = [names] if isinstance(names, str) else list(names)
    if not chosen:
        raise InputError("no block was named to remove; name at least one.")
    if len(set(chosen)) < len(chosen):
        twice = next(name for name in chosen if chosen.count(name) > 1)
        raise InputError(f"block {twice!r} is named twice; a block can be removed once.")
    calls = _calls(network, chosen, inputs, state(network))
    for name, found in removals(network, chosen, inputs).items():
        if found.reason:
            raise InputError(f"{name!r} cannot be removed: {found.reason}.")
    copied = copy.deepcopy(network)
    for name in chosen:
        block, dropped = copied.get_submodule(name), Dropped(isinstance(calls[name][0].output, tuple | list))
        for module in list(copied.modules()):  # a module may stand in several places
            for key, child in list(module._modules.items()):
                if child is block:
                    module._modules[key] = dropped
    try:
        with evaluation_mode(copied), torch.no_grad():
            forward(copied, map_inputs(torch.clone, inputs), {})
    except AttributeError as error:
        raise InputError(
            f"{', '.join(chosen)} cannot be removed: the network asks its blocks for more than their outputs ({error})."
        ) from error
    return copied


def removals(
    network: nn.Module, names: Iterable[str], inputs: Inputs, params: Params | None = None
) -> dict[str, Removal]:
    r"""What makes each block the identity: tensors that are set to zero, so that dropping it is a change of params.

    .. math:: x + F_\theta(x) \to x \qquad\text{or}\qquad \operatorname{relu}(x + F_\theta(x)) \to x \text{ for } x \ge 0

    Found by trying: with all parameters of the block at zero (and running means, for a normalisation without scale) its
    output on the example inputs must be its input, bit for bit; then each tensor, first to last, gets its own values back
    where the output stays the input, on the examples and beyond them (with noise once and a hundred times as wide as they are).
    What is left is the last operator, or its normalisation, of each branch.

    Args:
        network: any module; left as it is.
        names: paths of modules, such as residual blocks.
        inputs: a few examples [N, ...].
        params: the weights with which the network runs; its own without them.

    Returns: for each name a :class:`Removal`: ``tensors`` (all zero, of the shapes, types and devices in ``params``; none where the
        block is the identity as it is), or the ``reason``: shapes that do not fit without it, a shortcut that is no identity,
        weights that it shares with others, a block that is not run, or gives no tensor.

    Raises:
        InputError: a name that no module has.

    Cost: one forward pass, and one pass through each block for each of its tensors.

    Example:
        >>> from shaketable.networks import build
        >>> network = build("resnet18-v2-bn", (3, 8, 8), 10, width=0.0625)
        >>> found = removals(network, ["stage2.resblk1", "stage2.resblk2"], torch.randn(2, 3, 8, 8))
        >>> found["stage2.resblk1"].reason
        'it makes [8, 4, 4] of [4, 8, 8], so that shapes do not fit without it'
        >>> list(found["stage2.resblk2"].tensors)
        ['stage2.resblk2.conv2.weight']
    """
    weights = {**state(network), **(params or {})}
    chosen = list(names)
    calls = _calls(network, chosen, inputs, weights)
    places = slots(network)
    with evaluation_mode(network), torch.no_grad(), exchanged(places, weights):
        return {name: _removal(network, name, calls[name], places, weights) for name in chosen}


def _calls(network: nn.Module, names: list[str], inputs: Inputs, weights: Params) -> dict[str, list[_Call]]:
    """Every call of each block in one forward pass."""
    modules = dict(network.named_modules(remove_duplicate=False))
    for name in names:
        if not name or name not in modules:
            near = get_close_matches(str(name), [path for path in modules if path], 3)
            hint = f"; near names: {', '.join(near)}" if near else ""
            raise InputError(f"the network has no block {name!r}{hint}.")
    calls: dict[str, list[_Call]] = {name: [] for name in names}
    given: dict[str, list[tuple[Any, Any]]] = {name: [] for name in names}
    handles = []

    def watch(name: str) -> None:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            given[name].append(_copied((args, kwargs)))  # the block may write into its inputs

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls[name].append(_Call(*given[name].pop(), _copied(output)))

        handles.append(modules[name].register_forward_pre_hook(before, with_kwargs=True))
        handles.append(modules[name].register_forward_hook(after, with_kwargs=True))

    try:
        for name in dict.fromkeys(names):
            watch(name)
        with evaluation_mode(network), torch.no_grad():
            forward(network, map_inputs(torch.clone, inputs), weights)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _removal(network: nn.Module, name: str, calls: list[_Call], places: Mapping[str, Any], weights: Params) -> Removal:
    """What makes one block the identity on its calls."""
    if not calls:
        return Removal(None, "it is not run on the example inputs")
    for call in calls:
        inputs, output = _first((*call.args, *call.kwargs.values())), _output(call.output)
        if inputs is None or output is None:
            return Removal(None, "its input or its output is no tensor, or more than one")
        if inputs.shape != output.shape:
            sizes = f"{list(output.shape[1:])} of {list(inputs.shape[1:])}"
            return Removal(None, f"it makes {sizes}, so that shapes do not fit without it")
    block = network.get_submodule(name)
    zero = {
        tensor: torch.zeros_like(weights[tensor])
        for tensor in _own_tensors(network, block, places)
        if tensor in weights
    }
    varied = [*calls, *(_noisy(call, scale) for call in calls for scale in (1, 100))]
    if not _is_identity(block, varied, places, zero):
        own = sum(not tensor.endswith("running_mean") for tensor in zero)
        if own < sum(1 for _ in block.parameters()):
            return Removal(None, "it shares weights with modules outside of it, so that it cannot be zeroed alone")
        return Removal(None, "its shortcut is no identity: with its branch at zero its output is not its input")
    # running means first: a scale or an operator at zero makes them needless
    for last in sorted(zero, key=lambda tensor: not tensor.endswith("running_mean")):
        fewer = {tensor: zeros for tensor, zeros in zero.items() if tensor != last}
        if _is_identity(block, varied, places, fewer):
            zero = fewer
    return Removal(zero)


def _own_tensors(network: nn.Module, block: nn.Module, places: Mapping[str, Any]) -> list[str]:
    """Parameters and running means of a block that stand nowhere else: no module outside shares them."""
    every = dict(network.named_modules(remove_duplicate=False))
    paths = tuple(f"{path}." for path, module in every.items() if module is block)
    outside = [module for path, module in every.items() if not f"{path}.".startswith(paths)]
    shared = {id(table) for module in outside for table in (module._parameters, module._buffers)}
    tables = {id(table) for module in block.modules() for table in (module._parameters, module._buffers)} - shared
    trained = {name for name, _ in network.named_parameters()}
    names = [name for name in places if name in trained or name.endswith("running_mean")]
    return [name for name in names if all(id(table) in tables for table, _ in places[name])]


def _is_identity(block: nn.Module, calls: list[_Call], places: Mapping[str, Any], zero: Params) -> bool:
    """Whether the output of each call is its first input, bit for bit."""
    with exchanged(places, zero):
        for call in calls:
            inputs = _first((*call.args, *call.kwargs.values()))
            args, kwargs = _copied((call.args, call.kwargs))
            output = _output(block(*args, **kwargs))
            if inputs is None or output is None or output.dtype != inputs.dtype or not torch.equal(output, inputs):
                return False
    return True


def _noisy(call: _Call, scale: float) -> _Call:
    """The call with an input that no silent unit can hide behind; not negative where the examples' are not."""
    inputs = _first((*call.args, *call.kwargs.values()))
    if inputs is None or not inputs.is_floating_point():
        return call
    noise = torch.randn(inputs.shape, generator=generator_from(0, "beyond the examples")).to(inputs)
    noise = noise * scale * (inputs.float().std(correction=0).to(inputs) + 1)
    other = inputs + (noise if bool((inputs < 0).any()) else noise.abs())

    def exchange(value: Any) -> Any:
        return other if value is inputs else value

    return _Call(tuple(map(exchange, call.args)), {k: exchange(v) for k, v in call.kwargs.items()}, call.output)


def _first(values: Iterable[Any]) -> Tensor | None:
    """The first tensor."""
    return next((value for value in values if isinstance(value, Tensor)), None)


def _output(output: Any) -> Tensor | None:
    """The tensor that a block gives: alone, or as a tuple of one."""
    if isinstance(output, tuple | list) and len(output) == 1:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def _copied(value: Any) -> Any:
    """The same with tensors copied, and with all that a block may write into, such as a cache of keys and values."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (tuple, list):
        return type(value)(map(_copied, value))
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    try:
        return value if isinstance(value, nn.Module) else copy.deepcopy(value)
    except (TypeError, RuntimeError, copy.Error):  # what cannot be copied is shared
        return value
