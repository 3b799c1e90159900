"""Params, and the layers of a network: which parameters are perturbed together, in forward order."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from shaketable.errors import InputError
from shaketable.forward import Inputs, evaluation_mode, forward

Params = Mapping[str, Tensor]
"""Parameters and persistent buffers by the names that ``state_dict`` gives them, tied weights once."""

Grouping = str | Mapping[str, str | Sequence[str]]
"""``"module"``, ``"block"``, ``"stage"``, ``"expert"``, or a mapping from layer names to module or parameter names."""

_EXPERT = re.compile(
    r"(?P<container>(?:.+\.)?\w*experts)\.(?:parametrizations\.\w+\.original)?(?P<number>(?:expert_)?\d+)(?:\.|$)"
)


@dataclass(frozen=True)
class Layer:
    """Parameters that are perturbed together.

    ``params`` and ``buffers`` are names in ``state_dict``; ``modules`` are the modules that own them; ``kind`` is the
    class of the first of these (``"Conv2d"``), or of the block.
    """

    name: str
    params: tuple[str, ...]
    buffers: tuple[str, ...]
    modules: tuple[str, ...]
    kind: str
    stage: str = ""


def state(network: nn.Module) -> dict[str, Tensor]:
    """The params of a network: its parameters and persistent buffers, detached, not copied, tied weights once.

    Returns: a dict from ``state_dict`` names to tensors that share memory with the network.
    """
    persistent = network.state_dict(keep_vars=True)
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items() if name in persistent}


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    """A copy of :func:`state` that later changes of the network do not reach."""
    return {name: tensor.clone() for name, tensor in state(network).items()}


def aliases(network: nn.Module) -> dict[str, str]:
    """Names under which ``state_dict`` repeats a tied tensor, each with the name that :func:`state` keeps."""
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    kept = {id(tensor): name for name, tensor in named.items()}
    return {
        name: kept[id(tensor)]
        for name, tensor in network.state_dict(keep_vars=True).items()
        if name not in named and id(tensor) in kept
    }


def layers(network: nn.Module, by: Grouping = "module", inputs: Inputs | None = None) -> tuple[Layer, ...]:
    """The layers of a network in forward order.

    ``by="module"``: each module that owns parameters itself: one linear operator (convolution, linear, embedding) or
    one normalisation, with its buffers. ``by="block"``: each residual block; outside of blocks one operator with the
    normalisations (or scales, or biases) that follow it at once. ``by="stage"``: each stack of residual blocks; outside
    of stacks as for blocks. ``by="expert"``: each expert of a mixture of experts; all else as for modules.
    A mapping names your own groups: each value is a module or parameter name, or several, with ``*`` as a wild card.

    A residual block is recognised by the structure of the modules, not by their class: a member of a ``Sequential``,
    ``ModuleList`` or ``ModuleDict`` that holds several (or mostly) modules with two or more linear operators each. Where
    such stacks are nested, the inner one counts, unless two or more operators stand outside of it (attention beside
    experts). Tied weights make one layer of the modules that share them. Parameters that a module owns beside modules with
    parameters (a class token, a layer scale, the joint projection of an attention) are layers of their own.
    An expert is a numbered member (``3``, ``expert_3``) of a container whose name ends with ``experts``; routers and
    shared experts are modules.
    Buffers that are not saved (rotary tables) belong to no layer.

    Args:
        network: any module.
        by: the grouping.
        inputs: a few examples [N, ...], for the order in which modules run; without them it is the order in which they
            were registered. One forward pass in evaluation mode; nothing is kept.

    Returns: at least one layer; no parameter is in two of them. Layers without parameters are left out.

    Raises:
        InputError: an unknown grouping, a network without parameters, a name of yours that matches nothing, a
            parameter in two of your groups, or ``by="expert"`` where there are no experts, or where they are slices of one
            tensor (:func:`shaketable.foreign.unstacked` takes them apart).

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
        >>> [layer.name for layer in layers(network)]
        ['0', '1', '3']
        >>> layers(network, by="block")[0].params
        ('0.weight', '0.bias', '1.weight', '1.bias')
        >>> layers(network, by="block")[0].buffers
        ('1.running_mean', '1.running_var', '1.num_batches_tracked')
    """
    modules = _in_forward_order(_merge_tied(network, _owners(network)), network, inputs)
    if not any(layer.params for layer in modules):
        raise InputError(f"{type(network).__name__} has no parameters, so it has no layers to perturb.")
    if isinstance(by, Mapping):
        found = _your_groups(network, modules, by)
    elif by == "module":
        found = modules
    elif by in ("block", "stage"):
        found = _merge_followers(network, _group_blocks(network, modules, by))
    elif by == "expert":
        found = _group_experts(network, modules)
    else:
        raise InputError(
            f"unknown grouping by={by!r}; use 'module', 'block', 'stage', 'expert', or a mapping from names to modules."
        )
    return tuple(layer for layer in found if layer.params)


def linear_layers(network: nn.Module, inputs: Inputs | None = None) -> tuple[Layer, ...]:
    """The linear layers of a network in forward order, each with its weights alone: the modules of Chatterji et al.

    A weight is a parameter with two or more dimensions, of a convolution, a linear layer, an embedding, a recurrent
    layer or a module of your own. Left out are biases, normalisations, and what is added to or multiplied with the
    inputs: tokens and tables of positions (shape [1, ...]) and scales (one dimension longer than 1) that a module owns
    beside other modules.

    Args:
        network: any module.
        inputs: a few examples [N, ...], for the order in which modules run, as for :func:`layers`.

    Returns: the layers ``by="module"`` that have a weight, with ``params`` the names of their weights (one, but for
        recurrent and attention layers that keep their own) and no buffers.

    Raises:
        InputError: no parameter has two dimensions.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
        >>> [layer.params for layer in linear_layers(network)]
        [('0.weight',), ('3.weight',)]

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
    networks", 2020, sections 2.1 and 4.
    """
    tensors = state(network)
    found = [
        replace(layer, params=tuple(name for name in layer.params if _is_weight(network, layer, name, tensors[name])))
        for layer in layers(network, "module", inputs)
    ]
    kept = tuple(replace(layer, buffers=()) for layer in found if layer.params)
    if not kept:
        raise InputError(f"{type(network).__name__} has no linear layer: no parameter of it has two dimensions.")
    return kept


COMPUTED = (
    "computes its weight from other parameters (weight_norm, spectral_norm, prune); "
    "bake it in with torch.nn.utils.parametrize.remove_parametrizations or prune.remove first"
)
"""What is said of a layer whose parameters are not its weight."""


def computes_weight(module: nn.Module) -> bool:
    """Whether the weight that a module multiplies with is none of its parameters."""
    return isinstance(getattr(module, "weight", None), Tensor) and module._parameters.get("weight") is None


def _is_weight(network: nn.Module, layer: Layer, name: str, tensor: Tensor) -> bool:
    """Whether a parameter multiplies inputs as a matrix or a kernel does."""
    if isinstance(network.get_submodule(layer.modules[0]), nn.LayerNorm | nn.RMSNorm):
        return False
    if layer.kind == "Parameter" or "parametrizations" in name:  # a token, a scale; the magnitudes of weight_norm
        return tensor.dim() > 1 and tensor.shape[0] > 1 and sum(size > 1 for size in tensor.shape) > 1
    return tensor.dim() > 1


def _owners(network: nn.Module) -> list[Layer]:
    """One layer for each module that owns parameters or persistent buffers, as registered."""
    kept = state(network)
    found: dict[str, Layer] = {}
    for path, module in network.named_modules():
        params = [name for name, _ in module.named_parameters(path, recurse=False) if name in kept]
        buffers = [name for name, _ in module.named_buffers(path, recurse=False) if name in kept]
        if any(True for child in module.children() for _ in child.parameters()) and "parametrizations" not in path:
            # beside its modules a module owns things such as a class token, a scale, a joint projection: a layer each
            for name in params:
                stem = re.sub(r"_?(weight|bias)$", "", name).removesuffix(".") or name
                layer = found.get(stem) or Layer(stem, (), (), (path,), "Parameter")
                found[stem] = replace(layer, params=(*layer.params, name))
            params = []
        if not params and not buffers:
            continue
        owner = f".{path}".split(".parametrizations.")[0].removeprefix(".")  # as of weight_norm
        kind = type(network.get_submodule(owner)).__name__
        layer = found.get(owner) or Layer(owner or kind.lower(), (), (), (owner,), kind)
        found[owner] = replace(layer, params=layer.params + tuple(params), buffers=layer.buffers + tuple(buffers))
    return list(found.values())


def _merge_tied(network: nn.Module, found: list[Layer]) -> list[Layer]:
    """Modules that share a tensor become one layer, named for the first of them."""
    merged = list(found)
    for alias, kept in aliases(network).items():
        path = alias.rpartition(".")[0]
        first = next(layer for layer in merged if kept in layer.params + layer.buffers)
        second = next((layer for layer in merged if path in layer.modules), Layer(path, (), (), (path,), first.kind))
        if first is not second:
            merged = [_join(first.name, first.kind, [first, second]) if layer is first else layer for layer in merged]
            merged = [layer for layer in merged if layer is not second]
    return merged


def _join(name: str, kind: str, parts: Iterable[Layer], stage: str = "") -> Layer:
    """Several layers as one."""
    parts = list(parts)
    return Layer(
        name,
        tuple(param for part in parts for param in part.params),
        tuple(buffer for part in parts for buffer in part.buffers),
        tuple(dict.fromkeys(module for part in parts for module in part.modules)),
        kind,
        stage,
    )


def _in_forward_order(found: list[Layer], network: nn.Module, inputs: Inputs | None) -> list[Layer]:
    """Sorted by the first call of a layer's module, or of the nearest module around it that is called."""
    if inputs is None:
        return found
    calls: dict[str, int] = {}

    def record(path: str):
        def note(module: nn.Module, args: object) -> None:
            calls.setdefault(path, len(calls))

        return note

    hooked = ((p, m) for p, m in network.named_modules() if not isinstance(m, torch.jit.ScriptModule))
    handles = [module.register_forward_pre_hook(record(path)) for path, module in hooked]
    try:
        with evaluation_mode(network), torch.no_grad():
            forward(network, inputs, {})
    finally:
        for handle in handles:
            handle.remove()

    def called(path: str) -> int:
        return calls[path] if path in calls else called(path.rpartition(".")[0]) if path else 0

    return sorted(found, key=lambda layer: min(called(path) for path in layer.modules))


