"""Turning points and key quantities of two curves of accuracy against units removed: plain numbers in, plain numbers out."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from shaketable.errors import InputError

Rule = Literal["paper", "code"]
Ties = Literal["last", "first"]


def key_quantities(
    most_first: Sequence[float],
    least_first: Sequence[float],
    chance: float,
    rule: Rule = "paper",
    ties: Ties = "last",
) -> dict[str, Any]:
    r"""The turning points of one class, and what they come to.

    .. math:: n_0 = \inf\{n : E(n) \le \text{chance}\}, \quad n_0^r = \arg\max_n E_r(n), \quad
              \zeta = \frac{n_0 + M - n_0^r}{2 M}, \quad \kappa = \frac{1}{M} \sum_{n=0}^M |E_r(n) - E(n)|

    Args:
        most_first: :math:`E(n)` for n = 0..M: accuracy with the n most active units removed.
        least_first: :math:`E_r(n)`: with the n least active ones removed.
        chance: accuracy of guessing, 1 / classes.
        rule: ``"paper"``: the formulas, with :math:`n_0 = M` where E never falls to chance; ``"code"``: what the authors' program
            does, as said below.
        ties: which maximum of :math:`E_r` counts under ``"paper"``.

    Returns: ``n_0`` and ``n_0_r`` in 0..M; ``reached``: whether E ever falls to chance; ``zeta`` in [0, 1]: 0 where one unit, or
        none, does all; ``kappa``: in [0, 1) under ``"paper"``, 0 where the order does not matter.

    Raises:
        InputError: curves of unequal length, of less than two points, or with numbers that are no accuracies.

    Deviates: the paper's :math:`n_0` has no value where chance is never reached. Its text wants the *last* maximum (the
        "minimum number of units being activated jointly that could give the most performance"); on a plateau the first one
        gives a larger :math:`\zeta`. The authors' program takes the first minimum of E where chance is never reached, the last
        maximum among n < M, and as :math:`\kappa` the mean of :math:`E_r - E` over the M + 1 points, with its sign: smaller
        than equation 5 by M / (M + 1) where the curves do not cross. It takes 0.01 as chance.

    Example:
        >>> found = key_quantities([1, 0.5, 0, 0, 0], [1, 1, 1, 0.5, 0], 0.1)
        >>> found["n_0"], found["n_0_r"], found["zeta"], found["kappa"]
        (2, 2, 0.5, 0.5)

    References: Zhao, Zhang, Hu, "Estimating the generalization in deep neural networks via sparsity", equations 2 to 5, and
        calculate_key_quantities.py of its authors.
    """
    if rule not in ("paper", "code") or ties not in ("last", "first"):
        raise InputError(f"rule={rule!r}, ties={ties!r}: use rule='paper' or 'code', and ties='last' or 'first'.")
    most, least = np.asarray(most_first, dtype=float), np.asarray(least_first, dtype=float)
    if most.ndim != 1 or most.shape != least.shape or len(most) < 2:
        raise InputError("give two curves of the same length, each with a point for n = 0, 1, ... M.")
    if not ((most >= 0) & (most <= 1) & (least >= 0) & (least <= 1)).all():
        raise InputError("a curve holds accuracies: each in [0, 1].")
    units = len(most) - 1
    below = np.flatnonzero(most <= chance)
    never = units if rule == "paper" else int(most.argmin())
    n_0 = int(below[0]) if len(below) else never
    candidates = least if rule == "paper" else least[:-1]
    best = np.flatnonzero(candidates == candidates.max())
    n_0_r = int(best[0] if rule == "paper" and ties == "first" else best[-1])
    apart = np.abs(least - most).sum() / units if rule == "paper" else (least - most).mean()
    zeta = (n_0 + units - n_0_r) / (2 * units)
    return {"n_0": n_0, "n_0_r": n_0_r, "reached": bool(len(below)), "zeta": zeta, "kappa": float(apart)}
