"""Bootstrap intervals: how much a statistic of networks depends on which networks there are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from shaketable.errors import InputError
from shaketable.identity import seed_from


@dataclass(frozen=True)
class Interval:
    """A statistic with its bootstrap interval.

    Attributes:
        value: of the networks as they are.
        low, high: the ends of the percentile interval.
        stderr: standard deviation over the draws.
        draws: of which the statistic could be computed.
        failed: draws of which it could not (all values of a column equal, say).
    """

    value: float
    low: float
    high: float
    stderr: float
    draws: int
    failed: int


def bootstrap(
    statistic: Callable[..., float],
    *columns: Any,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    groups: Any = None,
) -> Interval:
    r"""The percentile bootstrap interval of a statistic of columns.

    .. math:: [q_{(1 - l) / 2}, q_{(1 + l) / 2}]

    for the quantiles q of the statistic over networks drawn anew, with replacement, as many as there are.

    Args:
        statistic: of columns to a number, such as :func:`kendall_tau`; an ``InputError`` is a draw that failed.
        columns: [n] or [n, p] each, one row a network.
        draws: how many.
        level: :math:`l`, the share of draws inside the interval.
        seed: of the draws.
        groups: [n]: networks with the same entry (seeds of one recipe, say) are drawn together.

    Returns: an :class:`Interval`.

    Raises:
        InputError: columns of unequal length, a number out of its range, or a statistic that fails on the networks as they are
            or on more than half of the draws.

    Cost: draws + 1 times the statistic.

    Deviates: a network that is drawn twice makes a tied pair, which tau-b leaves out and tau-a counts: take tau-b here.

    Example:
        >>> from shaketable.statistics import kendall_tau
        >>> found = bootstrap(kendall_tau, range(30), range(30), draws=50)
        >>> found.value, found.low, found.failed
        (1.0, 1.0, 0)

    References: Efron, Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    arrays = [np.asarray(column) for column in columns]
    lengths = {len(array) if array.ndim else 0 for array in arrays}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(f"the columns have lengths {sorted(lengths)}; give one row per network in each.")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 2:
        raise InputError(f"draws={draws!r}: give a whole number from 2.")
    if not 0 < level < 1:
        raise InputError(f"level={level!r}: give the share of draws inside the interval, inside (0, 1).")
    n = lengths.pop()
    if groups is not None and len(groups) != n:
        raise InputError(f"groups has {len(groups)} entries for {n} networks; give one each.")
    members = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    of_group = np.split(np.argsort(members, kind="stable"), np.cumsum(np.bincount(members))[:-1])
    value = float(statistic(*columns))
    random, found, reason = np.random.default_rng(seed_from(seed, "bootstrap")), [], ""
    for _ in range(draws):
        drawn = np.concatenate([of_group[index] for index in random.integers(len(of_group), size=len(of_group))])
        try:
            found.append(float(statistic(*(array[drawn] for array in arrays))))
        except InputError as error:
            reason = str(error)
    if 2 * len(found) < draws:
        raise InputError(f"the statistic failed on {draws - len(found)} of {draws} draws: {reason}")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), float(np.std(found, ddof=1)), len(found), draws - len(found))
