"""How far each layer is from where it was: normalised 2-norm and infinity norm."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl
import torch
from torch import Tensor

from shaketable.params import Grouping, Layer, Params, layers
from shaketable.probes.stored import EPOCHS, list_of
from shaketable.study import Study

SCHEMA = {
    "layer": pl.String,
    "position": pl.Int64,
    "perturbation": pl.String,
    "checkpoint": pl.Int64,
    "draw": pl.Int64,
    "dimension": pl.Int64,
    "normalised_l2": pl.Float64,
    "linf": pl.Float64,
}


def distances(study: Study, by: Grouping = "block", checkpoints: Iterable[int] | None = None) -> pl.DataFrame:
    r"""Distances of each trained layer to its own values at each checkpoint.

    .. math:: \frac{\lVert\theta_d^T - \theta_d^\tau\rVert_2}{\sqrt{\dim \theta_d}}, \qquad
              \lVert\theta_d^T - \theta_d^\tau\rVert_\infty

    over all parameters of the layer, biases and normalisation scales included, as one vector; running statistics are
    not parameters. Computed in float64.

    Args:
        study: gives the final weights :math:`\theta^T` and the checkpoints :math:`\theta^\tau`.
        by: the grouping into layers.
        checkpoints: epochs :math:`\tau`; all that there are, if left out.

    Returns: one row per layer and checkpoint: ``layer``, ``position`` (forward order, from 0), ``perturbation``
        (``"reinitialise"``), ``checkpoint``, ``draw`` (null), ``dimension`` (number of parameters), ``normalised_l2``
        and ``linf`` (both >= 0; 0 means that the layer did not move).

    Cost: reads each checkpoint once; no pass over data.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.ones(2, 2)}, init={"weight": torch.zeros(2, 2)})
        >>> distances(study, by={"all": "weight"}).select("normalised_l2", "linf").row(0)
        (1.0, 1.0)

    References: Zhang, Bengio, Singer, "Are All Layers Created Equal?", 2022, section 3.1, figures 1 (b, c) and 17 to 19.
    """
    found = layers(study.network, by, study.example_inputs())
    epochs = study.epochs if checkpoints is None else list_of(int, EPOCHS, checkpoints=checkpoints)
    return table(
        row for epoch in epochs for row in distance_rows(study.final, study.checkpoint(epoch), found, checkpoint=epoch)
    )


def distance_rows(
    final: Params, other: Params, found: Iterable[Layer], *, checkpoint: int | None = None, draw: int | None = None
) -> list[dict[str, Any]]:
    """One row of distances per layer that ``other`` has."""
    perturbation = "reinitialise" if draw is None else "rerandomise"
    return [
        {
            "layer": layer.name,
            "position": position,
            "perturbation": perturbation,
            "checkpoint": checkpoint,
            "draw": draw,
        }
        | _norms([final[name].double() - other[name].to(final[name].device).double() for name in layer.params])
        for position, layer in enumerate(found)
        if all(name in other for name in layer.params)
    ]


def table(rows: Iterable[Mapping[str, object]]) -> pl.DataFrame:
    """Rows of distances as a table, layers in forward order."""
    found = pl.DataFrame(list(rows), schema=SCHEMA)
    return found.sort("position", "perturbation", "checkpoint", "draw", maintain_order=True)


def _norms(differences: list[Tensor]) -> dict[str, float | int]:
    vector = torch.cat([difference.flatten() for difference in differences])
    dimension = len(vector)
    return {
        "dimension": dimension,
        "normalised_l2": float(torch.linalg.vector_norm(vector)) / dimension**0.5,
        "linf": float(vector.abs().max()),
    }
