"""Any forward: inputs as a tensor, a tuple or a dict; outputs as a tensor, a tuple, or an object with ``logits``."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from shaketable.errors import InputError

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


def map_inputs(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Apply a function to each tensor of the inputs and keep their form."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {name: function(tensor) for name, tensor in inputs.items()}
    return tuple(function(tensor) for tensor in inputs)


def tensors_of(inputs: Inputs) -> dict[str, Tensor]:
    """The tensors of the inputs by name (a single tensor is ``inputs``, a tuple ``inputs.0``, ``inputs.1``, ...)."""
    if isinstance(inputs, Tensor):
        return {"inputs": inputs}
    if isinstance(inputs, Mapping):
        return {f"inputs.{name}": tensor for name, tensor in inputs.items()}
    return {f"inputs.{index}": tensor for index, tensor in enumerate(inputs)}


def count_of(inputs: Inputs) -> int:
    """The number of examples."""
    return len(next(iter(tensors_of(inputs).values())))


def logits_of(output: Any) -> Tensor:
    """The logits in a network's output: the tensor itself, ``output.logits``, ``output["logits"]``, or in a tuple the
    first tensor with two or more dimensions (a loss before it is passed over).

    Raises:
        InputError: there are none, or they are complex.
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if logits is None and isinstance(output, Mapping):
        logits = output.get("logits")
    if logits is None and isinstance(output, tuple | list):
        logits = next((item for item in output if isinstance(item, Tensor) and item.ndim >= 2), None)
    if isinstance(logits, Tensor) and logits.is_complex():
        raise InputError("the network's logits are complex; they must be real numbers.")
    if not isinstance(logits, Tensor):
        raise InputError(
            f"the network returned a {type(output).__name__} in which no logits were found; "
            "return a tensor, a tuple whose first item is one, or an object with an attribute `logits`."
        )
    return logits


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, and afterwards in the modes that its modules were in."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def usable_device(device: str | torch.device) -> torch.device:
    """The device, if it is there.

    Raises:
        InputError: it is not, or is neither a CPU nor a CUDA device.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r} is unknown; give 'cpu', 'cuda' or 'cuda:<number>'.") from error
    if found.type not in ("cpu", "cuda"):
        raise InputError(f"device '{found}' is not supported; give 'cpu', 'cuda' or 'cuda:<number>'.")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device '{found}' is not there: torch sees {torch.cuda.device_count()} CUDA devices; use 'cpu'."
        )
    return found


Slot = tuple[Any, str]
"""Where a module keeps a tensor: its table of parameters or of buffers, and the key."""


def slots(network: nn.Module) -> dict[str, list[Slot]]:
    """Every place where a network keeps a tensor, by the first name of the tensor; tied ones have several places."""
    names = {id(tensor): name for name, tensor in (*network.named_parameters(), *network.named_buffers())}
    found: dict[str, list[Slot]] = {}
    for module in network.modules():
        for table in (module._parameters, module._buffers):
            for key, tensor in table.items():
                if tensor is not None:
                    found.setdefault(names[id(tensor)], []).append((table, key))
    return found


@contextmanager
def exchanged(places: Mapping[str, list[Slot]], tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Other tensors in a network's places, by name, and afterwards those that were there.

    What :func:`torch.func.functional_call` does, except that a module with two names gets its own tensors back; there
    (torch 2.13) it keeps the exchanged ones.
    """
    before = [(table, key, table[key]) for name in tensors for table, key in places.get(name, ())]
    try:
        for name, tensor in tensors.items():
            for table, key in places.get(name, ()):
                table[key] = tensor
        yield
    finally:
        for table, key, tensor in before:
            table[key] = tensor


def forward(network: nn.Module, inputs: Inputs, params: Mapping[str, Tensor] | None = None) -> Tensor:
    """Logits of a network [N, classes], with its parameters and buffers replaced by ``params`` where these are given.

    A tuple of inputs is passed as positional arguments, a dict as keyword arguments. With ``params``, what the network
    writes into its buffers reaches neither the network nor ``params``.
    """
    args = () if isinstance(inputs, Mapping) else (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
    if params is None:
        return logits_of(network(*args, **kwargs))
    buffers = {name: params.get(name, buffer).clone() for name, buffer in network.named_buffers()}
    with exchanged(slots(network), {**params, **buffers}):
        return logits_of(network(*args, **kwargs))


def name_of(node: Node) -> str:
    """The name of an operation in a traced graph, as in ``torch.ops.aten``."""
    return node.target._schema.name.removeprefix("aten::") if hasattr(node.target, "_schema") else str(node.target)  # pyright: ignore
