"""Batch norms folded into the linear operators before them: other weights, the same function."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from shaketable.errors import InputError
from shaketable.forward import Inputs, evaluation_mode, forward
from shaketable.params import Params

TOLERANCE = 1e-3
"""How far the logits of the folded network may be from the network's own, relative to their largest."""


def folded(network: nn.Module, params: Params, inputs: Inputs) -> dict[str, Tensor]:
    r"""Params of the same function in which batch norms that follow a linear operator only add a constant.

    .. math:: s (W x + b - \mu) + \beta = (s W) x + s b + (\beta - s \mu), \qquad s = \gamma / \sqrt{v + \epsilon}

    The weight of the operator is multiplied by s; of the batch norm the scale becomes 1, the running mean 0 and the running
    variance such that it divides by 1. The constant goes to the bias of the operator, or to that of the batch norm where the
    operator has none. The names stay the same.

    Not done: batch norms before an operator, or behind one whose output goes elsewhere too, stay; other normalisations too.

    Args:
        network: gives the structure; it is called in evaluation mode, never written to.
        params: the parameters and buffers, all of them.
        inputs: a few examples [N, ...], to see what follows what.

    Returns: a dict with the keys of ``params``.

    Raises:
        InputError: a batch norm without scale and bias behind an operator.

    Cost: three passes over the inputs; two more for each batch norm where one of them must stay.

    Example:
        >>> network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1)).eval()
        >>> values = {"0.weight": [[1.0]], "1.weight": [6.0], "1.bias": [1.0], "1.running_mean": [2.0], "1.running_var": [9.0]}
        >>> params = {name: torch.tensor(value) for name, value in values.items()}
        >>> found = folded(network, params, torch.ones(2, 1))
        >>> [round(found[name].item(), 3) for name in ("0.weight", "1.weight", "1.bias", "1.running_mean")]
        [2.0, 1.0, -3.0, 0.0]

    References: Jiang, Neyshabur, Mobahi, Krishnan, Bengio, "Fantastic generalization measures and where to find them", 2020,
        appendix (batch norm).
    """
    pairs = _pairs(network, params, inputs)
    found = _folded(network, params, pairs)
    if _same(network, params, found, inputs):
        return found
    found = dict(params)
    for pair in pairs:  # one at a time: that whose operator feeds something else too changes the function
        tried = _folded(network, found, [pair])
        found = tried if _same(network, params, tried, inputs) else found
    return found


def _folded(network: nn.Module, params: Params, pairs: list[tuple[str, str]]) -> dict[str, Tensor]:
    """The params with batch norms folded into the operators before them."""
    found = dict(params)
    for operator, norm in pairs:
        module = network.get_submodule(norm)
        assert isinstance(module, _BatchNorm)
        names = [f"{norm}.{key}" for key in ("weight", "bias", "running_mean", "running_var")]
        if any(name not in params for name in names):
            raise InputError(f"batch norm {norm!r} has no scale and bias to fold into; keep batch norms as they are.")
        gain, shift, mean, variance = (params[name].double() for name in names)
        scale = gain / (variance + module.eps).sqrt()
        weight, constant = params[f"{operator}.weight"], shift - scale * mean
        transposed = isinstance(network.get_submodule(operator), _ConvTransposeNd)
        shape = [1, -1] if transposed else [-1]
        by = scale.view(*shape, *[1] * (weight.ndim - len(shape)))
        found[f"{operator}.weight"] = (weight.double() * by).to(weight.dtype)
        own = f"{operator}.bias"
        if own in params:
            found[own] = (scale * params[own].double() + constant).to(params[own].dtype)
            constant = torch.zeros_like(constant)
        new = (torch.ones_like(gain), constant, torch.zeros_like(mean), torch.full_like(variance, 1 - module.eps))
        found |= {name: value.to(params[name].dtype) for name, value in zip(names, new, strict=True)}
    return found


def _pairs(network: nn.Module, params: Params, inputs: Inputs) -> list[tuple[str, str]]:
    """Linear operators and the batch norms that alone take their output."""
    made: dict[int, str] = {}
    taken: dict[str, list[str]] = {}
    outputs: list[Any] = []  # kept alive, so that no two have one address
    handles = []

    def after(path: str):
        def note(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.append(output)
                made[id(output)] = path

        return note

    def before(path: str):
        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            for one in args:
                if id(one) in made:
                    taken.setdefault(made[id(one)], []).append(path)

        return note

    grouped = {
        path: module for path, module in network.named_modules() if not isinstance(module, nn.Sequential | nn.Identity)
    }
    for path, module in grouped.items():
        if not any(True for _ in module.children()):
            handles.append(module.register_forward_pre_hook(before(path)))
        if isinstance(module, _ConvNd | nn.Linear):
            handles.append(module.register_forward_hook(after(path)))
    try:
        with evaluation_mode(network), torch.no_grad():
            forward(network, inputs, params)
    finally:
        for handle in handles:
            handle.remove()
    return [
        (operator, users[0])
        for operator, users in taken.items()
        if len(users) == 1
        and isinstance(network.get_submodule(users[0]), _BatchNorm)
        and not _groups_transposed(network.get_submodule(operator))
    ]


def _groups_transposed(module: nn.Module) -> bool:
    """Whether the outputs of an operator are spread over its weight in another way than by one dimension."""
    return isinstance(module, _ConvTransposeNd) and module.groups > 1


def _same(network: nn.Module, params: Params, changed: Mapping[str, Tensor], inputs: Inputs) -> bool:
    """Whether the folded network computes the same."""
    with evaluation_mode(network), torch.no_grad():
        before, after = (forward(network, inputs, one).double() for one in (params, changed))
    return bool((before - after).abs().max() <= TOLERANCE * before.abs().max())
