"""Units removed one by one: which examples are still right after each, by a running sum where the network allows it."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.fx import Node

from shaketable.engine.compare import ROUNDING, bfloat16_gain, clocked, close
from shaketable.engine.margins import Margins
from shaketable.engine.memory import budget
from shaketable.engine.replica import Unsuitable
from shaketable.errors import RunError
from shaketable.evaluate import outcomes
from shaketable.forward import Inputs, evaluation_mode, forward, map_inputs, tensors_of
from shaketable.intervene import Site, masked, recorded
from shaketable.params import Params

if TYPE_CHECKING:
    from shaketable.engine.suffix import Linear, Suffix  # tracing costs seconds of imports: only where it is used

Rounding = Literal["auto", "float32"]
CHECKED = 4
"""Examples on which each way is compared with the network itself."""
TOGETHER = 100
"""Examples in one pass of the whole network."""
WORTH = 1.5
"""How many times as fast bfloat16 must be."""
CACHE, FEW, ROUNDED, MANY = 2**20, 256, 1024, 2048
"""Bytes of a pass behind the site that a cache holds, and the least rows in one pass, in bfloat16 ROUNDED, and the most."""
STEPS = 2
"""Of a running sum that are in one pass at least: what is added to stays in the cache."""
log = logging.getLogger("shaketable.engine")


@dataclass
class Recorded:
    """Some examples: the activation at the site, and what else is read behind it."""

    activation: Tensor
    values: dict[Node, Tensor]
    inputs: Inputs

    @property
    def bytes(self) -> int:
        """Memory that it takes beside the inputs."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.values or {"": self.activation}).values())

    def of(self, rows: Tensor) -> "Recorded":
        """Some of the examples."""
        values = {node: tensor[rows] for node, tensor in self.values.items()}
        return Recorded(self.activation[rows], values, map_inputs(lambda tensor: tensor[rows], self.inputs))


