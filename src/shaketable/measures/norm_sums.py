"""Measures of size after Jiang et al.: products and sums of squared norms, with and without the margin."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import polars as pl
from torch import Tensor, nn

from shaketable.errors import InputError
from shaketable.folding import folded
from shaketable.measures.margins import margin_quantile
from shaketable.measures.measure import JIANG, KUHN, Measurement, Unavailable, from_log, from_value, measure
from shaketable.measures.norms import Operator, frobenius, spectral_norm, table_of, weight_layers
from shaketable.params import Layer, Params
from shaketable.study import Study

BatchNorm = Literal["fold", "keep"]
"""Whether batch norms are folded into the weights of the operators before them, or left out of the weights."""


@measure(symbol="param-norm", direction="lower", paper=JIANG)
def squared_parameter_norm(study: Study, batch_norm: BatchNorm = "fold") -> Measurement:
    r"""Squared parameter norm: the sum over linear layers of squared Frobenius norms.

    .. math:: \sum_i \lVert W_i \rVert_F^2

    Not done: biases and normalisations do not count.

    Args:
        study: any; data show what a batch norm follows.
        batch_norm: ``"fold"`` into the weights before them (:func:`shaketable.folding.folded`), or ``"keep"`` them apart.

    Returns: at least 0. ``layers`` has the squared norms.

    Cost: reads the weights; folding two passes over two examples.

    Example:
        >>> import torch
        >>> study = Study(nn.Linear(2, 2, bias=False).eval(), final={"weight": 3 * torch.eye(2)})
        >>> round(squared_parameter_norm(study).value, 6)
        18.0

    References: Jiang et al., "Fantastic generalization measures and where to find them", 2020, equation 42.
    """
    table = _squares(study, study.final, batch_norm, _frobenius)
    return from_value(math.fsum(table["value"]), table)


@measure(symbol="sum-of-fro", direction="lower", paper=KUHN)
def sum_of_frobenius_norms(study: Study, batch_norm: BatchNorm = "fold") -> Measurement:
    r"""Sum of squared Frobenius norms: of a network scaled so that all layers have the same.

    .. math:: d \, \Bigl(\prod_{i=1}^d \lVert W_i \rVert_F^2\Bigr)^{1/d}

    for d linear layers; the smallest sum of squares among networks of the same product. Not done: as for the squared
    parameter norm.

    Args:
        study: any.
        batch_norm: as for :func:`squared_parameter_norm`.

    Returns: at least 0. ``layers`` has the squared norms.

    Cost: reads the weights.

    Deviates: the prunability paper does not say what becomes of batch norms; Jiang et al. fold them.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).eval()
        >>> final = {"0.weight": torch.tensor([[2.0]]), "1.weight": torch.tensor([[8.0]])}
        >>> round(sum_of_frobenius_norms(Study(network, final=final)).value, 6)
        32.0

    References: Kuhn, Lyle, Gomez, Rothfuss, Gal, "Robustness to pruning predicts generalization in deep neural networks", 2021,
        section 5.1. Jiang et al., "Fantastic generalization measures and where to find them", 2020, equation 39.
    """
    return frobenius_sum(study, study.final, batch_norm)


@measure(symbol="sum-two-norms", direction="lower", version=2, paper=KUHN)
def sum_of_squared_spectral_norms(
    study: Study, batch_norm: BatchNorm = "fold", operator: Operator = "convolution"
) -> Measurement:
    r"""Sum of squared spectral norms: of a network scaled so that all layers have the same.

    .. math:: d \, \Bigl(\prod_{i=1}^d \lVert W_i \rVert_2^2\Bigr)^{1/d}

    Not done: as for the squared parameter norm.

    Args:
        study: any; convolutions need data.
        batch_norm: as for :func:`squared_parameter_norm`.
        operator: as for :func:`shaketable.measures.product_of_spectral_norms`.

    Returns: at least 0. ``layers`` has the squared norms.

    Cost: as the product of spectral norms.

    Deviates: the formula of "sum two norms" is lost in the text that we have; this is Jiang et al.'s. Their code takes an
        approximation of the spectral norm, ours is exact for circular padding.

    Example:
        >>> import torch
        >>> study = Study(nn.Linear(2, 2, bias=False).eval(), final={"weight": torch.diag(torch.tensor([2.0, 5.0]))})
        >>> round(sum_of_squared_spectral_norms(study).value, 6)
        25.0

    References: Kuhn et al., 2021, appendix A.2. Jiang et al., 2020, equation 35.
    """
    return spectral_sum(study, study.final, batch_norm, operator)


@measure(symbol="prod-of-fro/margin", direction="lower", needs=("train",), paper=JIANG)
def frobenius_norms_over_margin(study: Study, batch_norm: BatchNorm = "fold") -> Measurement:
    r"""Product of squared Frobenius norms over the squared margin.

    .. math:: \prod_i \lVert W_i \rVert_F^2 \, / \, \gamma^2

    with the margin :math:`\gamma` of :func:`shaketable.measures.inverse_margin`. Not done: as for the squared parameter norm.

    Args:
        study: with training data.
        batch_norm: as for :func:`squared_parameter_norm`.

    Returns: at least 0; see ``log_value``. Unavailable where the margin is not positive. ``layers`` has the squared norms.

    Cost: a pass over the training data.

    Example:
        >>> import torch
        >>> study = Study(nn.Linear(2, 2, bias=False).eval(), final={"weight": 2 * torch.eye(2)}, train=(torch.eye(2), [0, 1]))
        >>> round(frobenius_norms_over_margin(study).value, 6)
        2.0

    References: Jiang et al., "Fantastic generalization measures and where to find them", 2020, equation 36.
    """
    table = _squares(study, study.final, batch_norm, _frobenius)
    return from_log(_log_product(table) - 2 * _log_margin(study), table)


@measure(symbol="prod-of-spec/margin", direction="lower", needs=("train",), version=2, paper=JIANG)
def spectral_norms_over_margin(
    study: Study, batch_norm: BatchNorm = "fold", operator: Operator = "convolution"
) -> Measurement:
    r"""Product of squared spectral norms over the squared margin.

    .. math:: \prod_i \lVert W_i \rVert_2^2 \, / \, \gamma^2

    Not done: as for the squared parameter norm.

    Args:
        study: with training data.
        batch_norm: as for :func:`squared_parameter_norm`.
        operator: as for :func:`shaketable.measures.product_of_spectral_norms`.

    Returns: at least 0; see ``log_value``. Unavailable where the margin is not positive. ``layers`` has the squared norms.

    Cost: a pass over the training data, and that of the spectral norms.

    Example:
        >>> import torch
        >>> study = Study(nn.Linear(2, 2, bias=False).eval(), final={"weight": 2 * torch.eye(2)}, train=(torch.eye(2), [0, 1]))
        >>> round(spectral_norms_over_margin(study).value, 6)
        1.0

    References: Jiang et al., "Fantastic generalization measures and where to find them", 2020, equation 31.
    """
    table = _squares(study, study.final, batch_norm, spectral_norm(study, operator))
    return from_log(_log_product(table) - 2 * _log_margin(study), table)


@measure(symbol="spec-init-main", direction="lower", needs=("init", "train"), version=2, paper=JIANG)
def spectral_complexity_from_init(
    study: Study, batch_norm: BatchNorm = "fold", operator: Operator = "convolution"
) -> Measurement:
    r"""Spectral complexity around init: the bound's product of norms times the sum of relative distances.

    .. math:: \frac{\prod_i \lVert W_i \rVert_2^2}{\gamma^2} \sum_j \frac{\lVert W_j - W_j^0 \rVert_F^2}{\lVert W_j \rVert_2^2}

    Not done: as for the squared parameter norm.

    Args:
        study: with init and training data.
        batch_norm: as for :func:`squared_parameter_norm`; init is folded with its own statistics.
        operator: as for :func:`shaketable.measures.product_of_spectral_norms`.

    Returns: at least 0; see ``log_value``. Unavailable where the margin is not positive. ``layers`` has the relative distances.

    Cost: a pass over the training data, and that of the spectral norms.

    Example:
        >>> import torch
        >>> network = nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": 2 * torch.eye(2)}, init={"weight": torch.eye(2)}, train=(torch.eye(2), [0, 1]))
        >>> round(spectral_complexity_from_init(study).value, 6)
        0.5

    References: Jiang et al., 2020, equation 29. Pitas, Davies, Vandergheynst, "PAC-Bayesian margin bounds for convolutional
    neural networks", 2017.
    """
    final, init = weights_of(study, batch_norm, study.final), weights_of(study, batch_norm, study.init or {})
    moved = {name: final[name].double() - init[name].double() for name in final if final[name].is_floating_point()}
    return _complexity(study, final, moved, operator)


@measure(symbol="spec-orig-main", direction="lower", needs=("train",), version=2, paper=JIANG)
def spectral_complexity_from_origin(
    study: Study, batch_norm: BatchNorm = "fold", operator: Operator = "convolution"
) -> Measurement:
    r"""Spectral complexity around zero: the bound's product of norms times the sum of stable ranks.

    .. math:: \frac{\prod_i \lVert W_i \rVert_2^2}{\gamma^2} \sum_j \frac{\lVert W_j \rVert_F^2}{\lVert W_j \rVert_2^2}

    Not done: as for the squared parameter norm.

    Args:
        study: with training data.
        batch_norm: as for :func:`squared_parameter_norm`.
        operator: as for :func:`shaketable.measures.product_of_spectral_norms`.

    Returns: at least 0; see ``log_value``. Unavailable where the margin is not positive. ``layers`` has the stable ranks.

    Cost: a pass over the training data, and that of the spectral norms.

    Example:
        >>> import torch
        >>> study = Study(nn.Linear(2, 2, bias=False).eval(), final={"weight": 2 * torch.eye(2)}, train=(torch.eye(2), [0, 1]))
        >>> round(spectral_complexity_from_origin(study).value, 6)
        2.0

    References: Jiang et al., "Fantastic generalization measures and where to find them", 2020, equation 30.
    """
    final = weights_of(study, batch_norm, study.final)
    return _complexity(study, final, final, operator)


@measure(symbol="fro/spec", direction="lower", version=2, paper=JIANG)
def sum_of_stable_ranks(
    study: Study, batch_norm: BatchNorm = "fold", operator: Operator = "convolution"
) -> Measurement:
    r"""Sum of stable ranks: squared Frobenius over squared spectral norms.

    .. math:: \sum_i \lVert W_i \rVert_F^2 \, / \, \lVert W_i \rVert_2^2

    Not done: as for the squared parameter norm.

    Args:
        study: any; convolutions need data.
        batch_norm: as for :func:`squared_parameter_norm`.
        operator: as for :func:`shaketable.measures.product_of_spectral_norms`.

    Returns: at least 0; between 1 and the rank for each layer that is a matrix. ``layers`` has the stable ranks.

    Cost: that of the spectral norms.

    Example:
        >>> import torch
        >>> study = Study(nn.Linear(3, 3, bias=False).eval(), final={"weight": 7 * torch.eye(3)})
        >>> round(sum_of_stable_ranks(study).value, 6)
        3.0

    References: Jiang et al., "Fantastic generalization measures and where to find them", 2020, equation 33.
    """
    final = weights_of(study, batch_norm, study.final)
    table = _ratios(study, final, final, operator)
    return from_value(math.fsum(table["value"]), table)


def weights_of(study: Study, batch_norm: BatchNorm, params: Params) -> Mapping[str, Tensor]:
    """The params, with batch norms folded if so wished."""
    if batch_norm not in ("fold", "keep"):
        raise InputError(
            f"unknown batch_norm={batch_norm!r}; use 'fold' (into the weights) or 'keep' (apart from them)."
        )
    inputs = study.example_inputs()
    if batch_norm == "keep" or not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in study.network.modules()):
        return params
    if inputs is None:
        raise Unavailable(
            "data must show what a batch norm follows; make the study with train=... or batch_norm='keep'"
        )
    try:
        return folded(study.network, params, inputs)
    except InputError as error:
        raise Unavailable(str(error).rstrip(".")) from error


def frobenius_sum(study: Study, params: Params, batch_norm: BatchNorm = "fold") -> Measurement:
    """:func:`sum_of_frobenius_norms` of other weights of the same network."""
    return _sum(_squares(study, params, batch_norm, _frobenius))


def spectral_sum(
    study: Study, params: Params, batch_norm: BatchNorm = "fold", operator: Operator = "convolution"
) -> Measurement:
    """:func:`sum_of_squared_spectral_norms` of other weights of the same network."""
    return _sum(_squares(study, params, batch_norm, spectral_norm(study, operator)))


def _squares(study: Study, params: Params, batch_norm: BatchNorm, norm: Callable[[str, Tensor], float]) -> pl.DataFrame:
    """The squared norms of the layers, those of a layer with several weights multiplied."""
    weights = weights_of(study, batch_norm, params)

    def square(layer: Layer) -> float:
        return math.prod(norm(name, weights[name]) ** 2 for name in layer.params)

    return table_of(weight_layers(study), square, study)


def _frobenius(name: str, weight: Tensor) -> float:
    return frobenius(weight)


def _ratios(study: Study, weights: Params, numerators: Params, operator: Operator) -> pl.DataFrame:
    """Squared Frobenius norms of some tensors over the squared spectral norms of the weights, by layer."""
    norm = spectral_norm(study, operator)

    def ratio(layer: Layer) -> float:
        norms = {name: norm(name, weights[name]) for name in layer.params}
        if 0 in norms.values():
            raise Unavailable(f"layer {layer.name!r} is zero, and nothing can be divided by its norm")
        return math.fsum((frobenius(numerators[name]) / one) ** 2 for name, one in norms.items())

    return table_of(weight_layers(study), ratio, study)


def _complexity(study: Study, weights: Params, numerators: Params, operator: Operator) -> Measurement:
    """The product of squared spectral norms over the squared margin, times the sum of ratios."""
    norm, table = spectral_norm(study, operator), _ratios(study, weights, numerators, operator)
    total = math.fsum(table["value"])
    logs = [math.log(norm(name, weights[name])) for layer in weight_layers(study) for name in layer.params]
    log_total = math.log(total) if total else -math.inf
    return from_log(2 * math.fsum(logs) - 2 * _log_margin(study) + log_total, table)


def _log_product(table: pl.DataFrame) -> float:
    """The logarithm of the product of the values."""
    values = table["value"].to_list()
    return -math.inf if 0 in values else math.fsum(map(math.log, values))


def _sum(table: pl.DataFrame) -> Measurement:
    """d times the d-th root of the product of the values."""
    d = len(table)
    return from_log(math.log(d) + _log_product(table) / d, table)


def _log_margin(study: Study) -> float:
    """The logarithm of the margin that all but a tenth of the training examples have."""
    margin = margin_quantile(study)
    if margin <= 0:
        raise Unavailable(
            f"the margin is {margin:.3g}: more than a tenth of the training examples is on the wrong side"
        )
    return math.log(margin)
