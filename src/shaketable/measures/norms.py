"""Measures of size: norms of weights, distances to init, and the number of parameters."""

import math
from collections.abc import Callable, Iterable
from typing import Literal

import polars as pl
import torch
from torch import Tensor

from shaketable.errors import InputError
from shaketable.measures.measure import CHATTERJI, Measurement, Unavailable, from_factors, from_value, measure
from shaketable.operators import operator_norm, operators
from shaketable.params import COMPUTED, Layer, computes_weight, layers, linear_layers
from shaketable.study import Study

SCHEMA = {
    "layer": pl.String,
    "position": pl.Int64,
    "kind": pl.String,
    "parameters": pl.Int64,
    "value": pl.Float64,
}
"""The terms of a measure: a row a layer in forward order, with the number of parameters that its value rests on."""
Operator = Literal["convolution", "matrix"]


@measure(symbol="PFN", direction="lower", paper=CHATTERJI)
def product_of_frobenius_norms(study: Study) -> Measurement:
    r"""Product of Frobenius norms: of the weights of all linear layers.

    .. math:: \prod_i \lVert \theta_i^F \rVert_{Fr}

    over the final weights :math:`\theta_i^F` of each convolution and linear layer (:func:`shaketable.params.linear_layers`;
    a layer with several weights, as a recurrent one, counts with their product). In float64. Not done: biases and
    normalisations do not count, nor is a normalisation folded into the weight before it.

    Args:
        study: any; needs neither initial weights nor data.

    Returns: at least 0; 0 means that a layer is zero. Beyond a float's range ``value`` is None and ``log_value`` has the
        number. ``layers`` has the norms.

    Cost: reads the weights once.

    Deviates: the paper does not say what becomes of biases; here they are left out.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)).eval()
        >>> ones = {name: torch.ones_like(tensor) for name, tensor in network.state_dict().items()}
        >>> product_of_frobenius_norms(Study(network, final=ones)).value
        8.0

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
    networks", 2020, table 1. Neyshabur, Tomioka, Srebro, "Norm-based capacity control in neural networks", 2015.
    """
    table = table_of(
        weight_layers(study), lambda layer: math.prod(frobenius(study.final[name]) for name in layer.params), study
    )
    return from_factors(table["value"], table)


@measure(symbol="PSN", direction="lower", version=2, paper=CHATTERJI)
def product_of_spectral_norms(study: Study, operator: Operator = "convolution") -> Measurement:
    r"""Product of spectral norms: of the operators of all linear layers.

    .. math:: \prod_i \lVert \theta_i^F \rVert_2

    where :math:`\lVert\cdot\rVert_2` is the largest singular value of the linear map that a layer applies
    (:func:`shaketable.operators.operator_norm`): for a convolution on maps of the size that it has in this network, closed
    to a ring. In float64. Not done: as for the product of Frobenius norms; residual connections and pooling do not count.

    Args:
        study: convolutions need data, whose first two examples show the size of the maps.
        operator: ``"convolution"`` is the true operator; ``"matrix"`` is the kernel as a matrix [out, in x kernel].

    Returns: at least 0; 1 for orthogonal layers, 0 means that a layer is zero. Beyond a float's range ``value`` is None
        and ``log_value`` has the number. ``layers`` has the norms.

    Raises:
        InputError: an unknown operator.

    Cost: one forward pass of two examples, and one eigenvalue decomposition for each frequency of each convolution:
        8 s for a ResNet-18 of full width on one core, 0.4 s for the kernels as matrices.

    Deviates: the paper does not say which of the two norms it takes; its figure 3 takes that of the operator, by the
        method of Sedghi et al., and so does this.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.diag(torch.tensor([2.0, 5.0]))})
        >>> product_of_spectral_norms(study).value
        5.0

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
    networks", 2020, table 1. Sedghi, Gupta, Long, "The singular values of convolutional layers", 2019.
    """
    found, norm = weight_layers(study), spectral_norm(study, operator)
    table = table_of(found, lambda layer: math.prod(norm(name, study.final[name]) for name in layer.params), study)
    return from_factors(table["value"], table)


@measure(symbol="DtI", direction="lower", needs=("init",), paper=CHATTERJI)
def squared_distance_to_init(study: Study, parameters: Literal["weight", "all"] = "weight") -> Measurement:
    r"""Distance to initialization: the sum over layers of squared Frobenius distances.

    .. math:: \sum_i \lVert \theta_i^0 - \theta_i^F \rVert_{Fr}^2

    between the initial weights :math:`\theta_i^0` and the final ones :math:`\theta_i^F` of each convolution and linear
    layer. In float64. Not done: no root is taken; running statistics do not count.

    Args:
        study: a network with its initial weights.
        parameters: ``"weight"`` leaves biases and normalisations out; ``"all"`` takes every parameter of every layer.

    Returns: at least 0; 0 means that nothing moved. ``layers`` has the squared distances.

    Raises:
        InputError: another word for ``parameters``.

    Cost: reads both sets of weights once.

    Deviates: the paper does not say what becomes of biases and normalisations.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, init={"weight": torch.zeros(2, 2)}, final={"weight": torch.ones(2, 2)})
        >>> squared_distance_to_init(study).value
        4.0

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
    networks", 2020, table 1. Nagarajan, Kolter, "Generalization in deep networks: the role of distance from
    initialization", 2019.
    """
    if parameters not in ("weight", "all"):
        raise InputError(f"unknown parameters={parameters!r}; use 'weight' or 'all'.")
    found = weight_layers(study) if parameters == "weight" else layers(study.network, "module", study.example_inputs())
    table = table_of(found, lambda layer: sum(_squared(_change(study, name)) for name in layer.params), study)
    return from_value(math.fsum(table["value"]), table)


