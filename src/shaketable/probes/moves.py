"""Layers between their init and their final weights: which move, along what, and with what noise."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from shaketable.engine import Combination, Variant
from shaketable.errors import InputError
from shaketable.identity import generator_from
from shaketable.params import Grouping, Layer, Params, layers, linear_layers, state
from shaketable.probes.stored import LAYERS, names_of
from shaketable.study import Study

ALL_LAYERS = "all layers"
Parameters = Literal["weight", "all"]
"""Which parameters of a layer move: the weights of its linear operators alone, or biases and normalisations as well."""
NO_INIT = (
    "the study has no initial weights, and the path starts there; make it with init=..., the weights before training "
    "(shaketable.snapshot(network) copies them)"
)


def moved_layers(
    study: Study, by: Grouping, parameters: Parameters, names: Iterable[str] | str | None = None
) -> dict[int, Layer]:
    """The layers that move, by their position among all of the grouping: those of these names, or all.

    Raises:
        InputError: no init, an unknown grouping, an unknown name, or an empty choice.
    """
    if study.init is None:
        raise InputError(f"{NO_INIT}.")
    if parameters not in ("weight", "all"):
        raise InputError(f"parameters={parameters!r}: use 'weight' (of linear operators alone) or 'all'.")
    found = layers(study.network, by, study.example_inputs())
    if parameters == "weight":
        weights = {name for layer in linear_layers(study.network) for name in layer.params}
        kept = [tuple(name for name in layer.params if name in weights) for layer in found]
        found = [replace(layer, params=own, buffers=()) for layer, own in zip(found, kept, strict=True) if own]
    if any(layer.name == ALL_LAYERS for layer in found):
        raise InputError(f"no layer may be called {ALL_LAYERS!r}: that is the row of all together; rename yours.")
    known = [layer.name for layer in found]
    chosen = known if names is None else names_of(LAYERS, layers=names)
    for name in chosen:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            raise InputError(
                f"there is no layer {name!r}{f'; did you mean {near[0]!r}?' if near else ''}; there are {', '.join(known)}."
            )
    if not chosen:
        raise InputError("no layer was chosen; name at least one, or leave the choice out for all.")
    return {position: layer for position, layer in enumerate(found) if layer.name in chosen}


@dataclass(frozen=True, eq=False)
class Move:
    r"""The straight way of some tensors from init to final: :math:`(1 - \alpha) \theta^0 + \alpha \theta^F`.

    ``names`` are the tensors that move. ``beside`` are others of the same operator, a bias, that stay as they are: the engine
    runs a linear operator once a term, not once a variant, only where a combination has all of its parameters.
    """

    names: tuple[str, ...]
    init: Params
    final: Params
    beside: Params

    @cached_property
    def distance(self) -> float:
        r"""The Frobenius norm :math:`\lVert\theta^F - \theta^0\rVert`, in float64."""
        return math.sqrt(
            sum(float((self.final[n].double() - self.init[n].double()).square().sum()) for n in self.names)
        )

    @cached_property
    def _first(self) -> dict[str, Tensor]:
        return {**{name: self.init[name] for name in self.names}, **self.beside}

    @cached_property
    def _last(self) -> dict[str, Tensor]:
        return {**{name: self.final[name] for name in self.names}, **self.beside}

    def at(self, alpha: float, sigma: float = 0.0, noise: Params | None = None) -> Variant:
        """The variant of the final network at alpha, with sigma times the noise: at 0 its very init, at 1 the network itself."""
        if noise is not None and sigma:
            return Combination(((1 - alpha, self._first), (alpha, self._last), (sigma, noise)))
        if alpha in (0, 1):
            return {} if alpha else self._first
        return Combination(((1 - alpha, self._first), (alpha, self._last)))

    def noise(self, seed: int, *words: str | int) -> dict[str, Tensor]:
        """Standard normal noise on what moves, drawn on the CPU; zero on what stays."""
        generator = generator_from(seed, *words)
        drawn = {}
        for name in self.names:
            like = self.final[name]
            drawn[name] = torch.randn(like.shape, generator=generator).to(like.device, like.dtype)
        return drawn | {name: torch.zeros_like(tensor) for name, tensor in self.beside.items()}


def move_of(study: Study, layer: Layer, with_buffers: bool = False) -> Move:
    """The way of one layer, with its running statistics if they go along."""
    assert study.init is not None
    buffers = [name for name in layer.buffers if study.final[name].is_floating_point()] if with_buffers else []
    names = (*layer.params, *buffers)
    beside = {}
    if len(names) == len(layer.modules) == 1 and study.final[names[0]].dtype in (torch.float32, torch.float64):
        path = layer.modules[0]
        own = study.network.get_submodule(path).named_parameters(path, recurse=False)
        beside = {name: study.final[name] for name, _ in own if name not in names}
    return Move(names, study.init, study.final, beside)


def move_of_all(study: Study, with_buffers: bool) -> Move:
    """The way of every trained parameter at once, and of the running statistics with buffers."""
    assert study.init is not None
    trained = {name for name, _ in study.network.named_parameters()}
    names = [name for name in state(study.network) if name in trained or with_buffers]
    return Move(tuple(n for n in names if study.final[n].is_floating_point()), study.init, study.final, {})


def stuck(study: Study, layer: Layer) -> str | None:
    """Why a layer cannot move, or None."""
    for name in layer.params:
        dtype = study.final[name].dtype
        if not dtype.is_floating_point:
            return f"{name!r} holds {str(dtype).removeprefix('torch.')}: there is nothing between two of its values"
    return None


def grid(name: str, given: Any, highest: float) -> tuple[float, ...]:
    """Numbers in [0, highest], ascending, each once: those of a list, or so many at equal steps in [0, 1].

    Raises:
        InputError: no number, one out of range, or nothing at all.
    """
    wish = f"give numbers from 0{'' if math.isinf(highest) else f' to {highest:g}'}"
    if isinstance(given, int) and not isinstance(given, bool) and math.isfinite(highest):
        if given < 2:
            raise InputError(f"{name}={given}: give a number of points, at least 2, or the points themselves.")
        return tuple(step / (given - 1) for step in range(given))
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(f"{name}={given!r}: {wish}, as a list.")
    points = list(given)
    for point in points:
        if (
            isinstance(point, bool)
            or not isinstance(point, int | float)
            or not 0 <= point <= highest
            or point == math.inf
        ):
            raise InputError(f"{name}: {point!r} is out of range; {wish}.")
    if not points:
        raise InputError(f"{name} is empty; {wish}.")
    return tuple(sorted({float(point) for point in points}))
