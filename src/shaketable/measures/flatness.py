"""PAC-Bayes measures of flatness: how much Gaussian noise on all weights a network bears; and the search for that."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from shaketable.engine import Engine, largest_magnitude
from shaketable.errors import InputError
from shaketable.identity import generator_from
from shaketable.measures.derivatives import names_of, some
from shaketable.measures.measure import JIANG, Measurement, from_value, measure
from shaketable.measures.norm_sums import BatchNorm, weights_of
from shaketable.probes.stored import check_whole
from shaketable.study import Study

SIGMAS = tuple(10.0 ** (step / 40 - 4) for step in range(201))
"""From 1e-4 to 10, 40 in each power of ten."""
EPSILON = 1e-3
"""The noise that a weight of zero has, as a standard deviation."""
PROBED, WIDE = 512, 1.25
"""Examples for the standard error, and by what sigma is changed there to see the slope."""
Noise = Literal["plain", "magnitude squared", "magnitude"]
VARIANCES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "plain": lambda weight, sigma: torch.full_like(weight, sigma**2),
    "magnitude squared": lambda weight, sigma: sigma**2 * weight**2 + EPSILON**2,
    "magnitude": lambda weight, sigma: sigma**2 * weight.abs() + EPSILON**2,
}
TOO_LITTLE = "even the smallest noise of the grid is too much"


@measure(symbol="pacbayes-flatness", direction="lower", needs=("train",), paper=JIANG)
def pac_bayes_flatness(
    study: Study,
    drop: float = 0.1,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 10,
    failure: float = 1e-4,
    seed: int = 0,
    batch_norm: BatchNorm = "fold",
) -> Measurement:
    r"""PAC-Bayes flatness: one over the variance of the noise that costs a tenth of the accuracy.

    .. math:: \frac{1}{\sigma^2}, \qquad \sigma = \max\{\sigma : \mathbb E_{u \sim \mathcal N(0, \sigma^2 I)}[\hat L(f_{w + u})]
              \le \hat L(f_w) + 0.1\}

    with the 0-1 training error :math:`\hat L`. Not done: biases and normalisations have no noise; it is no bound.

    Args:
        study: with training data.
        drop: what the error may grow by.
        sigmas: the grid of standard deviations, ascending.
        draws: of the noise, the same ones at every sigma.
        failure: the probability that an answer on which the number rests is wrong.
        seed: of the noise and of the order of examples.
        batch_norm: ``"fold"`` into the weights before the noise, or ``"keep"``.

    Returns: above 0; at the end of the grid where all of it is borne (``reason`` says so). Status ``"infeasible"`` where even
        the smallest noise is too much.

    Cost: ``draws`` passes over the data at one sigma, and some of as many beside it: see
        :func:`shaketable.engine.largest_magnitude`.

    Deviates: Jiang et al.'s code takes the absolute change of accuracy, returns the last midpoint of its bisection, adds noise to
        biases too, and (in the code of Dziugaite et al.) gives the variance where a standard deviation is meant.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> data = (torch.eye(2), [0, 1])
        >>> one, two = (pac_bayes_flatness(Study(network, final={"weight": s * torch.eye(2)}, train=data)) for s in (0.1, 1.0))
        >>> one.value > 50 * two.value  # weights ten times as large bear ten times as much
        True

    References: Jiang et al., "Fantastic generalization measures and where to find them", 2020, equation 53.
    """
    found = searched(study, "plain", "error", drop, tuple(sigmas), draws, failure, seed, batch_norm)
    return found.measurement(lambda sigma: 1 / sigma**2)


@measure(symbol="pacbayes-init", direction="lower", needs=("init", "train"), paper=JIANG)
def pac_bayes_from_init(
    study: Study,
    drop: float = 0.1,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 10,
    failure: float = 1e-4,
    seed: int = 0,
    batch_norm: BatchNorm = "fold",
) -> Measurement:
    r"""PAC-Bayes measure around init: the squared distance over the variance of the noise that is borne.

    .. math:: \frac{\lVert w - w^0 \rVert_2^2}{4 \sigma^2} + \ln \frac m\sigma + 10

    with :math:`\sigma` of :func:`pac_bayes_flatness` and m training examples. Not done: it is no bound, though it looks like one.

    Args:
        study: with init and training data.
        drop, sigmas, draws, failure, seed, batch_norm: as for :func:`pac_bayes_flatness`.

    Returns: as there.

    Cost: that of :func:`pac_bayes_flatness`, once for both.

    Deviates: as there.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.eye(2)}, init={"weight": -torch.eye(2)}, train=(torch.eye(2), [0, 1]))
        >>> pac_bayes_from_init(study).value > 10
        True

    References: Jiang et al., "Fantastic generalization measures and where to find them", 2020, equation 48.
    """
    found = searched(study, "plain", "error", drop, tuple(sigmas), draws, failure, seed, batch_norm)
    final, init = weights_of(study, batch_norm, study.final), weights_of(study, batch_norm, study.init or {})
    square = math.fsum(float((final[n].double() - init[n].double()).square().sum()) for n in names_of(study, "weight"))
    return found.measurement(lambda sigma: _complexity(square, sigma, len(study.data("train"))))


@measure(symbol="pacbayes-orig", direction="lower", needs=("train",), paper=JIANG)
def pac_bayes_from_origin(
    study: Study,
    drop: float = 0.1,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 10,
    failure: float = 1e-4,
    seed: int = 0,
    batch_norm: BatchNorm = "fold",
) -> Measurement:
    r"""PAC-Bayes measure around zero: the squared norm over the variance of the noise that is borne.

    .. math:: \frac{\lVert w \rVert_2^2}{4 \sigma^2} + \ln \frac m\sigma + 10

    with :math:`\sigma` of :func:`pac_bayes_flatness` and m training examples. Not done: it is no bound, though it looks like one.

    Args:
        study: with training data.
        drop, sigmas, draws, failure, seed, batch_norm: as for :func:`pac_bayes_flatness`.

    Returns: as there.

    Cost: that of :func:`pac_bayes_flatness`, once for both.

    Deviates: as there.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.eye(2)}, train=(torch.eye(2), [0, 1]))
        >>> pac_bayes_from_origin(study).value > 10
        True

    References: Jiang et al., "Fantastic generalization measures and where to find them", 2020, equation 49.
    """
    found = searched(study, "plain", "error", drop, tuple(sigmas), draws, failure, seed, batch_norm)
    final = weights_of(study, batch_norm, study.final)
    square = math.fsum(float(final[name].double().square().sum()) for name in names_of(study, "weight"))
    return found.measurement(lambda sigma: _complexity(square, sigma, len(study.data("train"))))


@dataclass(frozen=True)
class Borne:
    """The largest sigma that is borne, the standard error of it, and what is to be said; None where none is."""

    sigma: float | None
    stderr: float | None
    draws: int
    reason: str | None

    def measurement(self, value: Callable[[float], float]) -> Measurement:
        """The measurement of a smooth function of sigma."""
        if self.sigma is None:
            return Measurement(None, status="infeasible", reason=self.reason)
        found = value(self.sigma)
        error = None
        if self.stderr is not None:
            step = 1e-4 * self.sigma
            error = abs(value(self.sigma + step) - value(self.sigma - step)) / (2 * step) * self.stderr
        return replace(from_value(found, stderr=error, draws=None if error is None else self.draws), reason=self.reason)


_KNOWN: WeakKeyDictionary[Study, dict[tuple[object, ...], Borne]] = WeakKeyDictionary()


def searched(study: Study, *arguments: object) -> Borne:
    """The search of these arguments, once for all measures of a study that rest on it."""
    known = _KNOWN.setdefault(study, {})
    if arguments not in known:
        known[arguments] = _search(study, *arguments)  # pyright: ignore[reportArgumentType]
    return known[arguments]


def _search(
    study: Study,
    noise: Noise,
    quantity: Literal["error", "loss"],
    tolerance: float,
    sigmas: tuple[float, ...],
    draws: int,
    failure: float,
    seed: int,
    batch_norm: BatchNorm,
) -> Borne:
    """The largest sigma of the grid at which the mean over draws stays within the tolerance."""
    check_whole(1, draws=draws)
    if not sigmas or not all(0 < sigma < math.inf for sigma in sigmas) or list(sigmas) != sorted(set(sigmas)):
        raise InputError(f"sigmas={sigmas}: give finite standard deviations above 0, ascending.")
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
        raise InputError(f"{'drop' if quantity == 'error' else 'beta'}={tolerance!r}: give a tolerance from 0.")
    params, names, data = weights_of(study, batch_norm, study.final), names_of(study, "weight"), study.data("train")
    engine = Engine(study.network, params)

    def variants(sigma: float) -> list[dict[str, Tensor]]:
        deviations = {name: VARIANCES[noise](params[name], sigma).sqrt() for name in names}
        found = []
        for draw in range(draws):
            generator, changed = generator_from(seed, "flatness", draw), {}
            for name, deviation in deviations.items():
                normal = torch.randn(deviation.shape, generator=generator).to(deviation)
                changed[name] = params[name] + normal * deviation
            found.append(changed)
        return found

    def allowed(clean: float) -> float:
        return clean + tolerance if quantity == "error" else clean * (1 + tolerance)

    found = largest_magnitude(
        engine, sigmas, variants, draws, data, allowed, quantity=quantity, failure=failure, seed=seed
    )
    if found.value is None:
        return Borne(None, None, draws, TOO_LITTLE)
    part = some(data, PROBED, seed)
    if quantity == "loss":
        engine = Engine(study.network, params, level="loop")  # whose sums repeat exactly

    def means(sigma: float) -> torch.Tensor:
        sums = engine.sums(variants(sigma), part)
        return torch.tensor([s.error if quantity == "error" else s.mean_loss for s in sums], dtype=torch.float64)

    slope = float((means(WIDE * found.value) - means(found.value / WIDE)).mean()) / (found.value * (WIDE - 1 / WIDE))
    spread = float(means(found.value).std()) / math.sqrt(draws) if draws > 1 else math.nan
    told = (
        None if found.monotone else "the curve was not monotone: it is the largest of the sigmas tested that is borne"
    )
    if found.value == sigmas[-1]:
        told = "all noise of the grid is borne; give larger sigmas"
    return Borne(found.value, spread / slope if slope > 0 and spread == spread else None, draws, told)


def _complexity(square: float, sigma: float, examples: int) -> float:
    """The term under the root of a PAC-Bayes bound with an isotropic Gaussian."""
    return square / (4 * sigma**2) + math.log(examples / sigma) + 10
