"""Which level carries which layer: each is compared with the plain loop, and timed where there is a choice."""

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor, nn

from shaketable.engine.compare import ROUNDING, SAFETY, bfloat16_gain, clocked, close, margin_error, near_ties, same
from shaketable.engine.memory import is_out_of_memory
from shaketable.engine.replay import Half, Replay, halved
from shaketable.engine.replica import Unsuitable
from shaketable.engine.variants import Variant, tensors_of_variant
from shaketable.engine.workers import Logits, Names, Worker, made
from shaketable.errors import RunError
from shaketable.forward import Inputs, count_of, evaluation_mode, forward, map_inputs, tensors_of
from shaketable.params import Params

if TYPE_CHECKING:
    from shaketable.engine.fused import Fused  # tracing costs seconds of imports: only where it is used

Level = Literal["auto", "loop", "replay", "vmap", "fused"]
LEVELS = ("auto", "loop", "replay", "vmap", "fused")
Precision = Literal["auto", "float32", "bfloat16"]
PRECISIONS = ("auto", "float32", "bfloat16")
BASE: Names = frozenset()
FOLDED, SHORT = 4, 3e-3
"""Variants of a layer from which vmap is tried, and on a CPU the seconds of one below which it is."""
PACKED, FOLDS = 5, 2
"""How many times the weights of convolutions a graph may hold, folded and packed for its kernels (four times for Winograd's),
and of all else, folded and in bfloat16."""
TRACING, SAVED = 8.0, 0.33
"""Seconds for tracing a graph and timing its kernels, and the share of the time without it that it may save."""
TRIAL, SAMPLE = 3.0, 32
"""Seconds that a trial by replay (one variant of each layer) may take, and the examples that it has at least."""
ROOM = 8
"""The share of the memory that logits to compare with may take."""
TRIALS = 8
"""How many times the work of a trial (one variant of each layer on one batch) the work must be for bfloat16 to be tried."""
SEED = 0
T = TypeVar("T")
log = logging.getLogger("shaketable.engine")


