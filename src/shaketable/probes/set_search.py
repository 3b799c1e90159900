"""The search over sets of layers: errors of sets, each counted once, greedy steps with a beam, or every set."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import polars as pl

from shaketable.data import Data
from shaketable.engine import Engine, Variant
from shaketable.errors import InputError
from shaketable.perturb import reestimated_statistics
from shaketable.probes.cells import Cell, Cells
from shaketable.progress import progress
from shaketable.study import Study

SECTION = 2000
"""Examples after which counts are kept."""
Set = frozenset[int]
"""Positions of candidates."""


@dataclass
class SetSearch:
    """Counts of errors of sets of candidates, each evaluated once, and the search over them.

    Args:
        study: the network with its weights.
        data: on which errors are counted.
        tensors: for each draw the changed tensors of each candidate.
        sizes: parameters of each candidate.
        by_parameters: whether a set is as large as its parameters, and not as its layers.
        tolerance: the drop in accuracy that is allowed.
        reestimate: batches of training data by which running statistics are estimated anew for each set; None keeps them.
        cells: counts that survive interruption.
        engine_arguments: of the :class:`shaketable.engine.Engine`.
    """

    study: Study
    data: Data
    tensors: list[list[dict[str, Any]]]
    sizes: list[int]
    by_parameters: bool
    tolerance: float
    reestimate: int | None
    cells: Cells
    engine_arguments: dict[str, Any]
    errors: dict[Set, list[int]] = field(default_factory=dict)
    not_finite: dict[Set, int] = field(default_factory=dict)
    added: dict[Set, int] = field(default_factory=dict)
    examples: int = 0
    choice: str = ""

    def search(self, beam: int | None, look_ahead: int, beyond: int | None) -> set[Set]:
        """Fill in the sets that the search tries; returns those that it went on from."""
        total, empty = len(self.sizes), frozenset[int]()
        self._count({empty: [()]}, lambda *_: None)
        best: list[Set] = [empty]
        kept = {empty}
        outside = 0
        with progress("layer sets", total) as advance:
            for step in range(1, total + 1):
                depth = min(look_ahead, total - step + 1)
                asked: dict[Set, list[tuple[int, ...]]] = {}
                for start in best:
                    # in forward order: what has one layer more is behind the base, where little runs again; where every
                    # set is tried, each has such a base, so that no other is needed
                    behind = max(start, default=-1) if beam is None else -1
                    rest = [i for i in range(behind + 1, total) if i not in start]
                    for deep in range(1, depth + 1):
                        for more in combinations(rest, deep):
                            asked.setdefault(start.union(more[:-1]), []).append(more[-1:])
                self._count(asked, advance)
                value: dict[Set, tuple[float, ...]] = {}
                for start in best:
                    rest = [i for i in range(total) if i not in start]
                    for more in combinations(rest, depth):
                        key = self._key(start.union(more))
                        for i in more:
                            one = start | {i}
                            value[one] = min(value.get(one, key), key)
                            self.added.setdefault(one, i)
                order = sorted(value, key=lambda one: (value[one], self._key(one), sorted(one)))
                best = order if beam is None else order[:beam]
                kept.update(best)
                advance(1)
                tried = [one for one in self.errors if len(one) == step]
                outside = 0 if any(map(self.within, tried)) else outside + 1
                if beyond is not None and outside >= beyond:
                    break
        return kept

    def _count(self, asked: dict[Set, list[tuple[int, ...]]], advance: Callable[..., object]) -> None:
        """Count the errors of each base with some layers more; where the base has all of them, the engine runs one layer each."""
        for base, extras in asked.items():
            new = [extra for extra in extras if base.union(extra) not in self.errors]
            if not new:
                continue
            counts = [self._counted(draw, base, new) for draw in range(len(self.tensors))]
            for position, extra in enumerate(new):
                one = base.union(extra)
                self.errors[one] = [counted[position][0] for counted in counts]
                self.not_finite[one] = sum(counted[position][1] for counted in counts)
                if extra:
                    self.added.setdefault(one, extra[0])
            advance(0, f"{len(self.errors)} sets")

    def _counted(self, draw: int, base: Set, extras: list[tuple[int, ...]]) -> list[list[int]]:
        """Errors, and examples without finite logits, of a base with each of some layers more, in one draw."""
        engine: Engine | None = None
        variants: list[Variant] = []
        totals = [[0, 0] for _ in extras]
        seen = 0
        for start in range(0, len(self.data), SECTION):

            def section(start: int = start) -> Cell:
                nonlocal engine, variants
                if engine is None:  # made only where something is left to compute
                    params = {**self.study.final, **self._changed(draw, base)}
                    engine = Engine(self.study.network, params, **self.engine_arguments)
                    variants = [self._variant(draw, base, extra) for extra in extras]
                span = (start, min(start + SECTION, len(self.data)))
                sums = engine.sums(variants, self.data, losses=False, span=span, planned=len(self.data))
                self.choice = engine.choice
                return {"sums": [[one.errors, one.not_finite] for one in sums], "examples": sums[0].examples}

            found = self.cells.get(json.dumps([draw, sorted(base), extras, start]), section)
            seen += found["examples"]
            totals = [[a + c, b + d] for (a, b), (c, d) in zip(totals, found["sums"], strict=True)]
        if not seen:
            raise InputError("no label counts: every one is -100; give data with labels.")
        self.examples = seen
        return totals

    def _changed(self, draw: int, layers: Iterable[int]) -> dict[str, Any]:
        """The changed tensors of some candidates."""
        return {name: tensor for i in layers for name, tensor in self.tensors[draw][i].items()}

    def _variant(self, draw: int, base: Set, extra: tuple[int, ...]) -> Variant:
        """What a base with some layers more has in other values than the base."""
        more = self._changed(draw, extra)
        if self.reestimate is None or not base.union(extra):
            return more
        weights, train = {**self.study.final, **self._changed(draw, base), **more}, self.study.data("train")
        return more | reestimated_statistics(self.study.network, weights, train, batches=self.reestimate)

    def drop(self, one: Set) -> float:
        """The drop in accuracy, the mean over draws."""
        return (sum(self.errors[one]) - sum(self.errors[frozenset()])) / (self.examples * len(self.tensors))

    def within(self, one: Set) -> bool:
        """Whether the drop is within the tolerance."""
        return self.drop(one) <= self.tolerance + 1e-12

    def size(self, one: Set) -> int:
        """What is made as large as possible."""
        return sum(self.sizes[i] for i in one) if self.by_parameters else len(one)

    def largest(self) -> Set:
        """The largest set within the tolerance; of several the one with the fewest errors."""
        inside = [one for one in self.errors if self.within(one)]
        weight = {one: sum(self.sizes[i] for i in one) for one in inside}
        return min(inside, key=lambda one: (-self.size(one), sum(self.errors[one]), -weight[one], sorted(one)))

    def _key(self, one: Set) -> tuple[float, ...]:
        """What makes a set better than another: the smaller."""
        parameters = sum(self.sizes[i] for i in one)
        errors = float(sum(self.errors[one]))
        if self.by_parameters:
            errors = (max(0.0, errors - sum(self.errors[frozenset()])) + 1) / max(parameters, 1)
        return (not self.within(one), errors, -parameters)

    def rows(self, names: Sequence[str], kept: set[Set]) -> list[Cell]:
        """The table's rows."""
        rows = []
        for one in sorted(self.errors, key=len):
            share = pl.Series([count / self.examples for count in self.errors[one]])
            bad = self.not_finite[one]
            reason = f"{bad} examples have NaN or infinite logits; they count as errors" if bad else None
            rows.append(
                {
                    "step": len(one),
                    "set": " + ".join(names[i] for i in sorted(one)),
                    "added": names[self.added[one]] if one else None,
                    "size": self.size(one),
                    "layers": len(one),
                    "parameters": sum(self.sizes[i] for i in one),
                    "draws": len(share),
                    "examples": self.examples,
                    "errors": sum(self.errors[one]),
                    "error": share.mean(),
                    "error_std": share.std(),
                    "accuracy_drop": self.drop(one),
                    "within": self.within(one),
                    "kept": one in kept,
                    "status": "not finite" if bad else "ok",
                    "reason": reason,
                }
            )
        return rows
