"""Questions about many draws of noise, by the difference from others that were evaluated on everything: control variates.

Where draws change all of a network, nothing of it is shared between them; but neighbouring magnitudes of the same draws go wrong on
nearly the same examples. One magnitude is evaluated on all examples and draws, and its mean is known; those beside it are
told from it by few pairs of an example and a draw, since differences vary little.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from shaketable.data import Data
from shaketable.data.data import IGNORED
from shaketable.engine.decisions import BoundedMean, certain, check_failure, share
from shaketable.engine.engine import Engine
from shaketable.engine.questions import Decision, Pairs, looks
from shaketable.engine.search import Found, Search, critical_magnitude
from shaketable.engine.variants import Variant
from shaketable.errors import InputError
from shaketable.evaluate import outcomes, rows
from shaketable.identity import generator_from, seed_from

GUESSED = 1000
"""Pairs of an example and a draw from which a magnitude is guessed."""


@dataclass(frozen=True)
class Population:
    """All pairs of an example and a draw: what variants give on them, and whether the mean over all is at most a bound.

    A pair's value is the number of its labels that are wrong, or the sum of their cross-entropies in nats.
    """

    engine: Engine
    data: Data
    quantity: Literal["error", "loss"]
    draws: int

    @property
    def size(self) -> int:
        """How many pairs there are."""
        return len(self.data) * self.draws

    @property
    def labels(self) -> int:
        """How many labels all pairs have."""
        return self.draws * int((self.data.labels != IGNORED).sum())

    def values(self, variants: Sequence[Variant], pairs: Tensor) -> Tensor:
        """The value of each pair ``example * draws + draw`` [n], in float64; the variants are one a draw."""
        if len(variants) != self.draws:
            raise InputError(f"there are {len(variants)} variants for {self.draws} draws; give one for each draw.")
        part = Pairs(pairs, self.draws)
        some = [variants[draw] for draw in part.present]
        found: list[list[Tensor]] = [[] for _ in some]
        planned = 3 * self.size // len(some)  # all of one magnitude, and where the bound is near all of two more
        batches = self.engine.map(some, self.data, self._each, part.examples, planned=planned, only=part.only())
        for _, batch in batches:
            for known, values in zip(found, batch, strict=True):
                known += [] if values is None else [values]
        return part.in_order(found)

    def _each(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The value of each example of a batch."""
        wrong, losses, finite = outcomes(*rows(logits, labels))
        values = wrong.double() if self.quantity == "error" else losses.double()
        if self.quantity == "loss" and finite is not None:
            values = values.masked_fill(~finite, math.inf)
        if labels.ndim == 1:
            return values
        whole = torch.zeros(labels.shape, dtype=torch.float64, device=labels.device)
        return whole.masked_scatter_(labels != IGNORED, values).sum(1)

    def within(self, total: float, bound: float) -> bool:
        """Whether the sum of all pairs is at most the bound times the labels."""
        return bool(certain(total, self.labels, self.labels, bound, math.inf))

    def decide(self, variants: Sequence[Variant], control: Tensor, bound: float, failure: float, seed: int) -> Decision:
        r"""Whether the mean over all labels of all pairs is at most a bound, by differences from a ``control`` [pairs].

        .. math:: \frac1M \sum_m (x_m - c_m + s) \le \epsilon - \frac1M \sum_m c_m + s

        with a shift :math:`s` that leaves no term below 0; the right side is known. The control is finite, and was there before
        the order. Pairs come in a random order of this
        question's own; the answer is certain where all were needed or one is infinite, and else wrong with probability at most ``failure``.
        """
        shift, most, per = float(control.max()), math.inf, self.labels / self.size
        if self.quantity == "error":
            shift = float((self.data.labels != IGNORED).reshape(len(self.data), -1).sum(1).max())
            most = 2 * shift
        bets = BoundedMean(self.size, bound * per - float(control.mean()) + shift, failure, most)
        total, seen, used, holds = 0.0, 0, [], None
        for pairs in looks(len(self.data), self.draws, seed):
            values = self.values(variants, pairs)
            total, seen = total + float(values.sum()), seen + len(pairs)
            used.append(pairs)
            if seen == self.size or math.isinf(total):
                holds = self.within(total, bound)
                break
            bets.update((values - control[pairs] + shift).numpy())
            if (holds := bets.decision()) is not None:
                break
        assert holds is not None
        pairs = torch.cat(used)
        examples, draws = (len(of.unique()) for of in (pairs // self.draws, pairs % self.draws))
        return Decision(holds, seen == self.size or math.isinf(total), examples, draws, seen, total / (seen * per))


def largest_magnitude(
    engine: Engine,
    magnitudes: Sequence[float],
    variants: Callable[[float], Sequence[Variant]],
    draws: int,
    data: Data,
    allowed: Callable[[float], float],
    *,
    quantity: Literal["error", "loss"] = "error",
    failure: float = 1e-4,
    seed: int = 0,
    beyond: int = 2,
) -> Found:
    r"""The largest magnitude of a grid at which the mean over all examples and draws is within what is allowed.

    Made for draws that change all of a network. A few pairs of an example and a draw give a guess, by how much they differ
    from the base network's; the magnitude guessed is evaluated on all pairs; a second guess is made beside it, and the search
    goes on from there, each answer by the difference from what was evaluated (:meth:`Population.decide`). Only these answers
    count, not the guesses.

    Args:
        engine: of the base network.
        magnitudes: the grid, ascending.
        variants: of a magnitude, one a draw: from the same draws at every magnitude.
        draws: how many.
        data: N examples.
        allowed: the bound, of the base network's mean.
        quantity: ``"error"``, or ``"loss"`` in nats; that a loss is within the bound is told by all pairs only.
        failure: the probability that any answer is wrong: the k-th has k (k + 1) times less of it, and an order of its own.
        seed: of the orders.
        beyond: as in :func:`shaketable.engine.critical_magnitude`.

    Returns: what was found. ``tested`` and ``decisions`` leave out the guesses.

    Raises:
        InputError: the grid is empty or not ascending, ``draws`` or ``failure`` is none, the variants are not one a draw, no label
            counts, or the loss of the base is not finite.

    Cost: a pass over the data for the base, ``draws`` passes for the magnitude guessed, and beside it few pairs for each answer:
        more of them the nearer the bound, and all for each other loss that is within it.

    Example:
        >>> network, data = torch.nn.Linear(1, 2, bias=False), Data(torch.ones(4, 1), torch.tensor([0] * 4), classes=2)
        >>> engine = Engine(network, {"weight": torch.tensor([[1.0], [0.0]])})
        >>> raised = lambda magnitude: [{"weight": torch.tensor([[1.0], [magnitude]])}]
        >>> largest_magnitude(engine, [0.5, 0.9, 1.1, 2.0], raised, 1, data, lambda error: error + 0.1).value
        0.9

    References: control variates: Owen, "Monte Carlo theory, methods and examples", 2013, section 8.9.
    """
    check_failure(failure)
    if quantity not in ("error", "loss"):
        raise InputError(f"quantity={quantity!r}: use 'error' or 'loss'.")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise InputError(f"draws={draws!r}: give a whole number from 1.")
    population = Population(engine, data, quantity, draws)
    if not population.labels:
        raise InputError("no label counts: every one is -100; give data with labels.")
    base = Population(engine, data, quantity, 1).values([{}], torch.arange(len(data)))
    bound = allowed(float(base.sum()) / (population.labels / draws))
    if not math.isfinite(bound):
        raise InputError("the loss of the network itself is not finite; nothing can be compared with it.")
    few = torch.randperm(population.size, generator=generator_from(seed, "guess"))[:GUESSED]
    control = base.repeat_interleave(draws)

    def guessed(start: float | None) -> float:
        def answer(magnitude: float) -> bool:
            differences = population.values(variants(magnitude), few) - control[few]
            mean = float(control.mean() + differences.mean()) * population.size / population.labels
            return mean <= bound

        return _followed(critical_magnitude(magnitudes, beyond=0, start=start), answer).value or magnitudes[0]

    reference = guessed(None)
    control = population.values(variants(reference), torch.arange(population.size))
    total, decisions = float(control.sum()), []
    control = control.where(control.isfinite(), 0)

    def answer(magnitude: float) -> bool:
        if magnitude == reference:
            mean, holds = total / population.labels, population.within(total, bound)
            found = Decision(holds, True, len(data), draws, population.size, mean)
        else:
            number = len(decisions) + 1
            found = population.decide(
                variants(magnitude), control, bound, share(failure, number), seed_from(seed, "order", number)
            )
        decisions.append(found)
        return found.holds

    found = _followed(critical_magnitude(magnitudes, beyond=beyond, start=guessed(reference)), answer)
    return Found(found.point, found.value, found.tested, found.monotone, tuple(decisions))


def _followed(search: Search, answer: Callable[[float], bool]) -> Found:
    """What a search over one magnitude finds with these answers."""
    point = next(search)
    while True:
        try:
            point = search.send(answer(point[0]))
        except StopIteration as end:
            return end.value
