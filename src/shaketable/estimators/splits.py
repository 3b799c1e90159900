"""How well a regression does on networks that it has not seen: the paper's repeated splits, and coverage of the interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from shaketable.errors import InputError
from shaketable.estimators.features import columns_of
from shaketable.estimators.models import Model, fitted
from shaketable.estimators.regression import Interval, regression
from shaketable.identity import seed_from
from shaketable.probes.stored import check_whole


@dataclass(frozen=True)
class Splits:
    """Repeated splits of the networks of a zoo.

    Attributes:
        table: a row a split: ``pearson`` (between estimate and truth, of the networks that it was fitted on), ``ssr`` (the sum of
            squared residuals of the others), ``tested`` (how many these are), ``inside`` (of how many the interval holds the truth).
        points: a row a network and split: ``network``, ``part`` (``"train"`` or ``"test"``), ``gap``, ``estimate``, and for tests
            ``low`` and ``high``.
    """

    table: pl.DataFrame
    points: pl.DataFrame

    def summary(self) -> dict[str, float | None]:
        """Means over splits (``pearson``, ``ssr``, ``coverage``), the largest ``ssr``, and the root mean square error of a test."""
        tested, sums = int(self.table["tested"].sum()), self.table["ssr"].to_numpy()
        correlations = self.table["pearson"].drop_nulls().to_numpy()
        return {
            "pearson": float(correlations.mean()) if len(correlations) else None,
            "ssr": float(sums.mean()),
            "largest_ssr": float(sums.max()),
            "error": float(np.sqrt(sums.sum() / tested)),
            "coverage": int(self.table["inside"].sum()) / tested,
        }


def repeated_splits(
    table: pl.DataFrame,
    measures: Sequence[str] = ("zeta", "kappa"),
    model: Model = "linear",
    *,
    target: str = "gap",
    repeats: int = 100,
    share: float = 0.1,
    interval: Interval | None = None,
    coverage: float = 0.9,
    seed: int = 0,
) -> Splits:
    r"""Fitted on nine tenths of the networks of a zoo, tried on the rest, a hundred times.

    .. math:: \mathrm{SSR} = \sum_{i \in \text{test}} (\hat g_i - g_i)^2

    and Pearson's correlation of :math:`\hat g` and :math:`g` over the networks of the fit. What is not done: the splits share networks, so
    that their SSRs are not independent.

    Args:
        table, measures, model, target, interval, coverage: as for :func:`shaketable.estimators.fit`.
        repeats: splits.
        share: of the networks that are held out, at least one.
        seed: of the splits.

    Returns: :class:`Splits`.

    Raises:
        InputError: as for :func:`shaketable.estimators.fit`, or a share that leaves no network on one side.

    Cost: that of ``repeats`` fits with their intervals.

    Example:
        >>> rows = [{"network": str(n), "gap": n / 20, "measure": "zeta", "value": float(n)} for n in range(20)]
        >>> round(repeated_splits(pl.DataFrame(rows), ["zeta"], repeats=3).summary()["ssr"], 6)
        0.0

    References: Zhao, Zhang, Hu, "Estimating the generalization in deep neural networks via sparsity", 2021, section 4.
    """
    check_whole(1, repeats=repeats)
    names, x, y, _ = columns_of(table, list(measures), target)
    held = max(1, round(share * len(y)))
    if not 0 < share < 1 or held >= len(y):
        raise InputError(f"share={share:g} of {len(y)} networks leaves none on one side; give a share such as 0.1.")
    generator = np.random.default_rng(seed_from(seed, "splits"))
    rows, points = [], []
    for split in range(repeats):
        order = generator.permutation(len(y))
        test, train = order[:held], order[held:]
        found = regression(model, x[train], y[train], interval, seed)
        inner, outer = found.whole.predict(x[train]), found.predict(x[test], coverage)
        inside = (outer[:, 1] <= y[test]) & (y[test] <= outer[:, 2])
        rows.append(
            {
                "split": split,
                "pearson": correlation(inner, y[train]),
                "ssr": float(((outer[:, 0] - y[test]) ** 2).sum()),
                "tested": held,
                "inside": int(inside.sum()),
            }
        )
        for place, value in zip(train.tolist(), inner.tolist(), strict=True):
            points.append((split, names[place], "train", y[place], value, None, None))
        for place, value in zip(test.tolist(), outer.tolist(), strict=True):
            points.append((split, names[place], "test", y[place], *value))
    kinds = {"split": pl.Int64, "network": pl.String, "part": pl.String}
    schema = kinds | dict.fromkeys(("gap", "estimate", "low", "high"), pl.Float64)
    return Splits(pl.DataFrame(rows), pl.DataFrame(points, schema=schema, orient="row"))


def left_out(
    table: pl.DataFrame,
    measures: Sequence[str] = ("zeta", "kappa"),
    model: Model = "linear",
    *,
    target: str = "gap",
    interval: Interval | None = None,
    coverage: float = 0.9,
    seed: int = 0,
) -> pl.DataFrame:
    """Each network of a zoo once, estimated by what was fitted on all others: how often the interval holds the truth.

    Args:
        table, measures, model, target, interval, coverage, seed: as for :func:`shaketable.estimators.fit`.

    Returns: ``network``, ``gap``, ``estimate``, ``low``, ``high``, ``inside``. Of n networks the share inside has a standard error of
        about sqrt(coverage (1 - coverage) / n), the binomial one: fits on nearly the same networks are nearly one fit.

    Raises:
        InputError: as for :func:`shaketable.estimators.fit`.

    Cost: that of as many fits with their intervals as there are networks.

    Example:
        >>> rows = [{"network": str(n), "gap": n / 20 + n % 2, "measure": "zeta", "value": float(n)} for n in range(20)]
        >>> left_out(pl.DataFrame(rows), ["zeta"])["inside"].sum()
        18
    """
    names, x, y, _ = columns_of(table, list(measures), target)
    places = np.arange(len(y))
    rows = []
    for place in places.tolist():
        rest = places != place
        found = regression(model, x[rest], y[rest], interval, seed).predict(x[[place]], coverage)
        rows.append((names[place], y[place], *found[0].tolist()))
    found = pl.DataFrame(rows, schema=["network", "gap", "estimate", "low", "high"], orient="row")
    return found.with_columns(inside=pl.col("gap").is_between("low", "high"))


def whole_fit(
    table: pl.DataFrame,
    measures: Sequence[str] = ("zeta", "kappa"),
    model: Model = "linear",
    target: str = "gap",
    seed: int = 0,
) -> pl.DataFrame:
    """Estimates of the very networks that a regression was fitted on, as the paper's appendices tell them.

    Args:
        table, measures, model, target, seed: as for :func:`shaketable.estimators.fit`.

    Returns: ``network``, ``gap``, ``estimate``.

    Example:
        >>> rows = [{"network": str(n), "gap": n / 20, "measure": "zeta", "value": float(n)} for n in range(20)]
        >>> whole_fit(pl.DataFrame(rows), ["zeta"])["estimate"].round(3).to_list()[:3]
        [0.0, 0.05, 0.1]
    """
    names, x, y, _ = columns_of(table, list(measures), target)
    return pl.DataFrame({"network": names, "gap": y, "estimate": fitted(model, x, y, seed).predict(x)})


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's correlation; None where one side is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])
