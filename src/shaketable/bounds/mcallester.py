"""McAllester's PAC-Bayes bound (theorem A.1), with the inverse of the KL divergence computed."""

import math

from shaketable.bounds.bound import (
    Assumption,
    Bound,
    check_error,
    check_positive,
    check_probability,
    check_whole,
    common,
    rows,
)
from shaketable.errors import InputError


def kl_inverse(error: float, divergence: float) -> float:
    r"""The largest error whose Bernoulli distribution is within a divergence of that of a given error.

    .. math:: \mathrm{KL}^{-1}(q \mid c) = \sup\{p \in [0, 1] : \mathrm{KL}(q \,\|\, p) \le c\}, \qquad
              \mathrm{KL}(q \,\|\, p) = q \ln\frac qp + (1 - q) \ln\frac{1 - q}{1 - p}

    for ``error`` :math:`q` and ``divergence`` :math:`c`.

    Args:
        error: in [0, 1].
        divergence: in nats, from 0; may be infinite.

    Returns: in [error, 1], rounded up: by bisection until the floating-point numbers run out. ``error`` itself where
        ``divergence`` is 0.

    Raises:
        InputError: a number out of its range.

    Cost: about a hundred evaluations of the divergence.

    Example:
        >>> kl_inverse(0.0, math.log(2))  # 1 - exp(-c)
        0.5
        >>> round(kl_inverse(0.1, 0.05), 6), round(0.1 + math.sqrt(0.05 / 2), 6)
        (0.220079, 0.258114)

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep networks",
        2020, appendix A. Langford, "Tutorial on practical prediction theory for classification", 2005.
    """
    q = check_error(error)
    if isinstance(divergence, bool) or not isinstance(divergence, int | float) or not divergence >= 0:
        raise InputError(f"divergence={divergence!r}: give a number of nats from 0.")
    if q == 1 or divergence == 0:
        return q
    if q == 0:
        return -math.expm1(-divergence)
    q = max(q, 1e-200)  # whose quotients are floats
    # in the step p - q, where the divergence keeps all its digits however small it is
    low, high = 0.0, 1 - q
    while low < (middle := (low + high) / 2) < high:
        if _divergence(q, middle) <= divergence:
            low = middle
        else:
            high = middle
    return min(1.0, math.nextafter(q + high, 2))


def _divergence(q: float, step: float) -> float:
    """KL(q || q + step) of two Bernoulli distributions, for q and q + step inside (0, 1)."""
    left = step / (1 - q)
    return math.inf if left >= 1 else -q * math.log1p(step / q) - (1 - q) * math.log1p(-left)


def error_upper_bound(error: float, draws: int, delta: float) -> float:
    r"""An upper confidence bound on the expected error of a stochastic network, from the errors of some of its draws.

    .. math:: \mathrm{KL}^{-1}\Bigl(\hat q \,\Big|\, \frac{\ln(1 / \delta)}{n}\Bigr)

    for ``error`` :math:`\hat q`, the mean over n ``draws`` of errors in [0, 1] of networks drawn independently, each on the
    same examples.

    Args:
        error: the mean, in [0, 1].
        draws: :math:`n`, from 1.
        delta: the probability that the expected error is above the bound, over the draws.

    Returns: in [error, 1].

    Raises:
        InputError: a number out of its range.

    Deviates: Langford and Caruana, and Dziugaite and Roy, write :math:`\ln(2 / \delta)`; the Chernoff bound needs the 2 for
        both sides, and here only one is used.

    Example:
        >>> round(error_upper_bound(0.02, 100, 0.01), 4)
        0.0941

    References: Langford, Caruana, "(Not) bounding the true error", 2002. Dziugaite, Roy, "Computing nonvacuous generalization
        bounds for deep (stochastic) neural networks with many more parameters than training data", 2017, section 3.3.
    """
    check_whole(draws, "draws", 1)
    return kl_inverse(check_error(error), math.log(1 / check_probability(delta, "delta")) / draws)


