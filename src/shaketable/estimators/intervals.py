"""Prediction intervals from residuals on networks that a model has not seen: split conformal, jackknife+, CV+."""

import math

import numpy as np

from shaketable.errors import InputError


def fewest(coverage: float) -> int:
    """The fewest residuals of which an interval of this coverage can be made.

    Example:
        >>> fewest(0.9)
        9
    """
    if not 0 < coverage < 1:
        raise InputError(f"coverage={coverage:g}: give a share between 0 and 1, such as 0.9.")
    return math.ceil(round(coverage / (1 - coverage), 9))


def _rank(count: int, coverage: float) -> int:
    """Which of so many numbers, from below, is the upper end."""
    if count < fewest(coverage):
        raise InputError(
            f"{count} networks are too few for an interval of coverage {coverage:g}, which needs {fewest(coverage)}; "
            "train more, or ask for less coverage."
        )
    return math.ceil(round(coverage * (count + 1), 9))


def split_interval(estimate: float, residuals: np.ndarray, coverage: float) -> tuple[float, float]:
    r"""The split conformal interval: the estimate plus and minus a quantile of absolute residuals on other networks.

    .. math:: \hat\mu(x) \pm R_{(\lceil (1 - \alpha)(n + 1) \rceil)}

    with the sorted residuals :math:`R_{(i)}` of n networks on which the model was not fitted and :math:`1 - \alpha` the ``coverage``. What
    is not done: the interval is as wide for every network.

    Args:
        estimate: of the new network.
        residuals: absolute, [n].
        coverage: in (0, 1).

    Returns: both ends. A network that is exchangeable with the n lies within with at least that probability.

    Raises:
        InputError: too few residuals for the coverage.

    Example:
        >>> split_interval(1.0, np.arange(1.0, 10.0), 0.9)
        (-8.0, 10.0)

    References: Vovk, Gammerman, Shafer, "Algorithmic learning in a random world", 2005. Lei, G'Sell, Rinaldo, Tibshirani,
        Wasserman, "Distribution-free predictive inference for regression", 2018, algorithm 2.
    """
    half = float(np.sort(residuals)[_rank(len(residuals), coverage) - 1])
    return estimate - half, estimate + half


def plus_interval(estimates: np.ndarray, residuals: np.ndarray, coverage: float) -> tuple[float, float]:
    r"""The jackknife+ interval, and CV+ where several networks are left out at once.

    .. math:: \left[\hat q^-_\alpha \{\hat\mu_{-i}(x) - R_i\},\ \hat q^+_\alpha \{\hat\mu_{-i}(x) + R_i\}\right]

    with :math:`\hat\mu_{-i}` fitted without network i (or without its fold), :math:`R_i = |y_i - \hat\mu_{-i}(x_i)|`, and the
    :math:`\lfloor \alpha (n + 1) \rfloor`-th and the :math:`\lceil (1 - \alpha)(n + 1) \rceil`-th smallest of n.

    Args:
        estimates: of the new network by the model that was fitted without network i, [n].
        residuals: :math:`R_i`, [n].
        coverage: :math:`1 - \alpha`, in (0, 1).

    Returns: both ends. A network that is exchangeable with the n lies within with at least :math:`1 - 2 \alpha` (CV+: less
        :math:`\sqrt{2 / n}`), and in practice with about :math:`1 - \alpha`.

    Raises:
        InputError: too few residuals for the coverage.

    Example:
        >>> plus_interval(np.ones(9), np.arange(1.0, 10.0), 0.9)
        (-8.0, 10.0)

    References: Barber, Candes, Ramdas, Tibshirani, "Predictive inference with the jackknife+", 2021, equations 1.2 and 3.3,
        theorems 1 and 4.
    """
    rank = _rank(len(residuals), coverage)
    upper = np.sort(estimates + residuals)[rank - 1]
    lower = -np.sort(residuals - estimates)[rank - 1]
    return float(lower), float(upper)
