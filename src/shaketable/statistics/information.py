"""Conditional mutual information between the signs of two columns over pairs of networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from shaketable.errors import InputError
from shaketable.statistics.columns import CELLS, HyperParameters, Values, codes, joined, two_columns
from shaketable.statistics.pairs import greater

Variant = Literal["paper", "competition"]


@dataclass(frozen=True)
class Information:
    """How much the order of one column says about that of another, whatever hyper-parameters are known.

    Attributes:
        value: the least over the sets of hyper-parameters; in [0, 1].
        given: the set at which it is the least.
        by_set: the normalised information given each set that has one.
        left_out: the sets given which the sign of ``y`` has no entropy, so that there is nothing to know.
    """

    value: float
    given: tuple[str, ...]
    by_set: dict[tuple[str, ...], float]
    left_out: tuple[tuple[str, ...], ...] = ()


def conditional_mutual_information(
    x: Values, y: Values, hyperparameters: HyperParameters, variant: Variant = "paper"
) -> Information:
    r"""How much a measure's order of two networks says about that of their gaps, given what hyper-parameters say.

    .. math:: K = \min_{S} \hat I(V_x, V_y \mid U_S), \qquad \hat I = \frac{\sum_u p(u) \, I(V_x, V_y \mid u)}{\sum_u p(u) \,
              H(V_y \mid u)}, \qquad V_x = \operatorname{sign}(x_i - x_j)

    over pairs of networks (i, j), where u is the values of the hyper-parameters in S that both have. The smaller it is, the
    more the hyper-parameters explain. It is blind to sign: a measure and its negative have the
    same (but for pairs of a network with itself, in the competition's variant). Give another measure
    as ``y`` for what two measures have in common (table 3 of the paper); it is normalised by the entropy of ``y``.

    Args:
        x: the measure [n].
        y: the gap, or another measure [n].
        hyperparameters: by name, the value of each network.
        variant: ``"paper"``: S has none, one or two members; pairs tied in x or y have no sign and are left out;
            :math:`p(u)` is the share of pairs. ``"competition"`` (NeurIPS 2020): S has two members, those with one value
            included; a network is paired with itself too, a tie is "not greater", and every u counts the same.

    Returns: an :class:`Information`; 0 where the measure adds nothing to some set, 1 where it decides the sign given each.

    Raises:
        InputError: columns of unequal length, NaN, a hyper-parameter of too many values, fewer than two hyper-parameters for
            the competition, or a ``y`` whose sign has no entropy given any set.

    Cost: n sqrt(n) for each set and value; ``python -m pytest tests/statistics -k seconds`` has 10,000 networks.

    Deviates: neither paper says what becomes of ties; the competition's program decides its variant. The normalised
        information of an empty set is in the minimum, as "at most 2" says.

    Example:
        >>> width, depth, gap = [1, 1, 2, 2], [1, 2, 1, 2], [0.1, 0.2, 0.3, 0.4]
        >>> found = conditional_mutual_information(gap, gap, {"width": width, "depth": depth})
        >>> found.value, found.left_out
        (1.0, (('width', 'depth'),))

    References: Jiang, Neyshabur, Mobahi, Krishnan, Bengio, "Fantastic generalization measures and where to find them", 2020,
        section 4.3. Jiang et al., "NeurIPS 2020 competition: predicting generalization in deep learning", 2020.
    """
    one, other = two_columns(x, y)
    known = codes(hyperparameters, len(one))
    if variant not in ("paper", "competition"):
        raise InputError(f"unknown variant={variant!r}; use 'paper' or 'competition'.")
    if variant == "competition" and len(known) < 2:
        raise InputError("the competition's score needs two hyper-parameters or more; use variant='paper'.")
    sizes = range(3) if variant == "paper" else (2,)
    sets = [names for size in sizes for names in combinations(known, size)]
    groupings = [joined([known[name] for name in names], len(one)) for names in sets]
    for names, groups in zip(sets, groupings, strict=True):
        if groups.max() >= CELLS:
            raise InputError(
                f"hyper-parameters {' and '.join(names)} have {groups.max() + 1} combinations of values; "
                f"put near values together until there are at most {CELLS}."
            )
    signs = _signs if variant == "paper" else _not_greater
    found: dict[tuple[str, ...], float] = {}
    for names, counts in zip(sets, signs(one, other, groupings), strict=True):
        shared, entropy = _information(counts, weighted=variant == "paper")
        if entropy > 0:
            found[names] = min(1.0, max(0.0, shared / entropy))
    if not found:
        raise InputError("the sign of y over pairs of networks has no entropy, given any hyper-parameters.")
    given = min(found, key=found.__getitem__)
    return Information(found[given], given, found, tuple(names for names in sets if names not in found))


def _signs(x: np.ndarray, y: np.ndarray, groupings: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Pairs without a tie by the groups of both and by the two signs: [groups, groups, 2, 2]."""
    alike, opposed = greater(x, y, groupings), greater(x, -y, groupings)
    return [np.stack((np.stack((a, o), -1), np.stack((o.T, a.T), -1)), -2) for a, o in zip(alike, opposed, strict=True)]


def _not_greater(x: np.ndarray, y: np.ndarray, groupings: Sequence[np.ndarray]) -> list[np.ndarray]:
    """All ordered pairs by the groups of both and by whether the first is greater in x, and in y: [groups, groups, 2, 2]."""
    found = []
    counts = (greater(x, y, groupings), greater(x, x, groupings), greater(y, y, groupings))
    for groups, both, in_x, in_y in zip(groupings, *counts, strict=True):
        members = np.bincount(groups).astype(np.float64)
        neither = np.outer(members, members) - in_x - in_y + both
        found.append(np.stack((np.stack((both, in_x - both), -1), np.stack((in_y - both, neither), -1)), -2))
    return found


def _information(counts: np.ndarray, weighted: bool) -> tuple[float, float]:
    """Mutual information of the two signs, and entropy of the second, in bits: means over cells, or sums."""
    pairs = counts.sum((2, 3))
    counts, pairs = counts[pairs > 0], pairs[pairs > 0]
    joint = counts / pairs[:, None, None]
    first, second = joint.sum(2), joint.sum(1)
    entropies = _entropy(second)
    shared = _entropy(first) + entropies - _entropy(joint.reshape(-1, 4))
    weights = pairs / pairs.sum() if weighted and len(pairs) else np.ones(len(pairs))
    return float(weights @ shared), float(weights @ entropies)


def _entropy(shares: np.ndarray) -> np.ndarray:
    """The entropy of each row of probabilities, in bits."""
    return -np.where(shares > 0, shares * np.log2(np.where(shares > 0, shares, 1)), 0).sum(-1)
