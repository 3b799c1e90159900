"""The search over sets of layers: errors of sets, each counted at most once, greedy steps with a beam, or every set."""

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial, reduce
from itertools import combinations, pairwise
from operator import add
from typing import Any

import polars as pl
import torch

from shaketable.data import Data
from shaketable.engine import Engine, Variant
from shaketable.engine.engine import error_sums
from shaketable.errors import InputError
from shaketable.perturb import reestimated_statistics
from shaketable.probes.cells import Cell, Cells
from shaketable.probes.pruning_search import example_losses
from shaketable.progress import progress
from shaketable.study import Study

SECTION = 2000
"""Examples after which counts are kept."""
FIRST = 128
"""Examples on which all sets of a step are counted, before those that cannot win are given up; then twice as many, and so on."""
BEHIND = 2
"""Standard deviations of a count by which a set is behind the best so far: it waits until these are counted."""
Set = frozenset[int]
"""Positions of candidates."""
Extra = tuple[int, ...]
"""What a set has more than its base."""


@dataclass
class Count:
    """What was counted of a set: ``errors`` and examples ``not_finite``, of each draw, on the first ``examples`` labels."""

    errors: list[int]
    not_finite: list[int]
    examples: int = 0


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
    whole: dict[Set, Count] = field(default_factory=dict)
    given_up: dict[Set, Count] = field(default_factory=dict)
    added: dict[Set, int] = field(default_factory=dict)
    choice: str = ""

    def __post_init__(self) -> None:
        self._engines: dict[tuple[int, Set], Engine] = {}
        self._variants: dict[tuple[int, Set, Extra], Variant] = {}
        self._planned = len(self.data) * (len(self.sizes) + 1) // 2  # each step has one candidate less

    @cached_property
    def _final(self) -> Engine:
        """Of the final network; those of other bases are made from it, each where something is left to compute."""
        return Engine(self.study.network, self.study.final, **self.engine_arguments)

    def search(self, beam: int | None, look_ahead: int, beyond: int | None) -> set[Set]:
        """Fill in the sets that the search tries; returns those that it went on from."""
        total, empty = len(self.sizes), frozenset[int]()
        self._count_base()
        best: list[Set] = [empty]
        kept = {empty}
        outside = 0
        with progress("layer sets", total) as advance:
            for step in range(1, total + 1):
                depth = min(look_ahead, total - step + 1)
                asked: dict[Set, list[Extra]] = {}
                for start in best:
                    # in forward order: what has one layer more is behind the base, where little runs again; where every
                    # set is tried, each has such a base, so that no other is needed
                    behind = max(start, default=-1) if beam is None else -1
                    rest = [i for i in range(behind + 1, total) if i not in start]
                    for deep in range(1, depth + 1):
                        for more in combinations(rest, deep):
                            asked.setdefault(start.union(more[:-1]), []).append(more[-1:])
                asked = self._new(asked)
                if beam is None or depth > 1 or self.by_parameters:
                    self._count(asked, advance)
                else:
                    self._race(asked, beam, advance)
                value: dict[Set, tuple[float, ...]] = {}
                for start in best:
                    rest = [i for i in range(total) if i not in start]
                    for more in combinations(rest, depth):
                        if start.union(more) in self.given_up:
                            continue
                        key = self._key(start.union(more))
                        for i in more:
                            one = start | {i}
                            value[one] = min(value.get(one, key), key)
                            self.added.setdefault(one, i)
                order = sorted(value, key=lambda one: (value[one], self._key(one), sorted(one)))
                best = order if beam is None else order[:beam]
                kept.update(best)
                advance(1)
                tried = [one for one in self.whole if len(one) == step]
                outside = 0 if any(map(self.within, tried)) else outside + 1
                if beyond is not None and outside >= beyond:
                    break
        return kept

    def _count_base(self) -> None:
        """Count the errors of the final network, the same in each draw, and put examples in the order of its losses, the largest first."""

        def counted() -> Cell:
            found = self._final.map([{}], self.data, lambda *batch: (error_sums(*batch), example_losses(*batch)))
            sums, losses = zip(*(one for _, (one,) in found), strict=True)
            whole = reduce(add, sums)
            order = torch.cat(losses).double().nan_to_num(math.inf).argsort(descending=True, stable=True)
            return {"sums": [whole.errors, whole.not_finite], "examples": whole.examples, "order": order.tolist()}

        found, draws = self.cells.get("base", counted), len(self.tensors)
        errors, bad = found["sums"]
        self._order = torch.tensor(found["order"])
        self._finish({frozenset(): Count([errors] * draws, [bad] * draws, found["examples"])})

    def _count(self, asked: Mapping[Set, Sequence[Extra]], advance: Callable[..., object]) -> None:
        """Count the errors of each base with some layers more; where the base has all of them, the engine runs one layer each."""
        for base, extras in asked.items():
            counts = self._none({base: extras})
            for start in range(0, len(self.data), SECTION):
                self._run({base: extras}, counts, torch.arange(start, min(start + SECTION, len(self.data))), start)
            self._finish(counts)
            advance(0, f"{len(self.whole)} sets")

    def _race(self, asked: Mapping[Set, Sequence[Extra]], beam: int, advance: Callable[..., object]) -> None:
        """Count the errors of the ``beam`` best sets of one size, and of others until they cannot be among these.

        Examples come in the order of their loss in the final network, the largest first: there errors show early. All sets of a base
        share its pass, so they go on together; those that fall behind wait until the errors of the best are known.
        """
        counts = self._none(asked)
        if not counts:
            return
        starts = [0]
        while starts[-1] < len(self.data):
            starts.append(min(len(self.data), starts[-1] + min(SECTION, max(FIRST, starts[-1]))))
        spans = list(pairwise(starts))

        def run(sets: Collection[Set], span: tuple[int, int]) -> None:
            some = {base: [one for one in extras if base.union(one) in sets] for base, extras in asked.items()}
            self._run(some, counts, self._order[slice(*span)], span[0])

        def key(one: Set) -> tuple[float, ...]:
            return self._key(one, counts[one].errors)

        following: dict[Set, int] = {}  # of each set that waits: its next span
        done = list(counts)
        for number, span in enumerate(spans):
            run(done, span)
            errors = {one: sum(counts[one].errors) for one in done}
            least = sorted(errors.values())[min(beam, len(done)) - 1]
            if number + 1 < len(spans):
                following |= {one: number + 1 for one in done if errors[one] > least + BEHIND * math.sqrt(least)}
                done = [one for one in done if one not in following]
        for number, span in enumerate(spans):
            limit = sorted(map(key, done))[beam - 1] if len(done) >= beam else (math.inf,)
            some = [one for one, at in following.items() if at == number and key(one) <= limit]
            run(some, span)
            following |= dict.fromkeys(some, number + 1)
        everything = self.whole[frozenset()].examples  # behind the last label there is nothing to count
        self._finish({one: count for one, count in counts.items() if count.examples == everything})
        self.given_up |= {one: count for one, count in counts.items() if one not in self.whole}
        advance(0, f"{len(self.whole) + len(self.given_up)} sets")

    def _new(self, asked: Mapping[Set, Sequence[Extra]]) -> dict[Set, list[Extra]]:
        """What was not counted yet; a set with two bases belongs to the first."""
        found: dict[Set, list[Extra]] = {}
        taken = set(self.whole)
        for base, extras in asked.items():
            found[base] = [extra for extra in extras if base.union(extra) not in taken]
            taken.update(base.union(extra) for extra in extras)
            for extra in found[base]:
                self.added.setdefault(base.union(extra), extra[0])
        return found

    def _none(self, asked: Mapping[Set, Sequence[Extra]]) -> dict[Set, Count]:
        """Nothing counted, for each set."""
        draws = len(self.tensors)
        return {base.union(one): Count([0] * draws, [0] * draws) for base, extras in asked.items() for one in extras}

    def _finish(self, counts: Mapping[Set, Count]) -> None:
        """Take counts over all examples."""
        if any(not count.examples for count in counts.values()):
            raise InputError("no label counts: every one is -100; give data with labels.")
        self.whole |= counts
        self._engines.clear()
        self._variants.clear()

    def _run(
        self, asked: Mapping[Set, Sequence[Extra]], counts: Mapping[Set, Count], part: torch.Tensor, start: int
    ) -> None:
        """Count the errors of sets on some examples, and add them."""
        for base, extras in asked.items():
            if not extras:
                continue
            for draw in range(len(self.tensors)):
                key = json.dumps([draw, sorted(base), extras, start])
                found = self.cells.get(key, partial(self._counted, draw, base, extras, part))
                for extra, (errors, bad) in zip(extras, found["sums"], strict=True):
                    count = counts[base.union(extra)]
                    count.errors[draw] += errors
                    count.not_finite[draw] += bad
                    count.examples += 0 if draw else found["examples"]

    def _counted(self, draw: int, base: Set, extras: Sequence[Extra], part: torch.Tensor) -> Cell:
        """Errors, and examples without finite logits, of a base with each of some layers more, in one draw on some examples."""
        if (draw, base) not in self._engines:
            self._engines[draw, base] = self._final.rebased(self._changed(draw, base)) if base else self._final
        engine = self._engines[draw, base]
        for extra in extras:
            if (draw, base, extra) not in self._variants:
                self._variants[draw, base, extra] = self._variant(draw, base, extra)
        variants = [self._variants[draw, base, extra] for extra in extras]
        found = engine.map(variants, self.data, error_sums, part, decisions=True, planned=self._planned)
        sums = [reduce(add, column) for column in zip(*(answers for _, answers in found), strict=True)]
        self.choice = engine.choice
        return {"sums": [[one.errors, one.not_finite] for one in sums], "examples": sums[0].examples}

    def _changed(self, draw: int, layers: Iterable[int]) -> dict[str, Any]:
        """The changed tensors of some candidates."""
        return {name: tensor for i in layers for name, tensor in self.tensors[draw][i].items()}

    def _variant(self, draw: int, base: Set, extra: Extra) -> Variant:
        """What a base with some layers more has in other values than the base."""
        more = self._changed(draw, extra)
        if self.reestimate is None:
            return more
        weights, train = {**self.study.final, **self._changed(draw, base), **more}, self.study.data("train")
        return more | reestimated_statistics(self.study.network, weights, train, batches=self.reestimate)

    def drop(self, one: Set, errors: Sequence[int] | None = None) -> float:
        """The drop in accuracy, the mean over draws; of fewer ``errors``, those counted so far, it is the least that is possible."""
        more = sum(self.whole[one].errors if errors is None else errors) - sum(self.whole[frozenset()].errors)
        return more / (self.whole[frozenset()].examples * len(self.tensors))

    def within(self, one: Set, errors: Sequence[int] | None = None) -> bool:
        """Whether the drop is within the tolerance."""
        return self.drop(one, errors) <= self.tolerance + 1e-12

    def size(self, one: Set) -> int:
        """What is made as large as possible."""
        return sum(self.sizes[i] for i in one) if self.by_parameters else len(one)

    def largest(self) -> Set:
        """The largest set within the tolerance; of several the one with the fewest errors."""
        inside = [one for one in self.whole if self.within(one)]
        weight = {one: sum(self.sizes[i] for i in one) for one in inside}
        return min(inside, key=lambda one: (-self.size(one), sum(self.whole[one].errors), -weight[one], sorted(one)))

    def _key(self, one: Set, errors: Sequence[int] | None = None) -> tuple[float, ...]:
        """What makes a set better than another: the smaller. It grows with errors: of those counted so far it is the least."""
        parameters = sum(self.sizes[i] for i in one)
        worse = float(sum(self.whole[one].errors if errors is None else errors))
        if self.by_parameters:
            worse = (max(0.0, worse - sum(self.whole[frozenset()].errors)) + 1) / max(parameters, 1)
        return (not self.within(one, errors), worse, -parameters)

    def rows(self, names: Sequence[str], kept: set[Set]) -> list[Cell]:
        """The table's rows."""
        total, rows = self.whole[frozenset()].examples, []
        for one in sorted({**self.whole, **self.given_up}, key=len):
            count = self.whole.get(one) or self.given_up[one]
            bad, known = sum(count.not_finite), one in self.whole
            share = pl.Series([errors / total for errors in count.errors] if known else [], dtype=pl.Float64)
            status, reason = "ok", None
            if bad:
                status, reason = "not finite", f"{bad} examples have NaN or infinite logits; they count as errors"
            if not known:
                reason = f"worse than the sets kept from its errors on the first {count.examples:,} of {total:,} labels alone"
                status = "given up"
            rows.append(
                {
                    "step": len(one),
                    "set": " + ".join(names[i] for i in sorted(one)),
                    "added": names[self.added[one]] if one else None,
                    "size": self.size(one),
                    "layers": len(one),
                    "parameters": sum(self.sizes[i] for i in one),
                    "draws": len(count.errors),
                    "examples": count.examples,
                    "errors": sum(count.errors),
                    "error": share.mean(),
                    "error_std": share.std(),
                    "accuracy_drop": self.drop(one) if known else None,
                    "within": self.within(one) if known else None,
                    "kept": one in kept,
                    "status": status,
                    "reason": reason,
                }
            )
        return rows