@measure(symbol="NoP", direction="lower", paper=CHATTERJI)
def number_of_parameters(study: Study) -> Measurement:
    """Number of parameters: every one that can be trained, biases and normalisations included.

    Tied weights count once. Not counted: buffers, such as running statistics. Frozen parameters (``requires_grad=False``)
    do count: whether a network was frozen in training is not known any more when it is used.

    Args:
        study: any; needs neither initial weights nor data.

    Returns: a whole number, at least 1. ``layers`` has the count of each layer, normalisations too.

    Cost: none.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).eval()
        >>> number_of_parameters(Study(network)).value
        15.0

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
    networks", 2020, table 1.
    """
    found = layers(study.network, "module", study.example_inputs())
    table = table_of(found, lambda layer: sum(study.final[name].numel() for name in layer.params), study)
    return from_value(float(table["parameters"].sum()), table)


@measure(symbol="SoSP", direction="lower", needs=("init",), version=2, paper=CHATTERJI)
def sum_of_spectral_norms(study: Study, operator: Operator = "convolution") -> Measurement:
    r"""Sum of spectral norms: the number of parameters times the sum of spectral distances to init.

    .. math:: W \sum_i \lVert \theta_i^0 - \theta_i^F \rVert_2

    where :math:`W` is :func:`number_of_parameters` and :math:`\lVert\cdot\rVert_2` the norm of
    :func:`product_of_spectral_norms`; distances are not squared. In float64. Not done: as there.

    Args:
        study: a network with its initial weights; convolutions need data too.
        operator: as for the product of spectral norms.

    Returns: at least 0; 0 means that no weight moved. ``layers`` has the distances, not yet times :math:`W`.

    Raises:
        InputError: an unknown operator.

    Cost: as the product of spectral norms.

    Deviates: from the bounds of Long and Sedghi, where such a product stands under a square root, beside other terms.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, init={"weight": torch.zeros(2, 2)}, final={"weight": 3 * torch.eye(2)})
        >>> sum_of_spectral_norms(study).value
        12.0

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
    networks", 2020, table 1. Long, Sedghi, "Size-free generalization bounds for convolutional neural networks", 2019.
    """
    found, norm = weight_layers(study), spectral_norm(study, operator)
    table = table_of(found, lambda layer: sum(norm(name, _change(study, name)) for name in layer.params), study)
    count = sum(parameter.numel() for parameter in study.network.parameters())
    return from_value(count * math.fsum(table["value"]), table)


def weight_layers(study: Study) -> tuple[Layer, ...]:
    """The linear layers, whose parameters are the weights that they multiply with."""
    try:
        found = linear_layers(study.network, study.example_inputs())
    except InputError as error:
        raise Unavailable(str(error)) from error
    for layer in found:
        if computes_weight(study.network.get_submodule(layer.modules[0])):
            raise Unavailable(f"layer {layer.name!r} {COMPUTED}")
    return found


def table_of(found: Iterable[Layer], value: Callable[[Layer], float], study: Study) -> pl.DataFrame:
    """A row a layer, with the number of its parameters and its value."""
    rows = [
        (layer.name, position, layer.kind, sum(study.final[name].numel() for name in layer.params), float(value(layer)))
        for position, layer in enumerate(found)
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _change(study: Study, name: str) -> Tensor:
    """What training added to a parameter, in float64."""
    init = study.init
    assert init is not None  # the decorator has seen to it
    return study.final[name].double() - init[name].double()


def frobenius(tensor: Tensor) -> float:
    """The Frobenius norm in float64, without overflow of the squares."""
    scale = float(tensor.abs().max()) if tensor.numel() else 0.0
    return scale * float(torch.linalg.vector_norm(tensor.double() / scale)) if scale else 0.0


def _squared(tensor: Tensor) -> float:
    """The squared Frobenius norm in float64, infinite where it is no float."""
    norm = frobenius(tensor)
    return norm * norm


def spectral_norm(study: Study, operator: Operator) -> Callable[[str, Tensor], float]:
    """The spectral norm of a tensor in the place of a weight."""
    if operator == "matrix":
        return lambda name, weight: operator_norm(weight, as_matrix=True)
    if operator != "convolution":
        raise InputError(
            f"unknown operator={operator!r}; use 'convolution' (the true operator) or 'matrix' (the kernel)."
        )
    known = operators(study.network, study.example_inputs())

    def norm(name: str, weight: Tensor) -> float:
        if name not in known:
            raise Unavailable(f"{name!r} is of no convolution and no matrix; operator='matrix' takes it as one")
        if known[name].get("size", ()) is None:
            raise Unavailable(
                f"the operator of the convolution {name!r} depends on the size of its maps, which no data show; "
                "make the study with train=... or test=..., or take operator='matrix'"
            )
        return operator_norm(weight, **known[name])

    return norm
