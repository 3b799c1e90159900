"""Units removed one by one: which examples are still right after each, by a running sum where the network allows it."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.fx import Node

from shaketable.engine.compare import ROUNDING, close
from shaketable.engine.memory import budget
from shaketable.engine.replica import Unsuitable
from shaketable.errors import RunError
from shaketable.evaluate import outcomes
from shaketable.forward import Inputs, evaluation_mode, forward, map_inputs, tensors_of
from shaketable.intervene import Site, masked, recorded
from shaketable.params import Params

if TYPE_CHECKING:
    from shaketable.engine.suffix import Linear, Suffix  # tracing costs seconds of imports: only where it is used

CHECKED = 4
"""Examples on which each way is compared with the network itself."""
TOGETHER = 100
"""Examples in one pass of the whole network."""
CACHE, FEW, MANY = 2**20, 256, 2048
"""Bytes of a pass behind the site that keep a processor's cache useful, and the least and the most rows in one pass."""
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
    activate leave it as it was, and are passed over. Decisions near a tie are those of the suffix.

    Args:
        network: any module, in evaluation mode; never written to.
        params: its weights, by name.
        site: where units are removed.
        inputs: a few examples.
        memory: bytes that may be taken; without it half of what is free.
        way: one of the three, or ``"auto"``.

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
    ) -> None:
        self.network, self.params, self.site = network, params, site
        self.memory = budget(memory, next((t.device for t in params.values()), torch.device("cpu")))
        self.suffix: Suffix | None = None
        self.linear: Linear | None = None
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
        return max(1, min(fits, max(FEW, min(MANY, CACHE // self.row_bytes))))

    def examples(self) -> int:
        """Examples whose curves are computed together."""
        numbers = 16 * self.site.units  # orders, counts and answers
        if self.linear is not None:
            units, taps, out = self.linear.weight.shape
            numbers += self.linear.positions * (3 * units * taps + 4 * out) + taps * out
        return max(1, min(self.rows(), self.memory // (8 * (4 * numbers + self.row_bytes))))

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
            return [self._right(base, labels, order, terms, empty, acts.gather(1, order)) for order in orders]

    def _right(
        self, base: Recorded, labels: Tensor, order: Tensor, terms: Tensor, empty: Tensor, acts: Tensor
    ) -> Tensor:
        """The same for one order; ``acts`` [N, units] says which units of it an example activates."""
        steps = acts.cumsum(1)
        total, at = steps[:, -1].sort(descending=True, stable=True)  # those with many units first: the rest drops out
        taken = order[at].gather(1, (~acts[at]).to(torch.int8).argsort(dim=1, stable=True))  # those that act come first
        found: list[tuple[Tensor, ...]] = []
        for rows, step, state in self._states(terms, empty, at, taken, total):
            if self.linear is not None:
                logits = self.linear.logits(state, base.values, rows)
            else:
                logits = self._logits(base, _to_axis(state, self.site, base.activation), rows)
            found.append((rows, step, *_compared(logits, labels.index_select(0, rows))))
        rows, step, own, highest, lowest = (torch.cat(column) for column in zip(*found, strict=True))
        answers = own > highest
        largest = torch.maximum(torch.maximum(highest, own), -lowest)
        tolerance = largest * (0.0 if self.linear is None else ROUNDING)
        doubtful = (~((own - highest).abs() > tolerance)).nonzero().flatten()  # ties, and what is not a number, too
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
        self, terms: Tensor, empty: Tensor, at: Tensor, taken: Tensor, total: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Examples, numbers of units, and the state that these make, so many together as one pass takes."""
        most, limit = int(total[0]), self.rows()
        alive = (total[:, None] >= torch.arange(most + 1, device=total.device)).sum(0).tolist()
        state, by_step = empty[at], taken[:, :most].t().contiguous()
        if self.linear is not None:
            index = taken[:, :most, None, None].expand(-1, -1, *terms.shape[2:])
            terms = terms[at].gather(1, index).transpose(0, 1).contiguous()  # [step, N, positions, taps]
        waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        held = 0
        for step in range(most + 1):
            rows = alive[step]
            state = state[:rows]
            if step and self.linear is not None:
                weight = self.linear.weight.index_select(0, by_step[step - 1, :rows])
                if weight.shape[1] == 1:
                    state.addcmul_(terms[step - 1, :rows], weight)
                else:
                    torch.baddbmm(state, terms[step - 1, :rows], weight, out=state)
            elif step:
                unit = by_step[step - 1, :rows]
                state[torch.arange(rows, device=at.device), unit] = terms[at[:rows], unit]
            for start in range(0, rows, limit):
                index = at[start : min(start + limit, rows)]
                part = index, torch.full_like(index, step), state[start : start + len(index)]
                if len(index) >= min(FEW, limit):
                    yield part
                    continue
                waiting.append((*part[:2], part[2].clone()))
                held += len(index)
                if held >= limit:
                    yield _joined(waiting)
                    waiting, held = [], 0
        if waiting:
            yield _joined(waiting)

    def _masked_logits(self, base: Recorded, rows: Tensor, kept: Tensor) -> Tensor:
        a = base.activation[rows]
        return self._logits(base, a * self.site.shaped(kept.to(a), a.dim()), rows)

    def _logits(self, base: Recorded, activation: Tensor, rows: Tensor) -> Tensor:
        """Logits of rows of activations, by the suffix, or else by the network with the mask that they show."""
        if self.suffix is not None:
            return self.suffix.logits(activation, base.values, rows)
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


def _compared(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row of logits that of its label, the highest other one, and the lowest."""
    place = labels[:, None]
    own, lowest = logits.gather(1, place), logits.amin(1)
    highest = logits.scatter_(1, place, -torch.inf).amax(1)
    logits.scatter_(1, place, own)  # as it was
    return own.squeeze(1), highest, lowest


def _joined(parts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows put together."""
    index, step, state = (torch.cat(column) for column in zip(*parts, strict=True))
    return index, step, state


def _by_unit(activation: Tensor, site: Site) -> Tensor:
    """An activation as [N, units, ...]."""
    return activation.movedim(site.axis, 1) if activation.dim() > 2 else activation.unsqueeze(2)


def _to_axis(by_unit: Tensor, site: Site, like: Tensor) -> Tensor:
    """The same back as the network has it."""
    return by_unit.movedim(1, site.axis) if like.dim() > 2 else by_unit.squeeze(2)
