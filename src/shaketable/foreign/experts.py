"""Experts that are stored in one tensor, taken apart, so that each has parameters of its own."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

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
    for part in _held(module).modules():  # new modules begin in training mode
        part.training = module.training


@contextmanager
def put_together(network: nn.Module) -> Iterator[None]:
    """Experts in whole tensors again, for code that sets these; afterwards each expert has its part of what was set."""
    apart = [module for module in network.modules() if _is_apart(module)]
    kinds, lists = [type(module) for module in apart], [_held(module) for module in apart]
    # not remove_parametrizations: that changes the class, which copies of the network share
    for module in apart:
        wholes = {name: getattr(module, name).detach() for name in _held(module)}
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module._modules["parametrizations"]
        for name, whole in wholes.items():
            module.register_parameter(name, nn.Parameter(whole))
    try:
        yield
    finally:
        for module, kind, held in zip(apart, kinds, lists, strict=True):
            wholes = {name: module.get_parameter(name) for name in held}
            for name in wholes:
                del module._parameters[name]
            module.__class__, module._modules["parametrizations"] = kind, held
            with torch.no_grad():
                for name, whole in wholes.items():
                    for part, value in zip(held[name].parameters(), whole, strict=True):
                        part.copy_(value)


def _is_apart(module: nn.Module) -> bool:
    """Whether this module's tensors were taken apart."""
    if not parametrize.is_parametrized(module):
        return False
    return all(isinstance(next(steps.children()), Stack) for steps in _held(module).values())


def _held(module: nn.Module) -> nn.ModuleDict:
    """What computes a module's tensors from others, by their names."""
    held = module.get_submodule("parametrizations")
    assert isinstance(held, nn.ModuleDict)
    return held
