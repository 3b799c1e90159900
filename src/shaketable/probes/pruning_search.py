"""The search behind prunability: the smallest fraction kept, each question decided on sums of losses, hardest examples first."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from shaketable.data import Data
from shaketable.data.data import IGNORED
from shaketable.engine import Engine, Variant, critical_magnitude
from shaketable.engine.decisions import certain
from shaketable.engine.variants import names_of
from shaketable.evaluate import outcomes, rows
from shaketable.identity import generator_from
from shaketable.probes.cells import Cell
from shaketable.probes.screening import Screen

FIRST, GROWTH = 256, 0.3
"""Examples before the first look, and what each look adds at least, as a share of those seen."""
PASSES = 5
"""Over all examples, which a search takes at least: by this the engine tells whether a level pays that takes seconds to set up."""
GUESSED, FEW = 512, 8
"""Random examples by which the fraction is guessed, and one in how many at most."""
TOGETHER = 256
"""Examples that a worker takes at a time on a CPU: kernels are chosen once, for batches up to so many."""


class Losses:
    """Whether the mean loss of a variant is at most a bound.

    Every answer is certain: it rests on the exact sum of losses, or on a part of it that exceeds the bound. Examples come in
    the order of their loss in the last variant that saw them, the largest first: no order is wrong, and in this one a sum
    that will exceed the bound does so soon. Where ``engine`` rounds such variants, its losses in bfloat16 answer first where
    :class:`Screen` has no doubt; such an answer rests on a measured error.

    Args:
        engine: of the base network.
        data: N examples.
        telling: a variant of the tensors that all variants change, other than the base: by it the engine chooses its level.
        seed: of the screening's draws.
    """

    def __init__(self, engine: Engine, data: Data, telling: Variant, seed: int = 0) -> None:
        self.engine, self.data = engine, data
        labels = data.labels
        self._counts = (labels != IGNORED).reshape(len(labels), -1).sum(1).cpu()
        self._hardness = torch.zeros(len(data), dtype=torch.float64)
        self.examples = int(self._counts.sum())
        self._losses(telling, torch.arange(min(TOGETHER // 2, len(data))))
        self.clean: float = self._exact({name: engine.params[name] for name in names_of(telling)}, None)["loss"]
        self._known, rounds = self._hardness.clone(), engine.rounds(telling, data)
        self._screen = Screen(self._losses, self._known, self._counts, seed) if rounds else None
        self._some = torch.randperm(len(data), generator=generator_from(seed, "guess"))[:GUESSED]

    def answer(self, variant: Variant, bound: float) -> Cell:
        """``holds``; on how many examples that rests (``seen``), and on how many ``in_float32``; their ``loss``, and its ``error``.

        ``loss`` is the sum of the losses seen over all examples: the mean loss where all were seen. Where bfloat16 answers it
        is the mean loss as estimated, and ``error`` is what it may be off by; None where the answer is certain.
        """
        if self._screen is not None:
            found, rough = self._screen.answer(variant, bound * self.examples)
            if found is not None:
                return found | {name: found[name] / self.examples for name in ("loss", "error")}
            self._hardness = rough.nan_to_num(math.inf)
        return self._exact(variant, bound)

    def guess(self, variants: Callable[[float], Variant], bound: float, steps: int) -> float | None:
        """The smallest fraction kept as few random examples tell it, where a search may begin; None where there are few in all."""
        if len(self.data) < FEW * GUESSED:
            return None
        margin = len(self._some) * (bound - self.clean) * self.examples / len(self.data)

        def holds(kept: float) -> bool:
            found = self._losses(variants(kept), self._some, self._screen is not None)
            return float((found - self._known[self._some]).sum()) <= margin

        return smallest_kept(steps, False, 0, holds, lambda tests: None)[0]

    def _exact(self, variant: Variant, bound: float | None) -> Cell:
        """From the sum over all examples, or over as many as settle whether their mean is at most a bound."""
        order = self._hardness.argsort(descending=True, stable=True)
        total, seen, holds, start = 0.0, 0, None, 0
        while holds is None and start < len(order):
            part = order[start : start + max(FIRST, int(GROWTH * start))]
            found = self._losses(variant, part)
            self._hardness[part] = found.nan_to_num(math.inf)
            total += float(found.sum())
            seen += int(self._counts[part].sum())
            start += len(part)
            holds = None if bound is None else certain(total, seen, self.examples, bound, math.inf)
        return {"holds": holds, "seen": seen, "in_float32": seen, "loss": total / self.examples, "error": None}

    def _losses(self, variant: Variant, which: Tensor, rough: bool = False) -> Tensor:
        """Losses of a variant on some examples, float64 [n] on the CPU."""
        size = TOGETHER * self.engine.workers if self.data.device.type == "cpu" else len(which)
        found = [
            losses
            for part in which.to(self.data.device).split(size)
            for _, (losses,) in self.engine.map(
                [variant], self.data, example_losses, part, planned=PASSES * len(self.data), rough=rough
            )
        ]
        return torch.cat(found).double().cpu()


def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each example in nats [n], the sum over its labels in a language model."""
    losses = outcomes(*rows(logits, labels))[1]
    if labels.ndim == 1:
        return losses
    found = torch.zeros(labels.shape, dtype=losses.dtype, device=losses.device)
    found[labels != IGNORED] = losses
    return found.flatten(1).sum(1)


def smallest_kept(
    steps: int,
    every: bool,
    beyond: int,
    holds: Callable[[float], bool],
    advance: Callable[[int], object],
    start: float | None = None,
) -> tuple[float, tuple[tuple[float, bool], ...]]:
    """The smallest fraction kept at which a condition holds, and every fraction tested with its answer.

    All entries kept holds by definition and is not tested.

    Args:
        steps: the grid: 0, 1 / steps, 2 / steps, ...
        every: test every fraction; without it by bisection, where the next ``beyond`` smaller ones are tested too.
        beyond: how many.
        holds: whether the condition holds when a fraction is kept.
        advance: called after each test.
        start: one of these fractions, a guess, where a bisection begins.
    """
    grid = [step / steps for step in range(steps + 1)]
    tested: dict[float, bool] = {}

    def ask(kept: float) -> bool:
        if kept == 1:
            return True
        tested[kept] = holds(kept)
        advance(1)
        return tested[kept]

    if every:
        for kept in grid[:-1]:
            ask(kept)
    else:
        search = critical_magnitude(grid, smallest=True, beyond=beyond, start=start)
        try:
            point = next(search)
            while True:
                point = search.send(ask(point[0]))
        except StopIteration:
            pass
    return min((kept for kept, one in tested.items() if one), default=1.0), tuple(tested.items())


def is_monotone(tested: Sequence[tuple[float, bool]]) -> bool:
    """Whether the condition holds at every fraction tested above one at which it holds."""
    answers = [holds for _, holds in sorted(tested)]
    return answers == sorted(answers)
