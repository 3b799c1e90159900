"""What the NN-Mass paper proves of mass and generalisation, and where it holds: entropy, KL term, theorem 2, corollary 1."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from shaketable.errors import InputError

NEGATIVE = (
    "the term that stands for the KL divergence is {kl:.4g}, and no divergence is negative: it is minus the entropy of a Poisson "
    "distribution over 2 sigma, which is at most 0 for every mass; there is no bound here"
)
OUTSIDE = (
    "the asymptotic entropy is used far outside of its range (mean {mean:.3g}; the exact entropy is {exact:.3g} and not "
    "{asymptotic:.3g}), and only so is the term positive; there is no bound here"
)


def poisson_entropy(mean: float) -> float:
    r"""The entropy of a Poisson distribution, in nats, exactly.

    .. math:: H(\lambda) = -\sum_{k \ge 0} p_k \log p_k, \qquad p_k = \lambda^k e^{-\lambda} / k!

    Args:
        mean: :math:`\lambda`, from 0.

    Returns: from 0 (the distribution is a point).

    Raises:
        InputError: a negative mean, or one that is not finite.

    Cost: a sum of about 80 times the root of the mean terms.

    Example:
        >>> round(poisson_entropy(1.0), 6), poisson_entropy(0.0)
        (1.304842, 0.0)

    References: Evans, Boersma, "The entropy of a Poisson distribution", SIAM Review 30, 1988.
    """
    _check("mean", mean, 0)
    if mean == 0:
        return 0.0
    spread = 40 * math.sqrt(mean) + 40
    k = np.arange(max(0, math.floor(mean - spread)), math.ceil(mean + spread) + 1, dtype=float)
    log_p = k * math.log(mean) - mean - gammaln(k + 1)
    return float(-(np.exp(log_p) * log_p).sum())


def asymptotic_poisson_entropy(mean: float) -> float:
    r"""The entropy of a Poisson distribution of large mean (equation 13): below a mean of about 1 it is wrong, then negative.

    .. math:: \tfrac12 \log(2 \pi e \lambda) - \tfrac{1}{12 \lambda}

    Example:
        >>> round(asymptotic_poisson_entropy(50.0) - poisson_entropy(50.0), 6)
        1.7e-05

    References: Evans, Boersma, 1988.
    """
    _check("mean", mean, 0, open_=True)
    return math.log(2 * math.pi * math.e * mean) / 2 - 1 / (12 * mean)


def kl_term(mass: float, sigma: float, exact: bool = False) -> float:
    r"""What stands for the KL divergence in theorem 2 (equation 14): of either sign, and so no divergence.

    .. math:: \frac{1}{2 \sigma} \left[\frac{1}{6 m} - \frac12 \log(\pi e m)\right]

    which is :math:`-H(m / 2) / 2 \sigma` with the asymptotic entropy of a Poisson distribution; with the exact one it is at most 0.

    Args:
        mass: m, above 0.
        sigma: the most connections that a channel can have.
        exact: with the exact entropy.

    Returns: in nats. Positive with the asymptotic entropy where the mass is below 0.33, and there the approximation is wrong.

    Example:
        >>> round(kl_term(28.0, 9), 4), round(kl_term(28.0, 9, exact=True), 4)
        (-0.1518, -0.1518)

    References: "Towards unifying neural architecture space exploration and generalization" (NN-Mass), 2020, appendix E.
    """
    _check("mass", mass, 0, open_=True)
    _check("sigma", sigma, 0, open_=True)
    return -(poisson_entropy(mass / 2) if exact else asymptotic_poisson_entropy(mass / 2)) / (2 * sigma)


@dataclass(frozen=True)
class MassBound:
    """An expression of the paper, and whether it bounds anything.

    Attributes:
        value: the bound; None where the expression is none.
        kl, exact_kl: the KL term with the asymptotic and the exact entropy.
        reason: why there is no bound.
        expression: the number that the paper's formula gives, None where a root of a negative number would have to be taken; no bound
            where ``value`` is None.
    """

    value: float | None
    kl: float
    exact_kl: float
    reason: str | None
    expression: float | None


def mass_bound(mass: float, sigma: float, training_error: float, examples: int, delta: float = 0.05) -> MassBound:
    r"""Theorem 2: a bound on the expected error by mass, with the condition under which it would be one.

    .. math:: \hat E + \sqrt{\frac{\mathrm{KL} + \log(2 \sqrt N / \delta)}{2 N}}, \qquad \mathrm{KL} \text{ as in } \texttt{kl\_term}

    McAllester's theorem needs a KL divergence, which is at least 0. The term of the paper is at most 0 with the exact entropy, because
    the products Q(c) = P(G) P(R|G) of its proof do not sum to 1; so ``value`` is None for every mass, with the reason.

    Args:
        mass: m, above 0.
        sigma: the most connections that a channel can have.
        training_error: in [0, 1].
        examples: N.
        delta: the probability that it fails, in (0, 1].

    Returns: a :class:`MassBound`.

    Raises:
        InputError: a number out of its range.

    Example:
        >>> found = mass_bound(622, 300, 0.0, 50_000)
        >>> found.value, found.kl < 0, found.reason.startswith("the term that stands for the KL divergence is -0.007")
        (None, True, True)

    References: as for :func:`kl_term`, theorems 1 and 2. D. McAllester, Some PAC-Bayesian theorems, 1999.
    """
    _check("training_error", training_error, 0, 1)
    kl, exact = kl_term(mass, sigma), kl_term(mass, sigma, exact=True)
    under = kl + _log_term(examples, delta)
    expression = training_error + math.sqrt(under / (2 * examples)) if under >= 0 else None
    reason = _why_not(mass, kl)
    return MassBound(None if reason else expression, kl, exact, reason, expression)


def mass_difference_bound(
    deeper: float, shallower: float, sigma: float, training_difference: float, examples: int, delta: float = 0.05
) -> MassBound:
    r"""Corollary 1: how much larger the expected error of a deeper network of smaller mass could be, and whether that holds.

    .. math:: \hat E_L - \hat E_S + \sqrt{\frac{1}{2 N}\left(\frac{1}{2 \sigma}
        \left[\frac{m_S - m_L}{6 m_L m_S} - \frac12 \log\frac{m_L}{m_S}\right] + \log\frac{4 N}{\delta^2}\right)}

    Beyond the condition of theorem 2, the proof takes the difference of two upper bounds for an upper bound of the difference, which
    does not follow. ``kl`` and ``exact_kl`` are the differences of the terms.

    Args:
        deeper: :math:`m_L`, at most ``shallower``.
        shallower: :math:`m_S`, of a network of the same width.
        sigma: as for :func:`mass_bound`.
        training_difference: of the training errors, in [-1, 1].
        examples, delta: as for :func:`mass_bound`.

    Returns: a :class:`MassBound`; ``value`` is None, with the reason.

    Raises:
        InputError: a number out of its range, or masses in the other order.

    Example:
        >>> found = mass_difference_bound(622, 856, 300, 0.0, 50_000)
        >>> found.value, round(found.expression, 4)
        (None, 0.0135)

    References: as for :func:`kl_term`, corollary 1.
    """
    _check("training_difference", training_difference, -1, 1)
    if deeper > shallower:
        raise InputError(
            f"corollary 1 is of a deeper network of mass {deeper:g} at most {shallower:g}, that of the shallower one; exchange them."
        )
    terms = [[kl_term(mass, sigma, exact) for mass in (deeper, shallower)] for exact in (False, True)]
    kl, exact = (one - other for one, other in terms)
    expression = training_difference + math.sqrt((kl + 2 * _log_term(examples, delta)) / (2 * examples))
    reason = _why_not(shallower, terms[0][1]) or _why_not(deeper, terms[0][0])
    return MassBound(None if reason else expression, kl, exact, reason, expression)


def _why_not(mass: float, kl: float) -> str | None:
    """Why theorem 2 bounds nothing for a mass."""
    if kl < 0:
        return NEGATIVE.format(kl=kl)
    mean = mass / 2
    return OUTSIDE.format(mean=mean, exact=poisson_entropy(mean), asymptotic=asymptotic_poisson_entropy(mean))


def _log_term(examples: int, delta: float) -> float:
    """log(2 sqrt(N) / delta)."""
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
        raise InputError(f"examples={examples!r}: give a whole number from 1.")
    if not 0 < delta <= 1:
        raise InputError(f"delta={delta!r}: give a probability above 0, and at most 1.")
    return math.log(2 * math.sqrt(examples) / delta)


def _check(name: str, value: float, lowest: float, most: float = math.inf, open_: bool = False) -> None:
    """Refuse a number that is out of its range, or not finite."""
    if not math.isfinite(value) or not lowest <= value <= most or (open_ and value == lowest):
        upto = "" if most == math.inf else f" to {most}"
        raise InputError(f"{name}={value!r}: give a finite number {'above' if open_ else 'from'} {lowest}{upto}.")
