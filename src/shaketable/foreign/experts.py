"""Experts that are stored in one tensor, taken apart, so that each has parameters of its own."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from shaketable.errors import InputError
from shaketable.params import stacked_experts


class Stack(nn.Module):
    """E tensors as one [E, ...]: what the experts' code computes with."""

    def forward(self, *parts: Tensor) -> Tensor:
        return torch.stack(parts)

    def right_inverse(self, whole: Tensor) -> tuple[Tensor, ...]:
        return whole.unbind()


def unstacked(network: nn.Module) -> nn.Module:
    r"""The same network with a parameter for each expert where the experts are stored in one tensor.

    .. math:: W \in \mathbb R^{E \times \dots} \;\to\; W_1, \dots, W_E, \qquad W = \mathrm{stack}(W_1, \dots, W_E)

    so that ``by="expert"`` finds them: a slice of a tensor is no parameter and cannot be a layer. Outputs stay as they are,
    bit for bit. Not done: the network that is given is not changed; nothing is copied, the weights are shared with it.

    Args:
        network: any module. Taken apart are modules with "expert" in their name or class that own tensors [E, ...].

    Returns: a copy of the modules. Parameters are named ``...experts.parametrizations.gate_up_proj.original3``.

    Raises:
        InputError: no experts are stored so.

    Cost: at each forward pass one copy of the experts of one module at a time, made anew; the engine works in one thread.

    Example:
        >>> class Experts(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up = nn.Parameter(torch.ones(2, 3, 3))
        >>> [name for name, _ in unstacked(Experts()).named_parameters()]
        ['parametrizations.up.original0', 'parametrizations.up.original1']
    """
    found = stacked_experts(network)
    if not found:
        raise InputError(f"{type(network).__name__} stores no experts in one tensor; study it as it is.")
    made = copy.deepcopy(network, {id(t): t for t in (*network.parameters(), *network.buffers())})
    for path, names in found.items():
        for name in names:
            take_apart(made.get_submodule(path), name)
    return made


def take_apart(module: nn.Module, name: str) -> None:
    """One parameter [E, ...] of a module as E parameters; in place."""
    parametrize.register_parametrization(module, name, Stack())


def put_together(network: nn.Module) -> list[tuple[nn.Module, str]]:
    """Undo :func:`take_apart` everywhere, in place, for code that wants the whole tensors; returns what it undid."""
    undone = [
        (module, name)
        for module in network.modules()
        if parametrize.is_parametrized(module)
        for name in list(module.parametrizations)  # type: ignore[arg-type]  # a ModuleDict
        if isinstance(module.parametrizations[name][0], Stack)  # type: ignore[index]
    ]
    for module, name in undone:
        parametrize.remove_parametrizations(module, name)
        if name not in module._parameters:  # torch leaves a plain tensor where nothing asks for gradients
            setattr(module, name, nn.Parameter(getattr(module, name), requires_grad=False))
    return undone