class Levels:
    """The levels of one network, one worker a thread, and for each layer the one that carries it."""

    def __init__(
        self, network: nn.Module, params: Params, level: Level, precision: Precision, workers: int, memory: int
    ) -> None:
        self.network, self.params, self.asked, self.precision = network, params, level, precision
        self.device = next((tensor.device for tensor in params.values()), torch.device("cpu"))
        self.memory = memory
        self.workers = [Worker() for _ in range(workers)]
        self.routes: dict[Names, str] = {}
        self.low: dict[
            Names, tuple[str, float]
        ] = {}  # decisions in bfloat16: by what, and the bound on a margin's error
        self._bytes = sum(tensor.numel() * tensor.element_size() for tensor in params.values())
        copies = {name: PACKED if tensor.dim() == 4 else FOLDS for name, tensor in params.items()}
        self._packed = sum(copies[name] * tensor.numel() * tensor.element_size() for name, tensor in params.items())
        self.per_example = 1  # bytes that a recorded pass holds
        self.choice = ""
        self._seconds: dict[Names, float] = {}  # what replay takes for an example of a variant
        self._rough: dict[Names, float] = {}  # the same in bfloat16
        self._passes: dict[str, float] = {}  # what a pass takes for an example: in float32, and recorded in bfloat16
        self._inherited: set[Names] = set()  # layers whose level was found with another base
        self.rough: set[Names] = set()  # of these the graph runs all of the network fast in bfloat16
        self.bitwise: set[Names] = set()  # of these the graph gives the loop's logits, bit for bit
        self._rounded: set[Names] = set()  # tried
        self._folded: set[Names] = set()  # tried
        self._known: set[tuple[str, Names]] = set()  # levels that were tried
        self._alone = Lock()  # one pass of the loop at a time: it exchanges tensors
        self._shapes: list[tuple[int, ...]] = []

    @property
    def replays(self) -> bool:
        """Whether there is anything but the loop."""
        return self.workers[0].replay is not None

    @property
    def alone(self) -> bool:
        """Whether the network uses state that threads would share, as far as was seen."""
        replay = self.workers[0].replay
        return replay is not None and replay.alone

    def route(self, names: Names, decisions: bool) -> str:
        """Which level carries a layer."""
        low = self.low.get(names) if decisions else None
        return low[0] if low else self.routes[names]

    def picks(self, layers: Iterable[Names], decisions: bool) -> bool:
        """Whether a graph carries all of them, that gives the logits of some rows of a batch."""
        graph = self.workers[0].fused
        return bool(graph and graph.picks) and all(
            self.route(names, decisions) in ("fused", "low") for names in layers if names
        )

    def rebased(self, changes: Params) -> "Levels":
        """The levels of the same network with another base. A layer keeps what carries it, if on the first examples that gives
        the loop's logits with this base too; nothing is traced or timed again."""
        new = copy.copy(self)
        new.params = {**self.params, **changes}
        new.workers = [worker.rebased(self.network, new.params, changes) for worker in self.workers]
        kept = {names for names, route in self.routes.items() if route != "vmap"}

        def of(found: dict[Names, T]) -> dict[Names, T]:
            return {names: value for names, value in found.items() if names in kept}

        new._inherited, new.routes, new.low = set(kept), of(self.routes), of(self.low)
        new._seconds, new._rough, new._passes = of(self._seconds), of(self._rough), dict(self._passes)
        new.rough, new.bitwise = self.rough & kept, self.bitwise & kept
        new._rounded, new._folded = self._rounded & kept, self._folded & kept
        new._known = {(kind, names) for kind, names in self._known if names in kept}
        return new

    def looped(self, variant: Variant, inputs: Inputs) -> Tensor:
        """The reference: the variant runs the whole network, the user's own modules, on all of the batch."""
        params, inputs = {**self.params, **tensors_of_variant(variant)}, map_inputs(torch.clone, inputs)
        with torch.no_grad(), self._alone, evaluation_mode(self.network), torch.random.fork_rng(self._cuda()):
            torch.manual_seed(SEED)  # for networks that draw random numbers: the same ones for every variant
            return forward(self.network, inputs, params)

    def prepare(self, variants: Sequence[Variant], by_layer: Mapping[Names, Sequence[int]], inputs: Inputs) -> None:
        """For each layer that is new: whether replay gives the loop's logits on the first examples.

        Raises:
            RunError: it does not, and replay was asked for.
        """
        inherited = {names: self._telling(variants, by_layer[names]) for names in by_layer if names in self._inherited}
        if inherited:
            self._confirm(inherited, inputs)
        new = {names: indices for names, indices in by_layer.items() if names and names not in self.routes}
        shapes = [tuple(tensor.shape[1:]) for tensor in tensors_of(inputs).values()]
        if self.replays and shapes != self._shapes:
            self._weigh(made(self.workers[0].replay), inputs)
        self._shapes = shapes
        if not new and not self.routes and self.asked != "loop":
            self.choice = "level loop: nothing but the base was asked for"
            return
        if not new or self.asked == "loop":
            self.choice = self.choice or "level loop, as asked"
            self.routes.update(dict.fromkeys(new, "loop"))
            return
        picks = {names: self._telling(variants, indices) for names, indices in new.items()}
        truth = self._truth(picks, inputs)
        plain, base = clocked(lambda: self.looped({}, inputs), self.device)
        truth.keep(BASE, base)
        worker = self.workers[0]
        if worker.replay is not None:
            carried, taken, reason = self._try(worker.replay, picks, inputs, truth)
        else:
            carried, taken, reason = self._make(picks, inputs, truth)
        self._passes["replay"] = plain / count_of(inputs)
        seconds = plain * len(picks)
        carried = carried - {BASE} if BASE in carried else set()
        if not carried:
            reason = reason or "its logits were not those of the loop"
        if self.asked == "replay" and len(carried) < len(picks):
            why = reason or "a layer differs"
            raise RunError(f"level='replay' cannot carry this network: {why}; use level='auto'.")
        if not carried and set(self.routes.values()) <= {"loop"}:
            self.workers = [Worker()]
        self.routes.update({names: "replay" if names in carried else "loop" for names in picks})
        loops = [sorted(names)[0] for names in picks if names not in carried]
        if loops and carried:
            reason = f"; the loop for {_some(loops)}, whose logits differed"
        if carried:
            gain = f"{seconds / max(taken, 1e-9):.1f} times as fast as the loop on the first examples"
            exact = "bit-identical" if self.device.type == "cpu" else "equal to the rounding of float32"
            self.choice = f"level replay for {len(carried)} of {len(picks)} layers, logits {exact}, {gain}{reason}"
        else:
            self.choice = f"level loop: {reason}"

    def _confirm(self, picks: Mapping[Names, Params], inputs: Inputs) -> None:
        """Layers whose level was found with another base keep it where it gives the loop's logits with this one."""
        truth, worker, wrong = self._truth(picks, inputs), self.workers[0], set[Names]()
        for level, routes in ((worker.replay, ("replay", "fused")), (worker.fused, ("fused",))):
            if level is None:
                continue
            some = [names for names in picks if self.routes.get(names) in routes]
            try:
                right = (same if level is worker.replay else close)(truth[BASE], level.base(inputs))
                for names in some:
                    agree = same if level is worker.replay or names in self.bitwise else close
                    if not right or not agree(truth[names], level.logits(picks[names])):
                        wrong.add(names)
            except Exception as error:  # the loop carried it, so whatever went wrong is the level's fault
                if is_out_of_memory(error):
                    raise
                wrong |= picks.keys()
            finally:
                level.clear()
        for names in wrong:
            for known in (self.routes, self.low, self._rough):
                known.pop(names, None)
            self._known = {(kind, some) for kind, some in self._known if some != names}
        self.bitwise -= wrong
        for kind in ("half", "low"):
            some = [names for names in picks if self.low.get(names, ("", 0))[0] == kind]
            self._widen(kind, some, picks, truth, inputs)
        self._inherited -= picks.keys()  # not before: an interruption leaves them to be compared

    def _widen(
        self, kind: str, layers: Sequence[Names], picks: Mapping[Names, Params], truth: Logits, inputs: Inputs
    ) -> None:
        """Let the bounds of layers on errors in bfloat16, found with another base, be no less than these examples ask for."""
        if not layers:
            return
        level = made(getattr(self.workers[0], kind))
        try:
            level.base(inputs)
            for names in layers:
                error = margin_error(truth[names], level.logits(picks[names]))
                self.low[names] = kind, max(self.low[names][1], SAFETY * error)
        except Exception as error:  # float32 is left
            if is_out_of_memory(error):
                raise
            for known in (self.low, self._rough):
                for names in layers:
                    known.pop(names, None)
        finally:
            self.workers[0].clear()

    def _truth(self, picks: Mapping[Names, Params], inputs: Inputs) -> Logits:
        """The loop's logits of the base and of a variant of each layer."""
        return Logits(lambda names: self.looped(picks.get(names, {}), inputs), self.memory // ROOM)

    def trial(self, most: int) -> int:
        """On how many examples levels are timed."""
        seconds = sum(self._seconds.values())
        return max(min(most, int(TRIAL / seconds)), SAMPLE) if seconds else most

    def tune(
        self,
        variants: Sequence[Variant],
        by_layer: Mapping[Names, Sequence[int]],
        inputs: Inputs,
        batches: float,
        labels: Tensor | None,
    ) -> None:
        """For each layer that replay carries: whether another level is as right, and faster, on a whole batch."""
        if not self.replays or self.asked == "replay":
            return
        with torch.random.fork_rng(self._cuda()):
            self._hasten(variants, by_layer, inputs, batches, labels)
            self._fold(variants, by_layer, inputs)
        self.workers[0].clear()

    def _hasten(
        self,
        variants: Sequence[Variant],
        by_layer: Mapping[Names, Sequence[int]],
        inputs: Inputs,
        batches: float,
        labels: Tensor | None,
    ) -> None:
        """Try bfloat16 and a traced graph, each where the work is worth it, and route to them the layers that they make faster."""
        if self.device.type != "cpu" or self.asked not in ("auto", "fused"):
            return
        layers = [names for names in by_layer if names and self.routes[names] in ("replay", "fused")]
        size, halves = count_of(inputs), labels is not None and self.halves
        trial = size * sum(self._seconds[names] for names in layers)
        whole = size * batches * sum(self._seconds[names] * len(by_layer[names]) for names in layers)
        kinds = (["fused", "low"] if halves else ["fused"]) if self._traces(whole, trial) else []
        if halves and self.asked == "auto" and (self.precision == "bfloat16" or whole > TRIALS * trial):
            kinds += ["half"] if self._bytes / 2 <= self.memory / 4 else []
        layers = [names for names in layers if not self._known.issuperset((kind, names) for kind in kinds)]
        if not layers:
            return
        picks = {names: self._telling(variants, by_layer[names]) for names in layers}
        replay = made(self.workers[0].replay)
        truth, slow = Logits(lambda names: replay.logits(picks[names]), self.memory // ROOM), {}
        base = replay.base(inputs)
        for names, variant in picks.items():
            slow[names], found = clocked(lambda variant=variant: replay.logits(variant), self.device)
            truth.keep(names, found)
        if len(truth) == len(picks):
            replay.clear()
        truth[BASE] = base
        whole = batches * sum(slow[names] * len(by_layer[names]) for names in layers)  # known better now
        self._known.update((kind, names) for names in layers for kind in kinds)
        if "fused" in kinds and self._traces(whole, sum(slow.values())):
            self._fuse({names: len(by_layer[names]) for names in layers}, picks, inputs, labels, truth, slow)
        kind = "half" if self.workers[0].fused is None else "low"
        if kind in kinds:
            self._halve(kind, picks, inputs, labels, truth, slow)

    def runs_whole(self, counts: Mapping[Names, float], routes: set[str], decisions: bool) -> bool:
        """Whether so few variants are wanted that the whole network for each costs less than a recorded pass, and what follows
        each change."""
        if self.asked != "auto" or not self.replays or (decisions and self.precision == "bfloat16"):
            return False
        if not routes <= self._passes.keys():
            return False
        taken = {BASE: 0.0, **self._seconds, **(self._rough if decisions else {})}
        recorded = sum(
            self._passes[route] for route in routes
        )  # a record costs nothing beside a pass, but of few examples
        behind = sum(taken[names] * count for names, count in counts.items())
        return self._passes["replay"] * sum(counts.values()) < recorded + behind

    def shares(self, counts: Mapping[Names, float], decisions: bool) -> bool:
        """Whether a recorded pass saves anything where so many variants of each layer are wanted an example."""
        layers = [names for names in counts if names]
        routes, graph = {self.route(names, decisions) for names in layers}, self.workers[0].fused
        if routes == {"loop"}:
            return False
        if graph is not None and routes == {"fused"}:
            return any(graph.uses_base(names) for names in layers)
        return not self.runs_whole(counts, routes, decisions)

    @property
    def halves(self) -> bool:
        """Whether decisions may run in bfloat16."""
        if self.device.type != "cpu" or self.asked not in ("auto", "fused"):
            return False
        return self.precision == "bfloat16" or (self.precision == "auto" and bfloat16_gain() > 1.5)

    def rounds(self, names: Names, variant: Variant, inputs: Inputs) -> bool:
        """Whether the graph runs all of the network for a variant of these tensors, and in bfloat16 in at most half of the time."""
        graph = self.workers[0].fused
        if not self.halves or graph is None or self.routes.get(names) != "fused" or graph.uses_base(names):
            return False
        if names not in self._rounded:
            self._rounded.add(names)
            try:
                gain = self._gain(graph, tensors_of_variant(variant), inputs)
            except Exception as error:  # an operation may know float32 alone, or memory run out: then float32 it is
                self.choice += f"; no bfloat16: {said(error)}"
                return False
            if gain > 2 or self.precision == "bfloat16":
                self.rough.add(names)
                self.choice += f"; all of the network in bfloat16 {gain:.1f} times as fast"
        return names in self.rough

    def _gain(self, graph: "Fused", changes: Params, inputs: Inputs) -> float:
        """How many times as fast as in float32 the graph runs all of the network in bfloat16, which each worker gets."""
        if self.workers[0].low is None:
            for worker in self.workers:
                worker.low = made(worker.fused).rounded()
        seconds = []
        for level in (graph, made(self.workers[0].low)):
            level.whole(changes, inputs)  # a graph chooses its kernels the first time
            seconds.append(clocked(lambda level=level: level.whole(changes, inputs), self.device)[0])
        return seconds[0] / seconds[1]

    def _traces(self, whole: float, trial: float) -> bool:
        """Whether a graph may pay for itself, and its packed weights fit: ``whole`` and ``trial`` are seconds without it."""
        fits = self._packed * len(self.workers) <= self.memory / 4
        tracing = TRACING if self.workers[0].fused is None else 0.0
        return self.asked == "fused" or (fits and tracing + 2.5 * trial <= SAVED * whole)

    def _fuse(
        self,
        counts: Mapping[Names, int],
        picks: Mapping[Names, Params],
        inputs: Inputs,
        labels: Tensor | None,
        truth: Logits,
        slow: dict[Names, float],
    ) -> None:
        """Trace the network to a graph, and route to it the layers that it carries, if it makes all of the work faster.

        ``slow`` is what each layer takes without it, and then with it.
        """

        def agrees(names: Names, logits: Tensor) -> tuple[bool, bool]:
            return close(truth[names], logits), same(truth[names], logits)

        try:
            found, fast = self._tried("fused", picks, inputs, agrees)
        except Unsuitable as reason:
            if self.asked == "fused":
                raise RunError(f"level='fused' cannot carry this network: {reason}; use level='auto'.") from reason
            self.choice += f"; no fused graph: {reason}"
            return
        right = [names for names in picks if found[BASE][0] and found[names][0]]
        bitwise = {names for names in (BASE, *right) if found[names][1]}
        if BASE not in bitwise or not made(self.workers[0].fused).plain:
            bitwise = set()
        for names in right:
            if names not in bitwise:
                logits = truth[names]
                seconds, near = clocked(lambda logits=logits: near_ties(logits, ROUNDING, labels), self.device)
                again = self._again("fused", names, picks[names], inputs, near.nonzero().flatten())
                fast[names] += seconds + again
        gain = sum(counts[names] * (slow[names] - fast[names]) for names in right)
        self.bitwise.discard(BASE)
        own = bitwise.issuperset(right)  # the same operations as replay's, and logits in memory that is used again
        if right and (gain > 0 or own or self.asked == "fused"):
            self.routes.update(dict.fromkeys(right, "fused"))
            self.bitwise |= bitwise
            times = sum(slow[names] for names in right) / max(1e-9, sum(fast[names] for names in right))
            equal = "bit-identical" if own else "equal to rounding"
            self.choice += f"; fused for {len(right)} of them, {times:.1f} times as fast as replay, {equal}"
            slow.update((names, fast[names]) for names in right)

    def _halve(
        self,
        kind: str,
        picks: Mapping[Names, Params],
        inputs: Inputs,
        labels: Tensor | None,
        truth: Logits,
        slow: Mapping[Names, float],
    ) -> None:
        """Decisions in bfloat16: the bound on a margin's error, and for each layer whether it pays with the second run."""

        def bounded(names: Names, logits: Tensor) -> tuple[float, Tensor] | None:
            if not torch.equal(truth[names].isfinite(), logits.isfinite()):
                return None
            bound = max(SAFETY * margin_error(truth[names], logits), ROUNDING)
            return bound, near_ties(logits, bound, labels).nonzero().flatten()

        try:
            judged, fast = self._tried(kind, picks, inputs, bounded)
        except Unsuitable as reason:
            self.choice += f"; no bfloat16: {reason}"
            return
        found = {names: one for names, one in judged.items() if names and one}
        if kind == "low":
            made(self.workers[0].fused).base(inputs)
        taken, bounds = {}, {}
        for names, (bounds[names], near) in found.items():
            taken[names] = fast[names] + self._again(kind, names, picks[names], inputs, near)
        chosen = [names for names in found if self.precision == "bfloat16" or taken[names] < slow[names]]
        lost = sum(taken[names] - slow[names] for names in found if names not in chosen)
        if kind == "half" and chosen and lost < self._passes["replay"] * count_of(inputs):
            chosen = list(found)  # then no pass in float32 is recorded
        for names in chosen:
            self.low[names] = kind, bounds[names]
            self._rough[names] = taken[names] / count_of(inputs)
        count = sum(self.low.get(names, ("", 0))[0] == kind for names in picks)
        if count:
            how = "by replay in bfloat16" if kind == "half" else "in bfloat16"
            self.choice += f"; decisions of {count} layers {how}, near ties again in float32"

    def _again(self, kind: str, names: Names, variant: Params, inputs: Inputs, rows: Tensor) -> float:
        """Seconds to run a variant again in float32 on the examples near a tie, as :class:`Batch` will."""
        worker = self.workers[0]
        if not len(rows):
            return 0.0
        some = map_inputs(lambda tensor: tensor[rows], inputs)
        try:
            if kind == "low" and self.routes[names] == "fused" and (graph := made(worker.fused)).picks:
                graph.picked([(variant, rows)])  # kernels for so few rows are chosen
                return clocked(lambda: graph.picked([(variant, rows)])[0], self.device)[0]
            return clocked(lambda: made(worker.replay).whole(variant, some), self.device)[0]
        except Exception as error:  # what fails here, the loop answers for
            if is_out_of_memory(error):
                raise
            return clocked(lambda: self.looped(variant, some), self.device)[0]

    def _tried(
        self, kind: str, picks: Mapping[Names, Params], inputs: Inputs, judge: Callable[[Names, Tensor], T]
    ) -> tuple[dict[Names, T], dict[Names, float]]:
        """A level for each worker; what is to be said of its logits of the base and of each layer, and the seconds of these, once
        kernels are chosen."""
        try:
            known = [getattr(worker, kind) for worker in self.workers]
            made = self._of_kind(kind, inputs) if None in known else known
            found, seconds = {BASE: judge(BASE, made[0].base(inputs))}, {}
            if kind == "half":
                self._passes[kind] = clocked(lambda: made[0].base(inputs), self.device)[0] / count_of(inputs)
            for names, variant in picks.items():
                if not made[0].plain:
                    made[0].logits(variant)  # a graph chooses its kernels the first time
                seconds[names], logits = clocked(lambda variant=variant: made[0].logits(variant), self.device)
                found[names] = judge(names, logits)
            made[0].clear()
        except Exception as error:  # copying and tracing meet any code
            if is_out_of_memory(error):
                raise
            raise Unsuitable(said(error)) from error
        for worker, level in zip(self.workers, made, strict=True):
            setattr(worker, kind, level)
        return found, seconds

    def _of_kind(self, kind: str, inputs: Inputs) -> "Sequence[Half | Fused]":
        """A new level for each worker."""
        if kind == "half":
            buffers = dict(self.network.named_buffers())  # those too that are in no checkpoint
            low = {name: halved(tensor) for name, tensor in {**buffers, **self.params}.items()}
            keep_inplace = made(self.workers[0].replay).keep_inplace
            return [Half(self.network, low, keep_inplace) for _ in self.workers]
        if kind == "low":
            return [made(worker.fused).rounded() for worker in self.workers]
        from shaketable.engine.fused import Fused

        return [Fused(self.network, self.params, inputs) for _ in self.workers]

    def _fold(self, variants: Sequence[Variant], by_layer: Mapping[Names, Sequence[int]], inputs: Inputs) -> None:
        """For each layer with several variants: whether vmap over them is faster than one after another, and as right."""
        size = count_of(inputs)
        small = [
            (names, [variants[index] for index in indices[:FOLDED]])
            for names, indices in by_layer.items()
            if len(indices) >= FOLDED and self.routes.get(names) == "replay"
            and names not in self._folded and names not in self.low
            and (self.asked == "vmap" or self.device.type == "cuda" or self._seconds.get(names, 1.0) * size < SHORT)
        ]  # fmt: skip
        if not small or self.asked not in ("auto", "vmap"):
            return
        level, chosen = made(self.workers[0].replay), []
        level.base(inputs)
        for names, some in small:
            self._folded.add(names)
            try:
                level.many(some)  # torch's own preparations
                alone, found = clocked(lambda some=some: torch.stack([level.logits(one) for one in some]), self.device)
                together, folded = clocked(lambda some=some: level.many(some), self.device)
            except Exception as error:  # any code may stand in the network
                if is_out_of_memory(error):
                    raise
                log.debug("vmap cannot carry %s: %s", sorted(names)[0], said(error))
                continue
            if not close(found, folded) or (together > 0.8 * alone and self.asked != "vmap"):
                continue
            self.routes[names] = "vmap"
            chosen.append(f"{sorted(names)[0]} ({alone / together:.1f} times as fast)")
        if chosen:
            self.choice += f"; vmap for {_some(chosen)}"

    def _make(self, picks: Mapping[Names, Params], inputs: Inputs, truth: Logits) -> "Trial":
        """Make a replay for each worker, with in-place activations as they are only where that is needed."""
        best: Trial = (set(), 0.0, "")
        for keep_inplace in (False, True):
            try:
                level = Replay(self.network, self.params, keep_inplace)
            except Unsuitable as reason:
                return set(), 0.0, str(reason)
            right, seconds, reason = self._try(level, picks, inputs, truth)
            if len(right) > len(best[0]):
                best = (right, seconds, reason)
                self.workers[0].replay = level
                for worker in self.workers[1:]:
                    worker.replay = Replay(self.network, self.params, keep_inplace)
            elif not best[0]:
                best = (set(), 0.0, reason)
            if len(right) == len(picks) + 1:
                break
        return best

    def _try(self, level: Replay, picks: Mapping[Names, Params], inputs: Inputs, truth: Logits) -> "Trial":
        """Of the base and of a variant of each layer those whose logits are the loop's, seconds, and what went wrong."""
        right: set[Names] = set()
        reason, taken = "", 0.0
        try:
            self._weigh(level, inputs)
            if same(truth[BASE], level.base(inputs)):
                right.add(BASE)
            for names, variant in picks.items():
                seconds, found = clocked(lambda variant=variant: level.logits(variant), self.device)
                self._seconds[names], taken = seconds / count_of(inputs), taken + seconds
                if same(truth[names], found):
                    right.add(names)
        except Exception as error:  # the loop carried it, so whatever went wrong is the level's fault
            if is_out_of_memory(error):
                raise
            right, reason = set(), said(error)
        finally:
            level.clear()
        return right, taken, reason

    def _telling(self, variants: Sequence[Variant], indices: Sequence[int]) -> Params:
        """The first variant of a layer that differs from the base, as plain tensors."""
        for index in indices:
            tensors = tensors_of_variant(variants[index])
            if any(not torch.equal(tensor, self.params[name]) for name, tensor in tensors.items()):
                return tensors
        return tensors_of_variant(variants[indices[0]])

    def _weigh(self, level: Replay, inputs: Inputs) -> None:
        """How many bytes the recorded pass of an example takes."""
        with torch.random.fork_rng(self._cuda()):
            level.base(inputs)
        self.per_example = max(1, level.recorded_bytes() // count_of(inputs))

    def _cuda(self) -> list[torch.device]:
        """Devices whose random state is put aside."""
        return [self.device] if self.device.type == "cuda" else []


Trial = tuple[set[Names], float, str]
"""Those of the base and a variant of each layer whose logits are right (none if it failed), seconds, and what went wrong."""


def _some(names: Sequence[str]) -> str:
    """At most three names."""
    return f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"


def said(error: Exception) -> str:
    """What went wrong, in one line."""
    return str(error) if isinstance(error, Unsuitable) else f"{type(error).__name__}: {error}".splitlines()[0]
