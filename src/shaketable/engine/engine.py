"""The engine: answers for many variants of one network, by the fastest level that gives the plain loop's answers."""

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from math import nan
from operator import add
from threading import Event
from typing import TypeVar

import torch
from torch import Tensor, nn

from shaketable.data import Data
from shaketable.engine.batch import Batch
from shaketable.engine.compare import Seen
from shaketable.engine.levels import LEVELS, PRECISIONS, Level, Levels, Precision, log
from shaketable.engine.memory import budget, is_out_of_memory
from shaketable.engine.variants import Variant, check, names_of
from shaketable.engine.workers import Names, Worker
from shaketable.errors import InputError
from shaketable.evaluate import Sums, checked, rows, tally
from shaketable.forward import Inputs, count_of, map_inputs
from shaketable.params import Params, state

CACHE, FLEETING = 2**29, 4
"""Bytes of a recorded pass on a CPU beyond which more examples in flight gain nothing; so many times fewer if none is recorded."""
CHECKED, TRIED, ROUNDED = 8, 1000, 128
"""Examples on which each layer is compared with the loop, the most on which levels are timed, and those for bfloat16 alone."""
T = TypeVar("T")


class Engine:
    r"""Answers for many variants of one network: which examples each gets wrong, and at what loss.

    A variant is a mapping from names to changed tensors, or a :class:`Combination`. The answers are those of the plain loop
    (:func:`shaketable.evaluate.evaluate` with the changed params): the same errors, and the same loss up to the rounding of
    sums. The network is never written to: the engine works on a copy of its modules that shares its tensors. Each layer is
    compared with the loop on the first examples; one that a level does not carry goes to the next one, at last to the loop.

    Args:
        network: any module; evaluated in evaluation mode whatever mode it is in.
        params: the base :math:`\theta`, by name; the network's own where a name is left out.
        level: ``"auto"``, or one of ``"loop"``, ``"replay"``, ``"vmap"``, ``"fused"``: see ``docs/engine.md``.
        precision: ``"float32"``; ``"bfloat16"`` for decisions (0-1 errors), with near ties run again in float32; or
            ``"auto"``: bfloat16 where this processor was measured to be faster in it.
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
        precision: Precision = "auto",
        memory: int | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> None:
        if level not in LEVELS:
            raise InputError(f"level={level!r}: use one of {', '.join(LEVELS)}.")
        if precision not in PRECISIONS:
            raise InputError(f"precision={precision!r}: use one of {', '.join(PRECISIONS)}.")
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"{name}={value!r}: give a whole number from 1.")
        if not isinstance(network, nn.Module):
            raise InputError(f"network is a {type(network).__name__}; give a torch.nn.Module.")
        own = state(network)
        check([params or {}], own)
        self.network = network
        self.params: dict[str, Tensor] = {**own, **(params or {})}
        self.device = next((tensor.device for tensor in self.params.values()), torch.device("cpu"))
        self.memory = budget(memory, self.device)
        self.workers = workers or (torch.get_num_threads() if self.device.type == "cpu" else 1)
        self._batch_size = batch_size
        self._limit = 2**31  # examples in flight, once memory ran out
        self._levels = Levels(network, self.params, level, precision, self.workers, self.memory)
        self._stop = Event()
        self._running = False
        self._versions = {name: _version(tensor) for name, tensor in self.params.items()}

    @property
    def choice(self) -> str:
        """Which level carries which layers, and why: what the log says."""
        return self._levels.choice

    def rebased(self, changes: Params) -> "Engine":
        """An engine for the same network with another base, which differs in ``changes`` from this one's.

        What was found out for this base is kept: the traced graph, and which level carries which layer, if on the first examples
        it gives the loop's logits with the other base too. For searches that go from base to base.

        Raises:
            InputError: changes that do not fit, or weights that changed since this engine was made.
        """
        check([changes], self.params)
        self._refuse_written()
        new = copy.copy(self)
        new.params = {**self.params, **changes}
        new._levels, new._stop, new._running = self._levels.rebased(changes), Event(), False
        new._versions = {name: _version(tensor) for name, tensor in new.params.items()}
        return new

    def _refuse_written(self) -> None:
        """Raise once the base is not what this engine knows: weights are kept folded and packed."""
        if self._versions != {name: _version(tensor) for name, tensor in self.params.items()}:
            raise InputError("the network's weights changed since this engine was made; make another one.")

    def sums(
        self,
        variants: Sequence[Variant],
        data: Data,
        *,
        per_class: bool = False,
        margins: bool = False,
        losses: bool = True,
        span: tuple[int, int] | None = None,
        planned: int | None = None,
        advance: Callable[[int], object] = lambda examples: None,
    ) -> list[Sums]:
        """Errors and loss of each variant on the data, as :func:`shaketable.evaluate.evaluate` gives them.

        Args:
            variants: the changed tensors of each; ``{}`` is the base itself.
            data: N examples on the network's device.
            per_class: count examples and errors for each label as well.
            margins: sum the margins as well: the label's logit minus the highest other one.
            losses: False where errors are all that is wanted: then decisions may run in bfloat16, and the loss is NaN.
            span: the first example and the one behind the last; all of them without it.
            planned: how many examples these variants will be run on in all, where this call is a part of it: a level that
                costs seconds to set up is tried only where that can pay.
            advance: called with a number of examples that are done for all variants, from time to time.

        Returns: the sums of each variant, in their order.

        Raises:
            InputError: a variant that does not fit, a span that is empty or beyond the data, or, without a span, every label
                is -100.
        """
        if span is not None and not 0 <= span[0] < span[1] <= len(data):
            raise InputError(f"span={span!r}: give the first example and the one behind the last, of {len(data)}.")
        totals: list[Sums] = []
        function = _Tally(per_class, margins) if losses or per_class or margins else error_sums
        order = None if span is None else torch.arange(*span)
        for size, found in self.map(variants, data, function, order, not losses and not margins, planned):
            totals = list(map(add, totals, found)) if totals else found
            advance(size)
        if span is None:
            totals = [checked(sums) for sums in totals]
        return totals if losses else [replace(sums, loss=nan) for sums in totals]

    @torch.no_grad()
    def rounds(self, variant: Variant, data: Data) -> bool:
        """Whether all of the network runs for such a variant as a graph in bfloat16, in half of the time of float32 or as asked.

        Levels are chosen when variants are first run: ask behind that. False on a GPU, with ``precision="float32"``, and
        where bfloat16 cannot run it.
        """
        count = min(ROUNDED, self._size(len(data), decisions=False))
        inputs = map_inputs(lambda tensor: tensor[:count], data.inputs)
        return self._levels.rounds(frozenset(names_of(variant)), variant, inputs)

    def logits(self, variants: Sequence[Variant], inputs: Inputs) -> list[Tensor]:
        """Logits [N, C] or [N, T, C] of each variant on inputs of N examples."""
        count = count_of(inputs)
        data = Data(inputs, torch.zeros(count, dtype=torch.int64, device=self.device), classes=1)
        parts = [found for _, found in self.map(variants, data, lambda logits, labels: logits.clone())]
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def map(
        self,
        variants: Sequence[Variant],
        data: Data,
        function: Callable[[Tensor, Tensor], T],
        order: Tensor | None = None,
        decisions: bool = False,
        planned: int | None = None,
        only: Tensor | None = None,
        rough: bool = False,
    ) -> Iterator[tuple[int, list[T]]]:
        """A function of logits and labels for each variant, one batch of examples after another.

        Args:
            variants: the changed tensors of each.
            data: N examples on the network's device.
            function: called with logits [n, C] or [n, T, C] and labels [n] or [n, T], from several threads at a time, without
                gradients. Logits are overwritten afterwards: a tensor that shares their memory is copied, but none in a
                tuple or elsewhere.
            order: indices [K] of the examples to go through; all of them, in their own order, without it.
            decisions: the function uses nothing but whether all logits are finite and the label's is the highest (of equal ones
                the first): they may then be rough elsewhere.
            planned: as for :meth:`sums`.
            only: on which of those examples each variant is wanted, bool [V, K]; on all without it. The recorded pass of an
                example serves all variants that are wanted on it.
            rough: logits of variants that :meth:`rounds` are those of bfloat16, as they come.

        Returns: pairs of a number of examples and the function's value for each variant; None where it is wanted on no
            example of the batch.
        """
        check(variants, self.params)
        if not isinstance(data, Data):
            raise InputError(f"data is a {type(data).__name__}; shaketable.data.as_data() takes pairs and data sets.")
        if self._running:
            raise InputError(
                "this engine is at work already; finish (or close) the other iteration, or make another one."
            )
        self._refuse_written()
        if data.device != self.device:
            raise InputError(f"the data are on {data.device} and the network is on {self.device}; use data.to(...).")
        total = len(data) if order is None else len(order)
        if not variants or not total:
            return
        by_layer = _by_layer(variants)
        if rough and not all(names in self._levels.rough for names in by_layer):
            raise InputError("rough logits are there for variants that this engine rounds; ask Engine.rounds() first.")

        def part(start: int, stop: int) -> tuple[Inputs, Tensor]:
            rows = slice(start, stop) if order is None else order[start:stop]
            return map_inputs(lambda tensor: tensor[rows], data.inputs), data.labels[rows]

        seen = [Seen() for _ in variants]
        before = self.choice
        with torch.no_grad():
            self._levels.prepare(variants, by_layer, part(0, min(total, CHECKED))[0])
        size = min(self._size(total, decisions), total)
        tried = min(size, self._levels.trial(TRIED))
        try:
            inputs, labels = part(0, tried)
            with torch.no_grad():
                self._levels.tune(variants, by_layer, inputs, (planned or total) / tried, labels if decisions else None)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise  # else the batches below will shrink until they fit
        if self.choice != before:
            log.info("%s", self.choice)
        counts = {names: float(len(indices)) for names, indices in by_layer.items()}
        size = min(self._size(total, decisions, self._levels.shares(counts, decisions)), total)

        def work(worker: Worker, span: tuple[int, int]) -> list[tuple[int, list[T]]]:
            """One batch: in one piece, or in smaller ones once memory ran out."""
            pieces, done = [span], []
            while pieces:
                start, stop = pieces.pop(0)
                if stop - start > self._limit:
                    pieces[:0] = [(start, start + self._limit), (start + self._limit, stop)]
                    continue
                inputs, labels = part(start, stop)
                try:
                    found: list[T | None] = [None] * len(variants)
                    for indices, of, rows in self._groups(
                        variants, decisions, None if only is None else only[:, start:stop]
                    ):
                        some, known = [variants[index] for index in indices], [seen[index] for index in indices]
                        few = inputs if of is None else map_inputs(lambda tensor, of=of: tensor[of], inputs)
                        own = labels if of is None else labels[of]
                        for index, answer in zip(
                            indices,
                            self._answers(worker, some, few, own, function, decisions, known, rows, rough),
                            strict=True,
                        ):
                            found[index] = answer
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error) or stop - start == 1:
                        raise
                    self._limit = max(1, (stop - start) // 2)
                    log.warning("memory ran out with %d examples in flight; %d from now on", stop - start, self._limit)
                    pieces.insert(0, (start, stop))
                else:
                    done.append((stop - start, found))
            return done

        # a copy cannot stand for what goes to the loop, state of the process is for one thread at a time, and autocast is
        # known to one thread alone: the caller's
        alone = any(self._levels.routes.get(names) == "loop" for names in by_layer) or torch.is_autocast_enabled("cpu")
        alone |= self._levels.alone
        self._running = True
        try:
            for done in self._spread(work, [(a, min(a + size, total)) for a in range(0, total, size)], alone):
                yield from done
        finally:
            self._running = False

    @torch.no_grad()
    def _answers(
        self,
        worker: Worker,
        variants: Sequence[Variant],
        inputs: Inputs,
        labels: Tensor,
        function: Callable[[Tensor, Tensor], T],
        decisions: bool,
        seen: Sequence[Seen],
        rows: Sequence[Tensor] | None = None,
        rough: bool = False,
    ) -> list[T]:
        """The function's value for each variant on one batch, or on its rows of it: base pass, layer, variant."""
        by_layer, answers = _by_layer(variants), {}
        together = max(1, self.memory // (3 * self._levels.per_example * len(labels) * len(self._levels.workers)))
        try:
            counts = {
                names: len(indices) if rows is None else sum(len(rows[index]) for index in indices) / len(labels)
                for names, indices in by_layer.items()
            }
            batch = Batch(self._levels, worker, inputs, counts, labels if decisions else None, rough)
            for names, indices in by_layer.items():
                some = [variants[index] for index in indices]
                known = [seen[index] for index in indices]
                parts = None if rows is None else [rows[index] for index in indices]
                if names:
                    found = batch.logits(some, names, together, known, parts)
                else:
                    whole = batch.base()
                    found = [whole] * len(some) if parts is None else [whole[part] for part in parts]
                for index, logits in zip(indices, found, strict=True):
                    if self._stop.is_set():
                        raise _Stopped
                    answers[index] = _own(function(logits, labels if rows is None else labels[rows[index]]), logits)
        finally:
            worker.clear()
        return [answers[index] for index in range(len(variants))]

    def _groups(self, variants: Sequence[Variant], decisions: bool, only: Tensor | None) -> "list[Group]":
        """Which variants share a recorded pass where each is wanted ``only`` on some examples of a batch, bool [V, n]."""
        if only is None:
            return [(list(range(len(variants))), None, None)]
        by_layer = _by_layer(variants)
        counts = {names: float(only[indices].sum()) / only.shape[1] for names, indices in by_layer.items()}
        if not self._levels.shares(counts, decisions):
            alone = [wanted.nonzero().flatten() for wanted in only]
            return [([index], rows, None) for index, rows in enumerate(alone) if len(rows)]
        if self._levels.picks(by_layer, decisions):
            indices = only.any(1).nonzero().flatten().tolist()
            return [(indices, None, [only[index].nonzero().flatten() for index in indices])]
        patterns, kinds = only.unique(dim=0, return_inverse=True)  # other levels carry whole batches
        return [
            ((kinds == kind).nonzero().flatten().tolist(), pattern.nonzero().flatten(), None)
            for kind, pattern in enumerate(patterns)
            if pattern.any()
        ]

    def _spread(
        self, work: Callable[[Worker, tuple[int, int]], T], spans: Sequence[tuple[int, int]], alone: bool
    ) -> Iterator[T]:
        """The work on each span, in their order, by all workers, or by the caller's thread alone."""
        idle = self._levels.workers[:1] if alone else list(self._levels.workers)
        if len(idle) == 1 or len(spans) == 1:
            yield from (work(idle[0], span) for span in spans)
            return

        def one(span: tuple[int, int]) -> T:
            worker = idle.pop()  # as many as threads: there is always one
            try:
                return work(worker, span)
            finally:
                idle.append(worker)

        threads, ahead = torch.get_num_threads(), 2 * len(idle)
        pool = ThreadPoolExecutor(len(idle), initializer=torch.set_num_threads, initargs=(1,))
        waiting: list[Future[T]] = []
        try:
            for span in spans:
                waiting.append(pool.submit(one, span))
                if len(waiting) > ahead:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            self._stop.set()  # an exception, an interruption, or nobody wants the rest
            pool.shutdown(cancel_futures=True)
            self._stop.clear()
            torch.set_num_threads(threads)

    def _size(self, total: int, decisions: bool, recorded: bool = True) -> int:
        """Examples in flight: what the budget allows, and no more than keeps a processor's cache useful."""
        if self._batch_size:
            return self._batch_size
        if not self._levels.replays:
            return min(total, 100)
        workers = len(self._levels.workers)
        fits = self.memory // (3 * self._levels.per_example * workers)
        held = self._levels.per_example * (1 if recorded else FLEETING)
        wanted = 2048 if self.device.type == "cuda" else max(32, min(2000, CACHE // held))
        wanted *= 2 if decisions and self._levels.halves else 1  # of half as many bytes
        return max(1, min(fits, wanted, -(-total // workers)))


def _own(answer: T, logits: Tensor) -> T:
    """An answer that is no view of logits, whose memory the next variant's may take."""
    if isinstance(answer, Tensor) and answer.untyped_storage().data_ptr() == logits.untyped_storage().data_ptr():
        return answer.clone()  # pyright: ignore[reportReturnType]
    return answer


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to."""
    return 0 if tensor.is_inference() else tensor._version


Group = tuple[list[int], Tensor | None, list[Tensor] | None]
"""Numbers of variants, the examples of a batch that they share (all: None), and the rows of each among them (all: None)."""


def _by_layer(variants: Sequence[Variant]) -> dict[Names, list[int]]:
    """The numbers of the variants of each layer."""
    found: dict[Names, list[int]] = {}
    for index, variant in enumerate(variants):
        found.setdefault(frozenset(names_of(variant)), []).append(index)
    return found


class _Stopped(Exception):
    """Another worker failed, or nobody waits for the rest."""


def error_sums(logits: Tensor, labels: Tensor) -> Sums:
    """Errors of a batch and no loss (NaN): what :func:`shaketable.evaluate.tally` counts, in half of the time."""
    logits, labels = rows(logits, labels)
    errors, not_finite = logits.max(-1).indices != labels, 0
    if not logits.sum().isfinite():
        finite = logits.isfinite().all(-1)
        errors, not_finite = errors | ~finite, int((~finite).sum())
    return Sums(len(labels), int(errors.sum()), nan, not_finite)


class _Tally:
    """Sums of a batch."""

    def __init__(self, per_class: bool, margins: bool) -> None:
        self._per_class, self._margins = per_class, margins

    def __call__(self, logits: Tensor, labels: Tensor) -> Sums:
        return tally(logits, labels, self._per_class, self._margins)
