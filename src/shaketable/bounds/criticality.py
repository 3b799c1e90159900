"""The PAC-Bayes bound of module criticality (theorem 3.2, corollary 3.3): a Gaussian around each point of the path to init."""

import math
from collections.abc import Sequence
from typing import Literal

from shaketable.bounds.bound import (
    Assumption,
    Bound,
    check_error,
    check_positive,
    check_probability,
    check_same_length,
    check_whole,
    common,
    rows,
)
from shaketable.bounds.mcallester import expected_error, kl_inverse
from shaketable.errors import InputError

GIVEN_LAYERS = Assumption(
    "the layers hold every parameter and running statistic that training moved",
    "not checked",
    "numbers of layers that the caller gave",
)
GIVEN_ERROR = Assumption(
    "the expected training error with noise on all layers at once is at most epsilon",
    "not checked",
    "a number that the caller gave",
)
"""What plain numbers cannot show; functions of a study look."""
Form = Literal["derived", "printed", "inverse"]
"""The theorem with the constants that its proof gives; as it is printed; or the tightest that the proof contains."""
PRIOR = "the initial weights, the layers that share a prior"
"""What must not depend on the training examples, beside the pre-processing."""


def criticality_kl(
    parameters: Sequence[int],
    alphas: Sequence[float],
    sigmas: Sequence[float],
    squared_distances: Sequence[float],
    prior_sigmas: Sequence[float],
) -> float:
    r"""The divergence of the posterior from the prior, in nats (equation 4).

    .. math:: \mathrm{KL}(Q \| P) = \frac12 \sum_i \Bigl[\frac{k_i \sigma_i^2 + \alpha_i^2 D_i^2}{\sigma_{P,i}^2} - k_i +
              k_i \ln\frac{\sigma_{P,i}^2}{\sigma_i^2}\Bigr]

    of Gaussians :math:`\mathcal N(\theta_i^0 + \alpha_i (\theta_i^F - \theta_i^0), \sigma_i^2 I)` from
    :math:`\mathcal N(\theta_i^0, \sigma_{P,i}^2 I)`, with :math:`D_i = \lVert\theta_i^F - \theta_i^0\rVert_2`.

    Args:
        parameters: of each layer the number of parameters :math:`k_i`.
        alphas: how far from init (0) to final (1) the posterior's centre :math:`\alpha_i` is, in [0, 1].
        sigmas: the posterior's standard deviation :math:`\sigma_i`, in (0, 1].
        squared_distances: :math:`D_i^2`.
        prior_sigmas: the prior's standard deviation :math:`\sigma_{P,i}`, above 0.

    Returns: at least 0; 0 means that the two are the same.

    Raises:
        InputError: lengths that differ, or a number out of its range.

    Example:
        >>> criticality_kl([10], [1.0], [0.5], [4.0], [0.5])  # D^2 / (2 sigma^2)
        8.0

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep networks",
        2020, equation 4.
    """
    check_layers(parameters, alphas, sigmas, squared_distances)
    check_same_length(parameters=parameters, prior_sigmas=prior_sigmas)
    total = 0.0
    for k, a, s, d, p in zip(parameters, alphas, sigmas, squared_distances, prior_sigmas, strict=True):
        ratio = (s / check_positive(p, "prior_sigmas")) ** 2
        total += k * (ratio - 1 - math.log(ratio)) + a * a * d / p**2
    return max(0.0, total / 2)


def prior_sigma(index: int, parameters: int, examples: int) -> float:
    r"""The standard deviation of one prior of the grid that is fixed before the training set is seen.

    .. math:: \sigma_P = \exp\Bigl(\frac12 \Bigl[\frac{4 m - j}{k} + 1\Bigr]\Bigr), \qquad j = 1, 2, \dots

    for ``index`` :math:`j`, ``parameters`` :math:`k` and ``examples`` :math:`m`. The prior j of a layer has the share
    :math:`6 / (\pi^2 j^2)` of delta, so that all together have delta.

    Raises:
        InputError: a number below 1.

    Example:
        >>> round(prior_sigma(400, 50, 100), 6)  # exp(1/2)
        1.648721

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep networks",
        2020, appendix A.
    """
    check_whole(index, "index", 1)
    exponent = (4 * check_whole(examples, "examples", 1) - index) / check_whole(parameters, "parameters", 1) + 1
    return math.exp(exponent / 2) if exponent < 1400 else math.inf


