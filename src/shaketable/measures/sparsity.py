"""Measures of sparsity: how few units do a class's work, by cumulative ablation."""

from typing import Any
from weakref import WeakKeyDictionary

import polars as pl

from shaketable.measures.measure import Measurement, from_value, measure
from shaketable.probes.ablation import Ablation, ablation
from shaketable.probes.turning_points import Rule, Ties
from shaketable.probes.unit_order import Attribute
from shaketable.study import Study

ZHAO = "Zhao, Zhang, Hu, Estimating the generalization in deep neural networks via sparsity, 2021"
_KNOWN: WeakKeyDictionary[Study, dict[str, Ablation]] = WeakKeyDictionary()


@measure(symbol="zeta", direction="lower", needs=("train",), paper=ZHAO)
def zeta(
    study: Study,
    layer: str | None = None,
    attribute: Attribute = "activation",
    rule: Rule = "paper",
    ties: Ties = "last",
    seed: int = 0,
    batch_size: int | None = None,
) -> Measurement:
    r"""Zeta: the share of a layer's units that a class needs, from the turning points of two ablations.

    .. math:: \zeta = \frac{1}{N} \sum_{j=1}^N \frac{n_0(D_j) + M - n_0^r(D_j)}{2 M}

    with :math:`n_0` the number of most active units whose removal takes class j to chance, and :math:`n_0^r` the number of least
    active ones without which it does best, of M units; see :func:`shaketable.probes.ablation`. Not done: classes without
    training examples are left out of the mean.

    Args:
        study: with training data; classes go by its labels.
        layer: a convolution or linear layer; the last convolution if left out.
        attribute, rule, ties, seed: as there.
        batch_size: examples together; does not change the result.

    Returns: in [0, 1]; smaller where fewer units do the work.

    Cost: that of the ablation, once for zeta and kappa.

    Deviates: as there.

    Example:
        >>> import torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 2, bias=False))
        >>> final = {"0.weight": torch.eye(2), "2.weight": torch.eye(2)}
        >>> zeta(Study(network.eval(), final=final, train=(torch.eye(2), [0, 1]))).value
        0.5

    References: Zhao et al., "Estimating the generalization in deep neural networks via sparsity", 2021, equations 2, 3, 4, 6.
    """
    return _mean("zeta", study, layer, attribute, rule, ties, seed, batch_size)


@measure(symbol="kappa", direction="higher", needs=("train",), paper=ZHAO)
def kappa(
    study: Study,
    layer: str | None = None,
    attribute: Attribute = "activation",
    rule: Rule = "paper",
    ties: Ties = "last",
    seed: int = 0,
    batch_size: int | None = None,
) -> Measurement:
    r"""Kappa: the area between the accuracies while least, and while most, active units are removed.

    .. math:: \kappa = \frac{1}{N} \sum_{j=1}^N \frac{1}{M} \sum_{n=0}^M |E_r(n, D_j) - E(n, D_j)|

    over the classes j; see :func:`shaketable.probes.ablation`. Not done: as for :func:`zeta`.

    Args:
        study, layer, attribute, rule, ties, seed, batch_size: as for :func:`zeta`.

    Returns: in [0, 1); 0 where it does not matter which units are removed.

    Cost: that of the ablation, once for zeta and kappa.

    Deviates: as there.

    Example:
        >>> import torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 2, bias=False))
        >>> final = {"0.weight": torch.eye(2), "2.weight": torch.eye(2)}
        >>> kappa(Study(network.eval(), final=final, train=(torch.eye(2), [0, 1]))).value
        0.25

    References: Zhao et al., "Estimating the generalization in deep neural networks via sparsity", 2021, equations 5 and 6.
    """
    return _mean("kappa", study, layer, attribute, rule, ties, seed, batch_size)


def _mean(
    name: str,
    study: Study,
    layer: str | None,
    attribute: Attribute,
    rule: Rule,
    ties: Ties,
    seed: int,
    batch_size: int | None,
) -> Measurement:
    """The mean over classes, from an ablation that is made once for each way to make it."""
    same: dict[str, Any] = {"attribute": attribute, "seed": seed}
    known = _KNOWN.setdefault(study, {})
    key = repr((layer, batch_size, same))
    if key not in known:
        known[key] = ablation(study, layer, batch_size=batch_size, **same)
    summary = known[key].summary(rule, ties)
    mean = summary.filter(over="mean of classes").row(0, named=True)
    classes = summary.filter(over="class")
    never = len(classes.filter(pl.col("reached") == 0))
    reason = f"the accuracy of {never} of {len(classes)} classes never falls to chance" if never else None
    return from_value(mean[name], reason=reason)
