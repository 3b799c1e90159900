"""Flatness under noise by the magnitude of each weight: the measures of two papers, named apart."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from shaketable.measures.derivatives import names_of
from shaketable.measures.flatness import EPSILON, SIGMAS, searched
from shaketable.measures.measure import JIANG, KUHN, Measurement, measure
from shaketable.measures.norm_sums import BatchNorm, weights_of
from shaketable.study import Study


@measure(symbol="pacbayes-mag-flatness", direction="lower", needs=("train",), paper=JIANG)
def magnitude_flatness_jiang2020(
    study: Study,
    drop: float = 0.1,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 10,
    failure: float = 1e-4,
    seed: int = 0,
    batch_norm: BatchNorm = "fold",
) -> Measurement:
    r"""Magnitude-aware flatness of Jiang et al.: noise in proportion to weights, by accuracy.

    .. math:: \frac{1}{\sigma^2}, \qquad u_i \sim \mathcal N(0, \sigma^2 |w_i|^2 + \epsilon^2), \quad \epsilon = 10^{-3}

    with the largest :math:`\sigma` at which the expected 0-1 training error grows by at most ``drop``. Not done: biases and
    normalisations have no noise.

    Args:
        study: with training data.
        drop, sigmas, draws, failure, seed, batch_norm: as for :func:`pac_bayes_flatness`.

    Returns: as there.

    Cost: that of :func:`pac_bayes_flatness`.

    Deviates: as there.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.eye(2)}, train=(torch.eye(2), [0, 1]))
        >>> 0.01 < magnitude_flatness_jiang2020(study).value < 100
        True

    References: Jiang et al., "Fantastic generalization measures and where to find them", 2020, equation 61.
    """
    found = searched(study, "magnitude squared", "error", drop, tuple(sigmas), draws, failure, seed, batch_norm)
    return found.measurement(lambda sigma: 1 / sigma**2)


@measure(symbol="pac-bayes-mag-flat", direction="lower", needs=("train",), paper=KUHN)
def magnitude_flatness_kuhn2021(
    study: Study,
    beta: float = 0.1,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 10,
    seed: int = 0,
    batch_norm: BatchNorm = "keep",
) -> Measurement:
    r"""Magnitude-aware flatness of the prunability paper: noise by the size of weights, by loss.

    .. math:: \frac{1}{\sigma^2}, \qquad u_i \sim \mathcal N(0, \sigma^2 |w_i| + \epsilon), \quad \epsilon = 10^{-6}

    with the largest :math:`\sigma` at which the expected training loss is at most :math:`1 + \beta` times its value. Not done:
    biases and normalisations have no noise.

    Args:
        study: with training data.
        beta: the tolerance of the loss; with a training loss near zero it is tiny.
        sigmas: the grid, ascending.
        draws: of the noise, the same ones at every sigma.
        seed: of the noise and of the order of examples.
        batch_norm: ``"keep"``, or ``"fold"`` into the weights before the noise; the paper does not say.

    Returns: as :func:`pac_bayes_flatness`, with a ``failure`` of 1e-4: that a sigma is not borne is told by some of the data.

    Cost: ``draws`` passes over the data for each sigma that is found to be borne (often one, or two), and for one that is not.

    Deviates: the paper does not give its :math:`\epsilon`; ours has the standard deviation of Jiang et al.'s.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.eye(2)}, train=(torch.eye(2), [0, 1]))
        >>> magnitude_flatness_kuhn2021(study).value > magnitude_flatness_kuhn2021(study, beta=0.5).value
        True

    References: Kuhn, Lyle, Gomez, Rothfuss, Gal, "Robustness to pruning predicts generalization in deep neural networks", 2021,
        section 5.1.
    """
    found = searched(study, "magnitude", "loss", beta, tuple(sigmas), draws, 1e-4, seed, batch_norm)
    return found.measurement(lambda sigma: 1 / sigma**2)


@measure(symbol="pacbayes-mag-init", direction="lower", needs=("init", "train"), paper=JIANG)
def magnitude_from_init_jiang2020(
    study: Study,
    drop: float = 0.1,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 10,
    failure: float = 1e-4,
    seed: int = 0,
    batch_norm: BatchNorm = "fold",
) -> Measurement:
    r"""Magnitude-aware PAC-Bayes measure around init, of Jiang et al.

    .. math:: \frac14 \sum_{i=1}^{\omega} \ln \frac{\epsilon^2 + (\sigma^2 + 1) \lVert w - w^0 \rVert_2^2 / \omega}{\epsilon^2 +
              \sigma^2 |w_i - w_i^0|^2} + \ln \frac m\sigma + 10

    with :math:`\sigma` of :func:`magnitude_flatness_jiang2020` over :math:`\omega` weights, and m training examples. Not done: it
    is no bound.

    Args:
        study: with init and training data.
        drop, sigmas, draws, failure, seed, batch_norm: as for :func:`shaketable.measures.pac_bayes_flatness`.

    Returns: as there.

    Cost: that of :func:`magnitude_flatness_jiang2020`, once for both.

    Deviates: as there.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.eye(2)}, init={"weight": -torch.eye(2)}, train=(torch.eye(2), [0, 1]))
        >>> magnitude_from_init_jiang2020(study).value > 10
        True

    References: Jiang et al., "Fantastic generalization measures and where to find them", 2020, equation 56.
    """
    found = searched(study, "magnitude squared", "error", drop, tuple(sigmas), draws, failure, seed, batch_norm)
    moved = _moved(study, batch_norm)
    return found.measurement(lambda sigma: _divergence(moved, moved, sigma, len(study.data("train"))))


@measure(symbol="pacbayes-mag-orig", direction="lower", needs=("init", "train"), paper=JIANG)
def magnitude_from_origin_jiang2020(
    study: Study,
    drop: float = 0.1,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 10,
    failure: float = 1e-4,
    seed: int = 0,
    batch_norm: BatchNorm = "fold",
) -> Measurement:
    r"""Magnitude-aware PAC-Bayes measure around zero, of Jiang et al.

    .. math:: \frac14 \sum_{i=1}^{\omega} \ln \frac{\epsilon^2 + (\sigma^2 + 1) \lVert w \rVert_2^2 / \omega}{\epsilon^2 +
              \sigma^2 |w_i - w_i^0|^2} + \ln \frac m\sigma + 10

    with :math:`\sigma` of :func:`magnitude_flatness_jiang2020` over :math:`\omega` weights, and m training examples. Not done: it
    is no bound.

    Args:
        study: with init and training data: the denominator has the distance to init here too.
        drop, sigmas, draws, failure, seed, batch_norm: as for :func:`shaketable.measures.pac_bayes_flatness`.

    Returns: as there.

    Cost: that of :func:`magnitude_flatness_jiang2020`, once for both.

    Deviates: as there.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.eye(2)}, init={"weight": -torch.eye(2)}, train=(torch.eye(2), [0, 1]))
        >>> magnitude_from_origin_jiang2020(study).value < magnitude_from_init_jiang2020(study).value
        True

    References: Jiang et al., "Fantastic generalization measures and where to find them", 2020, equation 57.
    """
    found = searched(study, "magnitude squared", "error", drop, tuple(sigmas), draws, failure, seed, batch_norm)
    final = weights_of(study, batch_norm, study.final)
    whole = torch.cat([final[name].double().flatten() for name in names_of(study, "weight")])
    moved = _moved(study, batch_norm)
    return found.measurement(lambda sigma: _divergence(whole, moved, sigma, len(study.data("train"))))


def _moved(study: Study, batch_norm: BatchNorm) -> Tensor:
    """What training added to the weights, as one vector."""
    final, init = weights_of(study, batch_norm, study.final), weights_of(study, batch_norm, study.init or {})
    return torch.cat([(final[n].double() - init[n].double()).flatten() for n in names_of(study, "weight")])


def _divergence(reference: Tensor, moved: Tensor, sigma: float, examples: int) -> float:
    """The term under the root of a PAC-Bayes bound with noise by magnitude."""
    above = EPSILON**2 + (sigma**2 + 1) * float(reference.square().sum()) / len(reference)
    below = EPSILON**2 + sigma**2 * moved.square()
    return float((above / below).log().sum()) / 4 + math.log(examples / sigma) + 10
