"""Any forward: inputs as a tensor, a tuple or a dict; outputs as a tensor, a tuple, or an object with ``logits``."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

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


def logits_of(output: Any) -> Tensor:
    """The logits in a network's output: the tensor itself, ``output.logits``, ``output["logits"]``, or the first of a tuple."""
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if logits is None and isinstance(output, Mapping):
        logits = output.get("logits")
    if logits is None and isinstance(output, tuple | list) and output:
        logits = output[0]
    if not isinstance(logits, Tensor):
        raise InputError(
            f"the network returned a {type(output).__name__} in which no logits were found; "
            "return a tensor, a tuple whose first item is one, or an object with an attribute `logits`."
        )
    return logits


def forward(network: nn.Module, inputs: Inputs, params: Mapping[str, Tensor] | None = None) -> Tensor:
    """Logits of a network [N, classes], with some of its parameters and buffers replaced by ``params``.

    The network is not written to: replacements go through :func:`torch.func.functional_call`. A tuple is passed as
    positional arguments, a dict as keyword arguments.
    """
    args = () if isinstance(inputs, Mapping) else (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
    output = torch.func.functional_call(network, dict(params), args, kwargs) if params else network(*args, **kwargs)
    return logits_of(output)
