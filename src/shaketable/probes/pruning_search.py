"""The search behind prunability: the smallest fraction kept, each question decided on exact sums, hardest examples first."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shaketable.data import Data
from shaketable.data.data import IGNORED
from shaketable.engine import Engine, Variant, critical_magnitude
from shaketable.engine.decisions import certain
from shaketable.evaluate import outcomes, rows
from shaketable.probes.cells import Cell

FIRST, GROWTH = 256, 0.3
"""Examples before the first look, and what each look adds at least, as a share of those seen."""
PASSES = 5
"""Over all examples, which a search takes at least: by this the engine tells whether a level pays that takes seconds to set up."""


@dataclass
class Losses:
    """Whether the mean loss of a variant is at most a bound: every answer is certain.

    Examples come in the order of their loss in the last variant that saw them, the largest first: no order is wrong, and
    in this one a sum that will exceed the bound does so soon.
    """

    engine: Engine
    data: Data

    def __post_init__(self) -> None:
        labels = self.data.labels
        self._counts = (labels != IGNORED).reshape(len(labels), -1).sum(1).cpu()
        self._hardness = torch.zeros(len(self.data), dtype=torch.float64)
        self.examples = int(self._counts.sum())
        self.clean = self._seen({}, None)["loss"]

    def answer(self, variant: Variant, bound: float) -> Cell:
        """``holds``, how many were ``seen``, and the sum of their losses over all examples: the ``loss`` where all were seen."""
        return self._seen(variant, bound)

    def _seen(self, variant: Variant, bound: float | None) -> Cell:
        """The sum over all examples, or over as many as settle whether their mean is at most a bound."""
        order = self._hardness.argsort(descending=True, stable=True)
        total, seen, holds, start, planned = 0.0, 0, None, 0, PASSES * len(self.data)
        while holds is None and start < len(order):
            part = order[start : start + max(FIRST, int(GROWTH * start))]
            where = part.to(self.data.device)
            batches = self.engine.map([variant], self.data, example_losses, where, planned=planned)
            found = torch.cat([losses.double().cpu() for _, (losses,) in batches])
            self._hardness[part] = found.nan_to_num(math.inf)
            total += float(found.sum())
            seen += int(self._counts[part].sum())
            start += len(part)
            holds = None if bound is None else certain(total, seen, self.examples, bound, math.inf)
        return {"holds": holds, "seen": seen, "loss": total / self.examples}


def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each example in nats [n], the sum over its labels in a language model."""
    losses = outcomes(*rows(logits, labels))[1]
    if labels.ndim == 1:
        return losses
    found = torch.zeros(labels.shape, dtype=losses.dtype, device=losses.device)
    found[labels != IGNORED] = losses
    return found.flatten(1).sum(1)


def smallest_kept(
    steps: int, every: bool, beyond: int, holds: Callable[[float], bool], advance: Callable[[int], object]
) -> tuple[float, tuple[tuple[float, bool], ...]]:
    """The smallest fraction kept at which a condition holds, and every fraction tested with its answer.

    All entries kept holds by definition and is not tested.

    Args:
        steps: the grid: 0, 1 / steps, 2 / steps, ...
        every: test every fraction; without it by bisection, where the next ``beyond`` smaller ones are tested too.
        beyond: how many.
        holds: whether the condition holds when a fraction is kept.
        advance: called after each test.
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
        search = critical_magnitude(grid, smallest=True, beyond=beyond)
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
