"""One batch of examples: each variant by the level that carries its layer, and by the loop where that fails."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import inf

import torch
from torch import Tensor

from shaketable.engine.compare import ROUNDING, Seen, near_ties
from shaketable.engine.levels import Levels, Names, T, Worker, log, made, said
from shaketable.engine.memory import is_out_of_memory
from shaketable.engine.variants import Combination, Variant, is_finite, shares_terms, tensors_of_variant
from shaketable.forward import Inputs, map_inputs, tensors_of
from shaketable.params import Params

ROWS = 8
"""Examples that the loop is given at least."""
TOGETHER = 32
"""Variants of a layer, at most, whose examples near a tie run again together."""


class Batch:
    """One batch of examples in the hands of one worker: what the levels give, or from where one fails the loop.

    ``counts`` is how many variants of each layer are wanted.
    """

    def __init__(
        self, levels: Levels, worker: Worker, inputs: Inputs, counts: Mapping[Names, int], decisions: bool
    ) -> None:
        self._levels, self._worker, self._inputs, self._decisions = levels, worker, inputs, decisions
        self._base: dict[str, Tensor | None] = {}
        self._used = {self._route(names) for names in counts if names}
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
        self, variants: Sequence[Variant], names: Names, together: int, seen: Sequence[Seen]
    ) -> Iterator[Tensor]:
        """Logits of variants of one layer, one after another; vmap takes ``together`` of them at a time.

        ``seen`` is what earlier batches showed of each, and is added to.
        """
        if self._runs_whole:
            yield from map(self._whole, map(tensors_of_variant, variants))
            return
        route = self._route(names)
        base = self._ready(route) if route in ("fused", "half", "low") else None
        if route in ("fused", "half", "low") and base is None:
            route = "replay"
        if base is not None and route != "fused":  # as many as their logits do not take more than a recorded pass
            together = min(TOGETHER, max(1, self._levels.per_example * len(base) // (4 * base.numel())))
        step, few = together if route in ("vmap", "half", "low") else 1, not shares_terms(variants)
        for start in range(0, len(variants), step):
            some = variants[start : start + step]
            if few:
                some = [tensors_of_variant(variant) for variant in some]
            if route in ("half", "low"):
                yield from self._corrected(some, names, route, seen[start : start + step])
                continue
            found = self._several(some, route)
            for number, variant in enumerate(some):
                if found is None:  # what replay's copy of the modules does not carry, no copy does
                    yield self._levels.looped(variant, self._inputs)
                elif route == "replay" and not isinstance(variant, Combination):
                    yield found[number]
                else:
                    yield self._settled(found[number], variant)

    def _ready(self, route: str) -> Tensor | None:
        """Base logits of a level on this batch, recorded when they are first needed; None if it is not there, or failed."""
        name = route if route in ("fused", "half", "low") else "replay"
        level = getattr(self._worker, name)
        if name == "low" and self._ready("fused") is None:
            return None
        if name not in self._base:
            self._base[name] = None if level is None else self._attempt(name, lambda: level.base(self._inputs))
        return self._base[name]

    def _route(self, names: Names) -> str:
        low = self._levels.low.get(names) if self._decisions else None
        return low[0] if low else self._levels.routes[names]

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
        return self._attempt(route, lambda: made(level).logits(tensors_of_variant(some[0]), terms).unsqueeze(0))

    def _settled(self, logits: Tensor, variant: Variant, rows: Tensor | None = None) -> Tensor:
        """Logits of ``rows`` (or all) that are off by rounding, those of examples near a tie replaced by the loop's."""
        near = near_ties(logits, ROUNDING).nonzero().flatten()
        if not len(near):
            return logits
        exact = self._whole(variant, near if rows is None else rows[near])
        return logits.index_copy(0, near, exact.to(logits.dtype))

    def _corrected(self, some: Sequence[Variant], names: Names, route: str, seen: Sequence[Seen]) -> list[Tensor]:
        """Logits in bfloat16, those replaced that an error as large as any of their variant so far could decide otherwise."""
        floor, logits, waiting = self._levels.low[names][1], [], []
        for number, variant in enumerate(some):
            if not seen[number].examples and not is_finite(variant):
                seen[number].error = inf  # all run again: ReLU in bfloat16 makes 0 of NaN
            found = self._several([variant], route)
            logits.append(self._levels.looped(variant, self._inputs) if found is None else found[0])
            if found is not None:
                waiting.append((number, found[0], found.new_zeros(found.shape[1], dtype=torch.bool)))
        while waiting:
            asked = []
            for number, rough, done in waiting:
                near = seen[number].near(rough, floor) & ~done
                rows = near.nonzero().flatten()
                if len(rows):
                    asked.append((number, rough, done | near, rows))
            pairs = [(some[number], rows) for number, _, _, rows in asked]
            for (number, rough, _, rows), exact in zip(asked, self._exact(pairs, names), strict=True):
                seen[number].add(exact, rough[rows])
                logits[number] = logits[number].index_copy(0, rows, exact.to(rough.dtype))
            waiting = [(number, rough, done) for number, rough, done, _ in asked]
        return logits

    def _exact(self, several: Sequence[tuple[Variant, Tensor]], names: Names) -> list[Tensor]:
        """Logits of variants of one layer, each on some rows, with the loop's decisions: by the graph, or by the loop."""
        graph = self._worker.fused if self._levels.routes.get(names) == "fused" else None
        if several and graph and graph.picks and self._ready("fused") is not None:
            found = self._attempt("fused", lambda: [part for few in self._parts(several) for part in graph.picked(few)])
            if found is not None:
                return [self._settled(logits, *pair) for logits, pair in zip(found, several, strict=True)]
        return [self._whole(variant, rows) for variant, rows in several]

    def _parts(self, several: Sequence[tuple[Variant, Tensor]]) -> Iterator[list[tuple[Params, Tensor]]]:
        """The same as tensors, so many together as have no more rows than the batch has examples."""
        part: list[tuple[Params, Tensor]] = []
        most = len(next(iter(tensors_of(self._inputs).values())))
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
