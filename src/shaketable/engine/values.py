"""Values that pass through modules: what they are made of, whether two are the same, and whether they were written to."""

from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from enum import Enum
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
STATIC = (*PLAIN, Enum, type, slice, range, FunctionType, BuiltinFunctionType)
HOUSEKEEPING = {"_parameters", "_buffers", "_modules", "forward", "training"}


def tensors_among(value: Any) -> list[Tensor]:
    """The tensors among an operation's arguments or results."""
    return [item for item in (value if isinstance(value, list | tuple) else (value,)) if isinstance(item, Tensor)]


def itself(tensor: Tensor) -> Tensor:
    return tensor


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to; 0 for those of inference mode, which cannot be."""
    return 0 if tensor.is_inference() else tensor._version


def versions_of(leaves: Sequence[Any]) -> list[tuple[Tensor, int]]:
    return [(leaf, version_of(leaf)) for leaf in leaves if isinstance(leaf, Tensor)]


def unwritten(versions: Sequence[tuple[Tensor, int]]) -> bool:
    return all(version_of(tensor) == version for tensor, version in versions)


def random_states() -> list[Tensor]:
    """The states of torch's global generators."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ())]


def flatten(value: Any, leaves: list[Any]) -> bool:
    """Append what a value is made of: tensors, plain values, marks for containers. False where it cannot be seen through."""
    if isinstance(value, (Tensor, *STATIC)):
        leaves.append(value)
        return True
    if isinstance(value, list | tuple):
        leaves.append((type(value), len(value)))
        return all(flatten(item, leaves) for item in value)
    if isinstance(value, dict) and (type(value) is dict or is_dataclass(value)):
        leaves.append((type(value), tuple(value)))
        return all(flatten(item, leaves) for item in value.values())
    leaves.append(value)
    return False


def same_values(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two flattened values are the same tensors, as objects, and equal otherwise."""
    if len(one) != len(other):
        return False
    for a, b in zip(one, other, strict=True):
        if a is b:
            continue
        if isinstance(a, Tensor) or isinstance(b, Tensor) or type(a) is not type(b) or a != b:
            return False
    return True


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same containers, new ones, with a function of each tensor in them."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        items = [mapped(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        items = {key: mapped(item, function) for key, item in value.items()}
        return items if type(value) is dict else type(value)(**items)
    return value


def attributes_of(module: nn.Module) -> list[Any]:
    """What can be seen to change in a module's own attributes when its code writes them."""
    facts: list[Any] = []
    for name, value in vars(module).items():
        if name not in HOUSEKEEPING:
            facts += [name, value]
            if isinstance(value, list | tuple | set):
                facts += value
            elif isinstance(value, dict):
                facts += [item for pair in value.items() for item in pair]
            elif isinstance(value, Tensor):
                facts.append(version_of(value))
    return facts


def alike(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two lists of attributes hold the same objects, or equal plain values."""
    return len(one) == len(other) and all(
        a is b or (type(a) is type(b) and isinstance(a, PLAIN) and a == b) for a, b in zip(one, other, strict=True)
    )
