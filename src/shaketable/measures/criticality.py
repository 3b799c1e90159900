"""Measures searched on the way from init to final weights: network criticality, and its special case at alpha = 1."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from shaketable.errors import InputError
from shaketable.measures.measure import CHATTERJI, Measurement, Unavailable, from_value, measure
from shaketable.measures.norms import SCHEMA
from shaketable.probes.criticality import ALPHAS, SIGMAS, Threshold, TooManyErrors, criticality
from shaketable.study import Study


@measure(symbol="Net. Criticality", direction="lower", needs=("init", "train"), paper=CHATTERJI)
def network_criticality(
    study: Study,
    epsilon: float = 0.1,
    threshold: Threshold = "absolute",
    alphas: Sequence[float] = ALPHAS,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 10,
    failure: float = 1e-4,
    seed: int = 0,
    batch_size: int | None = None,
    store: str | Path | None = None,
) -> Measurement:
    r"""Network criticality: the sum of module criticalities at an error threshold.

    .. math:: \mu_\epsilon(f_\Theta) = \sum_i \mu_{i,\epsilon}(f_\Theta) = \sum_i \frac{\alpha_i^2 \lVert\theta_i^0 - \theta_i^F
              \rVert_{Fr}^2}{\sigma_i^2}

    with :math:`\alpha_i, \sigma_i` as :func:`shaketable.probes.criticality` finds them for each convolution and linear
    layer alone. Not done: layers are not perturbed together (:func:`shaketable.probes.joint_criticality` does).

    Args:
        study: with init and training data.
        epsilon, threshold: the bound on the training error.
        alphas, sigmas: the grids.
        draws: draws of the noise.
        failure: the probability that an answer on which the number rests is wrong.
        seed: of the noise and of the order of examples.
        batch_size: examples in flight; changes memory and speed.
        store: a folder that keeps the answers as they come.

    Returns: at least 0; 0 means that each layer alone may go back to its init. Status ``"infeasible"`` where a layer exceeds
        the bound even at its final weights with the least noise. ``layers`` has the criticality of each.

    Cost: that of :func:`shaketable.probes.criticality`.

    Deviates: see there.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.eye(2)}, init={"weight": 2 * torch.eye(2)}, train=(torch.eye(2), [0, 1]))
        >>> network_criticality(study, draws=2).value
        0.0

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
    networks", 2020, definition 3.1, equation 2, table 1.
    """
    same = {"threshold": threshold, "sigmas": sigmas, "draws": draws, "failure": failure, "seed": seed}
    return _summed(study, epsilon, alphas=alphas, batch_size=batch_size, store=store, **same)


@measure(symbol="PAC Bayes", direction="lower", needs=("init", "train"), paper=CHATTERJI)
def pac_bayes(
    study: Study,
    epsilon: float = 0.1,
    threshold: Threshold = "absolute",
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 10,
    failure: float = 1e-4,
    seed: int = 0,
    batch_size: int | None = None,
    store: str | Path | None = None,
) -> Measurement:
    r"""PAC-Bayes measure: squared distances to init over the variance of the noise that each layer bears.

    .. math:: \sum_i \frac{\lVert\theta_i^0 - \theta_i^F\rVert_{Fr}^2}{\sigma_i^2}

    with the largest :math:`\sigma_i` at which the expected training error with noise on layer i alone is at most epsilon:
    network criticality with alpha = 1. Not done: it is no bound; :mod:`shaketable.bounds` has those.

    Args:
        study: with init and training data.
        epsilon, threshold: the bound on the training error.
        sigmas: the grid.
        draws: draws of the noise.
        failure: the probability that an answer on which the number rests is wrong.
        seed: of the noise and of the order of examples.
        batch_size: examples in flight; changes memory and speed.
        store: a folder that keeps the answers as they come.

    Returns: above 0, but for a network that did not move. Status ``"infeasible"`` where a layer bears no noise of the grid.

    Cost: a bisection over the sigmas for each layer.

    Deviates: the paper gives neither grid nor draws.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": 100 * torch.eye(2)}, init={"weight": 98 * torch.eye(2)},
        ...               train=(torch.eye(2), [0, 1]))
        >>> round(pac_bayes(study, draws=2).value, 6)
        8.0

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
    networks", 2020, table 1.
    """
    same = {"threshold": threshold, "sigmas": sigmas, "draws": draws, "failure": failure, "seed": seed}
    return _summed(study, epsilon, alphas=(1.0,), batch_size=batch_size, store=store, **same)


def _summed(study: Study, epsilon: float, **arguments: Any) -> Measurement:
    """The sum of the criticalities of all layers."""
    if not isinstance(epsilon, int | float):
        raise InputError(f"epsilon={epsilon!r}: give one number.")
    try:
        found = criticality(study, epsilon=epsilon, pac_bayes=False, **arguments)
    except TooManyErrors as error:  # one network of many, perhaps: a row
        raise Unavailable(str(error).rstrip(".")) from error
    table = found.table
    without = table.filter(pl.col("criticality").is_null())
    layers = table.select(*list(SCHEMA)[:-1], pl.col("criticality").alias("value"), "criticality_stderr")
    if len(without):
        names, reason = ", ".join(without["layer"].head(3)), without["reason"][0]
        return Measurement(None, status=without["status"][0], reason=f"{names}: {reason}", layers=layers)
    total = found.summary().row(0, named=True)
    return from_value(
        total["network_criticality"], layers, stderr=total["network_criticality_stderr"], draws=arguments["draws"]
    )
