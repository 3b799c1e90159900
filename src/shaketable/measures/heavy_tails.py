"""Measures of the spectra of weights as heavy-tailed distributions, by the package ``weightwatcher``."""

import copy
import logging
import warnings
from typing import Any, Literal

import polars as pl
import torch

from shaketable.errors import InputError
from shaketable.measures.measure import Measurement, Unavailable, from_value, measure
from shaketable.measures.norms import SCHEMA, weight_layers
from shaketable.params import state
from shaketable.study import Study

MARTIN = (
    "Martin, Peng, Mahoney, Predicting trends in the quality of state-of-the-art neural networks without access to training or "
    "testing data, 2021"
)
METRICS = ("alpha", "alpha_weighted", "log_norm", "log_alpha_norm", "log_spectral_norm", "stable_rank")
Metric = Literal["alpha", "alpha_weighted", "log_norm", "log_alpha_norm", "log_spectral_norm", "stable_rank"]


@measure(symbol="alpha", direction="lower", extra="weightwatcher", paper=MARTIN)
def heavy_tail_alpha(study: Study, metric: Metric = "alpha") -> Measurement:
    r"""Alpha of weightwatcher: the exponent of a power law fitted to the spectra of the weights.

    .. math:: \frac1d \sum_i \alpha_i, \qquad \rho_i(\lambda) \sim \lambda^{-\alpha_i}

    for the eigenvalues :math:`\lambda` of :math:`W_i^T W_i`, fitted above a threshold that the package chooses, with the package's
    own defaults. Not done: nothing is computed here; small layers have spectra of few values, whose fits say little.

    Args:
        study: any; needs neither initial weights nor data.
        metric: the column of the package's table whose mean over layers is taken: ``"alpha"``, ``"alpha_weighted"``,
            ``"log_norm"``, ``"log_alpha_norm"``, ``"log_spectral_norm"`` or ``"stable_rank"``.

    Returns: for alpha above 1; 2 to 6 in networks that the authors call well trained. ``layers`` has the terms of those layers
        that the package analyses.

    Raises:
        InputError: an unknown metric.

    Cost: a singular value decomposition of every kernel, as a matrix for each tap.

    Example:
        >>> found = heavy_tail_alpha(Study(torch.nn.Linear(60, 60).eval()))
        >>> found.status in ("ok", "unavailable")  # the latter where the package is not installed
        True

    References: Martin, Peng, Mahoney, "Predicting trends in the quality of state-of-the-art neural networks without access to
        training or testing data", 2021.
    """
    if metric not in METRICS:
        raise InputError(f"unknown metric={metric!r}; use one of {', '.join(METRICS)}.")
    found = _analysed(study, metric)
    rows = []
    for layer in weight_layers(study):
        value = found.get(layer.modules[0])
        if value is not None and value == value:
            parameters = sum(study.final[name].numel() for name in layer.params)
            rows.append((layer.name, len(rows), layer.kind, parameters, float(value)))
    if not rows:
        raise Unavailable("weightwatcher analyses none of its layers: they are too small, or of other kinds")
    table = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    return from_value(float(table["value"].to_numpy().mean()), table)


def _analysed(study: Study, metric: str) -> dict[str, Any]:
    """A column of the package's table, by layer; its warnings and what it does to logging are kept in."""
    network = copy.deepcopy(study.network).cpu().eval()
    with torch.no_grad():
        for name, tensor in state(network).items():
            tensor.copy_(study.final[name])
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import weightwatcher  # pyright: ignore[reportMissingImports]

            table = weightwatcher.WeightWatcher(model=network, log_level=logging.ERROR).analyze(plot=False)
            return table.set_index("longname")[metric].to_dict()
    except (ValueError, KeyError, IndexError, RuntimeError) as error:
        raise Unavailable(f"weightwatcher fails on this network ({type(error).__name__}: {error})") from error
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
