"""Measures of the curvature of the training loss, and of the gradients of single examples."""

import math
from typing import Any, Literal

import numpy as np
import polars as pl
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from shaketable.errors import InputError, RunError
from shaketable.identity import seed_from
from shaketable.measures.derivatives import Objective, Parameters
from shaketable.measures.measure import JIANG, Measurement, from_value, measure
from shaketable.study import Study

LIANG = "Liang, Poggio, Rakhlin, Stokes, Fisher-Rao metric, geometry, and complexity of neural networks, 2019"
MADDOX = (
    "Maddox, Benton, Wilson, Rethinking parameter counting in deep models: effective dimensionality revisited, 2020"
)
KESKAR_HESSIAN = (
    "Sagun, Evci, Guney, Dauphin, Bottou, Empirical analysis of the Hessian of over-parametrized neural networks, 2018"
)
WORTH_SAYING = 1e-3
"""Residuals above this share of the largest eigenvalue are told."""


def hessian_spectrum(
    study: Study,
    count: int = 20,
    parameters: Parameters = "weight",
    examples: int | None = 1000,
    seed: int = 0,
    which: Literal["largest", "magnitude"] = "largest",
) -> pl.DataFrame:
    r"""The leading eigenvalues of the Hessian of the training loss, with their residuals.

    .. math:: H = \nabla^2 L(w), \qquad r_i = \lVert H v_i - \lambda_i v_i \rVert_2

    by scipy's Lanczos solver on products with the Hessian; where as many are wanted as there are parameters, by all its columns.
    Not done: batch norms are in evaluation mode; the data are not augmented.

    Args:
        study: with training data.
        count: how many, from 1; at most the number of parameters.
        parameters: ``"weight"`` of linear layers, or ``"all"``.
        examples: so many of the training examples, drawn from the seed; all without.
        seed: of the examples and of the start.
        which: the ``"largest"`` ones, or those of largest ``"magnitude"``.

    Returns: a row an eigenvalue, descending: ``index``, ``eigenvalue``, ``residual``.

    Raises:
        InputError: a number out of its range.
        RunError: the solver did not converge, or the Hessian is not finite.

    Cost: about four times ``count`` + 20 products (401 for 100, 23 for one, on a Network-in-Network of 30,560 weights), each two
        passes forward and backward.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(1, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.zeros(2, 1)}, train=(torch.ones(1, 1), [0]))
        >>> [round(value, 6) for value in hessian_spectrum(study, 2)["eigenvalue"]]
        [0.5, 0.0]

    References: Maddox, Benton, Wilson, 2020; Sagun et al., 2018.
    """
    if which not in ("largest", "magnitude"):
        raise InputError(f"which={which!r}: use 'largest' or 'magnitude'.")
    objective = Objective(study, parameters, examples, seed)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"count={count!r}: give a whole number of eigenvalues from 1.")
    values, vectors = _eigen(objective, min(count, objective.size), seed, "LA" if which == "largest" else "LM")
    order = np.argsort(-values)
    residuals = [float(np.linalg.norm(objective.product(vectors[:, i]) - values[i] * vectors[:, i])) for i in order]
    return pl.DataFrame({"index": range(len(order)), "eigenvalue": values[order], "residual": residuals})


@measure(symbol="lambda-max", direction="lower", needs=("train",), paper=KESKAR_HESSIAN)
def hessian_largest_eigenvalue(
    study: Study, parameters: Parameters = "weight", examples: int = 1000, seed: int = 0
) -> Measurement:
    r"""Largest eigenvalue of the Hessian of the training loss.

    .. math:: \lambda_1(\nabla^2 L(w))

    with the mean cross-entropy L in evaluation mode. Not done: it depends on the scale of the weights.

    Args:
        study: with training data.
        parameters: ``"weight"`` of linear layers, or ``"all"``.
        examples: so many of the training examples, drawn from the seed.
        seed: of the examples and of the solver's start.

    Returns: 0 for a loss that is flat. ``reason`` tells the residual where it is more than a thousandth of the value.

    Cost: about 25 products with the Hessian.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(1, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.zeros(2, 1)}, train=(torch.ones(1, 1), [0]))
        >>> round(hessian_largest_eigenvalue(study).value, 6)
        0.5

    References: Sagun et al., "Empirical analysis of the Hessian of over-parametrized neural networks", 2018.
    """
    found = hessian_spectrum(study, 1, parameters, examples, seed)
    return from_value(found["eigenvalue"][0], reason=_told(found))


