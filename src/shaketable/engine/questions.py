"""Questions about the mean over all examples, answered on a random part of them: no tensors, no networks."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from shaketable.data import Data
from shaketable.data.data import IGNORED
from shaketable.engine.decisions import BoundedMean, certain, interval, likely
from shaketable.engine.engine import Engine, error_sums
from shaketable.engine.variants import Variant
from shaketable.errors import InputError
from shaketable.evaluate import Sums, tally
from shaketable.identity import generator_from

Quantity = Literal["error", "loss"] | Callable[[Tensor, Tensor], Tensor]
PLANNED = 3
"""One example in so many is what estimates to a precision are expected to take."""
FIRST, GROWTH = 256, 0.5
"""Outcomes before the first look (32 a draw where that is more), and what each look adds, as a share of those seen."""


@dataclass(frozen=True)
class Decision:
    """Whether a mean is at most a bound, and what that rests on.

    ``certain``: no other answer was possible. ``examples`` and ``draws`` are how many were used (of the population of
    examples x draws, ``outcomes`` were seen), ``mean`` is the mean of those seen, for information.
    """

    holds: bool
    certain: bool
    examples: int
    draws: int
    outcomes: int
    mean: float


@dataclass(frozen=True)
class Estimate:
    """A 0-1 error with its confidence interval: ``error`` is the middle of [``low``, ``high``], from ``examples`` examples.

    The three are equal where all examples were used.
    """

    error: float
    low: float
    high: float
    examples: int
    not_finite: int = 0
    """How many of the examples used have a NaN or infinite logit; they count as wrong."""


def decide(
    engine: Engine,
    questions: Sequence[Sequence[Variant]],
    data: Data,
    bound: float,
    *,
    quantity: Quantity = "error",
    failure: float = 1e-4,
    exact: bool = False,
    seed: int = 0,
    rounds: int = 1,
    most: int | None = None,
) -> list[Decision]:
    r"""Whether the mean over all examples, and all draws of a variant, is at most a bound; for each question.

    .. math:: \frac1{N D} \sum_{i \le N} \sum_{d \le D} q\bigl(f_{\theta_d}(x_i), y_i\bigr) \le \epsilon

    for a question's variants :math:`\theta_1, \dots, \theta_D` (draws of one perturbation; often one). Pairs of an example and
    a draw come in a random order that all questions share, and a question is dropped when it is decided.

    Args:
        engine: of the base network.
        questions: the variants of each, all questions with the same number D of them.
        data: N examples.
        bound: :math:`\epsilon`.
        quantity: ``"error"``; ``"loss"`` (cross-entropy in nats, unbounded: decided on the exact sum, or as soon as what is
            summed exceeds the bound); or a function of logits [n, C] and labels [n] to values [n] in [0, 1].
        failure: the probability that any of these answers is wrong, split evenly over the questions.
        exact: only certain answers.
        seed: of the order.
        rounds: how many times as many questions will follow: levels that cost seconds to set up are tried where that pays.
        most: so many pairs are looked at, at most; what they leave open is guessed: whether their own mean is at most the bound.

    Returns: a :class:`Decision` each.

    Raises:
        InputError: no variants, unequal numbers of draws, ``most`` below 1, or a language model with a function as quantity.

    Cost: passes over the examples looked at, see :func:`shaketable.engine.decisions.likely`; at most D passes over all.

    Deviates: a label per token (language models) gives outcomes that are not drawn one by one: only certain answers there.

    References: Waudby-Smith, Ramdas, "Confidence sequences for sampling without replacement", 2020.
    """
    if quantity not in ("error", "loss") and not callable(quantity):
        raise InputError(f"quantity={quantity!r}: use 'error', 'loss', or a function of logits and labels.")
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        raise InputError(f"bound={bound!r}: give a number.")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise InputError(f"most={most!r}: give a whole number from 1, or leave it out.")
    draws = {len(variants) for variants in questions}
    if len(draws) > 1 or 0 in draws:
        raise InputError("each question needs the same number of variants (draws), at least one.")
    if not questions:
        return []
    tokens = data.labels.ndim > 1
    if tokens and callable(quantity):
        raise InputError("a function as quantity needs one label an example; a language model has more.")
    counted = int((data.labels != IGNORED).sum()) if tokens else len(data)
    share = failure / len(questions)
    count = len(questions[0])
    asked = [_Question(counted * count, bound, quantity, share, exact or tokens) for _ in questions]
    live, looked = list(range(len(questions))), 0
    for look in looks(len(data), count, seed):
        pairs = look if most is None else look[: most - looked]
        part = Pairs(pairs, count)
        present = part.present
        variants = [questions[q][draw] for q in live for draw in present]
        planned = max(1, rounds * len(data) // len(present))
        outcomes: list[list[Sums | Tensor]] = [[] for _ in variants]
        only, decisions = part.only(len(live)), quantity == "error"
        for _, found in engine.map(variants, data, asked[0].measure, part.examples, decisions, planned, only):
            for known, outcome in zip(outcomes, found, strict=True):
                known += [] if outcome is None else [outcome]
        for number, q in enumerate(live):
            own = outcomes[number * len(present) : (number + 1) * len(present)]
            if callable(quantity):  # in the random order of the pairs: what is bet on one may rest on those before it
                own = [[part.in_order([[one for one in parts if isinstance(one, Tensor)] for parts in own])]]
            for outcome in chain.from_iterable(own):
                asked[q].take(outcome)
            asked[q].used.append(part.examples)
            asked[q].draws.update(present)
        live = [q for q in live if not asked[q].settle()]
        looked += len(pairs)
        if not live or (most is not None and looked == most):
            break
    return [question.decision() for question in asked]


def errors(
    engine: Engine,
    variants: Sequence[Variant],
    data: Data,
    *,
    precision: float = 0.01,
    failure: float = 1e-4,
    seed: int = 0,
    advance: Callable[[int], object] = lambda variants: None,
) -> list[Estimate]:
    r"""The 0-1 error of each variant on all examples to a stated precision, from as many examples as that takes.

    Args:
        engine: of the base network.
        variants: the changed tensors of each.
        data: N examples with one label each.
        precision: half the width of the interval at which a variant is done, in (0, 1).
        failure: the probability that an interval misses the error, for each variant.
        seed: of the order in which examples are drawn; all variants share it.
        advance: called with a number of variants that are done, from time to time.

    Returns: an :class:`Estimate` each.

    Raises:
        InputError: a precision outside of (0, 1), or a label per token.

    Cost: see :func:`shaketable.engine.decisions.interval`: of 10,000 examples and for +-0.01 at 1e-4, about 1,500 for an
        error of 0.5%, 2,800 at 2%, and all but a fifth at 50%.

    References: Waudby-Smith, Ramdas, "Confidence sequences for sampling without replacement", 2020.
    """
    check_precision(precision, data)
    total, seen = len(data), 0
    wrong, not_finite = [0] * len(variants), [0] * len(variants)
    done: dict[int, Estimate] = {}
    live = list(range(len(variants)))
    for indices in looks(total, 1, seed):
        for _, found in engine.map([variants[v] for v in live], data, error_sums, indices, True, total // PLANNED):
            for v, sums in zip(live, found, strict=True):
                wrong[v] += sums.errors
                not_finite[v] += sums.not_finite
        seen += len(indices)
        for v in live:
            share = wrong[v] / seen
            if seen < total and 3 * math.sqrt(share * (1 - share) * (1 / seen - 1 / total)) > precision:
                continue  # three standard errors: no interval for a failure below 0.1% is as narrow
            low, high = interval(wrong[v], seen, total, failure, precision)
            if high - low <= 2 * precision:
                done[v] = Estimate((low + high) / 2, low, high, seen, not_finite[v])
        left = [v for v in live if v not in done]
        advance(len(live) - len(left))
        live = left
        if not live:
            break
    return [done[v] for v in range(len(variants))]


def check_precision(precision: float, data: Data) -> None:
    """One error for a precision that is none, or for data that it is not made for.

    Raises:
        InputError: it is not inside (0, 1), or there is a label per token.
    """
    if isinstance(precision, bool) or not isinstance(precision, int | float) or not 0 < precision < 1:
        raise InputError(f"precision={precision!r}: give half the width of the interval, inside (0, 1).")
    if data.labels.ndim > 1:
        raise InputError("precision needs one label an example; leave it out for a language model.")


class Pairs:
    """Pairs of an example and a draw, ``example * draws + draw``, by the examples, whose draws may share a recorded pass.

    Attributes:
        examples: the examples of the pairs, each once where there are several draws.
        present: the draws of the pairs.
    """

    def __init__(self, pairs: Tensor, draws: int) -> None:
        self._draw, self.examples, self._at = pairs % draws, pairs // draws, torch.arange(len(pairs))
        if draws > 1:
            self.examples, self._at = self.examples.unique(return_inverse=True)
        self._wanted = torch.zeros(draws, len(self.examples), dtype=torch.bool)
        self._wanted[self._draw, self._at] = True
        self.present: list[int] = self._wanted.any(1).nonzero().flatten().tolist()

    def only(self, questions: int = 1) -> Tensor | None:
        """On which examples each draw is wanted, for so many questions: what :meth:`Engine.map` asks for."""
        return self._wanted[self.present].repeat(questions, 1) if len(self._wanted) > 1 else None

    def in_order(self, found: Sequence[Sequence[Tensor]]) -> Tensor:
        """Values [pairs], in their order and in float64, of what each draw that is present gave, batch after batch."""
        grid = torch.empty(self._wanted.shape, dtype=torch.float64)
        for draw, parts in zip(self.present, found, strict=True):
            grid[draw, self._wanted[draw]] = torch.cat(list(parts)).to(grid)
        return grid[self._draw, self._at]


def looks(examples: int, draws: int, seed: int) -> Iterator[Tensor]:
    """Pairs of an example and a draw in random order, ``example * draws + draw``: those before each look."""
    order = torch.randperm(examples * draws, generator=generator_from(seed, "order of examples"))
    start = 0
    while start < len(order):
        step = max(FIRST, 32 * draws, math.ceil(GROWTH * start))
        yield order[start : start + step]
        start += step


@dataclass
class _Question:
    """What was seen of one question."""

    total: int
    bound: float
    quantity: Quantity
    failure: float
    exact: bool
    sum: float = 0
    seen: int = 0
    holds: bool | None = None
    used: list[Tensor] = field(default_factory=list)
    draws: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._bets = BoundedMean(self.total, self.bound, self.failure) if callable(self.quantity) else None

    def measure(self, logits: Tensor, labels: Tensor) -> Sums | Tensor:
        """What a batch shows."""
        if callable(self.quantity):
            return self.quantity(logits, labels)
        return error_sums(logits, labels) if self.quantity == "error" else tally(logits, labels)

    def take(self, outcome: Sums | Tensor) -> None:
        """Add what a batch showed."""
        if isinstance(outcome, Sums):
            self.seen += outcome.examples
            self.sum += outcome.errors if self.quantity == "error" else outcome.loss
        else:
            self.seen += len(outcome)
            self.sum += float(outcome.sum(dtype=torch.float64))
            if self._bets is not None:
                self._bets.update(outcome.double().cpu().numpy())

    def settle(self) -> bool:
        """Whether the question is decided."""
        most = math.inf if self.quantity == "loss" else 1.0
        self.holds = certain(self.sum, self.seen, self.total, self.bound, most)
        self.certain = self.holds is not None
        if self.holds is None and not self.exact:
            if self._bets is not None:
                self.holds = self._bets.decision()
            elif self.quantity == "error":
                self.holds = likely(int(self.sum), self.seen, self.total, self.bound, self.failure)
        return self.holds is not None

    def decision(self) -> Decision:
        """The answer, a guess where it is open."""
        examples = len(torch.cat(self.used).unique())
        mean = self.sum / self.seen if self.seen else math.nan
        holds = mean <= self.bound if self.holds is None else self.holds
        return Decision(holds, self.certain, examples, len(self.draws), self.seen, mean)