def prior_indices(
    parameters: Sequence[int],
    alphas: Sequence[float],
    sigmas: Sequence[float],
    squared_distances: Sequence[float],
    examples: int,
) -> tuple[int, ...]:
    r"""Of each layer, which prior of the grid the proof takes.

    .. math:: j_i = \Bigl\lfloor 4 m + k_i \Bigl(1 - \ln\Bigl[\sigma_i^2 + \frac{\alpha_i^2 D_i^2}{k_i}\Bigr]\Bigr)\Bigr\rfloor

    This is the one with the smallest variance that is at least that in brackets, so that equation 5 holds:
    :math:`v_i \le \sigma_{P,i}^2 \le e^{1 / k_i} v_i` for the bracket :math:`v_i`.

    Args: as for :func:`criticality_kl`, and the number of training examples :math:`m`.

    Returns: whole numbers; below 1 where no prior of the grid is wide enough (then the bound is above 1 anyway).

    Raises:
        InputError: lengths that differ, or a number out of its range.

    Deviates: the paper prints :math:`\lceil 4 m / k_i + 1 + \ln(1 / v_i)\rceil`, without the factor :math:`k_i` that its own
        grid and equation 5 need, and hence a bound on :math:`j_i` of :math:`5 m + \ln(1 / v_i)` that is too small by
        nearly :math:`k_i (1 + \ln(1 / v_i))`. For a layer of 65,792 parameters with sigma 0.1 and 1,438 examples:
        printed 6, at most 7,194; needed 374,527.

    Example:
        >>> prior_indices([50], [0.0], [1.0], [4.0], 100)
        (450,)

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep networks",
        2020, appendix A, equation 5.
    """
    check_layers(parameters, alphas, sigmas, squared_distances)
    check_whole(examples, "examples", 2)
    found = []
    for k, a, s, d in zip(parameters, alphas, sigmas, squared_distances, strict=True):
        log_variance = math.log(s * s + a * a * d / k)
        index = math.floor(4 * examples + k * (1 - log_variance))
        while (4 * examples - index) / k + 1 < log_variance:  # by the rounding of the product
            index -= 1
        found.append(index)
    return tuple(found)


def criticality_bound(
    error: float,
    parameters: Sequence[int],
    alphas: Sequence[float],
    sigmas: Sequence[float],
    squared_distances: Sequence[float],
    examples: int,
    delta: float = 0.05,
    *,
    form: Form = "derived",
    draws: int | None = None,
    delta_draws: float | None = None,
) -> Bound:
    r"""The bound of theorem 3.2 on the expected error, on new examples, of a network with noise on all its layers at once.

    .. math:: \mathbb E_U[L_D(f_{\Theta^\alpha + U})] \le \mathbb E_U[L_S(f_{\Theta^\alpha + U})] + \sqrt{\frac{
              \frac14 \sum_i k_i \ln\bigl(1 + \frac{\alpha_i^2 D_i^2}{k_i \sigma_i^2}\bigr) + \frac d4 +
              \frac12 \ln\frac m\delta + \sum_i \ln\frac{\pi j_i}{\sqrt 6}}{m - 1}}

    for d layers with ``parameters`` :math:`k_i`, ``alphas``, ``sigmas``, ``squared_distances``
    :math:`D_i^2 = \lVert\theta_i^F - \theta_i^0\rVert^2`, ``examples`` :math:`m`, noise
    :math:`u_i \sim \mathcal N(0, \sigma_i^2 I)` and :math:`j_i` of :func:`prior_indices`. It holds for all alphas and sigmas
    at once: they may be chosen by the training set.

    Not done: nothing is said about the trained network itself, nor about noise on one layer at a time (definition 3.1).

    Args:
        error: the expected 0-1 training error with noise on all layers, in [0, 1]; or its mean over ``draws``.
        parameters: of each layer the number of parameters; layers together must hold every parameter that training moved.
        alphas: in [0, 1].
        sigmas: standard deviations, in (0, 1].
        squared_distances: from init to final, from 0.
        examples: from 2.
        delta: the probability that the bound fails, in all.
        form: ``"derived"``, the formula above; ``"printed"``, the paper's; ``"inverse"``, the proof without its
            relaxations: the exact divergence from the prior :math:`j_i`, and the inverse of the KL divergence in place of
            the square root.
        draws, delta_draws: as for :func:`shaketable.bounds.mcallester_bound`.

    Returns: a :class:`Bound`; its terms have the values of all three forms. Of the printed form, where its logarithm has no
        value, the term is NaN and the form is refused.

    Raises:
        InputError: lengths that differ, or a number out of its range.

    Deviates: the proof gives three things that equation 3 does not have: :math:`d / 4` (the "+1" of each layer in the last
        line of the divergence); :math:`\ln(\pi j_i / \sqrt 6)` with the :math:`j_i` that equation 5 needs, in place of
        :math:`\ln(7 m + 2 \ln(1 / v_i))`; and half of :math:`\ln(m / \delta)`, which is printed whole. The first two
        make the printed value too small, the third too large: for the demo network on digits (4 layers, 150,794
        parameters, 1,438 examples, sigma 0.05) the last three terms are 54.3, printed 47.1. The probability of one prior,
        :math:`1 - 6 / (\pi^2 j^2)`, lacks a delta; the prior's range is one of variances.

    Example:
        >>> bound = criticality_bound(0.02, [1000, 100], [0.5, 1.0], [0.2, 0.1], [4.0, 1.0], 5000)
        >>> round(bound.value, 3), round(bound.term("printed"), 3), round(bound.term("inverse"), 3)
        (0.12, 0.126, 0.061)

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep networks",
        2020, theorem 3.2, appendix A, equations 3 to 5.
    """
    check_form(form)
    indices = prior_indices(parameters, alphas, sigmas, squared_distances, examples)
    expected, left, terms, assumption = expected_error(error, delta, draws, delta_draws)
    layers = list(zip(parameters, alphas, sigmas, squared_distances, strict=True))
    complexity = sum(k * math.log1p(a * a * d / (k * s * s)) for k, a, s, d in layers) / 4
    root, more = _derived(expected, complexity, indices, examples, left)
    printed = _printed(expected, complexity, [(k, s * s + a * a * d / k) for k, a, s, d in layers], examples, left)
    divergence, inverse = math.inf, 1.0
    if min(indices) >= 1:
        priors = [prior_sigma(j, k, examples) for j, k in zip(indices, parameters, strict=True)]
        divergence = criticality_kl(parameters, alphas, sigmas, squared_distances, priors)
        weight = math.log(examples / left) + 2 * _union(indices)
        inverse = kl_inverse(expected, (divergence + weight) / (examples - 1))
    terms += [
        ("complexity", complexity, "a quarter of the sum of k log(1 + alpha^2 D^2 / (k sigma^2))"),
        *more,
        ("divergence", divergence, "exact KL(Q || P) from the prior of the grid (equation 4), nats"),
        ("derived", root, "theorem 3.2 with the constants of its proof"),
        ("printed", printed, "theorem 3.2 as printed"),
        ("inverse", inverse, "the proof without its relaxations"),
    ]
    return Bound(
        theorem=_theorem("theorem 3.2 of Chatterji et al. 2020", form),
        subject="expected 0-1 error on new examples of the network with noise on its layers",
        value=_chosen({"derived": root, "printed": printed, "inverse": inverse}, form),
        delta=delta,
        examples=examples,
        assumptions=(
            *common(PRIOR),
            assumption,
            GIVEN_LAYERS,
            *_of_form(form),
        ),
        terms=rows(terms),
        draws=draws,
    )