def mcallester_bound(
    error: float,
    divergence: float,
    examples: int,
    delta: float = 0.05,
    *,
    draws: int | None = None,
    delta_draws: float | None = None,
) -> Bound:
    r"""McAllester's bound on the expected error of a stochastic network on new examples.

    .. math:: \mathbb E_Q[L_D] \le \mathrm{KL}^{-1}\Bigl(\mathbb E_Q[L_S] \,\Big|\,
              \frac{\mathrm{KL}(Q \| P) + \ln(m / \delta)}{m - 1}\Bigr) \le \mathbb E_Q[L_S] +
              \sqrt{\frac{\mathrm{KL}(Q \| P) + \ln(m / \delta)}{2 (m - 1)}}

    for ``error`` :math:`\mathbb E_Q[L_S]`, ``divergence`` :math:`\mathrm{KL}(Q \| P)` and ``examples`` :math:`m`. It holds
    for all posteriors Q at once: Q may be chosen by the training set, in any way.

    Not done: nothing is said about a single network.

    Args:
        error: the expected 0-1 error on the training set of networks drawn from Q, in [0, 1]; or its mean over ``draws``.
        divergence: of the posterior Q from the prior P, in nats.
        examples: :math:`m`, from 2.
        delta: the probability that the bound fails, in all.
        draws: where ``error`` is a mean over independent draws from Q, how many; then an upper confidence bound on the
            expected error (:func:`error_upper_bound`) takes its place.
        delta_draws: the part of ``delta`` that goes to that; a fifth of it without.

    Returns: a :class:`Bound` whose value is the inverse; the term ``"square root"`` is the relaxation.

    Raises:
        InputError: a number out of its range.

    Deviates: with m from 2 the theorem follows from Maurer's (2004), :math:`(\mathrm{KL} + \ln(2 \sqrt m / \delta)) / m`,
        which is smaller from m = 4 on; at 2 and 3 his exact sum in place of :math:`2 \sqrt m` is.

    Example:
        >>> bound = mcallester_bound(0.02, 100.0, 1438)
        >>> round(bound.value, 3), round(bound.term("square root"), 3), bound.vacuous
        (0.127, 0.216, False)

    References: McAllester, "PAC-Bayesian model averaging", 1999, and "Simplified PAC-Bayesian margin bounds", 2003. Chatterji,
        Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep networks", 2020, theorem A.1.
    """
    divergence = check_positive(divergence, "divergence", zero=True)
    check_whole(examples, "examples", 2)
    expected, left, terms, assumption = expected_error(error, delta, draws, delta_draws)
    log_term = math.log(examples / left)
    share = (divergence + log_term) / (examples - 1)
    value, root = kl_inverse(expected, share), expected + math.sqrt(share / 2)
    terms += [
        ("divergence", divergence, "KL(Q || P), nats"),
        ("log(m / delta)", log_term, "nats; delta without the part for the draws"),
        ("share", share, "the sum of these two over m - 1"),
        ("inverse", value, "the bound: the inverse of the KL divergence"),
        ("square root", root, "its relaxation: error + sqrt(share / 2)"),
    ]
    return Bound(
        theorem="McAllester's theorem, A.1 of Chatterji et al. 2020",
        subject="expected 0-1 error on new examples of networks drawn from the posterior",
        value=value,
        delta=delta,
        examples=examples,
        assumptions=(*common("the prior"), assumption),
        terms=rows(terms),
        draws=draws,
    )


def expected_error(
    error: float, delta: float, draws: int | None, delta_draws: float | None
) -> tuple[float, float, list[tuple[str, float, str]], Assumption]:
    """The expected training error or an upper confidence bound on it, the delta that is left, the terms, the assumption."""
    error, delta = check_error(error), check_probability(delta, "delta")
    if draws is None:
        if delta_draws is not None:
            raise InputError("delta_draws is for an error that was estimated by draws; give draws as well.")
        given = Assumption(
            "the error given is the expected one of the posterior, on these very training examples",
            "not checked",
            "a number that the caller gave",
        )
        return error, delta, [("error", error, "expected training error, as given")], given
    part = delta / 5 if delta_draws is None else check_probability(delta_draws, "delta_draws")
    if part >= delta:
        raise InputError(f"delta_draws={part:g} leaves nothing of delta={delta:g}; give less.")
    upper = error_upper_bound(error, draws, part)
    terms = [
        ("error", error, f"mean training error of {draws} draws"),
        ("error, upper", upper, f"upper confidence bound on the expected training error, at {part:g}"),
    ]
    given = Assumption(
        "the error given is the mean over independent draws from the posterior that served for nothing else, on these "
        "very training examples",
        "not checked",
        "a number that the caller gave",
    )
    return upper, delta - part, terms, given
