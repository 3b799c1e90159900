"""The dropout bound: McAllester's theorem for networks whose weights are dropped at random and have Gaussian noise."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from shaketable.bounds.bound import (
    Assumption,
    Bound,
    check_positive,
    check_probability,
    check_whole,
    rows,
)
from shaketable.bounds.mcallester import expected_error, mcallester_bound
from shaketable.bounds.stochastic import drawn_errors, mean_of, stderr_of
from shaketable.engine import Engine
from shaketable.errors import InputError
from shaketable.identity import generator_from
from shaketable.params import Layer, layers
from shaketable.study import Study

PRINTED = 5.0
"""What equation 1 has in the place of the logarithm of the number of fractions searched: that of 148 of them."""


def dropout_divergence(squared_norm: float, dropped: float, sigma: float = 1.0) -> float:
    r"""The divergence of weights with dropout and noise around w from the same around zero.

    .. math:: \mathrm{KL}(Q \| P) = \frac{1 - \alpha}{2 \sigma^2} \lVert w \rVert_2^2, \qquad v = s \circ (w + \sigma \epsilon),
              \quad s_i \sim \mathrm{Bernoulli}(1 - \alpha), \quad \epsilon \sim \mathcal N(0, I)

    where the prior P is the same with w = 0: masks have the same distribution, and only kept weights tell the two apart.

    Args:
        squared_norm: :math:`\lVert w \rVert_2^2` over all weights.
        dropped: :math:`\alpha`, the probability that a weight is dropped, in [0, 1).
        sigma: the standard deviation of the noise on what is kept, above 0; 1 in the paper.

    Returns: in nats, at least 0.

    Raises:
        InputError: a number out of its range.

    Example:
        >>> dropout_divergence(100.0, 0.75)
        12.5

    References: McAllester, "A PAC-Bayesian tutorial with a dropout bound", 2013, section 5.
    """
    squared_norm = check_positive(squared_norm, "squared_norm", zero=True)
    if isinstance(dropped, bool) or not isinstance(dropped, int | float) or not 0 <= dropped < 1:
        raise InputError(f"dropped={dropped!r}: give the probability that a weight is dropped, in [0, 1).")
    return (1 - dropped) * squared_norm / (2 * check_positive(sigma, "sigma") ** 2)


def dropout_bound(
    error: float,
    squared_norm: float,
    dropped: float,
    examples: int,
    searched: int,
    delta: float = 0.05,
    *,
    sigma: float = 1.0,
    draws: int | None = None,
    delta_draws: float | None = None,
) -> Bound:
    r"""The dropout bound on the expected error of networks whose weights are dropped at random, on new examples.

    .. math:: \mathbb E_{v \sim Q}[L(f_v)] \le \mathbb E_{v \sim Q}[\hat L(f_v)] + \sqrt{\frac{\frac{1 - \alpha}{2 \sigma^2}
              \lVert w \rVert_2^2 + \ln(c m / \delta)}{2 (m - 1)}}

    with the divergence of :func:`dropout_divergence`. Each fraction dropped has a prior of its own, so each of the c that could
    have been chosen takes its share of :math:`\delta` (union bound).

    Not done: nothing is said about the pruned network itself, nor about pruning without noise or by magnitude.

    Args:
        error: the expected 0-1 error of Q on the training set, or its mean over ``draws``.
        squared_norm: of all weights.
        dropped: :math:`\alpha`; the fraction *dropped*, as in the paper's equation 1 (in its definition 1 it is the one kept).
        examples: m, from 2.
        searched: c, how many pairs of a fraction and a sigma could have been chosen, fixed beforehand.
        delta: the probability that the bound fails, in all.
        sigma: of the noise.
        draws, delta_draws: as for :func:`shaketable.bounds.mcallester_bound`.

    Returns: a :class:`Bound`. Its value is by the inverse of the KL divergence; the term ``"square root"`` is the formula
        above, and ``"equation 1, printed"`` the paper's, which has ln(m / delta) + 5 in the place of ln(c m / delta).

    Raises:
        InputError: a number out of its range.

    Deviates: the 5 of equation 1 stands for c = 148 fractions, whatever was searched. Its prior and posterior have unit
        Gaussian noise on every kept weight (McAllester 2013), which the paper does not mention and does not add where it
        prunes; without that noise the divergence is infinite, and the bound says nothing.

    Example:
        >>> bound = dropout_bound(0.1, 100.0, 0.9, 50_000, searched=100)
        >>> round(bound.value, 4), round(bound.term("square root"), 4), round(bound.term("equation 1, printed"), 4)
        (0.1094, 0.1153, 0.1154)

    References: Kuhn, Lyle, Gomez, Rothfuss, Gal, "Robustness to pruning predicts generalization in deep neural networks", 2021,
        equation 1, appendix C. McAllester, "A PAC-Bayesian tutorial with a dropout bound", 2013.
    """
    check_whole(searched, "searched", 1)
    expected, left, _, _ = expected_error(error, delta, draws, delta_draws)
    divergence = dropout_divergence(squared_norm, dropped, sigma)
    part = (delta - left) if draws is not None else None
    inner = mcallester_bound(
        error, divergence, examples, left / searched + (part or 0.0), draws=draws, delta_draws=part
    )
    printed = expected + math.sqrt((divergence + math.log(examples / left) + PRINTED) / (2 * (examples - 1)))
    terms = [
        *inner.terms.rows(),
        ("squared norm", squared_norm, "of all weights"),
        ("dropped", dropped, "probability that a weight is dropped"),
        ("sigma", sigma, "standard deviation of the noise on what is kept"),
        ("log(searched)", math.log(searched), "nats; within log(m / delta), whose delta is the share of one choice"),
        ("5", PRINTED, "what equation 1 has in its place"),
        ("equation 1, printed", printed, "the paper's bound: log(m / delta) + 5, relaxed to a square root"),
    ]
    choices = Assumption(
        f"the {searched} choices of fraction and sigma were fixed without the training examples",
        "not checked",
        "a number that the caller gave",
    )
    return replace(
        inner,
        theorem="equation 1 of the prunability paper, with its union bound counted",
        subject="expected 0-1 error on new examples of networks with weights dropped at random and noise on the others",
        delta=delta,
        assumptions=(*inner.assumptions, choices),
        terms=rows(terms),
    )


def study_dropout_bound(
    study: Study,
    dropped: Sequence[float] = tuple(step / 10 for step in range(10)),
    sigmas: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0),
    *,
    draws: int = 100,
    search_draws: int = 5,
    delta: float = 0.05,
    delta_draws: float | None = None,
    seed: int = 0,
    advance: Callable[[int], object] = lambda draws: None,
) -> Bound:
    r"""The dropout bound of a trained network, at the fraction dropped and the noise that make it smallest.

    Every parameter is dropped and has noise, biases and normalisations too. The choice is made on a few draws, the bound on
    fresh ones.

    Args:
        study: with training data.
        dropped: the fractions to choose from, in [0, 1).
        sigmas: the standard deviations of the noise to choose from.
        draws: fresh networks for the training error.
        search_draws: networks for each choice.
        delta, delta_draws: as for :func:`dropout_bound`.
        seed: of the draws.
        advance: called with a number of draws that are done, from time to time.

    Returns: a :class:`Bound`; see :func:`dropout_bound`. Where running statistics were trained, an assumption fails.

    Raises:
        InputError: no training data, labels per token, or a number out of its range.

    Cost: ``draws + search_draws x len(dropped) x len(sigmas)`` passes over the training data, and over test data too.

    Deviates: the paper takes the largest fraction dropped within a tolerance of the training loss; here the smallest bound
        decides, which the union bound allows as well.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> data = (torch.eye(2).repeat(500, 1), torch.tensor([0, 1]).repeat(500))
        >>> study = Study(network, final={"weight": 0.5 * torch.eye(2)}, train=data)
        >>> bound = study_dropout_bound(study, [0.0, 0.5], [0.1, 0.3])
        >>> bound.term("dropped"), bound.term("sigma"), bound.vacuous
        (0.0, 0.1, False)

    References: as :func:`dropout_bound`.
    """
    data = study.data("train")
    if study.task != "classification":
        raise InputError(
            "the bound needs independent examples with one label each; a language model has one per token."
        )
    if not dropped or not sigmas:
        raise InputError("dropped and sigmas need at least one number each.")
    check_whole(draws, "draws", 1)
    check_whole(search_draws, "search_draws", 1)
    check_probability(delta, "delta")
    found = layers(study.network, "module", study.example_inputs())
    squares = [float(study.final[name].double().square().sum()) for layer in found for name in layer.params]
    square, choices = math.fsum(squares), list(product(dropped, sigmas))
    for fraction, sigma in choices:
        dropout_divergence(square, fraction, sigma)
    engine = Engine(study.network, study.final, precision="float32")
    best, smallest = choices[0], math.inf
    for fraction, sigma in choices if len(choices) > 1 else ():
        posterior = _Dropout(study, found, fraction, sigma)
        train, _ = drawn_errors(study, engine, posterior, search_draws, seed, "dropout search", advance)
        share = dropout_divergence(square, fraction, sigma) / (2 * (len(data) - 1))
        if mean_of(train) + math.sqrt(share) < smallest:
            best, smallest = (fraction, sigma), mean_of(train) + math.sqrt(share)
    train, test = drawn_errors(study, engine, _Dropout(study, found, *best), draws, seed, "dropout bound", advance)
    bound = dropout_bound(
        mean_of(train),
        square,
        best[0],
        len(data),
        len(choices),
        delta,
        sigma=best[1],
        draws=draws,
        delta_draws=delta_draws,
    )
    terms = [*bound.terms.rows(), ("error, stderr", stderr_of(train), "standard error of the mean training error")]
    if test:
        terms.append(("test error", mean_of(test), "mean test error of the same draws; no part of the bound"))
    assumptions = [one for one in bound.assumptions if "that the caller gave" not in one.how]
    drawn = Assumption(
        "the training error is the mean over independent draws from the posterior that served for nothing else",
        "holds",
        f"{draws} fresh pseudo-random draws, on all training examples",
    )
    chosen = replace(bound.assumptions[-1], how="nothing in the numbers shows it")
    return replace(
        bound,
        subject=f"{bound.subject} ({study.name}, drawn anew for each example)",
        assumptions=(*assumptions, drawn, chosen, _statistics(study, found)),
        terms=rows(terms),
        chance=1 - 1 / study.classes,
    )


@dataclass(frozen=True)
class _Dropout:
    """Networks whose every parameter is dropped with one probability and has noise otherwise."""

    study: Study
    layers: tuple[Layer, ...]
    dropped: float
    sigma: float

    def draw(self, seed: int, purpose: str, draw: int) -> dict[str, Tensor]:
        """One network: the same masks and noise for the same seed, purpose and number."""
        generator = generator_from(seed, purpose, draw)
        found = {}
        for layer in self.layers:
            for name in layer.params:
                weight = self.study.final[name]
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                kept = (torch.rand(weight.shape, generator=generator) >= self.dropped).to(weight.device)
                found[name] = (weight + self.sigma * noise) * kept
        return found


def _statistics(study: Study, found: Sequence[Layer]) -> Assumption:
    """Whether nothing but the parameters was trained."""
    held = {name for layer in found for name in layer.params}
    others = [name for name, tensor in study.final.items() if name not in held and tensor.is_floating_point()]
    moved = [name for name in others if study.init is None or not torch.equal(study.final[name], study.init[name])]
    what = "nothing but parameters with noise was trained: no running statistics"
    if not moved:
        return Assumption(what, "checked", "there are none, or they are as they were at init")
    known = (
        "moved in training"
        if study.init is not None
        else "may have moved: there are no initial weights to compare with"
    )
    return Assumption(what, "fails" if study.init is not None else "not checked", f"{moved[0]} {known}")
