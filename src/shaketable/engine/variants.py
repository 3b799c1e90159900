"""Variants: networks that differ from a base in a few tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import torch
from torch import Tensor

from shaketable.errors import InputError
from shaketable.params import Params

CANCELS = 20.0
"""Norms of the terms of a combination over that of their sum, beyond which the sum is made of weights, not of outputs."""


@dataclass(frozen=True, eq=False)
class Combination:
    r"""A variant whose changed tensors are a weighted sum of given ones.

    .. math:: \theta'_d = \sum_k c_k \, \theta_d^{(k)}

    A path from init to final with noise is three terms: ``((1 - alpha, init), (alpha, final), (sigma, noise))``, each the
    tensors of one layer. Keep the same dicts over many combinations: the engine knows them by identity, and where the
    layer is one linear operator it runs each term once a batch instead of each combination.

    Args:
        terms: pairs of a weight :math:`c_k` and tensors by name; all with the same names, those of the layer.

    Raises:
        InputError: there are no terms, or their names differ.
    """

    terms: tuple[tuple[float, Params], ...]

    def __init__(self, terms: Sequence[tuple[float, Params]]) -> None:
        try:
            object.__setattr__(self, "terms", tuple((float(weight), params) for weight, params in terms))
        except (TypeError, ValueError) as error:
            raise InputError("a combination is made of pairs: a number, and tensors by name.") from error
        if not all(isinstance(params, Mapping) for _, params in self.terms):
            raise InputError("a combination is made of pairs: a number, and tensors by name.")
        if not self.terms or any(set(params) != set(self.terms[0][1]) for _, params in self.terms):
            raise InputError("a combination needs at least one term, and the same names of tensors in each.")

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it changes."""
        return tuple(self.terms[0][1])

    @cached_property
    def is_steady(self) -> bool:
        """Whether summing outputs instead of weights loses no digits: floats of 32 bits or more, and little cancels."""
        if any(tensor.dtype not in (torch.float32, torch.float64) for tensor in self.terms[0][1].values()):
            return False
        parts = sum(abs(c) * float(sum(p[n].norm() for n in self.names)) for c, p in self.terms)
        return parts <= CANCELS * float(sum(tensor.norm() for tensor in self.tensors().values()))

    def tensors(self) -> dict[str, Tensor]:
        """The changed tensors themselves."""
        found: dict[str, Tensor] = {}
        for name in self.names:
            (weight, first), *rest = ((weight, params[name]) for weight, params in self.terms)
            if not first.is_floating_point():
                found[name] = first  # a counter: nothing to weigh
                continue
            total = first * weight
            for weight, tensor in rest:
                total.add_(tensor.to(total.device), alpha=weight)
            found[name] = total
        return found


Variant = Mapping[str, Tensor] | Combination
"""The changed tensors by name, or a weighted sum of such."""


def names_of(variant: Variant) -> tuple[str, ...]:
    """The tensors that a variant changes."""
    return variant.names if isinstance(variant, Combination) else tuple(variant)


def tensors_of_variant(variant: Variant) -> Params:
    """The changed tensors of a variant."""
    return variant.tensors() if isinstance(variant, Combination) else variant


def is_finite(variant: Variant) -> bool:
    """Whether all numbers of a variant are finite."""
    parts = [params for _, params in variant.terms] if isinstance(variant, Combination) else [variant]
    tensors = [tensor for params in parts for tensor in params.values() if tensor.is_floating_point()]
    return all(
        isfinite(tensor.sum()) or bool(tensor.isfinite().all()) for tensor in tensors
    )  # a sum is several times as fast


def shares_terms(variants: Sequence[Variant]) -> bool:
    """Whether running each term once is less work than running each variant: fewer terms than variants."""
    terms = {id(params) for variant in variants if isinstance(variant, Combination) for _, params in variant.terms}
    return bool(terms) and len(terms) < len(variants)


def check(variants: Sequence[Variant], base: Params) -> None:
    """One error for a variant that is none of the base network.

    Raises:
        InputError: a tensor that the network does not have, or one of another shape.
    """
    if isinstance(variants, Mapping | str) or not isinstance(variants, Sequence):
        raise InputError(f"variants is a {type(variants).__name__}; give a list of them.")
    for index, variant in enumerate(variants):
        if not isinstance(variant, Mapping | Combination):
            raise InputError(f"variant {index} is a {type(variant).__name__}; give the changed tensors by name.")
        for _, params in variant.terms if isinstance(variant, Combination) else ((1, variant),):
            for name, tensor in params.items():
                if name not in base:
                    raise InputError(f"variant {index} changes {name!r}, which the network does not have.")
                if not isinstance(tensor, torch.Tensor) or tensor.shape != base[name].shape:
                    got = list(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
                    raise InputError(f"variant {index}: {name!r} is {got}, the network's has {list(base[name].shape)}.")
                if tensor.dtype != base[name].dtype:
                    raise InputError(
                        f"variant {index}: {name!r} is {tensor.dtype}, the network's is {base[name].dtype}."
                    )
                if tensor.device != base[name].device:
                    raise InputError(
                        f"variant {index}: {name!r} is on {tensor.device}, the network's is on {base[name].device}; move it there."
                    )
