"""Pruning: params to params with some entries set to zero, the smallest or random ones, in one shot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from shaketable.errors import InputError
from shaketable.forward import Inputs
from shaketable.identity import generator_from
from shaketable.params import COMPUTED, Params, computes_weight, layers, linear_layers

Method = Literal["magnitude", "random"]
METHODS = ("magnitude", "random")
Scope = Literal["global", "layer"]
Parameters = Literal["weight", "all"]


@dataclass(frozen=True, eq=False)
class Pruning:
    """Which entries of some tensors go first: nested, so that what is gone at one sparsity is gone at every larger one.

    ``places`` gives each entry its place in the order of its group, from 0; ``sizes`` is the size of that group, by tensor.
    """

    params: Params
    places: Mapping[str, Tensor]
    sizes: Mapping[str, int]

    @property
    def parameters(self) -> int:
        """How many entries can go."""
        return sum(tensor.numel() for tensor in self.places.values())

    def removed(self, sparsity: float) -> dict[str, Tensor]:
        """Where an entry is gone: the first ``round(sparsity x size)`` of each group."""
        return {name: place < round(sparsity * self.sizes[name]) for name, place in self.places.items()}

    def at(self, sparsity: float) -> dict[str, Tensor]:
        """The tensors with a fraction of their entries set to zero."""
        return {name: self.params[name].masked_fill(gone, 0) for name, gone in self.removed(sparsity).items()}


def ordered(
    params: Params, groups: Sequence[Sequence[str]], method: Method = "magnitude", seed: int = 0, draw: int = 0
) -> Pruning:
    """The order in which the entries of each group of tensors go: by magnitude, of equal ones the first; or a random one.

    Args:
        params: the tensors by name.
        groups: names; each group is ordered by itself.
        method: ``"magnitude"``, or ``"random"``.
        seed, draw: of a random order, which is the same on every device.

    Raises:
        InputError: an unknown method.

    Example:
        >>> weights = {"a": torch.tensor([3.0, -1.0]), "b": torch.tensor([2.0, 0.5])}
        >>> {name: tensor.tolist() for name, tensor in ordered(weights, [["a", "b"]]).at(0.5).items()}
        {'a': [3.0, 0.0], 'b': [2.0, 0.0]}
    """
    if method not in METHODS:
        raise InputError(f"method={method!r}: use 'magnitude' or 'random'.")
    places: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    for index, names in enumerate(groups):
        tensors = [params[name] for name in names]
        count = sum(tensor.numel() for tensor in tensors)
        if method == "magnitude":
            order = torch.cat([tensor.abs().flatten() for tensor in tensors]).argsort(stable=True)
        else:
            order = torch.randperm(count, generator=generator_from(seed, "pruning", draw, index)).to(tensors[0].device)
        place = torch.empty(count, dtype=torch.int32, device=order.device)
        place[order] = torch.arange(count, dtype=torch.int32, device=order.device)
        for name, part in zip(names, place.split([tensor.numel() for tensor in tensors]), strict=True):
            places[name] = part.reshape(params[name].shape)
            sizes[name] = count
    return Pruning(params, places, sizes)


def prunable(
    network: nn.Module, scope: Scope = "global", parameters: Parameters = "weight", inputs: Inputs | None = None
) -> list[tuple[str, ...]]:
    """The names of the tensors whose entries can go, in groups that are ordered by themselves.

    Args:
        network: any module.
        scope: ``"global"``: one group; ``"layer"``: a group for each layer.
        parameters: ``"weight"``: the weights of convolutions and linear layers (:func:`shaketable.params.linear_layers`);
            ``"all"``: every parameter, biases and normalisations included.
        inputs: a few examples, for the order of layers.

    Raises:
        InputError: an unknown word, a network without such parameters, or weights that are computed from others.
    """
    if scope not in ("global", "layer"):
        raise InputError(f"scope={scope!r}: use 'global' (one order over all weights) or 'layer' (one for each layer).")
    if parameters not in ("weight", "all"):
        raise InputError(f"parameters={parameters!r}: use 'weight' (of linear operators alone) or 'all'.")
    found = linear_layers(network, inputs) if parameters == "weight" else layers(network, "module", inputs)
    trained = dict(network.named_parameters())
    for layer in found:
        if any(computes_weight(network.get_submodule(path)) for path in layer.modules):
            raise InputError(f"layer {layer.name!r} {COMPUTED}.")
        for name in layer.params:
            if not trained[name].is_floating_point():
                raise InputError(f"{name!r} holds {trained[name].dtype}: what is quantised cannot be pruned.")
    groups = [layer.params for layer in found]
    return groups if scope == "layer" else [tuple(name for group in groups for name in group)]