class Removals:
    """Answers about a network with units of one site at zero, by the fastest way that gives the network's own.

    ``"sum"``: all that depends on the site goes through one linear operator, each of whose inputs depends on one unit: its output
    is a running sum over units, and only what follows it runs for each set of units. ``"suffix"``: what is behind the site runs
    for each. ``"network"``: all of it does, as it stands, with a mask: the reference. Units that an example does not
    activate leave it as it was, and are passed over. Decisions near a tie are those of the suffix; what is far from one may be
    decided in bfloat16, where that is faster: see :class:`shaketable.engine.margins.Margins`.

    Args:
        network: any module, in evaluation mode; never written to.
        params: its weights, by name.
        site: where units are removed.
        inputs: a few examples.
        memory: bytes that may be taken; without it half of what is free.
        way: one of the three, or ``"auto"``.
        precision: ``"float32"`` for no decision in bfloat16; ``"auto"``: where that is measured to be faster.

    Raises:
        RunError: the way asked for cannot carry this network.
    """

    def __init__(
        self,
        network: nn.Module,
        params: Params,
        site: Site,
        inputs: Inputs,
        memory: int | None = None,
        way: str = "auto",
        precision: Rounding = "auto",
    ) -> None:
        self.network, self.params, self.site = network, params, site
        self.memory = budget(memory, next((t.device for t in params.values()), torch.device("cpu")))
        self.suffix: Suffix | None = None
        self.linear: Linear | None = None
        self.precision, self.rounds = precision, False
        few = map_inputs(lambda tensor: tensor[:CHECKED], inputs)
        self.reason = "as asked"
        if way != "network":
            from shaketable.engine import suffix

            try:
                self.suffix = suffix.Suffix(network, params, site, few)
                self.linear = self.suffix.linear if way != "suffix" else None
                self._check(few)
            except Unsuitable as error:
                self.suffix, self.linear, self.reason = None, None, str(error)
        if way not in ("auto", self.way):
            raise RunError(f"layer {site.layer!r} cannot be ablated by way={way!r}: {self.reason}; use 'auto'.")
        log.info("ablation of %s: %s", site.layer, self.way)

    @property
    def way(self) -> str:
        """``"sum"``, ``"suffix"`` or ``"network"``."""
        return "network" if self.suffix is None else "suffix" if self.linear is None else "sum"

    @property
    def row_bytes(self) -> int:
        """Memory of one example with one set of units removed."""
        way = self.linear or self.suffix
        return max(1, way.bytes) if way else 1

    def rows(self) -> int:
        """Rows in one pass behind the site."""
        if self.suffix is None:
            return FEW
        fits = self.memory // (8 * self.row_bytes)
        return max(1, min(fits, max(ROUNDED if self.rounds else FEW, min(MANY, CACHE // self.row_bytes))))

    def examples(self) -> int:
        """Examples whose curves are computed together."""
        numbers = 16 * self.site.units  # orders, counts and answers
        if self.linear is not None:
            units, taps, out = self.linear.weight.shape
            numbers += self.linear.positions * (3 * units * taps + 4 * out) + taps * out
        together = self.rows() if self.linear is None else self.rows() // STEPS
        return max(1, min(together, self.memory // (8 * (4 * numbers + self.row_bytes))))

    def record(self, inputs: Inputs) -> Recorded:
        """One pass of the network as it is."""
        parts = list(zip(*(tensor.split(TOGETHER) for tensor in tensors_of(inputs).values()), strict=True))
        found, values = [], []
        for part in parts:
            following = iter(part)
            some = map_inputs(lambda tensor, following=following: next(following), inputs)
            if self.suffix is not None:
                with torch.no_grad():
                    values.append(self.suffix.base(some))
                found.append(values[-1][self.suffix.activation])
            else:
                with recorded(self.network, self.site) as seen:
                    self._whole(some)
                found += seen
        together = {node: torch.cat([one[node] for one in values]) for node in (values[0] if values else ())}
        return Recorded(torch.cat(found), together, inputs)

    def right(self, base: Recorded, labels: Tensor, orders: Sequence[Tensor]) -> list[Tensor]:
        """Which examples are right [N, units + 1] with the first 0, 1, 2, ... units of an order alone, the others removed.

        Args:
            base: of :meth:`record`, N examples.
            labels: [N].
            orders: one or several; each has every example's units [N, units], the one that comes first first.

        Returns: for each order, booleans.
        """
        with torch.no_grad():
            terms = self.linear.terms(base.values) if self.linear else _by_unit(base.activation, self.site)
            empty = self.linear.state(base.values) if self.linear else torch.zeros_like(terms)
            acts = terms.flatten(2).ne(0).any(2)
            rough = partial(self._behind, base, rounded=True) if self.rounds else None
            behind = Margins(partial(self._behind, base), rough)
            return [self._right(base, labels, order, terms, empty, acts.gather(1, order), behind) for order in orders]

    def _right(
        self,
        base: Recorded,
        labels: Tensor,
        order: Tensor,
        terms: Tensor,
        empty: Tensor,
        acts: Tensor,
        behind: Margins,
    ) -> Tensor:
        """The same for one order; ``acts`` [N, units] says which units of it an example activates."""
        steps = acts.cumsum(1)
        total, at = steps[:, -1].sort(descending=True, stable=True)  # those with many units first: the rest drops out
        taken = order[at].gather(1, (~acts[at]).to(torch.int8).argsort(dim=1, stable=True))  # those that act come first
        numbers = torch.arange(int(total[0]) + 1, device=total.device)
        alive = (total[:, None] >= numbers).sum(0)
        step = numbers.repeat_interleave(alive)
        rows = at[torch.arange(len(step), device=at.device) - (alive.cumsum(0) - alive)[step]]
        found, start = [], 0
        for made in self._states(terms, empty, at, taken, alive.tolist()):
            for part in made.split(self.rows()):
                some = rows[start : start + len(part)]
                found.append(behind.of(part, some, labels[some]))
                start += len(part)
        margin, largest = (torch.cat(column) for column in zip(*found, strict=True))
        answers = margin > 0
        tolerance = largest * (0.0 if self.linear is None else ROUNDING)
        doubtful = (~(margin.abs() > tolerance)).nonzero().flatten()  # ties, and what is not a number, too
        if len(doubtful):
            units = torch.arange(order.shape[1], device=taken.device).expand_as(taken)
            place = torch.empty_like(taken).scatter_(1, taken, units)[at.argsort()]  # by example: when each unit comes
            for some in doubtful.split(self.rows()):
                logits = self._masked_logits(base, rows[some], place[rows[some]] < step[some, None])
                answers[some] = ~outcomes(logits, labels[rows[some]])[0]
        right = torch.zeros(len(order), order.shape[1] + 1, dtype=torch.bool, device=labels.device)
        right[rows, step] = answers
        return right.gather(1, nn.functional.pad(steps, (1, 0)))

    def _states(
        self, terms: Tensor, empty: Tensor, at: Tensor, taken: Tensor, alive: Sequence[int]
    ) -> Iterator[Tensor]:
        """What the examples ``at`` are with their first 0, 1, 2, ... units ``taken``, as long as these are ``alive``, step after
        step: as many together as one pass takes, in room that is used again."""
        by_step = taken[:, : len(alive) - 1].t().contiguous()
        if self.linear is not None:
            terms = terms.flatten(0, 1)[at * terms.shape[1] + by_step]  # [step, N, positions, taps]
        weights = empty.new_empty(len(at), *self.linear.weight.shape[1:]) if self.linear else empty
        room = empty.new_empty(max(self.rows(), len(at)), *empty.shape[1:])
        state, filled = empty[at], 0
        for step, rows in enumerate(alive):
            if filled + rows > len(room):
                yield room[:filled]
                filled = 0
            state, before = room[filled : filled + rows], state[:rows]
            filled += rows
            if not step:
                state.copy_(before)
            elif self.linear is not None:
                unit = by_step[step - 1, :rows]
                weight = torch.index_select(self.linear.weight, 0, unit, out=weights[:rows])
                if weight.shape[1] == 1:
                    torch.addcmul(before, terms[step - 1, :rows], weight, out=state)
                else:
                    torch.baddbmm(before, terms[step - 1, :rows], weight, out=state)
            else:
                unit = by_step[step - 1, :rows]
                state.copy_(before)[torch.arange(rows, device=at.device), unit] = terms[at[:rows], unit]
        yield room[:filled]

    def _behind(self, base: Recorded, made: Tensor, rows: Tensor, rounded: bool = False) -> Tensor:
        """Logits of rows of states."""
        if self.linear is not None:
            return self.linear.logits(made, base.values, rows, rounded)
        return self._logits(base, _to_axis(made, self.site, base.activation), rows, rounded)

    def _masked_logits(self, base: Recorded, rows: Tensor, kept: Tensor) -> Tensor:
        a = base.activation[rows]
        return self._logits(base, a * self.site.shaped(kept.to(a), a.dim()), rows)

    def _logits(self, base: Recorded, activation: Tensor, rows: Tensor, rounded: bool = False) -> Tensor:
        """Logits of rows of activations, by the suffix, or else by the network with the mask that they show."""
        if self.suffix is not None:
            return self.suffix.logits(activation, base.values, rows, rounded)
        mask = _by_unit(activation, self.site).flatten(2).ne(0).any(2).to(activation)
        with masked(self.network, self.site, mask):
            return self._whole(map_inputs(lambda tensor: tensor[rows], base.inputs))

    def _whole(self, inputs: Inputs) -> Tensor:
        """Logits of the network as it stands."""
        with torch.no_grad(), evaluation_mode(self.network), torch.random.fork_rng(devices=[]):
            return forward(self.network, map_inputs(torch.clone, inputs), self.params)

    def _check(self, few: Inputs) -> None:
        """Compare with the network itself: nothing removed, some units, half of them, all.

        Raises:
            Unsuitable: the suffix differs; a sum that differs is given up.
        """
        assert self.suffix is not None
        base, units = self.record(few), torch.arange(self.site.units)
        count = len(next(iter(tensors_of(few).values())))
        rows = torch.arange(count, device=base.activation.device)
        for kept in (units >= 0, units % 3 > 0, units % 2 > 0, units < 0):
            kept = kept.to(rows.device).expand(count, -1)
            with masked(self.network, self.site, kept[0]):
                truth = self._whole(few)
            if truth.dim() != 2 or not close(truth, self._masked_logits(base, rows, kept)):
                raise Unsuitable("its graph gives other logits than the network")
            if self.linear is not None:
                terms = self.linear.terms(base.values) * kept[:, :, None, None]
                state = self.linear.state(base.values) + self.linear.summed(terms)
                if not close(truth, self.linear.logits(state, base.values, rows)):
                    self.linear = None
        self.rounds = self.precision == "auto" and self._rounding_pays(base)

    def _rounding_pays(self, base: Recorded) -> bool:
        """Whether what is behind the state, or the site, is so much faster in bfloat16 that many rows may run twice."""
        device = base.activation.device
        assert self.suffix is not None
        nodes = self.linear.rest if self.linear else self.suffix.behind
        if not self.suffix.multiplies(nodes) or device.type != "cpu" or bfloat16_gain() < WORTH:
            return False
        state = self.linear.state(base.values) if self.linear else _by_unit(base.activation, self.site)
        rows = torch.arange(self.rows(), device=device) % len(state)
        seconds = []
        for rounded in (False, True):
            try:
                runs = [
                    clocked(lambda r=rounded: self._behind(base, state[rows], rows, r), device)[0] for _ in range(3)
                ]
            except RuntimeError as error:  # an operation that has no bfloat16, or wants one type of numbers
                log.info("nothing in bfloat16 behind %s: %s", self.site.layer, error)
                return False
            seconds.append(min(runs))
        return seconds[0] > WORTH * seconds[1]


def _by_unit(activation: Tensor, site: Site) -> Tensor:
    """An activation as [N, units, ...]."""
    return activation.movedim(site.axis, 1) if activation.dim() > 2 else activation.unsqueeze(2)


def _to_axis(by_unit: Tensor, site: Site, like: Tensor) -> Tensor:
    """The same back as the network has it."""
    return by_unit.movedim(1, site.axis) if like.dim() > 2 else by_unit.squeeze(2)
