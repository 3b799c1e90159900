"""One batch of examples: each variant by the level that carries its layer, and by the loop where that fails."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from torch import Tensor

from shaketable.engine.compare import ROUNDING, near_ties
from shaketable.engine.levels import BASE, Levels, Names, Worker, log, made, said
from shaketable.engine.memory import is_out_of_memory
from shaketable.engine.variants import Combination, Variant, shares_terms, tensors_of_variant
from shaketable.forward import Inputs, map_inputs


class Batch:
    """One batch of examples in the hands of one worker: what the levels give, or from where one fails the loop."""

    def __init__(
        self, levels: Levels, worker: Worker, inputs: Inputs, layers: Sequence[Names], decisions: bool
    ) -> None:
        self._levels, self._worker, self._inputs, self._decisions = levels, worker, inputs, decisions
        self._base: dict[str, Tensor | None] = {}
        self._used = {self._route(names) for names in layers if names}

    def base(self) -> Tensor:
        """Logits of the base network."""
        if self._used == {"fused"} and (fused := self._ready("fused")) is not None:
            return self._settled(fused, {}, BASE, ROUNDING)
        exact = self._ready("replay")
        return self._levels.looped({}, self._inputs) if exact is None else exact

    def logits(self, variants: Sequence[Variant], names: Names, together: int) -> Iterator[Tensor]:
        """Logits of variants of one layer, one after another; vmap takes ``together`` of them at a time."""
        route = self._route(names)
        if route in ("fused", "half", "low") and self._ready(route) is None:
            route = "replay"
        step, few = together if route == "vmap" else 1, not shares_terms(variants)
        for start in range(0, len(variants), step):
            some = variants[start : start + step]
            if few:
                some = [tensors_of_variant(variant) for variant in some]
            found = self._several(some, route)
            for number, variant in enumerate(some):
                if found is None:  # what replay's copy of the modules does not carry, no copy does
                    yield self._levels.looped(variant, self._inputs)
                elif route == "replay" and not isinstance(variant, Combination):
                    yield found[number]
                else:
                    bound = self._levels.low[names][1] if route in ("half", "low") else ROUNDING
                    yield self._settled(found[number], variant, names, bound)

    def _ready(self, route: str) -> Tensor | None:
        """Base logits of a level on this batch, recorded when they are first needed; None if it is not there, or failed."""
        name = route if route in ("fused", "half", "low") else "replay"
        level = getattr(self._worker, name)
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
        terms = some[0].terms if isinstance(some[0], Combination) else ()
        return self._attempt(route, lambda: made(level).logits(tensors_of_variant(some[0]), terms).unsqueeze(0))

    def _settled(self, logits: Tensor, variant: Variant, names: Names, tolerance: float) -> Tensor:
        """Logits that are off by a little, those of examples near a tie replaced by the loop's, or by decisions that are."""
        near = near_ties(logits, tolerance).nonzero().flatten()
        if not len(near):
            return logits
        return logits.index_copy(0, near, self._exact(variant, names, near, tolerance).to(logits.dtype))

    def _exact(self, variant: Variant, names: Names, rows: Tensor, tolerance: float) -> Tensor:
        """Logits of a variant on some rows, with the loop's decisions: in float32 by the graph, what is near a tie then by the loop."""
        inputs = map_inputs(lambda tensor: tensor[rows], self._inputs)
        graph = self._worker.fused if self._levels.routes.get(names) == "fused" else None
        if tolerance > ROUNDING and graph and graph.picks and self._ready("fused") is not None:
            changes = tensors_of_variant(variant)
            logits = self._attempt("fused", lambda: graph.logits(changes, rows=rows))
            if logits is not None:
                near = near_ties(logits, ROUNDING).nonzero().flatten()
                return (
                    logits.index_copy(0, near, self._exact(variant, names, rows[near], ROUNDING))
                    if len(near)
                    else logits
                )
        with suppress(
            Exception
        ):  # what goes wrong in replay's copy of the modules does not in the user's own, or is theirs
            return made(self._worker.replay).whole(variant, inputs)
        return self._levels.looped(variant, inputs)

    def _attempt(self, level: str, compute: Callable[[], Tensor]) -> Tensor | None:
        """What a level gives; None from where it fails to the end of the batch."""
        try:
            return compute()
        except Exception as error:  # what a network's code did on the first batch, it need not do on this one
            if is_out_of_memory(error):
                raise
            self._base[level] = None
            log.warning("%s failed on a batch (%s); the loop answers for it", level, said(error))
            return None
