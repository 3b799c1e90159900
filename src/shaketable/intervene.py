"""Interventions on activations: where the units of a layer become active, and a network with some of them at zero."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shaketable.errors import InputError
from shaketable.forward import Inputs, evaluation_mode, forward

NORMS = re.compile("native_batch_norm|_native_batch_norm_legit_no_training|cudnn_batch_norm|miopen_batch_norm")
ACTIVATIONS = re.compile(
    "relu|gelu|silu|sigmoid|tanh|hardtanh|hardswish|hardsigmoid|leaky_relu|elu|softplus|mish|clamp|clamp_min|_prelu_kernel"
)
SUM = re.compile("add")
MASK = "mask_of_units"


@dataclass(frozen=True)
class Site:
    """Where the units of a layer are read and ablated.

    Attributes:
        layer: the convolution or linear layer.
        module: the module whose output is the activation.
        call: which of the module's calls in a forward pass, from 0.
        axis: the dimension of that output that counts units: 1 (channels) or -1.
        units: how many there are.
    """

    layer: str
    module: str
    call: int
    axis: int
    units: int

    def shaped(self, mask: Tensor, dims: int) -> Tensor:
        """A mask [units] or [N, units] in the shape of an activation of so many dimensions."""
        if self.axis == -1:
            return mask if mask.dim() == 1 else mask.reshape(len(mask), *[1] * (dims - 2), self.units)
        return mask.reshape(*mask.shape, *[1] * (dims - 2))

    def kept(self, activation: Tensor, mask: Tensor) -> Tensor:
        """An activation that is 0 where a mask [units] or [N, units] is: a product would be none where it is infinite."""
        shaped = self.shaped(mask.to(activation.device) != 0, activation.dim())
        return torch.where(shaped, activation, torch.zeros((), dtype=activation.dtype, device=activation.device))


def sites(network: nn.Module, inputs: Inputs) -> tuple[Site, ...]:
    """The site of each convolution and linear layer, in forward order.

    The activation of a layer is the output of the nonlinearity that follows it: through batch norm, and through the sum with
    a shortcut, where these stand in between. Where no nonlinearity follows (a value that several operations read, a
    concatenation, a pooling) it is the output of the last batch norm or of the layer itself. Not seen: a nonlinearity that
    is a function and no module; then the site is the last module before it. A unit that is zero before a ReLU is zero
    behind it, so that its removal is the same; its L1 norm is another.

    Args:
        network: any module; runs once, in evaluation mode.
        inputs: a few examples [N, ...].

    Returns: one site for each layer that runs; of a layer that runs several times, that of its first call.

    Raises:
        InputError: the network has no convolution and no linear layer with units.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
        >>> [(site.layer, site.module, site.units) for site in sites(network.eval(), torch.zeros(2, 1, 4, 4))]
        [('0', '2', 4), ('4', '4', 3)]
    """
    record = _Record(network)
    with record, evaluation_mode(network), torch.no_grad(), torch.random.fork_rng(devices=[]):
        forward(network, inputs, {})
    found: dict[str, Site] = {}
    for start, call in enumerate(record.calls):
        module = network.get_submodule(call.module)
        if isinstance(module, _ConvNd | nn.Linear) and call.module not in found:
            end = record.calls[record.activation_of(start)]
            axis = 1 if isinstance(module, _ConvNd) else -1
            found[call.module] = Site(call.module, end.module, end.number, axis, call.shape[axis])
    if not found:
        raise InputError(f"{type(network).__name__} has no convolution and no linear layer, so it has no units.")
    return tuple(found.values())


def site_of(network: nn.Module, layer: str | None, inputs: Inputs) -> Site:
    """The site of a layer by its name; without a name that of the last convolution, or else of the last hidden linear layer.

    Raises:
        InputError: there is no such layer, it has no units, or just one.
    """
    known = sites(network, inputs)
    if layer is None:
        convolutions = [site for site in known if site.axis == 1]
        found = (convolutions or known[:-1] or known)[-1]
    else:
        match = [site for site in known if site.layer == layer]
        if not match:
            is_there = layer in dict(network.named_modules())
            what = "has no units: it is no convolution or linear layer that runs" if is_there else "is not there"
            raise InputError(f"layer {layer!r} {what}; give one of {', '.join(site.layer for site in known)}.")
        found = match[0]
    if found.units < 2:
        raise InputError(f"layer {found.layer!r} has one unit; ablation needs two or more.")
    return found


@contextmanager
def ablated(network: nn.Module, site: Site, units: Sequence[int] | Tensor) -> Iterator[None]:
    """A network with some units of a site at zero, and afterwards as it was, also where the block raises.

    .. math:: U_i := 0 \\quad (i \\in \\text{units})

    Args:
        network: any module; runs as it stands, with all else unchanged.
        site: of :func:`sites` or :func:`site_of`.
        units: numbers of the units that are zero, from 0.

    Raises:
        InputError: a unit that there is not.

    Cost: a choice among the numbers of the activation in each forward pass.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
        >>> site = site_of(network, "0", torch.zeros(1, 2))
        >>> with torch.no_grad(), ablated(network, site, [0, 1, 2]):
        ...     bool(network(torch.randn(1, 2)) == network[2].bias)
        True
    """
    numbers = torch.as_tensor(units, dtype=torch.int64).reshape(-1)
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < site.units:
        raise InputError(
            f"units={numbers.tolist()}: layer {site.layer!r} has {site.units} units, from 0 to {site.units - 1}."
        )
    with masked(network, site, torch.ones(site.units).index_fill_(0, numbers, 0)):
        yield


@contextmanager
def masked(network: nn.Module, site: Site, mask: Tensor) -> Iterator[None]:
    """A network whose activation at a site is 0 where a mask [units], or [N, units] for N examples, is 0, whatever it was."""

    def keep(module: nn.Module, output: Tensor) -> Tensor:
        return site.kept(output, mask)

    with at_site(network, site, keep):
        yield


@contextmanager
def with_mask(network: nn.Module, site: Site, inputs: Inputs, product: bool = False) -> Iterator[str]:
    """The name of a buffer of ones with which a network's activation is masked: it can be exchanged like a weight.

    The network is written to: give a copy. ``product``: the mask is one factor, and so one operation of a graph.
    """
    with torch.no_grad(), recorded(network, site) as found:
        forward(network, inputs)
    ones = site.shaped(torch.ones(site.units).to(found[0]), found[0].dim())
    network.get_submodule(site.module).register_buffer(MASK, ones)

    def mask(module: nn.Module, output: Tensor) -> Tensor:
        own = getattr(module, MASK)
        return output * own if product else torch.where(own != 0, output, torch.zeros_like(own))

    with at_site(network, site, mask):
        yield f"{site.module}.{MASK}".removeprefix(".")


@contextmanager
def recorded(network: nn.Module, site: Site) -> Iterator[list[Tensor]]:
    """A list that gets the activation at a site in each forward pass."""
    found: list[Tensor] = []
    with at_site(network, site, lambda module, output: found.append(output)):
        yield found


@contextmanager
def at_site(network: nn.Module, site: Site, function: Callable[[nn.Module, Tensor], Tensor | None]) -> Iterator[None]:
    """A network in which a function of the module and the activation at a site takes its place, if it returns something."""
    calls = [0]

    def begin(module: nn.Module, args: Any) -> None:
        calls[0] = 0

    def change(module: nn.Module, args: Any, output: Any) -> Any:
        calls[0] += 1
        return function(module, output) if calls[0] == site.call + 1 else None

    with ExitStack() as handles:
        for handle in (
            network.register_forward_pre_hook(begin),
            network.get_submodule(site.module).register_forward_hook(change),
        ):
            handles.callback(handle.remove)
        yield


@dataclass
class _Call:
    """A module's call: which one, what came out, and after how many operations."""

    module: str
    number: int
    output: int
    shape: tuple[int, ...]
    end: int