def corollary_bound(
    criticality: float,
    epsilon: float,
    parameters: Sequence[int],
    sigmas: Sequence[float],
    examples: int,
    delta: float = 0.05,
    *,
    form: Literal["derived", "printed"] = "derived",
) -> Bound:
    r"""The bound of corollary 3.3 on the error of the trained network, which rests on a conjecture.

    .. math:: L_D(f_\Theta) \le \epsilon + \sqrt{\frac{\frac14 \mu'_\epsilon + \frac d4 + \frac12 \ln\frac m\delta +
              \sum_i \ln\frac{\pi j_i}{\sqrt 6}}{m - 1}}, \qquad
              \mu'_\epsilon = \min_{0 \le \alpha, \sigma \le 1} \Bigl\{\sum_i \frac{\alpha_i^2 D_i^2}{\sigma_i^2} :
              \mathbb E_U[L_S(f_{\Theta^\alpha + U})] \le \epsilon\Bigr\}

    for ``criticality`` :math:`\mu'_\epsilon`, with noise on all d layers at once, ``epsilon``, ``examples`` :math:`m` and
    :math:`j_i = \lfloor 4 m + k_i (1 - \ln \sigma_i^2)\rfloor`, which is at least that of :func:`prior_indices`. Any alphas
    and sigmas that keep the error within epsilon give a bound; the minimum gives the smallest.

    Not done: the conjecture, that the noise and the path do not improve the error on new examples, is not looked at.

    Args:
        criticality: from 0; of all layers together, not the sum of those one by one (definition 3.1).
        epsilon: the error that the criticality allows, in [0, 1].
        parameters: of each layer the number of parameters.
        sigmas: where the criticality was found, in (0, 1].
        examples: from 2.
        delta: the probability that the bound fails.
        form: ``"derived"`` or ``"printed"``, as for :func:`criticality_bound`.

    Returns: a :class:`Bound`, above that of theorem 3.2 at the same alphas and sigmas, by :math:`\ln(1 + x) \le x`.

    Raises:
        InputError: lengths that differ, or a number out of its range.

    Deviates: the paper prints "arg max" for the minimum's value. Constants as in :func:`criticality_bound`.

    Example:
        >>> bound = corollary_bound(200.0, 0.05, [1000, 100], [0.2, 0.1], 5000)
        >>> round(bound.value, 3)
        0.174

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep networks",
        2020, corollary 3.3.
    """
    check_form(form)
    if form == "inverse":
        raise InputError("form='inverse' needs alphas and distances; use criticality_bound, or form='derived'.")
    epsilon = check_error(epsilon, "epsilon")
    complexity = check_positive(criticality, "criticality", zero=True) / 4
    check_probability(delta, "delta")
    nothing = [0.0] * len(parameters)
    indices = prior_indices(parameters, nothing, sigmas, nothing, examples)
    root, more = _derived(epsilon, complexity, indices, examples, delta)
    variances = [(k, s * s) for k, s in zip(parameters, sigmas, strict=True)]
    printed = _printed(epsilon, complexity, variances, examples, delta)
    terms = [
        ("error", epsilon, "epsilon: what the criticality allows"),
        ("complexity", complexity, "a quarter of the criticality of all layers together"),
        *more,
        ("derived", root, "corollary 3.3 with the constants of its proof"),
        ("printed", printed, "corollary 3.3 as printed"),
    ]
    return Bound(
        theorem=_theorem("corollary 3.3 of Chatterji et al. 2020", form),
        subject="0-1 error on new examples of the trained network",
        value=_chosen({"derived": root, "printed": printed}, form),
        delta=delta,
        examples=examples,
        assumptions=(
            *common(PRIOR),
            Assumption(
                "the trained network is no worse on new examples than the network with noise on its layers",
                "not checked",
                "a conjecture of the paper; test data can speak against it",
            ),
            GIVEN_ERROR,
            GIVEN_LAYERS,
            *_of_form(form),
        ),
        terms=rows(terms),
    )


