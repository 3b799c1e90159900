"""Measures of pruning: prunability, and the size of what is left."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from shaketable.measures.measure import KUHN, Measurement, from_value, measure
from shaketable.measures.norm_sums import frobenius_sum, spectral_sum
from shaketable.probes.prunability import Prunability, Search, Tolerance
from shaketable.probes.prunability import prunability as probe
from shaketable.pruning import Parameters, Scope, ordered, prunable
from shaketable.study import Study

_KNOWN: WeakKeyDictionary[Study, dict[str, Prunability]] = WeakKeyDictionary()


@measure(symbol="prunability", direction="lower", needs=("train",), paper=KUHN)
def prunability(
    study: Study,
    beta: float = 0.1,
    tolerance: Tolerance = "relative",
    scope: Scope = "global",
    parameters: Parameters = "weight",
    steps: int = 100,
    search: Search = "bisection",
) -> Measurement:
    r"""Prunability: the smallest fraction of weights that can be kept without hurting the training loss.

    .. math:: \min\{\alpha : L(\varphi(f_w, \alpha), S) \le (1 + \beta) L(f_w, S)\}

    where the weights of smallest magnitude are set to zero; see :func:`shaketable.probes.prunability`. Not done: nothing is
    retrained.

    Args:
        study: with training data.
        beta, tolerance, scope, parameters, steps, search: as there.

    Returns: in [0, 1]; 1 where nothing can go. ``reason`` says where the curve was not monotone.

    Cost: some ten tests, of which those that hold take a pass over the training data.

    Deviates: as there.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.tensor([[9.0, 0.1], [0.2, 9.0]])}, train=(torch.eye(2), [0, 1]))
        >>> prunability(study).value
        0.38

    References: Kuhn, Lyle, Gomez, Rothfuss, Gal, "Robustness to pruning predicts generalization in deep neural networks", 2021,
        definition 1.
    """
    same = {
        "beta": beta,
        "tolerance": tolerance,
        "scope": scope,
        "parameters": parameters,
        "steps": steps,
        "search": search,
    }
    row = _found(study, methods="magnitude", **same).summary().row(0, named=True)
    return from_value(row["prunability"], reason=_told(row))


@measure(symbol="random prunability", direction="lower", needs=("train",), paper=KUHN)
def random_prunability(
    study: Study,
    beta: float = 0.1,
    tolerance: Tolerance = "relative",
    scope: Scope = "global",
    parameters: Parameters = "weight",
    steps: int = 100,
    search: Search = "bisection",
    draws: int = 5,
    seed: int = 0,
) -> Measurement:
    r"""Random prunability: the smallest fraction of weights that can be kept when random ones go.

    .. math:: \min\{\alpha : L(\varphi(f_w, \alpha), S) \le (1 + \beta) L(f_w, S)\}

    the mean over draws of a random order; see :func:`shaketable.probes.prunability`. Not done: nothing is retrained.

    Args:
        study: with training data.
        beta, tolerance, scope, parameters, steps, search: as there.
        draws: of the order, at least 2 for a standard error.
        seed: of the orders.

    Returns: in [0, 1], with its standard error over draws.

    Cost: a search for each draw.

    Deviates: as there.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.tensor([[9.0, 0.1], [0.2, 9.0]])}, train=(torch.eye(2), [0, 1]))
        >>> random_prunability(study).value >= prunability(study).value
        True

    References: Kuhn, Lyle, Gomez, Rothfuss, Gal, "Robustness to pruning predicts generalization in deep neural networks", 2021,
        definition 1.
    """
    same = {
        "beta": beta,
        "tolerance": tolerance,
        "scope": scope,
        "parameters": parameters,
        "steps": steps,
        "search": search,
    }
    row = _found(study, methods="random", draws=draws, seed=seed, **same).summary().row(0, named=True)
    return from_value(row["prunability"], stderr=row["stderr"], draws=draws, reason=_told(row))


@measure(symbol="pruned NoP", direction="lower", needs=("train",), paper=KUHN)
def number_of_parameters_pruned(study: Study, beta: float = 0.1, parameters: Parameters = "weight") -> Measurement:
    """Number of parameters that are left when the network is pruned as far as its training loss allows.

    Those that can go and stay, and those that cannot go (biases and normalisations, unless ``parameters="all"``). Not done:
    nothing is retrained.

    Args:
        study: with training data.
        beta, parameters: as for :func:`prunability`.

    Returns: a whole number.

    Cost: that of :func:`prunability`, once for both.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.tensor([[9.0, 0.1], [0.2, 9.0]])}, train=(torch.eye(2), [0, 1]))
        >>> number_of_parameters_pruned(study).value
        2.0

    References: Kuhn, Lyle, Gomez, Rothfuss, Gal, "Robustness to pruning predicts generalization in deep neural networks", 2021,
        appendix A.2.
    """
    row = _found(study, methods="magnitude", beta=beta, parameters=parameters).summary().row(0, named=True)
    total = sum(parameter.numel() for parameter in study.network.parameters())
    return from_value(total - row["parameters"] + row["kept"])


@measure(symbol="sum-of-fro pruned", direction="lower", needs=("train",), paper=KUHN)
def sum_of_frobenius_norms_pruned(study: Study, beta: float = 0.1, parameters: Parameters = "weight") -> Measurement:
    r"""Sum of squared Frobenius norms of the network when it is pruned as far as its training loss allows.

    .. math:: d \, \Bigl(\prod_{i=1}^d \lVert W_i \rVert_F^2\Bigr)^{1/d}

    Not done: as for :func:`shaketable.measures.sum_of_frobenius_norms`.

    Args:
        study: with training data.
        beta, parameters: as for :func:`prunability`.

    Returns: at least 0. ``layers`` has the squared norms.

    Cost: that of :func:`prunability`, once for both.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.tensor([[9.0, 0.1], [0.2, 9.0]])}, train=(torch.eye(2), [0, 1]))
        >>> round(sum_of_frobenius_norms_pruned(study).value, 6)
        162.0

    References: Kuhn, Lyle, Gomez, Rothfuss, Gal, "Robustness to pruning predicts generalization in deep neural networks", 2021,
        appendix A.2.
    """
    return frobenius_sum(study, _pruned(study, beta, parameters))


@measure(symbol="sum-two-norms pruned", direction="lower", needs=("train",), version=2, paper=KUHN)
def sum_of_squared_spectral_norms_pruned(
    study: Study, beta: float = 0.1, parameters: Parameters = "weight"
) -> Measurement:
    r"""Sum of squared spectral norms of the network when it is pruned as far as its training loss allows.

    .. math:: d \, \Bigl(\prod_{i=1}^d \lVert W_i \rVert_2^2\Bigr)^{1/d}

    Not done: as for :func:`shaketable.measures.sum_of_squared_spectral_norms`.

    Args:
        study: with training data.
        beta, parameters: as for :func:`prunability`.

    Returns: at least 0. ``layers`` has the squared norms.

    Cost: that of :func:`prunability`, once for both, and that of the spectral norms.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.tensor([[9.0, 0.1], [0.2, 9.0]])}, train=(torch.eye(2), [0, 1]))
        >>> round(sum_of_squared_spectral_norms_pruned(study).value, 6)
        81.0

    References: Kuhn, Lyle, Gomez, Rothfuss, Gal, "Robustness to pruning predicts generalization in deep neural networks", 2021,
        appendix A.2.
    """
    return spectral_sum(study, _pruned(study, beta, parameters))


def _found(study: Study, **arguments: Any) -> Prunability:
    """The search of these arguments without a curve, once for all measures of a study that rest on it."""
    known = _KNOWN.setdefault(study, {})
    full: Mapping[str, Any] = {"beta": 0.1, "tolerance": "relative", "scope": "global", "parameters": "weight"}
    full = {**full, "steps": 100, "search": "bisection", **arguments}
    key = repr(sorted(full.items()))
    if key not in known:
        known[key] = probe(study, sparsities=None, **full)
    return known[key]


def _pruned(study: Study, beta: float, parameters: Parameters) -> dict[str, Tensor]:
    """The weights pruned as far as the training loss allows."""
    kept = _found(study, methods="magnitude", beta=beta, parameters=parameters).summary()["prunability"][0]
    groups = prunable(study.network, "global", parameters, study.example_inputs())
    return study.final | ordered(study.final, groups).at(1 - kept)


def _told(row: Mapping[str, Any]) -> str | None:
    """What is to be known of the search."""
    return None if row["monotone"] else "the loss was within the bound again below a fraction at which it was not"
