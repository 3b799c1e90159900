"""One batch of examples: each variant by the level that carries its layer, and by the loop where that fails."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shaketable.engine.compare import ROUNDING, Seen, near_ties
from shaketable.engine.levels import Levels, T, log, said
from shaketable.engine.memory import is_out_of_memory
from shaketable.engine.variants import Combination, Variant, is_finite, shares_terms, tensors_of_variant
from shaketable.engine.workers import Names, Worker, made
from shaketable.forward import Inputs, count_of, map_inputs
from shaketable.params import Params

if TYPE_CHECKING:
    from shaketable.engine.fused import Fused

ROWS = 8
"""Examples that the loop is given at least."""
TOGETHER = 32
"""Variants of a layer, at most, whose examples near a tie run again together."""


class Batch:
    """One batch of examples in the hands of one worker: what the levels give, or from where one fails the loop.

    ``counts`` is how many variants of each layer are wanted; a part of one where it is wanted on a part of the batch. With
    ``labels`` nothing is wanted of logits but whether they are finite and the label's is the highest.
    """

    def __init__(
        self,
        levels: Levels,
        worker: Worker,
        inputs: Inputs,
        counts: Mapping[Names, float],
        labels: Tensor | None,
        rough: bool = False,
    ) -> None:
        decisions = labels is not None
        self._levels, self._worker, self._inputs, self._decisions = levels, worker, inputs, decisions
        self._labels = labels
        self._rough = rough
        self._base: dict[str, Tensor | None] = {}
        self._used = {levels.route(names, decisions) for names in counts if names}
        self._runs_whole = levels.runs_whole(counts, self._used, decisions)

    def base(self) -> Tensor:
        """Logits of the base network."""
        if self._runs_whole:
            return self._whole({})
        if self._used == {"fused"} and (fused := self._ready("fused")) is not None:
            return self._settled(fused, {})
        exact = self._ready("replay")
        return self._levels.looped({}, self._inputs) if exact is None else exact

    def logits(
        self,
        variants: Sequence[Variant],
        names: Names,
        together: int,
        seen: Sequence[Seen],
        rows: Sequence[Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """Logits of variants of one layer, one after another; vmap takes ``together`` of them at a time.

        ``seen`` is what earlier batches showed of each, and is added to. With ``rows``, for layers that :attr:`Levels.picks`,
        those of each variant on its rows of the batch alone.
        """
        if self._runs_whole:
            yield from map(self._whole, map(tensors_of_variant, variants), rows or [None] * len(variants))
            return
        route = self._levels.route(names, self._decisions)
        few = not shares_terms(variants)
        if route == "fused" and rows is None and few and not made(self._worker.fused).uses_base(names):
            yield from map(self._by_graph, map(tensors_of_variant, variants))
            return
        base = self._ready(route) if route in ("fused", "half", "low") else None
        if rows is not None:
            for start in range(0, len(variants), TOGETHER):
                part = slice(start, start + TOGETHER)
                yield from self._on_rows(variants[part], names, route, seen[part], rows[part])
            return
        if route in ("fused", "half", "low") and base is None:
            route = "replay"
        if base is not None and route != "fused":  # as many as their logits do not take more than a recorded pass
            together = min(TOGETHER, max(1, self._levels.per_example * len(base) // (4 * base.numel())))
        step = together if route in ("vmap", "half", "low") else 1
        for start in range(0, len(variants), step):
            some = variants[start : start + step]
            if few:
                some = [tensors_of_variant(variant) for variant in some]
            if route in ("half", "low"):
                found = [self._several([variant], route) for variant in some]
                rough = [None if logits is None else logits[0] for logits in found]
                yield from self._corrected(some, rough, names, seen[start : start + step])
                continue
            found = self._several(some, route)
            for number, variant in enumerate(some):
                if found is None:  # what replay's copy of the modules does not carry, no copy does
                    yield self._levels.looped(variant, self._inputs)
                elif route == "replay" and not isinstance(variant, Combination):
                    yield found[number]
                else:
                    yield self._settled(found[number], variant)

    def _by_graph(self, changes: Params) -> Tensor:
        """Logits of a variant that leaves nothing of a base pass as it is: none is recorded for it. Rough where that was asked."""
        name = "low" if self._rough else "fused"
        graph = made(self._worker.low if self._rough else self._worker.fused)
        failed = self._base.get(name, changes) is None
        found = None if failed else self._attempt(name, lambda: graph.whole(changes, self._inputs))
        if found is None:
            return self._whole(changes)
        return found if self._rough else self._settled(found, changes)

    def _ready(self, route: str) -> Tensor | None:
        """Base logits of a level on this batch, recorded when they are first needed; None if it is not there, or failed."""
        name = route if route in ("fused", "half", "low") else "replay"
        level = getattr(self._worker, name)
        if name == "low" and self._ready("fused") is None:
            return None
        if name not in self._base:
            self._base[name] = None if level is None else self._attempt(name, lambda: level.base(self._inputs))
        return self._base[name]

    def _several(self, some: Sequence[Variant], route: str) -> Tensor | None:
        """Logits [V, N, ...] of some variants by a level, None for the loop."""
        worker = self._worker
        if route == "loop" or self._ready(route) is None:
            return None
        if route == "vmap":
            return self._attempt("replay", lambda: made(worker.replay).many(some))
        if route == "replay":
            return self._attempt("replay", lambda: made(worker.replay).logits(some[0]).unsqueeze(0))
        if route == "half":
            return self._attempt("half", lambda: made(worker.half).logits(some[0]).unsqueeze(0))
        level = worker.fused if route == "fused" else worker.low
        terms = some[0].terms if isinstance(some[0], Combination) and some[0].is_steady else ()
        over = route == "fused"  # logits are yielded one by one
        return self._attempt(route, lambda: made(level).logits(tensors_of_variant(some[0]), terms, over).unsqueeze(0))

    def _settled(self, logits: Tensor, variant: Variant, rows: Tensor | None = None) -> Tensor:
        """Logits of ``rows`` (or all) that are off by rounding, those of examples near a tie replaced by the loop's."""
        if rows is None and not isinstance(variant, Combination) and frozenset(variant) in self._levels.bitwise:
            return logits
        near = near_ties(logits, ROUNDING, self._labels_of(rows)).nonzero().flatten()
        if not len(near):
            return logits
        exact = self._whole(variant, near if rows is None else rows[near])
        return logits.index_copy(0, near, exact.to(logits.dtype))

    def _on_rows(
        self, some: Sequence[Variant], names: Names, route: str, seen: Sequence[Seen], rows: Sequence[Tensor]
    ) -> list[Tensor]:
        """Logits of variants of one layer, each on its rows, by a graph; by the whole network where that fails."""
        pairs = list(zip(some, rows, strict=True))
        found = None
        if self._ready(route) is not None:
            graph = made(self._worker.low if route == "low" else self._worker.fused)
            found = self._picked(route, graph, pairs)
        if found is None:
            return [self._whole(variant, of) for variant, of in pairs]
        if route == "low":
            return self._corrected(some, found, names, seen, rows)
        return [self._settled(logits, *pair) for logits, pair in zip(found, pairs, strict=True)]

    def _corrected(
        self,
        some: Sequence[Variant],
        found: Sequence[Tensor | None],
        names: Names,
        seen: Sequence[Seen],
        rows: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """Logits ``found`` in bfloat16 (on ``rows`` of each, or all), those replaced that an error as large as any of their
        variant so far could decide otherwise; the loop's where None was found."""
        floor, logits, waiting = self._levels.low[names][1], [], []
        for number, (variant, rough) in enumerate(zip(some, found, strict=True)):
            if not seen[number].examples and not is_finite(variant):
                seen[number].error = inf  # all run again: ReLU in bfloat16 makes 0 of NaN
            logits.append(self._levels.looped(variant, self._inputs) if rough is None else rough)
            if rough is not None:
                waiting.append((number, rough, rough.new_zeros(len(rough), dtype=torch.bool)))
        while waiting:
            asked = []
            for number, rough, done in waiting:
                labels = self._labels_of(None if rows is None else rows[number])
                near = seen[number].near(rough, floor, labels) & ~done
                places = near.nonzero().flatten()
                if len(places):
                    asked.append((number, rough, done | near, places))
            pairs = [(some[number], places if rows is None else rows[number][places]) for number, _, _, places in asked]
            for (number, rough, _, places), exact in zip(asked, self._exact(pairs, names), strict=True):
                seen[number].add(exact, rough[places])
                logits[number] = logits[number].index_copy(0, places, exact.to(rough.dtype))
            waiting = [(number, rough, done) for number, rough, done, _ in asked]
        return logits

    def _labels_of(self, rows: Tensor | None) -> Tensor | None:
        """The labels of some rows, or all."""
        return self._labels if self._labels is None or rows is None else self._labels[rows]

    def _exact(self, several: Sequence[tuple[Variant, Tensor]], names: Names) -> list[Tensor]:
        """Logits of variants of one layer, each on some rows, with the loop's decisions: by the graph, or by the loop."""
        graph = self._worker.fused if self._levels.routes.get(names) == "fused" else None
        if several and graph and graph.picks and self._ready("fused") is not None:
            found = self._picked("fused", graph, several)
            if found is not None:
                return [self._settled(logits, *pair) for logits, pair in zip(found, several, strict=True)]
        return [self._whole(variant, rows) for variant, rows in several]

    def _picked(self, level: str, graph: "Fused", several: Sequence[tuple[Variant, Tensor]]) -> list[Tensor] | None:
        """Logits of variants, each on some rows of what a graph recorded."""
        return self._attempt(level, lambda: [part for few in self._parts(several) for part in graph.picked(few)])

    def _parts(self, several: Sequence[tuple[Variant, Tensor]]) -> Iterator[list[tuple[Params, Tensor]]]:
        """The same as tensors, so many together as have no more rows than the batch has examples."""
        part: list[tuple[Params, Tensor]] = []
        most = count_of(self._inputs)
        for variant, rows in several:
            if part and sum(len(r) for _, r in part) + len(rows) > most:
                yield part
                part = []
            part.append((tensors_of_variant(variant), rows))
        yield part

    def _whole(self, variant: Variant, rows: Tensor | None = None) -> Tensor:
        """Logits of a variant on all or some rows as the loop computes them: the whole network, on these examples alone."""
        inputs, few = self._inputs, None
        if rows is not None:
            few = len(rows)
            if few < ROWS:  # products of one or two rows are rounded otherwise than those of many
                rows = rows.repeat(-(-ROWS // few))[:ROWS]
            inputs = map_inputs(lambda tensor: tensor[rows], inputs)
        with suppress(
            Exception
        ):  # what goes wrong in replay's copy of the modules does not in the user's own, or is theirs
            return made(self._worker.replay).whole(variant, inputs)[:few]
        return self._levels.looped(variant, inputs)[:few]

    def _attempt(self, level: str, compute: Callable[[], T]) -> T | None:
        """What a level gives; None from where it fails to the end of the batch."""
        try:
            return compute()
        except Exception as error:  # what a network's code did on the first batch, it need not do on this one
            if is_out_of_memory(error):
                raise
            self._base[level] = None
            log.warning("%s failed on a batch (%s); the loop answers for it", level, said(error))
            return None
