"""The searches behind module criticality: layers on their way from init to final, draws of noise, and the engine."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from shaketable.data import Data
from shaketable.engine import Decision, Engine, Found, Variant, guesses, minimum_ratio, run
from shaketable.engine.search import GUESSED, Answers, Point, Remember, Searched
from shaketable.evaluate import Sums
from shaketable.identity import generator_from
from shaketable.params import COMPUTED, Grouping, Layer, Params, computes_weight
from shaketable.probes.cells import Cells
from shaketable.probes.moves import Move, Parameters, move_of, moved_layers, stuck
from shaketable.progress import progress
from shaketable.study import Study

Starts = Mapping[tuple[str, str], Point | None]
MANY = 10
"""How many times the pairs of an example and a draw that guesses take there must be for these to pay."""
PROBED = 512
"""Examples on which the spread over draws is measured for the standard error."""
WIDE = 1.25
"""By what sigma is changed there, to see how the error grows with it."""


@dataclass(frozen=True, eq=False)
class Line:
    """A layer on its way from init to final, and draws of noise: the same ones at every point (common random numbers)."""

    position: int
    layer: Layer
    move: Move
    noise: Sequence[Params]

    def variants(self, alpha: float, sigma: float) -> list[Variant]:
        """One variant a draw: (1 - alpha) init + alpha final + sigma noise."""
        return [self.move.at(alpha, sigma, noise) for noise in self.noise]


def kept_answers(cells: Cells, key: str) -> Remember:
    """The answers of each round of the searches of a name: those of an earlier run, or those given and kept now."""

    def remember(number: int, ask: Answers) -> list[Decision]:
        kept = cells.get(f"{key} round {number}", lambda: {"decisions": [vars(decision) for decision in ask()]})
        return [Decision(**decision) for decision in kept["decisions"]]

    return remember


def lines_of(
    study: Study, by: Grouping, parameters: Parameters, draws: int, seed: int
) -> tuple[list[Line], dict[Line, str]]:
    """The layers that can be perturbed, and the others with the reason why not."""
    found: list[Line] = []
    refused: dict[Line, str] = {}
    for position, layer in moved_layers(study, by, parameters).items():
        move, reason = move_of(study, layer), stuck(study, layer)
        if any(computes_weight(study.network.get_submodule(path)) for path in layer.modules):
            reason = COMPUTED  # noise on what it is computed from is no noise on the weight
        if reason:
            refused[Line(position, layer, move, ())] = reason
        else:
            noise = [move.noise(seed, "criticality", layer.name, draw) for draw in range(draws)]
            found.append(Line(position, layer, move, noise))
    for path, module in study.network.named_modules():
        if hasattr(module, "_packed_params"):  # torch's quantised operators hold no parameters
            layer = Layer(path, (), (), (path,), type(module).__name__)
            line = Line(len(found) + len(refused), layer, Move((), {}, {}, {}), ())
            refused[line] = "its weights are quantised, so no noise can be added to them; give the float network"
    return found, refused


@dataclass(frozen=True)
class Searches:
    """The searches of one bound: of every layer's criticality and, with alpha = 1, of its PAC-Bayes term."""

    engine: Engine
    data: Data
    bound: float
    quantity: Literal["error", "loss"]
    alphas: Sequence[float]
    sigmas: Sequence[float]
    pac_bayes: bool
    failure: float
    exact: bool
    seed: int

    def found(self, moved: Sequence[Line], cells: Cells, key: str) -> tuple[dict[str, Found], dict[str, Found]]:
        """What the searches of each layer found, by its name: over all alphas, and at alpha = 1; answers are kept in ``cells``.

        Each starts where a search by guesses ends, or in the middle where these would take much of all pairs of an example and a
        draw.
        """
        alphas = {"valley": self.alphas} | ({"final": (1.0,)} if self.pac_bayes else {})
        lines = {(kind, line.layer.name): line for line in moved for kind in alphas}

        def searches(beyond: int, starts: Starts) -> Searched[tuple[str, str]]:
            return {
                of: (minimum_ratio(alphas[of[0]], self.sigmas, beyond, starts.get(of)), _at(line))
                for of, line in lines.items()
            }

        starts = {of: _middle(alphas[of[0]], self.sigmas) for of in lines}
        about = {"quantity": self.quantity, "seed": self.seed}
        if len(self.data) * max((len(line.noise) for line in moved), default=0) >= MANY * GUESSED:
            kept = kept_answers(cells, f"{key} guess")
            with progress(f"guesses at {self.bound:.3g}", len(lines)) as advance:
                asked = searches(0, starts)
                starts = guesses(self.engine, asked, self.data, self.bound, **about, advance=advance, remember=kept)
        with progress(f"criticality at {self.bound:.3g}", len(lines)) as advance:
            found = run(
                self.engine,
                searches(2, starts),
                self.data,
                self.bound,
                **about,
                failure=self.failure,
                exact=self.exact,
                advance=advance,
                remember=kept_answers(cells, key),
            )

        def of(kind: str) -> dict[str, Found]:
            return {name: one for (k, name), one in found.items() if k == kind}

        return of("valley"), of("final")

    def spread(
        self, points: Mapping[str, tuple[float, float]], moved: Mapping[str, Line]
    ) -> dict[str, tuple[float, float | None, float]]:
        """At a point of each layer: the mean over draws, its standard error, and the slope of the mean in sigma.

        On some of the examples, with all draws; the slope is that between sigmas a quarter smaller and larger.
        """
        order = torch.randperm(len(self.data), generator=generator_from(self.seed, "spread"))[:PROBED]
        part = self.data.subset(order.sort().values)
        variants: list[Variant] = []
        for name, (alpha, sigma) in points.items():
            for factor in (1.0, 1 / WIDE, WIDE):
                variants += moved[name].variants(alpha, factor * sigma)
        sums = self.engine.sums(variants, part, losses=self.quantity == "loss") if variants else []
        means = torch.tensor([self._mean(one) for one in sums], dtype=torch.float64)
        found, start = {}, 0
        for name, (_, sigma) in points.items():
            count = len(moved[name].noise)
            here, below, above = means[start : start + 3 * count].view(3, count)
            start += 3 * count
            deviation = float(here.std()) / math.sqrt(count) if count > 1 else None
            slope = float((above - below).mean()) / (sigma * (WIDE - 1 / WIDE))
            found[name] = (float(here.mean()), deviation, slope)
        return found

    def _mean(self, sums: Sums) -> float:
        return sums.error if self.quantity == "error" else sums.mean_loss


def _at(line: Line) -> Callable[[tuple[float, ...]], list[Variant]]:
    """The variants of a layer at a point (alpha, sigma)."""
    return lambda point: line.variants(point[0], point[1])


def _middle(alphas: Sequence[float], sigmas: Sequence[float]) -> Point:
    """A point in the middle of the grid."""
    alpha = alphas[len(alphas) // 2]
    return alpha, sigmas[len(sigmas) // 2 if alpha else 0]
