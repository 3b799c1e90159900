"""The engine: answers for many variants of one network, by the fastest level that gives the plain loop's answers."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from operator import add
from threading import Event, Lock
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from shaketable.data import Data
from shaketable.engine.memory import budget, is_out_of_memory
from shaketable.engine.replay import Replay
from shaketable.engine.replica import Unsuitable
from shaketable.engine.variants import Combination, Variant, check, names_of, tensors_of_variant
from shaketable.errors import InputError, RunError
from shaketable.evaluate import Sums, checked, tally
from shaketable.forward import Inputs, evaluation_mode, forward, map_inputs, tensors_of
from shaketable.params import Params, state

Level = Literal["auto", "loop", "replay", "vmap"]
LEVELS = ("auto", "loop", "replay", "vmap")
CACHE = 2**28
"""Bytes of a recorded pass on a CPU beyond which more examples in flight gain nothing."""
ROUNDING = 2e-5
"""How far rounding may move the margin of a combination, relative to the largest logit: far more than was seen."""
SEED = 0
FOLDED, SHORT = 4, 3e-3
"""Variants of a layer from which vmap is tried, and on a CPU the seconds of one below which it is."""
CHECKED = 8
"""Examples on which each layer is compared with the loop."""
T = TypeVar("T")
Names = frozenset[str]
BASE: Names = frozenset()
Trial = tuple[dict[Names, Tensor], float, str]
"""Logits of the base and of a variant of each layer (none if it failed), seconds, and what went wrong."""
log = logging.getLogger("shaketable.engine")


class Engine:
    r"""Answers for many variants of one network: which examples each gets wrong, and at what loss.

    A variant is a mapping from names to changed tensors, or a :class:`Combination`. The answers are those of the plain loop
    (:func:`shaketable.evaluate.evaluate` with the changed params): the same errors, and the same loss up to the rounding of
    sums. The network is never written to: the engine works on a copy of its modules that shares its tensors. Each layer is
    compared with the loop on the first examples; one that a level does not carry goes to the next one, at last to the loop.

    Args:
        network: any module; evaluated in evaluation mode whatever mode it is in.
        params: the base :math:`\theta`, by name; the network's own where a name is left out.
        level: ``"auto"``, or one of ``"loop"``, ``"replay"``, ``"vmap"``: see ``docs/engine.md``.
        memory: bytes that activations may take; without it half of what is free.
        batch_size: examples in flight in each worker; without it, what fits the memory and the processor's cache.
        workers: threads that take a batch each; without it torch's number of threads on a CPU, and one on a GPU.

    Raises:
        InputError: an unknown level, a number below 1, or params that do not fit.

    Cost: for each batch one pass of the base network, and for each variant the part of a pass that its change reaches;
    once, for each layer, the loop on eight examples.

    Example:
        >>> engine = Engine(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
        >>> data = Data(torch.eye(2), torch.tensor([0, 0]), classes=2)
        >>> half, ones = {"1.weight": torch.full((2, 2), 0.5)}, {"0.weight": torch.ones(2, 2)}
        >>> [sums.examples for sums in engine.sums([half, ones], data)]
        [2, 2]

    References: none; replay, and the order of loops (batch, base pass, layer, variant), are this package's.
    """

    def __init__(
        self,
        network: nn.Module,
        params: Params | None = None,
        *,
        level: Level = "auto",
        memory: int | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> None:
        if level not in LEVELS:
            raise InputError(f"level={level!r}: use one of {', '.join(LEVELS)}.")
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"{name}={value!r}: give a whole number from 1.")
        own = state(network)
        check([params or {}], own)
        self.network = network
        self.params: dict[str, Tensor] = {**own, **(params or {})}
        self.device = next((tensor.device for tensor in self.params.values()), torch.device("cpu"))
        self.memory = budget(memory, self.device)
        self.workers = workers or (torch.get_num_threads() if self.device.type == "cpu" else 1)
        self.choice = ""
        """Which level carries which layers, and why: what the log says."""
        self._level, self._batch_size = level, batch_size
        self._limit = 2**31  # examples in flight, once memory ran out
        self._alone = Lock()  # functional_call exchanges the tensors of the user's own modules
        self._replays: list[Replay] = []  # one a worker
        self._routes: dict[Names, str] = {}  # by what a variant changes: the level that carries it
        self._seconds: dict[Names, float] = {}  # what an example of a variant took
        self._folded: set[Names] = set()  # tried
        self._per_example = 1
        self._stop = Event()

    def sums(
        self,
        variants: Sequence[Variant],
        data: Data,
        *,
        per_class: bool = False,
        margins: bool = False,
        span: tuple[int, int] | None = None,
        advance: Callable[[int], object] = lambda examples: None,
    ) -> list[Sums]:
        """Errors and loss of each variant on the data, as :func:`shaketable.evaluate.evaluate` gives them.

        Args:
            variants: the changed tensors of each; ``{}`` is the base itself.
            data: N examples on the network's device.
            per_class: count examples and errors for each label as well.
            margins: sum the margins as well: the label's logit minus the highest other one.
            span: the first example and the one behind the last; all of them without it.
            advance: called with a number of examples that are done for all variants, from time to time.

        Returns: the sums of each variant, in their order.

        Raises:
            InputError: a variant that does not fit, or every label is -100.
        """
        totals: list[Sums] = []
        function = _Tally(per_class, margins)
        for size, found in self.map(variants, data, function, None if span is None else torch.arange(*span)):
            totals = list(map(add, totals, found)) if totals else found
            advance(size)
        return [checked(sums) for sums in totals]

    def logits(self, variants: Sequence[Variant], inputs: Inputs) -> list[Tensor]:
        """Logits [N, C] or [N, T, C] of each variant on inputs of N examples."""
        count = len(next(iter(tensors_of(inputs).values())))
        data = Data(inputs, torch.zeros(count, dtype=torch.int64, device=self.device), classes=1)
        parts = [found for _, found in self.map(variants, data, lambda logits, labels: logits.clone())]
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def map(
        self,
        variants: Sequence[Variant],
        data: Data,
        function: Callable[[Tensor, Tensor], T],
        order: Tensor | None = None,
    ) -> Iterator[tuple[int, list[T]]]:
        """A function of logits and labels for each variant, one batch of examples after another.

        Args:
            variants: the changed tensors of each.
            data: N examples on the network's device.
            function: called with logits [n, C] or [n, T, C] and labels [n] or [n, T], from several threads at a time.
            order: indices [K] of the examples to go through; all of them, in their own order, without it.

        Returns: pairs of a number of examples and the function's value for each variant.
        """
        check(variants, self.params)
        if data.device != self.device:
            raise InputError(f"the data are on {data.device} and the network is on {self.device}; use data.to(...).")
        total = len(data) if order is None else len(order)
        if not variants or not total:
            return
        by_layer: dict[Names, list[int]] = {}
        for index, variant in enumerate(variants):
            by_layer.setdefault(frozenset(names_of(variant)), []).append(index)

        def part(start: int, stop: int) -> tuple[Inputs, Tensor]:
            rows = slice(start, stop) if order is None else order[start:stop]
            return map_inputs(lambda tensor: tensor[rows], data.inputs), data.labels[rows]

        with ExitStack() as stack:
            self._prepare(variants, by_layer, part(0, min(total, CHECKED))[0])
            size = self._size(total)
            self._fold(variants, by_layer, part(0, min(total, size))[0])

            def work(level: Replay | None, span: tuple[int, int]) -> list[tuple[int, list[T]]]:
                """One batch: in one piece, or in smaller ones once memory ran out."""
                pieces, done = [span], []
                while pieces:
                    start, stop = pieces.pop(0)
                    if stop - start > self._limit:
                        pieces[:0] = [(start, start + self._limit), (start + self._limit, stop)]
                        continue
                    inputs, labels = part(start, stop)
                    try:
                        answers = self._answers(level, variants, by_layer, inputs, labels, function)
                    except (RuntimeError, MemoryError) as error:
                        if not is_out_of_memory(error) or stop - start == 1:
                            raise
                        self._limit = max(1, (stop - start) // 2)
                        log.warning(
                            "memory ran out with %d examples in flight; %d from now on", stop - start, self._limit
                        )
                        pieces.insert(0, (start, stop))
                    else:
                        done.append((stop - start, answers))
                return done

            spans = [(start, min(start + size, total)) for start in range(0, total, size)]
            for done in self._spread(work, spans, stack):
                yield from done

    def _answers(
        self,
        level: Replay | None,
        variants: Sequence[Variant],
        by_layer: Mapping[Names, Sequence[int]],
        inputs: Inputs,
        labels: Tensor,
        function: Callable[[Tensor, Tensor], T],
    ) -> list[T]:
        """The function's value for each variant on one batch: base pass, layer, variant."""
        answers: dict[int, T] = {}
        batch = _Batch(self, level, inputs)
        try:
            base = batch.base()
            for names, indices in by_layer.items():
                some = [variants[index] for index in indices]
                found = batch.logits(some, self._routes[names]) if names else (base for _ in some)
                for index, logits in zip(indices, found, strict=True):
                    if self._stop.is_set():
                        raise _Stopped
                    answers[index] = function(logits, labels)
        finally:
            if level is not None:
                level.clear()
        return [answers[index] for index in range(len(variants))]

    def _looped(self, variant: Variant, inputs: Inputs) -> Tensor:
        """The reference: the variant runs the whole network on all of the batch."""
        params = {**self.params, **tensors_of_variant(variant)}
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.no_grad(), self._alone, evaluation_mode(self.network), torch.random.fork_rng(devices):
            torch.manual_seed(SEED)  # for networks that draw random numbers: the same ones for every variant
            return forward(self.network, map_inputs(torch.clone, inputs), params)

    def _settled(self, logits: Tensor, variant: Variant, inputs: Inputs) -> Tensor:
        """Logits that may differ from the loop's by rounding, those of examples near a tie replaced by the loop's."""
        near = _near_ties(logits, ROUNDING).nonzero().flatten()
        if not len(near):
            return logits
        exact = self._looped(variant, map_inputs(lambda tensor: tensor[near], inputs))
        return logits.index_copy(0, near, exact.to(logits.dtype))

    def _spread(
        self, work: Callable[[Replay | None, tuple[int, int]], T], spans: Sequence[tuple[int, int]], stack: ExitStack
    ) -> Iterator[T]:
        """The work on each span, in their order, by as many workers as there are replays."""
        if len(self._replays) <= 1 or len(spans) == 1:
            level = self._replays[0] if self._replays else None
            yield from (work(level, span) for span in spans)
            return
        idle = list(self._replays)
        stack.callback(torch.set_num_threads, torch.get_num_threads())

        def one(span: tuple[int, int]) -> T:
            level = idle.pop()  # as many as threads: there is always one
            try:
                return work(level, span)
            finally:
                idle.append(level)

        pool = ThreadPoolExecutor(len(idle), initializer=torch.set_num_threads, initargs=(1,))
        waiting: list[Future[T]] = []
        try:
            for span in spans:
                waiting.append(pool.submit(one, span))
                if len(waiting) > 2 * len(self._replays):
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            self._stop.set()  # an exception, an interruption, or nobody wants the rest
            pool.shutdown(cancel_futures=True)
            self._stop.clear()

    # which level, and how many examples

    def _prepare(self, variants: Sequence[Variant], by_layer: Mapping[Names, Sequence[int]], inputs: Inputs) -> None:
        """For each layer that is new: the level that gives the loop's logits on the first examples."""
        new = {names: indices for names, indices in by_layer.items() if names and names not in self._routes}
        if not new or self._level == "loop":
            self.choice = self.choice or "level loop, as asked"
            self._routes.update(dict.fromkeys(new, "loop"))
            return
        picks = {names: variants[self._telling(variants, indices)] for names, indices in new.items()}
        started = time.perf_counter()
        truth = {names: self._looped(variant, inputs) for names, variant in picks.items()}
        seconds = time.perf_counter() - started
        truth[BASE] = self._looped({}, inputs)
        if self._replays:
            found, taken, reason = self._try(self._replays[0], picks, inputs)
        else:
            found, taken, reason = self._make(picks, inputs, truth)
        carried = {names for names in picks if _equal(truth[names], found.get(names))}
        if not carried or not _equal(truth[BASE], found[BASE]):
            carried, reason = set(), reason or "its logits were not those of the loop"
        if self._level == "replay" and len(carried) < len(picks):
            raise RunError(
                f"level='replay' cannot carry this network: {reason or 'a layer differs'}; use level='auto'."
            )
        if not carried:
            self._replays = []
        self._routes.update({names: "replay" if names in carried else "loop" for names in picks})
        loops = [sorted(names)[0] for names in picks if names not in carried]
        if loops and carried:
            reason = f"; the loop for {', '.join(loops[:3])}{' ...' if len(loops) > 3 else ''}, whose logits differed"
        if carried:
            gain = f"{seconds / max(taken, 1e-9):.1f} times as fast as the loop on the first examples"
            exact = "bit-identical" if self.device.type == "cpu" else "equal to the rounding of float32"
            self.choice = f"level replay for {len(carried)} of {len(picks)} layers, logits {exact}, {gain}{reason}"
        else:
            self.choice = f"level loop: {reason}"
        log.info("%s", self.choice)

    def _fold(self, variants: Sequence[Variant], by_layer: Mapping[Names, Sequence[int]], inputs: Inputs) -> None:
        """For each layer with several variants: whether vmap over them is faster than one after another, and as right."""
        size = len(next(iter(tensors_of(inputs).values())))
        small = [
            (names, [variants[index] for index in indices[:FOLDED]])
            for names, indices in by_layer.items()
            if len(indices) >= FOLDED and names not in self._folded and self._routes.get(names) == "replay"
            and (self._level == "vmap" or self.device.type == "cuda" or self._seconds.get(names, 1.0) * size < SHORT)
        ]  # fmt: skip
        if not small or self._level == "replay":
            return
        level, chosen = self._replays[0], []
        level.base(inputs)
        for names, some in small:
            self._folded.add(names)
            try:
                level.many(some)  # torch's own preparations
                alone, found = _clocked(lambda some=some: torch.stack([level.logits(one) for one in some]), self.device)
                together, folded = _clocked(lambda some=some: level.many(some), self.device)
            except Exception as error:  # any code may stand in the network
                if is_out_of_memory(error):
                    raise
                log.debug("vmap cannot carry %s: %s", sorted(names)[0], _said(error))
                continue
            if not _close(found, folded) or (together > 0.8 * alone and self._level != "vmap"):
                continue
            self._routes[names] = "vmap"
            chosen.append(f"{sorted(names)[0]} ({alone / together:.1f} times as fast)")
        level.clear()
        if chosen:
            self.choice += f"; vmap for {', '.join(chosen[:3])}{' ...' if len(chosen) > 3 else ''}"
            log.info("level vmap for %d layers: %s", len(chosen), ", ".join(chosen))

    def _together(self, inputs: Inputs) -> int:
        """How many variants fit beside each other."""
        size = len(next(iter(tensors_of(inputs).values())))
        return max(1, self.memory // (3 * self._per_example * size * max(1, len(self._replays))))

    def _make(self, picks: Mapping[Names, Variant], inputs: Inputs, truth: Mapping[Names, Tensor]) -> Trial:
        """Make a replay for each worker, with in-place activations as they are only where that is needed."""
        best: Trial = ({}, 0.0, "")
        for keep_inplace in (False, True):
            try:
                level = Replay(self.network, self.params, keep_inplace)
            except Unsuitable as reason:
                return {}, 0.0, str(reason)
            found, seconds, reason = self._try(level, picks, inputs)
            right = [names for names in found if _equal(truth[names], found[names])]
            if found and len(right) >= len(best[0]):
                more = [Replay(self.network, self.params, keep_inplace) for _ in range(self.workers - 1)]
                self._replays, best = [level, *more], (found, seconds, reason)
            elif not best[0]:
                best = ({}, 0.0, reason)
            if found and len(right) == len(picks) + 1:
                break
        return best

    def _try(self, level: Replay, picks: Mapping[Names, Variant], inputs: Inputs) -> Trial:
        """Logits of the base and of a variant of each layer, seconds, and what went wrong."""
        found: dict[Names, Tensor] = {}
        reason = ""
        started = time.perf_counter()
        try:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                found = {BASE: level.base(inputs)}
            self._per_example = max(1, level.recorded_bytes() // len(next(iter(tensors_of(inputs).values()))))
            started = time.perf_counter()
            for names, variant in picks.items():
                seconds, found[names] = _clocked(lambda variant=variant: level.logits(variant), self.device)
                self._seconds[names] = seconds / len(found[names])
        except Exception as error:  # the loop carried it, so whatever went wrong is the level's fault
            if is_out_of_memory(error):
                raise
            found, reason = {}, _said(error)
        finally:
            level.clear()
        return found, time.perf_counter() - started, reason

    def _telling(self, variants: Sequence[Variant], indices: Sequence[int]) -> int:
        """The first variant of a layer that differs from the base."""
        for index in indices:
            if any(not torch.equal(t, self.params[n]) for n, t in tensors_of_variant(variants[index]).items()):
                return index
        return indices[0]

    def _size(self, total: int) -> int:
        """Examples in flight: what the budget allows, and no more than keeps a processor's cache useful."""
        if self._batch_size:
            return self._batch_size
        if not self._replays:
            return min(total, 100)
        fits = self.memory // (3 * self._per_example * len(self._replays))
        wanted = 2048 if self.device.type == "cuda" else max(32, min(2000, CACHE // self._per_example))
        share = -(-total // len(self._replays))  # work for every worker
        return max(1, min(fits, wanted, share))


class _Batch:
    """One batch of examples: what the level gives, or from where it fails the loop."""

    def __init__(self, engine: Engine, level: Replay | None, inputs: Inputs) -> None:
        self._engine, self._level, self._inputs = engine, level, inputs

    def base(self) -> Tensor:
        """Logits of the base network."""
        found = self._attempt(lambda level: level.base(self._inputs))
        return self._looped({}) if found is None else found

    def logits(self, variants: Sequence[Variant], route: str) -> Iterator[Tensor]:
        """Logits of variants of one layer, one after another."""
        together = self._engine._together(self._inputs) if route == "vmap" and len(variants) > 1 else 1
        for start in range(0, len(variants), together):
            some = variants[start : start + together]
            if route == "loop":
                found = None
            elif route == "vmap":
                found = self._attempt(lambda level, some=some: level.many(some))
            else:
                found = self._attempt(lambda level, some=some: level.logits(some[0]).unsqueeze(0))
            for number, variant in enumerate(some):
                if found is None:
                    yield self._looped(variant)
                elif route == "vmap" or isinstance(variant, Combination):
                    yield self._engine._settled(found[number], variant, self._inputs)
                else:
                    yield found[number]

    def _looped(self, variant: Variant) -> Tensor:
        return self._engine._looped(variant, self._inputs)

    def _attempt(self, compute: Callable[[Replay], Tensor]) -> Tensor | None:
        """What the level gives; None from where it fails to the end of the batch."""
        try:
            return None if self._level is None else compute(self._level)
        except Exception as error:  # what a network's code did on the first batch, it need not do on this one
            if is_out_of_memory(error):
                raise
            self._level = None
            log.warning("replay failed on a batch (%s); the loop answers for it", _said(error))
            return None


class _Stopped(Exception):
    """Another worker failed, or nobody waits for the rest."""


class _Tally:
    """Sums of a batch."""

    def __init__(self, per_class: bool, margins: bool) -> None:
        self._per_class, self._margins = per_class, margins

    def __call__(self, logits: Tensor, labels: Tensor) -> Sums:
        return tally(logits, labels, self._per_class, self._margins)


def _clocked(compute: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Seconds, and what was computed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    found = compute()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, found


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether two logits are equal up to the rounding that near ties are settled for."""
    scale = one.nan_to_num(0, 0, 0).abs().amax(-1, keepdim=True)
    apart = (one - other).nan_to_num(0, 0, 0).abs()
    return one.shape == other.shape and bool((apart <= ROUNDING / 4 * scale).all())


def _said(error: Exception) -> str:
    """What went wrong, in one line."""
    return str(error) if isinstance(error, Unsuitable) else f"{type(error).__name__}: {error}".splitlines()[0]


def _near_ties(logits: Tensor, tolerance: float) -> Tensor:
    """Which examples [N] an error of ``tolerance``, relative to their largest logit, could give another decision."""
    highest = logits.topk(min(2, logits.shape[-1]), dim=-1).values
    near = highest[..., 0] - highest[..., -1] <= tolerance * logits.abs().amax(-1)
    return near.flatten(1).any(1) if near.ndim > 1 else near


def _equal(one: Tensor, other: Tensor | None) -> bool:
    """Whether two tensors are the same bit for bit, all NaN being one; on a GPU, to the rounding of float32."""
    if other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.device.type == "cuda":
        return torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