class _Record(TorchDispatchMode):
    """The operations of a forward pass, each with the tensors that it reads and makes, and the calls of modules."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network
        self._keep: list[Any] = []  # an identity is used again when a tensor is gone
        self.operations: list[tuple[str, list[int], list[int]]] = []
        self.calls: list[_Call] = []

    def __enter__(self) -> "_Record":
        self._handles = [
            module.register_forward_hook(self._called(path))
            for path, module in self._network.named_modules()
            if not isinstance(module, torch.jit.ScriptModule)
        ]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        reads = [id(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(found) if isinstance(t, Tensor)]
        self._keep += [*made, args]
        self.operations.append((name.removesuffix("_"), reads, [id(t) for t in made]))
        return found

    def _called(self, path: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                number = sum(call.module == path for call in self.calls)
                self._keep.append(output)
                self.calls.append(_Call(path, number, id(output), tuple(output.shape), len(self.operations)))

        return note

    def activation_of(self, start: int) -> int:
        """The call whose output is the activation of the layer whose call is number ``start``."""
        value, where = self.calls[start].output, self.calls[start].end
        best, summed = start, False
        while True:
            readers = self._readers(value, where)
            name = self.operations[readers[0]][0] if len(readers) == 1 else ""
            if ACTIVATIONS.fullmatch(name):
                return next(iter(self._returning(readers[0])), best)
            if NORMS.fullmatch(name) or SUM.fullmatch(name):
                summed |= name == "add"
                value, where = self.operations[readers[0]][2][0], readers[0] + 1
                if not summed:
                    best = next(iter(self._returning(readers[0])), best)
                continue
            return best

    def _readers(self, value: int, where: int) -> list[int]:
        """The operations that read a value, from one on, until it is written to in place."""
        found = []
        for number in range(where, len(self.operations)):
            _, reads, made = self.operations[number]
            if value in reads:
                found.append(number)
            if value in made:
                break
        return found

    def _returning(self, operation: int) -> Iterator[int]:
        """The calls that return what an operation made, before anything else runs."""
        for number, call in enumerate(self.calls):
            if call.end == operation + 1 and call.output == self.operations[operation][2][0]:
                yield number
