"""Units removed one by one: which examples are still right after each, by a running sum where the network allows it."""

import logging
from collections.abc import Sequence
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
from shaketable.engine.running import Steps, states
from shaketable.errors import RunError
from shaketable.evaluate import outcomes
from shaketable.forward import Inputs, count_of, evaluation_mode, forward, map_inputs, tensors_of
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
FEW = 256
"""Rows in one pass behind the site, at least."""
MOST = {False: (2048, 2**20), True: (4096, 2**26)}
"""In float32 and in bfloat16: rows in one pass at most, and the bytes behind the site that they may take. A cache holds those of
float32; bfloat16 is so fast that what each operation costs by itself counts more."""
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
        most, room = MOST[self.rounds]
        return max(1, min(fits, max(FEW, min(most, room // self.row_bytes))))

    def examples(self) -> int:
        """Examples whose curves are computed together."""
        numbers = 16 * self.site.units  # orders, counts and answers
        if self.linear is not None:
            units, taps, out = self.linear.weight.shape
            numbers += self.linear.positions * (5 * units * taps + 4 * out) + taps * out
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
            if self.linear is not None and self.linear.is_last:
                margins = partial(self._summed_margins, terms, empty, labels)
            else:
                rough = partial(self._behind, base, rounded=True) if self.rounds else None
                margins = partial(self._margins, terms, empty, labels, Margins(partial(self._behind, base), rough))
            found = []
            for order in orders:
                steps = Steps.of(order, acts.gather(1, order))
                margin, tolerance = margins(steps)
                right = margin > 0
                doubtful = ~(margin.abs() > tolerance) & steps.there  # ties, and what is not a number, too
                step, place = doubtful.nonzero(as_tuple=True)
                if len(step):
                    example = steps.at[place]
                    right[doubtful] = self._right(base, labels, steps.kept(step, example, order), example)
                found.append(steps.by_number(right))
            return found

    def _margins(
        self, terms: Tensor, empty: Tensor, labels: Tensor, behind: Margins, steps: Steps
    ) -> tuple[Tensor, Tensor]:
        """By how much each row's label is above all others [steps + 1, N], and up to where that is in doubt."""
        found = []
        weight = self.linear.weight if self.linear else None
        for made, examples in states(steps, empty, terms, weight, self.rows()):
            for part, some in zip(made.split(self.rows()), examples.split(self.rows()), strict=True):
                found.append(behind.of(part, some, labels[some]))
        margin, largest = (steps.spread(torch.cat(column)) for column in zip(*found, strict=True))
        return margin, largest * (0.0 if self.linear is None else ROUNDING)

    def _summed_margins(self, terms: Tensor, empty: Tensor, labels: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
        """The same where the sums are the logits: those of the labels by themselves, and the highest of the others."""
        assert self.linear is not None
        weight, place = self.linear.weight, labels[:, None, None]
        others = empty.scatter(2, place, -torch.inf)
        highest = [made.flatten(1).amax(1) for made, _ in states(steps, others, terms, weight, self.rows())]
        adds = (terms.squeeze(2) * weight[:, :, labels].permute(2, 0, 1)).sum(2)[steps.at].gather(1, steps.taken.t())
        own = torch.cat([empty.gather(2, place).flatten(1)[steps.at], adds], 1).cumsum(1)
        size = terms.flatten(1).abs() @ weight.abs().amax(2).flatten() + empty.abs().amax((1, 2))
        return own.t() - steps.spread(torch.cat(highest)), size[steps.at] * _rounding(weight)

    def _right(self, base: Recorded, labels: Tensor, kept: Tensor, examples: Tensor) -> Tensor:
        """Which rows are right that belong to some examples and keep some units, by all that is behind the site."""
        found = []
        for some, which in zip(examples.split(self.rows()), kept.split(self.rows()), strict=True):
            found.append(~outcomes(self._masked_logits(base, some, which), labels[some])[0])
        return torch.cat(found)

    def _behind(self, base: Recorded, made: Tensor, rows: Tensor, rounded: bool = False) -> Tensor:
        """Logits of rows of states."""
        if self.linear is not None:
            return self.linear.logits(made, base.values, rows, rounded)
        return self._logits(base, _to_axis(made, self.site, base.activation), rows, rounded)

    def _masked_logits(self, base: Recorded, rows: Tensor, kept: Tensor) -> Tensor:
        a = base.activation[rows]
        return self._logits(base, self.site.kept(a, kept), rows)

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
        count = count_of(few)
        rows = torch.arange(count, device=base.activation.device)
        for kept in (units >= 0, units % 3 > 0, units % 2 > 0, units < 0):
            kept = kept.to(rows.device).expand(count, -1)
            with masked(self.network, self.site, kept[0]):
                truth = self._whole(few)
            if truth.dim() != 2 or not close(truth, self._masked_logits(base, rows, kept)):
                raise Unsuitable("its graph gives other logits than the network")
            if self.linear is not None:
                terms = self.linear.terms(base.values)
                terms = torch.where(kept[:, :, None, None], terms, torch.zeros_like(terms))
                state = self.linear.state(base.values) + self.linear.summed(terms)
                if not close(truth, self.linear.logits(state, base.values, rows)):
                    self.linear = None
        self.rounds = self.precision == "auto"  # then as many rows are timed as there will be
        self.rounds = self.rounds and self._rounding_pays(base)

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


def _rounding(weight: Tensor) -> float:
    """How far a sum over units, one after another, may be off, relative to the sum of the absolute terms: four deviations of as
    many roundings, each as if all terms were summed already."""
    return 4 * (weight.shape[0] * weight.shape[1]) ** 0.5 * torch.finfo(weight.dtype).eps / 2


def _by_unit(activation: Tensor, site: Site) -> Tensor:
    """An activation as [N, units, ...]."""
    return activation.movedim(site.axis, 1) if activation.dim() > 2 else activation.unsqueeze(2)


def _to_axis(by_unit: Tensor, site: Site, like: Tensor) -> Tensor:
    """The same back as the network has it."""
    return by_unit.movedim(1, site.axis) if like.dim() > 2 else by_unit.squeeze(2)
