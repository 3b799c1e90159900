"""How well a line, or a plane, through measures predicts the gap."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from shaketable.errors import InputError
from shaketable.identity import seed_from
from shaketable.statistics.columns import Values, finite, numbers


@dataclass(frozen=True)
class CrossValidated:
    """What is left of a fit on networks that it has not seen.

    Attributes:
        value: R2 of all networks, each predicted by the fit without its fold.
        folds: R2 of each fold by itself; None where all of its gaps are equal.
        mean: the mean over the folds that have one; None where none has.
    """

    value: float
    folds: tuple[float | None, ...]

    @property
    def mean(self) -> float | None:
        """The mean of R2 over folds."""
        known = [value for value in self.folds if value is not None]
        return float(np.mean(known)) if known else None


def r2(x: Values, y: Values, adjusted: bool = False) -> float:
    r"""The share of the variance of y that a linear fit on x explains; adjusted for the number of variables where wanted.

    .. math:: R^2 = 1 - \frac{\sum_i (y_i - \hat y_i)^2}{\sum_i (y_i - \bar y)^2}, \qquad
              \bar R^2 = 1 - (1 - R^2) \frac{n - 1}{n - p - 1}

    with :math:`\hat y = a^T x + b` by least squares. With one variable :math:`R^2` is the square of Pearson's correlation.

    Args:
        x: one measure [n], or p variables of one measure [n, p].
        y: [n].
        adjusted: take account of the number of variables, which is the rank of x: constant columns count for nothing.

    Returns: at most 1; 0: no better than the mean. Adjusted it may be below 0. 0 for a constant x.

    Raises:
        InputError: unequal lengths, numbers that are not finite, a constant y, or too few networks for the variables.

    Example:
        >>> r2([1, 2, 3, 4], [2, 4, 6, 8]), round(r2([1, 2, 3, 4], [2, 4, 6, 9], adjusted=True), 4)
        (1.0, 0.9832)

    References: Jiang, Krishnan, Mobahi, Bengio, "Predicting the generalization gap in deep networks with margin
        distributions", 2019, section 4.
    """
    inputs, outputs = _variables(x, y)
    left = outputs - _predicted(inputs, outputs, inputs)
    value = _explained(outputs, left)
    if not adjusted:
        return value
    n, rank = len(outputs), _rank(inputs)
    if n - rank - 1 < 1:
        raise InputError(f"{rank} variables need at least {rank + 2} networks for an adjusted R2, and there are {n}.")
    return 1 - (1 - value) * (n - 1) / (n - rank - 1)


def cross_validated_r2(x: Values, y: Values, folds: int = 10, seed: int = 0) -> CrossValidated:
    r"""R2 of a linear fit on networks that it has not seen, by k-fold cross-validation.

    .. math:: 1 - \frac{\sum_i (y_i - \hat y_i^{(-f(i))})^2}{\sum_i (y_i - \bar y)^2}

    where :math:`\hat y_i^{(-f(i))}` is the prediction by the fit on all folds but that of network i.

    Args:
        x: [n] or [n, p].
        y: [n].
        folds: how many parts, at least 2; sizes differ by one at most.
        seed: of the split.

    Returns: a :class:`CrossValidated`; at most 1, below 0 where the fit is worse than the mean.

    Raises:
        InputError: as :func:`r2`, or more folds than networks.

    Deviates: the papers do not say whether R2 is that of all predictions or the mean of folds; both are there.

    Example:
        >>> cross_validated_r2(range(20), range(20), folds=5).value
        1.0

    References: Jiang, Krishnan, Mobahi, Bengio, "Predicting the generalization gap in deep networks with margin
        distributions", 2019, section 4.
    """
    inputs, outputs = _variables(x, y)
    if isinstance(folds, bool) or not isinstance(folds, int) or not 2 <= folds <= len(outputs):
        raise InputError(f"folds={folds!r}: give a whole number from 2 to the number of networks, {len(outputs)}.")
    order = np.random.default_rng(seed_from(seed, "folds")).permutation(len(outputs))
    left = np.empty(len(outputs))
    each: list[float | None] = []
    for part in np.array_split(order, folds):
        rest = np.setdiff1d(order, part)
        left[part] = outputs[part] - _predicted(inputs[rest], outputs[rest], inputs[part])
        each.append(None if np.ptp(outputs[part]) == 0 else _explained(outputs[part], left[part]))
    return CrossValidated(_explained(outputs, left), tuple(each))


def unseen_r2(x: Values, y: Values, groups: Values) -> tuple[float, np.ndarray]:
    r"""R2 of linear fits, each judged on a group of networks that it has not seen: the fit of all other groups predicts it.

    .. math:: 1 - \frac{\sum_i (y_i - \hat y_i^{(-g(i))})^2}{\sum_i (y_i - \bar y)^2}

    where :math:`\hat y_i^{(-g(i))}` is the prediction by the fit on all networks that are not in the group of i. A group below 0 is
    only fitted on, and counts neither in the sums nor in the mean: with one group from 0 beside it this is a test set.

    Args:
        x: [n] or [n, p].
        y: [n].
        groups: [n] whole numbers.

    Returns: at most 1, below 0 where predictions are worse than the mean of those predicted; and the predictions [n], NaN for those
        that are only fitted on.

    Raises:
        InputError: as :func:`r2`, no group to predict, or one without others to fit on.

    Example:
        >>> value, predicted = unseen_r2([1, 2, 3, 4], [2, 4, 6, 8], [-1, -1, 0, 0])
        >>> value, predicted[2:].round(6).tolist()
        (1.0, [6.0, 8.0])

    References: "Towards unifying neural architecture space exploration and generalization" (NN-Mass), 2020, appendix H.2.
    """
    inputs, outputs = _variables(x, y)
    kinds = np.asarray(groups)
    if kinds.shape != outputs.shape:
        raise InputError(
            f"groups has shape {list(kinds.shape)} and y has {len(outputs)} numbers; give one of each per network."
        )
    wanted = [group for group in np.unique(kinds) if group >= 0]
    predicted = np.full(len(outputs), np.nan)
    for group in wanted:
        inside = kinds == group
        if (~inside).sum() < 2:
            raise InputError(f"group {group} leaves {(~inside).sum()} networks to fit on, and a line needs two.")
        predicted[inside] = _predicted(inputs[~inside], outputs[~inside], inputs[inside])
    judged = kinds >= 0
    if not wanted or np.ptp(outputs[judged]) == 0:
        raise InputError("there is no variance to predict; give groups from 0 whose numbers differ.")
    return _explained(outputs[judged], (outputs - predicted)[judged]), predicted


def standardised_coefficients(x: Values, y: Values) -> np.ndarray:
    r"""The coefficients of a linear fit when every column has mean 0 and variance 1.

    .. math:: a_k \, s_{x_k} / s_y

    The variable with the largest absolute one says most by itself about y, given the others ("best margins variable").

    Args:
        x: [n] or [n, p].
        y: [n].

    Returns: [p]; 0 for a constant column.

    Raises:
        InputError: as :func:`r2`.

    Example:
        >>> standardised_coefficients([1, 2, 3, 4], [2, 4, 6, 8]).round(6).tolist()
        [1.0]

    References: Kuhn, Lyle, Gomez, Rothfuss, Gal, "Robustness to pruning predicts generalization in deep neural networks", 2021,
        appendix A.2.
    """
    inputs, outputs = _variables(x, y)
    spread = inputs.std(0)
    scaled = (inputs - inputs.mean(0)) / np.where(spread > 0, spread, 1)
    return np.linalg.lstsq(scaled, (outputs - outputs.mean()) / outputs.std(), rcond=None)[0]


def _variables(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Variables [n, p] and outputs [n], checked."""
    outputs = finite(numbers(y, "y"), "y")
    columns = np.asarray(x)
    if columns.ndim not in (1, 2):
        raise InputError(f"x has shape {list(columns.shape)}; give one variable [n] or several [n, p].")
    columns = columns[:, None] if columns.ndim == 1 else columns
    if len(columns) != len(outputs) or not columns.shape[1]:
        raise InputError(f"x has {len(columns)} rows and y has {len(outputs)} numbers; give one of each per network.")
    checked = [finite(numbers(columns[:, k], f"x[:, {k}]"), f"x[:, {k}]") for k in range(columns.shape[1])]
    if np.ptp(outputs) == 0:
        raise InputError(f"all {len(outputs)} numbers of y are equal: there is no variance to explain.")
    return np.stack(checked, 1), outputs


def _predicted(inputs: np.ndarray, outputs: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The predictions of a least-squares fit, with columns of any scale."""
    centre = inputs.mean(0)
    spread = np.abs(inputs - centre).max(0)
    spread = np.where(spread > 0, spread, 1)
    weights = np.linalg.lstsq((inputs - centre) / spread, outputs - outputs.mean(), rcond=None)[0]
    return (wanted - centre) / spread @ weights + outputs.mean()


def _rank(inputs: np.ndarray) -> int:
    """How many variables there are that are not sums of others and a constant."""
    centred = inputs - inputs.mean(0)
    spread = np.abs(centred).max(0)
    return int(np.linalg.matrix_rank(centred / np.where(spread > 0, spread, 1)))


def _explained(outputs: np.ndarray, left: np.ndarray) -> float:
    """One minus what is left of the variance."""
    return float(1 - (left**2).sum() / ((outputs - outputs.mean()) ** 2).sum())