@measure(symbol="trace(H)", direction="lower", needs=("train",), paper=KESKAR_HESSIAN)
def hessian_trace(
    study: Study, parameters: Parameters = "weight", draws: int = 30, examples: int = 1000, seed: int = 0
) -> Measurement:
    r"""Trace of the Hessian of the training loss: the sum of its eigenvalues, estimated.

    .. math:: \operatorname{tr}(H) = \mathbb E_{v \in \{-1, 1\}^k}[v^T H v]

    by Hutchinson's estimator. Not done: as for the largest eigenvalue.

    Args:
        study: with training data.
        parameters: ``"weight"`` of linear layers, or ``"all"``.
        draws: random vectors, at least 2.
        examples: so many of the training examples, drawn from the seed.
        seed: of the examples and of the vectors.

    Returns: the mean over draws, with its standard error.

    Raises:
        InputError: fewer than two draws.

    Cost: ``draws`` products with the Hessian.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(1, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.zeros(2, 1)}, train=(torch.ones(1, 1), [0]))
        >>> found = hessian_trace(study, draws=100)
        >>> abs(found.value - 0.5) < 3 * found.stderr
        True

    References: Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines", 1990.
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 2:
        raise InputError(f"draws={draws!r}: give a whole number from 2.")
    objective, random = Objective(study, parameters, examples, seed), np.random.default_rng(seed_from(seed, "trace"))
    values = []
    for _ in range(draws):
        signs = random.choice([-1.0, 1.0], size=objective.size)
        values.append(float(signs @ objective.product(signs)))
    return from_value(float(np.mean(values)), stderr=float(np.std(values, ddof=1)) / math.sqrt(draws), draws=draws)


@measure(symbol="N_eff / k", direction="lower", needs=("train",), paper=MADDOX)
def effective_dimensionality(
    study: Study,
    z: float = 1.0,
    count: int = 100,
    parameters: Parameters = "weight",
    normalised: bool = True,
    examples: int = 200,
    seed: int = 0,
) -> Measurement:
    r"""Effective dimensionality: how many directions of the weights the training loss has determined.

    .. math:: \frac1k \sum_{i=1}^{c} \frac{\lambda_i}{\lambda_i + z}

    over the ``count`` c leading eigenvalues of the Hessian, those below 0 left out, for k parameters. Not done: the rest of the
    spectrum, each of whose terms is below the last one's.

    Args:
        study: with training data.
        z: the regularisation constant, above 0.
        count: leading eigenvalues.
        parameters: ``"weight"`` of linear layers (as in the public code), or ``"all"``.
        normalised: divide by the number of parameters, as the prunability paper does; Maddox et al. do not.
        examples: so many of the training examples, drawn from the seed.
        seed: of the examples and of the solver's start.

    Returns: in [0, 1] where normalised, up to ``count`` otherwise. ``reason`` tells a residual above a thousandth.

    Raises:
        InputError: z not above 0.

    Cost: about 400 products with the Hessian for 100 eigenvalues.

    Deviates: the public code has batch norms in training mode and averages batches of unequal size; ours is the Hessian of
        the mean loss of the network that is evaluated.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(1, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.zeros(2, 1)}, train=(torch.ones(1, 1), [0]))
        >>> round(effective_dimensionality(study, normalised=False).value, 6)  # 0.5 / 1.5
        0.333333

    References: Maddox, Benton, Wilson, "Rethinking parameter counting in deep models: effective dimensionality revisited", 2020,
        equation 2. Kuhn et al., 2021, appendix A.2.
    """
    if isinstance(z, bool) or not isinstance(z, int | float) or not z > 0:
        raise InputError(f"z={z!r}: give a number above 0.")
    found = hessian_spectrum(study, count, parameters, examples, seed)
    values = found["eigenvalue"].to_numpy().clip(min=0)
    size = Objective(study, parameters, 1, seed).size if normalised else 1
    return from_value(float((values / (values + z)).sum()) / size, reason=_told(found))


@measure(symbol="Fisher-Rao", direction="lower", needs=("train",), paper=LIANG)
def fisher_rao_norm(study: Study, examples: int = 1000, seed: int = 0) -> Measurement:
    r"""Fisher-Rao norm: how much the losses change when all parameters are scaled.

    .. math:: \Bigl(\frac1n \sum_i \langle w, \nabla_w \ell(f_w(x_i), y_i) \rangle^2\Bigr)^{1/2}

    over training examples, with their own labels (the empirical Fisher matrix). Not done: for networks of rectified linear
    layers without biases this does not depend on how layers are scaled against each other; with biases it does.

    Args:
        study: with training data.
        examples: so many of them, drawn from the seed.
        seed: of the choice.

    Returns: at least 0.

    Cost: three passes over the examples.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(1, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.tensor([[1.0], [-1.0]])}, train=(torch.ones(1, 1), [0]))
        >>> found = fisher_rao_norm(study).value  # logits 1 and -1; the gradient is (-p, p), p = 1 / (1 + e^2)
        >>> round(found, 6) == round(2 / (1 + math.e**2), 6)
        True

    References: Liang, Poggio, Rakhlin, Stokes, "Fisher-Rao metric, geometry, and complexity of neural networks", 2019,
        definition 2.
    """
    objective = Objective(study, "all", examples, seed)
    slopes = objective.slopes(objective.final)
    return from_value(float(np.sqrt(np.mean(slopes**2))))


@measure(symbol="grad-noise", direction="lower", needs=("train",), paper=JIANG)
def gradient_noise_norm(
    study: Study, parameters: Parameters = "all", examples: int = 200, seed: int = 0
) -> Measurement:
    r"""Norm of the gradient noise: the spread of the gradients of single examples.

    .. math:: \Bigl(\frac1n \sum_i \lVert \nabla \ell_i - \nabla L \rVert_2^2\Bigr)^{1/2}

    at the final weights, in evaluation mode. Not done: the noise of batches is this divided by the root of their size.

    Args:
        study: with training data.
        parameters: ``"all"``, or the ``"weight"`` of linear layers.
        examples: so many of the training examples, drawn from the seed.
        seed: of the choice.

    Returns: at least 0; 0 where all examples pull alike.

    Cost: a pass forward and backward for each example by itself.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(1, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.zeros(2, 1)}, train=(torch.ones(2, 1), [0, 1]))
        >>> round(gradient_noise_norm(study).value, 6)  # gradients (-1/2, 1/2) and (1/2, -1/2)
        0.707107

    References: Jiang et al., "Fantastic generalization measures and where to find them", 2020, appendix (gradient noise).
    """
    objective = Objective(study, parameters, examples, seed)
    total, squares, count = np.zeros(objective.size), 0.0, 0
    for gradient in objective.gradients():
        total, squares, count = total + gradient, squares + float(gradient @ gradient), count + 1
    mean = total / count
    return from_value(math.sqrt(max(0.0, squares / count - float(mean @ mean))))


def _eigen(objective: Objective, count: int, seed: int, which: str) -> tuple[np.ndarray, np.ndarray]:
    """Leading eigenvalues and vectors."""
    size = objective.size
    start = np.random.default_rng(seed_from(seed, "eigenvalues")).normal(size=size)
    image = objective.product(start)
    if not np.isfinite(image).all():
        raise RunError("the Hessian of the training loss is not finite: some logits, or slopes, are NaN or infinite.")
    if not image.any():  # the loss is flat, and Lanczos has nowhere to go
        return np.zeros(count), np.eye(size, count)
    if count >= size - 1 or size < 30:  # Lanczos wants more room than that
        dense = np.stack([objective.product(column) for column in np.eye(size)])
        values, vectors = np.linalg.eigh((dense + dense.T) / 2)
        order = np.argsort(-values if which == "LA" else -np.abs(values))[:count]
        return values[order], vectors[:, order]
    product: Any = LinearOperator  # its type stubs know neither this call nor eigsh's
    operator = product((size, size), matvec=lambda v: objective.product(v.reshape(-1)), dtype=np.float64)
    solver: Any = eigsh
    try:
        return solver(operator, k=count, which=which, v0=start, ncv=min(size, 2 * count + 20), tol=1e-6)
    except ArpackError as error:
        raise RunError(f"the eigenvalues of the Hessian could not be found: {error}") from error


def _told(spectrum: pl.DataFrame) -> str | None:
    """What is to be known of the residuals."""
    worst, largest = float(spectrum["residual"].to_numpy().max()), float(spectrum["eigenvalue"].to_numpy().max())
    return f"the largest residual is {worst:.2g}" if worst > WORTH_SAYING * abs(largest) else None