def _operators(module: nn.Module) -> int:
    """How many linear operators a module holds: modules that own a parameter with two or more dimensions."""
    return sum(any(p.dim() > 1 for p in part.parameters(recurse=False)) for part in module.modules())


def _is_composite(module: nn.Module) -> bool:
    """Whether a member of a stack can be a residual block: not a mere chain, and two or more linear operators."""
    return type(module) not in (nn.Sequential, nn.ModuleList, nn.ModuleDict) and _operators(module) >= 2


def _is_stack(module: nn.Module) -> bool:
    """Whether a container holds residual blocks: two or more composite members, or mostly such."""
    if not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    members = [child for child in module.children() if _operators(child)]
    composites = sum(_is_composite(child) for child in members)
    return composites >= 2 or 2 * composites > len(members) > 0


def _stacks_in(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost stacks inside a module."""
    for child in module.children():
        if _is_stack(child):
            yield child
        else:
            yield from _stacks_in(child)


def _blocks(module: nn.Module, path: str = "", stage: str | None = None) -> Iterator[tuple[str, str]]:
    """The residual blocks below a module, each as (path, path of its stage)."""
    for name, child in module.named_children():
        here = f"{path}.{name}" if path else name
        if not (_is_stack(module) and _is_composite(child)):
            yield from _blocks(child, here, here if stage is None or _is_stack(child) else stage)
            continue
        inside = list(_stacks_in(child))
        if inside and _operators(child) - sum(_operators(stack) for stack in inside) <= 1:
            for block, _ in _blocks(child, here, here):  # a stage that holds the stack, and at most a down-sampling
                yield block, here
        else:
            yield here, stage or path


def _group_blocks(network: nn.Module, modules: list[Layer], by: str) -> list[Layer]:
    """The modules, with those of one block (or stage) put together."""
    stage_of = dict(_blocks(network))
    units = {stage or block for block, stage in stage_of.items()} if by == "stage" else set(stage_of)
    groups: dict[str, list[Layer]] = {}
    for layer in modules:
        path = layer.modules[0]
        around = [".".join(path.split(".")[:depth]) for depth in range(1, path.count(".") + 2)]
        groups.setdefault(next((name for name in around if name in units), layer.name), []).append(layer)
    return [
        _join(name, type(network.get_submodule(name)).__name__, parts, stage_of.get(name, name))
        if name in units
        else parts[0]
        for name, parts in groups.items()
    ]


def stacked_experts(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Modules that keep all their experts in tensors [E, ...], by path, each with its names of these tensors."""
    found: dict[str, tuple[str, ...]] = {}
    for path, module in network.named_modules():
        own = dict(module.named_parameters(recurse=False))
        named = "expert" in f"{path.rpartition('.')[2]} {type(module).__name__}".lower()
        counts = {len(tensor) for tensor in own.values() if tensor.dim() > 2}
        if named and len(counts) == 1 and all(tensor.dim() > 1 and len(tensor) in counts for tensor in own.values()):
            found[path] = tuple(own)
    return found


def _group_experts(network: nn.Module, modules: list[Layer]) -> list[Layer]:
    """The modules, with the parameters and buffers of each expert put together."""
    stacked = next(iter(stacked_experts(network)), None)
    if stacked is not None:
        raise InputError(
            f"{stacked or type(network).__name__!r} keeps its experts in one tensor, and a slice of it is no parameter; "
            "give shaketable.foreign.unstacked(network)."
        )
    groups: dict[str, Layer] = {}
    for layer in modules:
        for names, field in ((layer.params, "params"), (layer.buffers, "buffers")):
            for name in names:
                known = _EXPERT.match(name)
                key = f"{known['container']}.{known['number']}" if known else layer.name
                path = key if known and "parametrizations" not in name else layer.modules[0]
                kind = type(network.get_submodule(path)).__name__ if known else layer.kind
                made = groups.get(key) or Layer(key, (), (), (path,) if known else layer.modules, kind, layer.stage)
                groups[key] = replace(made, **{field: (*getattr(made, field), name)})
    if not any(_EXPERT.match(name) for layer in groups.values() for name in layer.params):
        raise InputError(
            f"{type(network).__name__} has no experts: no numbered modules in a container whose name ends with 'experts'; "
            "use by='module', or name your groups."
        )
    return list(groups.values())


def _merge_followers(network: nn.Module, found: list[Layer]) -> list[Layer]:
    """Outside of blocks, what holds no linear operator (a normalisation, a scale, a bias) joins the operator before it."""
    dimensions = {name: tensor.dim() for name, tensor in state(network).items()}
    merged: list[Layer] = []
    for layer in found:
        before = merged[-1] if merged else None
        follows = layer.kind != "Parameter" and not layer.stage and all(dimensions[name] <= 1 for name in layer.params)
        if follows and before and not before.stage and any(dimensions[name] > 1 for name in before.params):
            merged[-1] = _join(before.name, before.kind, [before, layer])
        else:
            merged.append(layer)
    return merged


def _your_groups(network: nn.Module, modules: list[Layer], by: Mapping[str, str | Sequence[str]]) -> list[Layer]:
    """The groups of a mapping, in forward order; parameters that no group names are left alone."""
    order = [(name, layer) for layer in modules for name in layer.params + layer.buffers]
    known_as = {name: [name] for name, _ in order}
    for alias, kept in aliases(network).items():
        known_as[kept].append(alias)
    taken: dict[str, str] = {}
    found: list[tuple[int, Layer]] = []
    for group, patterns in by.items():
        names: list[int] = []
        chosen = [patterns] if isinstance(patterns, str) else patterns
        if not isinstance(chosen, Sequence) or not chosen or not all(isinstance(pattern, str) for pattern in chosen):
            raise InputError(
                f"layer {group!r}: give the names of its modules or parameters, one or a list, not {patterns!r}."
            )
        for pattern in chosen:
            hits = [
                index
                for index, (name, _) in enumerate(order)
                if any(fnmatchcase(known, pattern) or fnmatchcase(known, f"{pattern}.*") for known in known_as[name])
            ]
            if not hits:
                raise InputError(
                    f"layer {group!r}: {pattern!r} matches no parameter of {type(network).__name__}; "
                    f"its first ones are {', '.join(name for name, _ in order[:5])}."
                )
            names += hits
        for index in sorted(set(names)):
            name = order[index][0]
            if name in taken:
                raise InputError(
                    f"parameter {name!r} is in two of your layers, {taken[name]!r} and {group!r}; name it once."
                )
            taken[name] = group
        owners = [replace(order[i][1], params=(), buffers=()) for i in sorted(set(names))]
        kept = [order[i][0] for i in sorted(set(names))]
        trained = dict(network.named_parameters())
        layer = _join(group, owners[0].kind, owners)
        params = tuple(name for name in kept if name in trained)
        if not params:
            raise InputError(f"layer {group!r} names buffers only; name at least one parameter.")
        layer = replace(layer, params=params, buffers=tuple(name for name in kept if name not in trained))
        found.append((min(names), layer))
    if not found:
        raise InputError("the mapping of layers is empty; name at least one layer.")
    return [layer for _, layer in sorted(found, key=lambda item: item[0])]
