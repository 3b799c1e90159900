"""Spectra of each layer's linear operator over training, and operator norms of weights and of their way from a checkpoint."""

from collections.abc import Iterable, Iterator
from typing import Any

import polars as pl
import torch

from shaketable.errors import InputError
from shaketable.operators import Operator, operator_norm, operators, singular_values
from shaketable.params import COMPUTED, Grouping, Params, computes_weight, layers, linear_layers
from shaketable.probes.stored import EPOCHS, list_of
from shaketable.study import Study

_FACTS = {
    "layer": pl.String,
    "position": pl.Int64,
    "kind": pl.String,
    "weight": pl.String,
    "checkpoint": pl.Int64,
}
_STATUS = {"status": pl.String, "reason": pl.String}
SPECTRA = {**_FACTS, "index": pl.Int64, "singular_value": pl.Float64, "values": pl.Int64, **_STATUS}
NORMS = {
    **_FACTS,
    "operator_norm": pl.Float64,
    "operator_distance": pl.Float64,
    "matrix_norm": pl.Float64,
    "matrix_distance": pl.Float64,
    **_STATUS,
}
NO_INIT = "the study has no initial weights; make it with init"
NO_OPERATOR = "no linear operator is known that has this parameter as its weight"

Row = dict[str, Any]


def spectra(
    study: Study, by: Grouping = "module", checkpoints: Iterable[int] | None = None, values: int | None = 100
) -> pl.DataFrame:
    r"""Singular values of each layer's linear operator, at the final weights and at each checkpoint.

    .. math:: \sigma_0(\theta_d^\tau) \ge \sigma_1(\theta_d^\tau) \ge \dots

    of the weight :math:`\theta_d^\tau` of layer :math:`d` at checkpoint :math:`\tau`: of a matrix those of the matrix, of
    a convolution those of the operator on circularly padded maps of the size that it sees, stride included
    (:func:`shaketable.operators.singular_values`).

    Not done: zero padding; biases; normalisations, which scale an operator's outputs and have no row.

    Args:
        study: gives the final weights and the checkpoints; its data give the sizes of maps.
        by: the grouping into layers; each weight of a block has its own spectrum.
        checkpoints: epochs :math:`\tau`; all that there are, if left out. The final weights are always there.
        values: at most so many of a spectrum, evenly spaced by rank, the first and the last always; None keeps all.

    Returns: one row per weight, checkpoint and rank: ``layer``, ``position`` (forward order, from 0), ``kind``, ``weight``
        (its name in ``state_dict``), ``checkpoint`` (for the final weights the study's ``final_epoch``, null where that
        is not known), ``index`` (rank from 0), ``singular_value`` (>= 0, descending), ``values`` (how many the whole
        spectrum has), ``status`` and ``reason``: one row without an index where there is no spectrum.

    Raises:
        InputError: no such checkpoint, fewer than two ``values``, or a network without weights of two dimensions.

    Cost: reads each checkpoint once; a decomposition of every weight at each: for a ResNet-18 on 32x32 maps 12 s a
        checkpoint (one thread).

    Deviates: the paper shows one critical and one other module of a ResNet-18, all values; here all layers, thinned.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.diag(torch.tensor([1.0, 3.0]))}, init={"weight": torch.eye(2)})
        >>> spectra(study).select("checkpoint", "index", "singular_value").rows()
        [(0, 0, 1.0), (0, 1, 1.0), (None, 0, 3.0), (None, 1, 1.0)]

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
        networks", 2020, section 2.3, figure 3. Sedghi, Gupta, Long, "The Singular Values of Convolutional Layers", 2019.
    """
    if values is not None and (isinstance(values, bool) or not isinstance(values, int) or values < 2):
        raise InputError(f"values={values!r}: give a whole number from 2, or None for all singular values.")
    found = _weights(study, by)
    rows: list[Row] = []
    for epoch, params in _checkpoints(study, checkpoints):
        for facts, operator in found:
            rows += [
                facts | {"checkpoint": epoch} | row for row in _spectrum(params, facts["weight"], operator, values)
            ]
    return _table(rows, SPECTRA)


