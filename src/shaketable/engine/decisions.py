"""Early decisions: is the mean of a finite population at most a bound, from part of it drawn in random order?

The outcomes (one per example) are seen without replacement, in a uniformly random order that the question does not depend
on. A failure probability holds for all looks of a question together: look after every batch, stop when it is decided.
Several questions may share one order if none was chosen by what that order showed; for a search see `share`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike

from shaketable.errors import InputError

ROUNDING = 1e-9
"""By how much of itself a float sum may be off before the end, when it must not decide what the last sum would not."""

# Shares of the largest bet that keeps the capital positive. A bet of 0.001 suits a bound of 1% missed by a tenth.
BETS = np.geomspace(1e-3, 0.95, 12)


def certain(wrong: float, seen: int, total: int, bound: float, most: float = 1.0) -> bool | None:
    r"""Whether the mean of all outcomes is at most a bound, where what was seen leaves no other possibility.

    .. math:: W + (N - n) B \le \epsilon N \Rightarrow \text{True}, \qquad W > \epsilon N \Rightarrow \text{False}

    for a sum ``wrong`` :math:`W` over ``seen`` :math:`n` of ``total`` :math:`N` outcomes in [0, ``most`` :math:`B`].
    Nothing is assumed about the order.

    Args:
        wrong: the number of wrong ones; or a sum in float64, of which float rounding is allowed for before the end.
        seen: how many outcomes are in the sum.
        total: how many there are.
        bound: :math:`\epsilon`; "at most" is what ``count / total <= bound`` says in floats, so 1 of 10 is at most 0.1.
        most: the largest value of an outcome; ``math.inf`` where there is none (cross-entropy): then "True" needs them all.

    Returns: True, False, or None while both are possible; never None at ``seen == total``. A sum that is NaN is False.

    Raises:
        InputError: the numbers contradict each other, or the bound is NaN.

    Example:
        >>> certain(1, 9, 10, 0.1), certain(2, 2, 10, 0.1), certain(1, 10, 10, 0.1)
        (None, False, True)
    """
    _check_sample(wrong, seen, total, most)
    if math.isnan(bound):
        raise InputError("the bound is not a number; give one to compare the mean with.")
    if math.isnan(wrong):
        return False
    if seen == total:
        return wrong / total <= bound
    slack = 0.0 if isinstance(wrong, Integral) else ROUNDING
    if wrong / total * (1 - slack) > bound:
        return False
    return True if most <= bound or (wrong + (total - seen) * most) / total * (1 + slack) <= bound else None


def log_ratio(wrong: int, seen: int, total: int, count: int, prior: tuple[float, float]) -> float:
    r"""Log of the prior-posterior ratio of one candidate: the evidence against "``count`` outcomes of all are wrong".

    .. math:: \ln \frac{\pi_0(\theta)}{\pi_n(\theta)} = \ln \frac{B(a + w, b + n - w)}{B(a, b)}
        + \ln \binom{N}{\theta} - \ln \binom{N - n}{\theta - w}

    for a beta-binomial ``prior`` :math:`(a, b)` on the count :math:`\theta`. Its exponential is a martingale that starts at
    1 if the candidate is true: it ever reaches :math:`1/\delta` with probability at most :math:`\delta` (Ville).

    Args:
        wrong: wrong ones :math:`w` among those seen.
        seen: :math:`n`.
        total: :math:`N`.
        count: the candidate :math:`\theta`.
        prior: the two positive parameters; it must not depend on outcomes.

    Returns: a log, 0 when nothing was seen, infinite for a count that is impossible.

    Cost: a dozen ``lgamma``, 3 microseconds.

    Example:
        >>> round(log_ratio(0, 1500, 500_000, 5001, (1, 100)), 3)
        12.329

    References: Waudby-Smith, Ramdas, "Confidence sequences for sampling without replacement", 2020, theorem 2.1.
    """
    if not wrong <= count <= total - (seen - wrong):
        return math.inf
    a, b = prior
    log = math.lgamma
    marginal = log(a + wrong) - log(a) + log(b + seen - wrong) - log(b) - log(a + b + seen) + log(a + b)
    return marginal + _log_choose(total, count) - _log_choose(total - seen, count - wrong)


def likely(wrong: int, seen: int, total: int, bound: float, failure: float) -> bool | None:
    r"""Whether the error on all examples is at most a bound: for certain, or else up to a stated failure probability.

    .. math:: \theta \text{ is excluded once } \pi_0(\theta) / \pi_n(\theta) \ge 1 / \delta

    One candidate settles it. For a fixed prior the ratio is a constant over the hypergeometric likelihood of
    :math:`\theta`, which is log-concave, so the counts not excluded are an interval; it holds the likeliest count, whose
    ratio is at most 1 (a mean of likelihoods over the largest). With :math:`k` the largest count within the bound: if the
    likeliest is at most :math:`k`, excluding :math:`k + 1` excludes all above it; else excluding :math:`k` excludes all below.

    Not for quantities other than 0-1 (`BoundedMean`), nor for outcomes in an order that is not random.

    Args:
        wrong: wrong ones among those seen.
        seen: how many were seen.
        total: how many there are.
        bound: the largest error that is allowed, compared as in `certain`.
        failure: :math:`\delta`, the probability that any look at this question decides wrongly.

    Returns: True, False, or None for "go on"; never None at ``seen == total``.

    Raises:
        InputError: the counts contradict each other, are not whole, or ``failure`` is not inside (0, 1).

    Cost: 8 microseconds a look. Median examples seen of 500,000, bound 1%, failure 1e-5, a look each 256: error 0 1,536;
    half the bound 7,680; 0.9 times 170,240; 1.33 times 29,568; twice 3,712; tenfold 256 (``pytest tests/engine -s -k needed``).

    Deviates: the prior is Beta(1/(1-p), 1/p), p just above the bound: mean p, standard deviation near p(1-p).

    Example:
        >>> likely(0, 1500, 500_000, 0.01, 1e-5), likely(15, 1500, 500_000, 0.01, 1e-5)
        (True, None)

    References: Waudby-Smith, Ramdas, "Confidence sequences for sampling without replacement", 2020, theorem 2.1.
    """
    wrong, seen, total = _checked_counts(wrong, seen, total)
    check_failure(failure)
    settled = certain(wrong, seen, total, bound)
    if settled is not None or not seen:
        return settled
    allowed = math.floor(bound * total)  # from 0 to total - 1, since nothing is certain
    allowed += ((allowed + 1) / total <= bound) - (allowed / total > bound)
    centre = (allowed + 0.5) / total
    candidate = allowed + 1 if _likeliest(wrong, seen, total) <= allowed else allowed
    if log_ratio(wrong, seen, total, candidate, (1 / (1 - centre), 1 / centre)) < -math.log(failure):
        return None
    return candidate > allowed


def interval(wrong: int, seen: int, total: int, failure: float, precision: float = 0.01) -> tuple[float, float]:
    r"""The confidence interval of the error on all examples, valid at every look together.

    .. math:: \{\theta / N : \pi_{0,\theta}(\theta) / \pi_{n,\theta}(\theta) < 1 / \delta\}, \qquad
        \pi_{0,\theta} = \operatorname{Beta}(\tfrac12 + s \theta / N, \tfrac12 + s (1 - \theta / N))

    with :math:`s = 0.03 / \text{precision}^2`. The ends are found by bisection: the log ratio is convex in :math:`\theta`.
    (Its derivative in :math:`q = \theta / N` is a sum of terms 1/(q+x) - 1/(q-y) and 1/(1-q-y) - 1/(1-q+x), x and y
    positive, and each grows with q.) The likeliest count is never excluded. Looks are not intersected; the caller may.

    Args:
        wrong: wrong ones among those seen.
        seen: how many were seen.
        total: how many there are.
        failure: :math:`\delta`, the probability that the interval of any look misses the error.
        precision: the half-width at which the caller will stop. It changes widths, never the failure probability, and
            must be the same at every look.

    Returns: low and high, in [0, 1]; only what is possible; equal at ``seen == total``.

    Raises:
        InputError: as `likely`, or ``precision`` is not positive.

    Cost: 60 to 120 microseconds.

    Deviates: the paper has one prior for all counts. A prior around each candidate is as valid, since each ratio is a
    martingale if its own count is true, and needs fewer examples. To +-0.01 at 1e-4, mean over errors of 0.5, 2, 5, 10, 30,
    50 and 90%: of 10,000 examples 5,740 instead of 6,150 (Beta(1, 1)) or 6,130 (Beta(1/2, 1/2)); of 50,000, 13,770
    instead of 15,630 or 15,750 (``pytest tests/engine -s -k around_each``).

    Example:
        >>> low, high = interval(30, 2000, 50_000, 1e-4)
        >>> round(low, 4), round(high, 4), interval(1, 4, 4, 1e-4)
        (0.0057, 0.0321, (0.25, 0.25))

    References: Waudby-Smith, Ramdas, "Confidence sequences for sampling without replacement", 2020, theorem 2.1.
    """
    wrong, seen, total = _checked_counts(wrong, seen, total)
    check_failure(failure)
    if not precision > 0:
        raise InputError(f"precision={precision} must be positive: the half-width at which you stop.")
    if not seen:
        return 0.0, 1.0
    strength, threshold = min(0.03 / precision**2, total), -math.log(failure)

    def inside(count: int) -> bool:
        share_wrong = count / total
        prior = (0.5 + strength * share_wrong, 0.5 + strength * (1 - share_wrong))
        return log_ratio(wrong, seen, total, count, prior) < threshold

    likeliest = _likeliest(wrong, seen, total)
    low = _last(inside, likeliest, wrong - 1)
    return low / total, _last(inside, likeliest, total - (seen - wrong) + 1) / total


@dataclass
class BoundedMean:
    r"""Whether the mean of all outcomes in [0, B] is at most a bound, up to a stated failure probability.

    .. math:: K^\pm_t = \frac1J \sum_j \prod_{i \le t} \left(1 \pm \lambda^\pm_{ij} (x_i - m_i)\right), \qquad
        m_i = \frac{N \epsilon - \sum_{l < i} x_l}{N - i + 1}, \quad \lambda^+_{ij} = \frac{f_j}{m_i}, \quad
        \lambda^-_{ij} = \frac{f_j}{B - m_i}

    with the shares :math:`f` in ``BETS``. If the mean is at most :math:`\epsilon`, :math:`K^+` is a nonnegative
    supermartingale and ever reaches :math:`1/\delta` with probability at most :math:`\delta`; so is :math:`K^-` if the mean
    is above it. A population is one or the other, and only one answer about it is wrong: none needs :math:`\delta / 2`.

    :math:`K^+` needs no largest outcome: that the mean of an unbounded loss is above the bound is told early too, that it is
    within the bound only by all of them.

    Not for 0-1 outcomes: `likely` is cheaper and as early.

    Args:
        total: how many outcomes there are, :math:`N`.
        bound: :math:`\epsilon`.
        failure: :math:`\delta`, the probability that any look decides wrongly.
        most: the largest value of an outcome, :math:`B`; ``math.inf`` where there is none.

    Raises:
        InputError: a value outside [0, ``most``], more values than ``total``, or ``failure`` not inside (0, 1).

    Cost: a microsecond an outcome.

    Deviates: the paper hedges one plug-in bet; the average over fixed shares (its "diversified" bets) needs fewer in all of 30
    populations that were tried, up to 2.8 times (``pytest tests/engine -s -k plug_in``).

    Example:
        >>> mean = BoundedMean(total=50_000, bound=0.1, failure=1e-4)
        >>> mean.update([0.05] * 100)
        >>> mean.decision() is None
        True
        >>> mean.update([0.05] * 200)
        >>> mean.decision()
        True

    References: Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting", 2024, section 5.
    """

    total: int
    bound: float
    failure: float
    most: float = 1.0
    seen: int = field(default=0, init=False)
    sum: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        check_failure(self.failure)
        certain(0, 0, self.total, self.bound, self.most)
        self._capital = np.zeros((2, len(BETS), 1))  # logs; above the bound, at most the bound
        self._largest = np.zeros(2)

    def update(self, values: ArrayLike) -> None:
        """Take the next outcomes, in the random order [n]."""
        x = np.asarray(values, dtype=np.float64).reshape(-1)
        if not ((x >= 0) & (x <= self.most)).all() or self.seen + len(x) > self.total:
            raise InputError(
                f"after {self.seen} of {self.total} outcomes came {len(x)} more; give at most as many as there are, "
                f"in [0, {self.most:g}]."
            )
        if not len(x):
            return
        before = self.sum + np.concatenate(([0.0], np.cumsum(x)[:-1]))
        left = self.total - self.seen - np.arange(len(x))
        # The mean of what is left, if the bound is the mean of all. Outside [0, B] the decision is certain without bets.
        mean = np.clip((self.total * self.bound - before) / left, 1e-12, self.most * (1 - 1e-12))
        bets, rest = BETS[:, None], self.most - mean  # infinite where nothing is bet on it
        gains = np.log1p(np.stack((bets * (x / mean - 1), bets * (mean - x) / rest)))
        capital = self._capital + np.cumsum(gains, axis=-1)
        mixed = np.logaddexp.reduce(capital, axis=1) - math.log(len(BETS))
        self._largest = np.maximum(self._largest, mixed.max(axis=-1))
        self._capital = capital[..., -1:]
        self.seen += len(x)
        self.sum += float(x.sum())

    def decision(self) -> bool | None:
        """True, False, or None for "go on"; never None when all were seen. None too while both sides reached the mark."""
        settled = certain(self.sum, self.seen, self.total, self.bound, self.most)
        above, within = self._largest >= -math.log(self.failure)
        return bool(within) if settled is None and above != within else settled


def share(failure: float, k: int) -> float:
    r"""The failure probability of the k-th question of a search whose number of questions is not known in advance.

    .. math:: \frac{\delta}{k (k + 1)}, \qquad \sum_{k \ge 1} \frac{\delta}{k (k + 1)} = \delta

    What is asked may depend on earlier answers only if each question has an order of its own, drawn after it was chosen.
    On a shared order an answer tells about the order, and a question chosen by it may be one that the order misleads: there
    number what could be asked, not what is (a grid of 420 cells: ``failure / 420`` each).

    Args:
        failure: :math:`\delta`, of the whole search.
        k: the number of the question: 1, 2, ...

    Returns: a probability; those of all questions together are at most ``failure``.

    Raises:
        InputError: ``k`` is below 1, or ``failure`` is not inside (0, 1).

    Example:
        >>> share(0.25, 1), share(0.24, 3)
        (0.125, 0.02)
    """
    check_failure(failure)
    if k < 1:
        raise InputError(f"question {k}: count questions from 1.")
    return failure / (k * (k + 1))


def _check_sample(wrong: float, seen: int, total: int, most: float = 1.0) -> None:
    """Raise where a sum cannot come from so many outcomes."""
    if not 0 <= seen <= total or total < 1 or wrong < 0 or wrong > (seen * most * (1 + ROUNDING) if seen else 0):
        raise InputError(f"wrong={wrong} in seen={seen} of total={total}, each at most {most}, cannot be.")


def _checked_counts(*counts: int) -> tuple[int, int, int]:
    """Wrong, seen and total as Python's own integers, which do not overflow."""
    if not all(isinstance(count, Integral) for count in counts):
        raise InputError(f"wrong, seen, total = {counts}: give whole numbers; for other quantities use BoundedMean.")
    wrong, seen, total = map(int, counts)
    _check_sample(wrong, seen, total)
    return wrong, seen, total


def check_failure(failure: float) -> None:
    """Raise where a failure probability is none."""
    if isinstance(failure, bool) or not isinstance(failure, int | float) or not 0 < failure < 1:
        raise InputError(f"failure={failure} must lie inside (0, 1); it is the probability of a wrong answer.")


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _likeliest(wrong: int, seen: int, total: int) -> int:
    """The count under which what was seen is likeliest (the mode of the hypergeometric likelihood)."""
    return min((total + 1) * wrong // seen, total - (seen - wrong))


def _last(inside: Callable[[int], bool], within: int, outside: int) -> int:
    """The last number from ``within`` towards ``outside`` that is inside, which is a matter of one threshold."""
    while abs(outside - within) > 1:
        middle = (within + outside) // 2
        within, outside = (middle, outside) if inside(middle) else (within, middle)
    return within
