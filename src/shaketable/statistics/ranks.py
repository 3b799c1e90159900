"""Kendall's rank correlation of two columns, over all pairs of networks and over those that differ in one hyper-parameter."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shaketable.errors import InputError
from shaketable.statistics.columns import HyperParameters, Values, codes, joined, two_columns
from shaketable.statistics.pairs import greater

Ties = Literal["a", "b"]


def kendall_tau(x: Values, y: Values, ties: Ties = "b") -> float:
    r"""Kendall's rank correlation: how far two columns rank the same networks alike.

    .. math:: \tau_a = \frac{A - D}{n (n - 1) / 2}, \qquad
              \tau_b = \frac{A - D}{\sqrt{(n (n - 1) / 2 - T_x)(n (n - 1) / 2 - T_y)}}

    where :math:`A` is the number of pairs that ``x`` and ``y`` order alike, :math:`D` that of those that they order the
    other way round, and :math:`T_x`, :math:`T_y` count the pairs that are equal in ``x`` and in ``y``. Without ties both
    are the same. Only the order counts: a measure and its logarithm have the same tau. Pairs are counted exactly.

    Args:
        x, y: [n] numbers each; infinite ones are in order, NaN is refused.
        ties: ``"b"`` takes tied pairs out of the denominator, ``"a"`` leaves them in.

    Returns: in [-1, 1]; 1: the same order, -1: the opposite one, 0: as many pairs agree as disagree.

    Raises:
        InputError: lengths differ, fewer than two numbers, a NaN, or all numbers of a column equal, where tau-b is 0 / 0.

    Cost: 2 n sqrt(n) comparisons.

    Deviates: Chatterji et al. define tau-a in the text; the values that they print are tau-b, cut off (not rounded) at two
    decimals, which is why tau-b is the default.

    Example:
        >>> kendall_tau([1, 2, 3, 4], [10, 20, 40, 30])
        0.6666666666666666
        >>> kendall_tau([1, 1, 2], [1, 2, 3], ties="a")
        0.6666666666666666

    References: Kendall, "A new measure of rank correlation", Biometrika 30, 1938; "The treatment of ties in ranking
    problems", Biometrika 33, 1945. Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the
    generalization of deep networks", 2020, section 4.
    """
    one, other = two_columns(x, y)
    everybody = [np.zeros(len(one), dtype=np.int64)]
    agree, disagree = (round(greater(one, side, everybody)[0].item()) for side in (other, -other))
    pairs = math.comb(len(one), 2)
    if _checked(ties) == "a":
        return (agree - disagree) / pairs
    untied = [pairs - _tied(column) for column in (one, other)]
    _refuse_constant(untied, len(one))
    return (agree - disagree) / math.sqrt(untied[0] * untied[1])


def kendall_tau_stderr(n: int) -> float:
    r"""Standard error of Kendall's tau over n networks when the two rankings have nothing to do with each other.

    .. math:: \sqrt{\frac{2 (2 n + 5)}{9 n (n - 1)}}

    Exact for independent rankings without ties. It is the yardstick for "is this tau more than chance", not the error of
    a tau that is there.

    Args:
        n: how many networks were ranked, at least 2.

    Returns: in (0, 1]; 1 for two networks.

    Raises:
        InputError: fewer than two networks.

    Cost: none.

    Example:
        >>> round(kendall_tau_stderr(324), 4)
        0.0372

    References: Kendall, "A new measure of rank correlation", Biometrika 30, 1938.
    """
    if n < 2:
        raise InputError(f"n={n}: two networks are the fewest that can be ranked.")
    return math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))


def tied_stderr(x: Values, y: Values, ties: Ties = "b") -> float:
    r"""Standard error of Kendall's tau of two columns with these ties, when their orders have nothing to do with each other.

    .. math:: \frac1D \sqrt{\frac{A_x A_y}{n (n - 1) (n - 2)} + \frac{B_x B_y}{2 n (n - 1)}}, \qquad
              A_x = \sum_i \Bigl(\sum_j s_{ij}\Bigr)^2 - B_x, \quad B_x = \sum_{ij} s_{ij}^2

    with the signs :math:`s_{ij} = \operatorname{sign}(x_i - x_j)` and :math:`D` the denominator of the tau. Exact over all
    orders of one column. Without ties it is :func:`kendall_tau_stderr`.

    Args:
        x, y: [n] each.
        ties: the tau whose error it is.

    Returns: above 0; 0 for tau-a of a constant column, which is always 0.

    Raises:
        InputError: as :func:`kendall_tau`.

    Cost: sorting.

    Example:
        >>> tied_stderr([1, 2, 3], [5, 1, 2]) == kendall_tau_stderr(3), round(tied_stderr([1, 1, 2], [1, 2, 3], "a"), 4)
        (True, 0.5443)

    References: Kendall, "The treatment of ties in ranking problems", Biometrika 33, 1945. Daniels, "The relation between
        measures of correlation in the universe of sample permutations", Biometrika 33, 1944.
    """
    one, other = two_columns(x, y)
    n, pairs = len(one), math.comb(len(one), 2)
    untied = [pairs - _tied(column) for column in (one, other)]
    squares = [2.0 * count for count in untied]
    chains = [float((_above(column) ** 2).sum()) - square for column, square in zip((one, other), squares, strict=True)]
    variance = squares[0] * squares[1] / (2 * n * (n - 1))
    if n > 2:
        variance += chains[0] * chains[1] / (n * (n - 1) * (n - 2))
    if _checked(ties) == "a":
        return math.sqrt(variance) / pairs
    _refuse_constant(untied, n)
    return math.sqrt(variance) / math.sqrt(untied[0] * untied[1])


@dataclass(frozen=True)
class Granulated:
    """Rank correlation along each hyper-parameter.

    Attributes:
        psi: the mean over hyper-parameters, in [-1, 1].
        psi_stderr: its standard error if the measure had nothing to do with the gap.
        axes: tau by hyper-parameter: over pairs that differ in it alone, averaged over the settings of all others.
        stderr: its standard error under the same condition.
        groups: settings of the others in which it varies.
        pairs: pairs that differ in it alone.
        tied: of these, pairs that are equal in measure or gap, which count as 0.
        left_out: hyper-parameters without such a pair, which are not in the mean.
    """

    psi: float
    psi_stderr: float
    axes: dict[str, float]
    stderr: dict[str, float]
    groups: dict[str, int]
    pairs: dict[str, int]
    tied: dict[str, int]
    left_out: tuple[str, ...] = ()


def granulated_tau(
    x: Values, y: Values, hyperparameters: HyperParameters, axes: Sequence[str] | None = None
) -> Granulated:
    r"""Granulated rank correlation: whether a measure ranks networks that differ in one hyper-parameter alone, for each.

    .. math:: \Psi = \frac1n \sum_i \psi_i, \qquad \psi_i = \frac1{m_i} \sum_{\theta_{-i}} \tau\bigl(\{(x_\theta,
              y_\theta) : \theta_i \in \Theta_i\}\bigr)

    with tau-a over the networks that agree in all hyper-parameters but the i-th, for each of the :math:`m_i` settings of
    the others. Pairs that agree in the i-th too (two seeds that are not told apart) are left out. A tie counts as 0.

    Args:
        x: the measure [n].
        y: the gap [n].
        hyperparameters: by name, the value of each network. Put a seed among them, to compare within a seed.
        axes: those that are in the mean; all, if left out. A seed is not one of them in the paper.

    Returns: a :class:`Granulated`; 1: the measure ranks as the gap does along each axis.

    Raises:
        InputError: unequal lengths, an axis that is no hyper-parameter, or no two networks that differ in one axis alone.

    Cost: the pairs that differ in one hyper-parameter.

    Deviates: the standard errors that the prunability paper prints are these, divided once more by :math:`m_i`.

    Example:
        >>> found = granulated_tau([1, 2, 4, 3], [1, 2, 3, 4], {"width": [1, 2, 1, 2], "depth": [1, 1, 2, 2]})
        >>> found.axes, found.psi
        ({'width': 0.0, 'depth': 1.0}, 0.5)

    References: Jiang, Neyshabur, Mobahi, Krishnan, Bengio, "Fantastic generalization measures and where to find them", 2020,
        section 4.2. "Robustness to pruning predicts generalization in deep neural networks", appendix A.1.2.
    """
    one, other = map(ranks, two_columns(x, y))
    known = codes(hyperparameters, len(one))
    chosen = list(known) if axes is None else list(axes)
    for name in chosen:
        if name not in known:
            raise InputError(f"axis {name!r} is no hyper-parameter; there are {', '.join(known)}.")
    found: dict[str, dict] = {field: {} for field in ("axes", "stderr", "groups", "pairs", "tied")}
    for name in chosen:
        fixed = joined([values for key, values in known.items() if key != name], len(one))
        first, second = pairs_along(fixed, known[name])
        if not len(first):
            continue
        groups, members = np.unique(fixed[first], return_inverse=True)
        share = 1 / np.bincount(members)[members] / len(groups)
        signs = np.sign(one[first] - one[second]) * np.sign(other[first] - other[second])
        partners = np.bincount(np.concatenate((first, second)))
        chains = np.bincount(fixed[: len(partners)], partners * (partners - 1.0))[groups] / 9
        each = np.bincount(members)
        found["axes"][name] = float(share @ signs)
        found["stderr"][name] = math.sqrt(((each + chains) / each**2).sum()) / len(groups)
        found["groups"][name], found["pairs"][name] = len(groups), len(first)
        found["tied"][name] = int((signs == 0).sum())
    if not found["axes"]:
        raise InputError(
            f"no two networks differ in one of {', '.join(chosen) or 'no axes'} alone; nothing can be ranked."
        )
    psi = math.fsum(found["axes"].values()) / len(found["axes"])
    error = math.sqrt(math.fsum(value**2 for value in found["stderr"].values())) / len(found["axes"])
    return Granulated(psi, error, **found, left_out=tuple(name for name in chosen if name not in found["axes"]))


def ranks(column: np.ndarray) -> np.ndarray:
    """The place of each number in ascending order, from 0; equal ones share theirs. Infinite ones can be subtracted so."""
    return np.unique(column, return_inverse=True)[1]


def pairs_along(fixed: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of networks with equal codes in ``fixed`` that differ in ``axis``, each once."""
    order = np.argsort(fixed, kind="stable")
    firsts, seconds = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for distance in range(1, int(np.bincount(fixed).max())):
        first, second = order[:-distance], order[distance:]
        kept = (fixed[first] == fixed[second]) & (axis[first] != axis[second])
        firsts.append(first[kept])
        seconds.append(second[kept])
    return np.concatenate(firsts), np.concatenate(seconds)


def _checked(ties: Ties) -> Ties:
    """The treatment of ties, if there is such."""
    if ties not in ("a", "b"):
        raise InputError(f"unknown ties={ties!r}; use 'b' (tied pairs leave the denominator) or 'a' (they stay).")
    return ties


def _tied(column: np.ndarray) -> int:
    """The number of pairs that are equal."""
    counts = np.unique(column, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def _above(column: np.ndarray) -> np.ndarray:
    """For each number, how many are below it less how many are above it."""
    ordered = np.sort(column)
    below = np.searchsorted(ordered, column, "left")
    return (below - (len(column) - np.searchsorted(ordered, column, "right"))).astype(np.float64)


def _refuse_constant(untied: Sequence[int], networks: int) -> None:
    """One error for a column that ranks nothing."""
    for name, count in zip("xy", untied, strict=True):
        if not count:
            raise InputError(f"all {networks} numbers of {name} are equal, so they rank nothing; tau-b is 0 / 0 there.")