def operator_norms(study: Study, by: Grouping = "module", checkpoints: Iterable[int] | None = None) -> pl.DataFrame:
    r"""Operator norm of each layer's weight, and of its way to the final weight, at each checkpoint.

    .. math:: \lVert\theta_d^\tau\rVert_2, \qquad \lVert\theta_d^T - \theta_d^\tau\rVert_2

    for the weight of layer :math:`d` at checkpoint :math:`\tau`; :math:`T` is the end of training. Both as the true
    operator on circularly padded maps of the size that the layer sees, and of the kernel reshaped to a matrix
    [out, in x kernel]; for a matrix these are the same.

    Not done: as in :func:`spectra`.

    Args:
        study, by, checkpoints: as in :func:`spectra`.

    Returns: one row per weight and checkpoint, the final weights included: ``layer``, ``position``, ``kind``, ``weight``,
        ``checkpoint`` as in :func:`spectra`; ``operator_norm`` and ``operator_distance``, ``matrix_norm`` and
        ``matrix_distance`` (all >= 0; a distance of 0 means that the weight did not move: the final row), ``status`` and
        ``reason``. Where the size of a convolution's maps is not known the reshaped ones are there and the others null.

    Raises:
        InputError: no such checkpoint, or a network without weights of two dimensions.

    Cost: reads each checkpoint once; two operator norms of every weight at each: up to twice :func:`spectra`.

    Deviates: whether the paper's figure takes the true operator or the reshaped kernel is not said; both are here.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.diag(torch.tensor([1.0, 3.0]))}, init={"weight": torch.eye(2)})
        >>> operator_norms(study).select("checkpoint", "operator_norm", "operator_distance").rows()
        [(0, 1.0, 2.0), (None, 3.0, 0.0)]

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
        networks", 2020, section 2.3, figure 8.
    """
    found = _weights(study, by)
    return _table(
        [
            facts | {"checkpoint": epoch} | _norms(params, study.final, facts["weight"], operator)
            for epoch, params in _checkpoints(study, checkpoints)
            for facts, operator in found
        ],
        NORMS,
    )


def _weights(study: Study, by: Grouping) -> list[tuple[Row, Operator | str]]:
    """Every weight of a linear layer: the facts of its layer, and its operator, or why none is known."""
    inputs = study.example_inputs()
    known = operators(study.network, inputs)
    weights = {
        name: f"layer {layer.name!r} {COMPUTED}"
        if computes_weight(study.network.get_submodule(layer.modules[0]))
        else NO_OPERATOR
        for layer in linear_layers(study.network)
        for name in layer.params
    }
    return [
        (
            {"layer": layer.name, "position": position, "kind": layer.kind, "weight": name},
            known.get(name, weights[name]),
        )
        for position, layer in enumerate(layers(study.network, by, inputs))
        for name in layer.params
        if name in weights
    ]


def _checkpoints(study: Study, checkpoints: Iterable[int] | None) -> Iterator[tuple[int | None, Params | None]]:
    """Epochs, ascending, with their weights; the final weights last; None where init was expected and is not there."""
    epochs = study.epochs if checkpoints is None else sorted(set(list_of(int, EPOCHS, checkpoints=checkpoints)))
    if checkpoints is None and study.init is None:
        yield 0, None
    for epoch in epochs:
        if epoch != study.final_epoch:
            yield epoch, study.checkpoint(epoch)
    yield study.final_epoch, study.final


def _spectrum(params: Params | None, name: str, operator: Operator | str, values: int | None) -> list[Row]:
    """The rows of one spectrum, or the one that says why there is none."""
    if params is None or isinstance(operator, str):
        return [_unavailable(operator if isinstance(operator, str) else NO_INIT)]
    try:
        spectrum = singular_values(params[name], **operator)
    except InputError as error:
        return [_unavailable(str(error))]
    size = len(spectrum)
    ranks = torch.linspace(0, size - 1, min(size, values or size), dtype=torch.float64).round().long()
    kept = spectrum[ranks.to(spectrum.device)].tolist()
    return [
        {"index": rank, "singular_value": value, "values": size, "status": "ok"}
        for rank, value in zip(ranks.tolist(), kept, strict=True)
    ]


def _norms(params: Params | None, final: Params, name: str, operator: Operator | str) -> Row:
    """The norms of one row, or why there are none."""
    if params is None or isinstance(operator, str):
        return _unavailable(operator if isinstance(operator, str) else NO_INIT)
    weight = params[name].double()
    way = final[name].double() - weight
    numbers = {
        "matrix_norm": operator_norm(weight, as_matrix=True),
        "matrix_distance": operator_norm(way, as_matrix=True),
    }
    try:
        true = {"operator_norm": operator_norm(weight, **operator), "operator_distance": operator_norm(way, **operator)}
    except InputError as error:
        return numbers | _unavailable(str(error))
    return numbers | true | {"status": "ok"}


def _unavailable(reason: str) -> Row:
    return {"status": "unavailable", "reason": reason}


def _table(rows: list[Row], schema: dict[str, Any]) -> pl.DataFrame:
    """Rows as a table: layers in forward order, then checkpoints as they came, the final weights last."""
    frame = pl.DataFrame([dict.fromkeys(schema) | row for row in rows], schema=schema)
    return frame.sort("position", maintain_order=True)
