"""A regression with all that an interval around its estimates needs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from shaketable.errors import InputError
from shaketable.estimators.intervals import plus_interval, split_interval
from shaketable.estimators.models import Fitted, Model, fitted, of_plain, typed
from shaketable.identity import seed_from
from shaketable.probes.stored import check_whole

Interval = Literal["jackknife+", "cv+", "split"]
FOLDS = 10
"""Of CV+."""
HELD = 0.3
"""The share of networks that give the residuals of a split conformal interval."""


@dataclass(frozen=True)
class Regression:
    """A regression, and others whose residuals make the interval.

    Attributes:
        model: its kind.
        interval: how the interval is made.
        whole: the regression whose estimate is given.
        parts: without one network each (jackknife+), without one fold each (CV+), or the whole one alone (split).
        part: of each residual, the place of its regression among ``parts``.
        residuals: absolute, each of a network that its regression has not seen.
    """

    model: Model
    interval: Interval
    whole: Fitted
    parts: tuple[Fitted, ...]
    part: tuple[int, ...]
    residuals: tuple[float, ...]

    @property
    def error(self) -> float:
        """The root mean square error on networks that the regressions had not seen."""
        return math.sqrt(sum(one**2 for one in self.residuals) / len(self.residuals))

    def predict(self, x: np.ndarray, coverage: float) -> np.ndarray:
        """Estimates and both ends of their intervals [n, 3] of columns [n, p]."""
        estimates, left = self.whole.predict(x), np.array(self.residuals)
        if self.interval == "split":
            ends = [split_interval(one, left, coverage) for one in estimates.tolist()]
        else:
            others = np.stack([one.predict(x) for one in self.parts])[np.array(self.part)]
            ends = [plus_interval(others[:, k], left, coverage) for k in range(len(x))]
        return np.column_stack([estimates, np.array(ends).reshape(-1, 2)])

    @classmethod
    def of(cls, values: Mapping[str, Any], columns: int) -> Self:
        """What ``dataclasses.asdict`` made of one on so many columns, from JSON."""
        parts = tuple(of_plain(one, columns) for one in values["parts"])
        found = typed(cls, values, whole=of_plain(values["whole"], columns), parts=parts)
        if len(found.part) != len(found.residuals) or not set(found.part) <= set(range(len(parts))):
            raise ValueError("residuals and regressions do not belong together")
        return found


def regression(
    model: Model, x: np.ndarray, y: np.ndarray, interval: Interval | None = None, seed: int = 0
) -> Regression:
    """A regression of ``y`` on the columns of ``x`` with what its interval needs.

    Args:
        model: see :func:`shaketable.estimators.fitted`.
        x: [n, p].
        y: [n].
        interval: ``"jackknife+"`` (n regressions more; the default, but for boosting), ``"cv+"`` (ten more), or ``"split"`` (none more,
            but the regression sees seven tenths of the networks).
        seed: of the folds, and of boosting.

    Raises:
        InputError: an unknown interval, or as for :func:`shaketable.estimators.fitted`.
    """
    check_whole(0, seed=seed)
    how, count = interval or ("cv+" if model == "boosting" else "jackknife+"), len(y)
    order = np.random.default_rng(seed_from(seed, "folds")).permutation(count)
    if how == "split":
        held, rest = np.split(order, [round(HELD * count)])
        whole = fitted(model, x[rest], y[rest], seed)
        left = np.abs(y[held] - whole.predict(x[held]))
        return Regression(model, how, whole, (whole,), (0,) * len(held), tuple(left.tolist()))
    if how not in ("jackknife+", "cv+"):
        raise InputError(f"interval={how!r}: give one of jackknife+, cv+, split.")
    whole = fitted(model, x, y, seed)
    parts, part, left = [], np.empty(count, dtype=int), np.empty(count)
    for number, fold in enumerate(np.array_split(order, count if how == "jackknife+" else min(FOLDS, count))):
        rest = np.setdiff1d(order, fold)
        parts.append(fitted(model, x[rest], y[rest], seed))
        part[fold], left[fold] = number, np.abs(y[fold] - parts[-1].predict(x[fold]))
    return Regression(model, how, whole, tuple(parts), tuple(part.tolist()), tuple(left.tolist()))