def _derived(
    error: float, complexity: float, indices: Sequence[int], examples: int, delta: float
) -> tuple[float, list[tuple[str, float, str]]]:
    """The theorem with the constants of its proof, and its terms behind the complexity."""
    layers, log_term, union = len(indices) / 4, math.log(examples / delta) / 2, _union(indices)
    value = error + math.sqrt((complexity + layers + log_term + union) / (examples - 1))
    return value, [
        ("layers", layers, "a quarter for each layer, for the steps between priors"),
        ("log(m / delta) / 2", log_term, "delta without the part for draws"),
        ("priors", union, "sum of log(pi j / sqrt(6)): the choice of the priors"),
    ]


def _printed(
    error: float, complexity: float, variances: Sequence[tuple[int, float]], examples: int, delta: float
) -> float:
    """The theorem as printed, with equation 3; NaN where that has no value."""
    inner = [7 * examples + 2 * math.log(1 / variance) for _, variance in variances]
    if min(inner) <= 0:
        return math.nan
    total = complexity + math.log(examples / delta) + sum(map(math.log, inner))
    return error + math.sqrt(total / (examples - 1))


def _union(indices: Sequence[int]) -> float:
    """Half of what the choice of priors costs: the sum of log(pi j / sqrt(6))."""
    return sum(math.log(math.pi * max(1, index) / math.sqrt(6)) for index in indices)


def _chosen(values: dict[str, float], form: str) -> float:
    """The value of the form asked for."""
    if math.isnan(values[form]):
        raise InputError("equation 3 as printed takes the logarithm of a negative number here; use form='derived'.")
    return values[form]


def _theorem(name: str, form: str) -> str:
    """The theorem's name, with its form."""
    words = {
        "derived": "with the constants of its proof",
        "printed": "as printed",
        "inverse": "without its relaxations",
    }
    return f"{name}, {words[form]}"


def _of_form(form: str) -> tuple[Assumption, ...]:
    """What the printed form assumes beyond the proof."""
    if form != "printed":
        return ()
    return (Assumption("the printed constants are right", "fails", "the proof gives others; see Deviates"),)


def check_form(form: str) -> None:
    """One error for a form that there is not."""
    if form not in ("derived", "printed", "inverse"):
        raise InputError(f"form={form!r}: use 'derived', 'printed' or 'inverse'.")


def check_layers(
    parameters: Sequence[int], alphas: Sequence[float], sigmas: Sequence[float], squared_distances: Sequence[float]
) -> None:
    """One error for numbers of layers that are out of range."""
    check_same_length(parameters=parameters, alphas=alphas, sigmas=sigmas, squared_distances=squared_distances)
    for k, a, s, d in zip(parameters, alphas, sigmas, squared_distances, strict=True):
        check_whole(k, "parameters", 1)
        check_positive(d, "squared_distances", zero=True)
        if not 0 <= check_positive(a, "alphas", zero=True) <= 1:
            raise InputError(f"alphas has {a!r}: the path from init (0) to final (1) has alphas in [0, 1].")
        if check_positive(s, "sigmas") > 1:
            raise InputError(f"sigmas has {s!r}: the theorem needs standard deviations in (0, 1].")
