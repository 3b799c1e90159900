"""Paths: error and loss on the straight line from a layer's initial to its final weights.

The table has one row per layer (and one for all of them together, at position -1), alpha and split: see :data:`SCHEMA`.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl

from shaketable.data import Data
from shaketable.engine import Engine, Level
from shaketable.errors import InputError
from shaketable.params import Grouping, Layer
from shaketable.probes.cells import Cell, Cells
from shaketable.probes.moves import ALL_LAYERS, Move, Parameters, grid, move_of, move_of_all, moved_layers, stuck
from shaketable.probes.stored import (
    Result,
    data_of,
    facts_of,
    identity_of,
    numbers_of,
    stored,
    sums_in_sections,
    time_taken,
)
from shaketable.progress import progress
from shaketable.study import Study

VERSION = 1
SCHEMA = {
    "layer": pl.String,  # its name; "all layers" for all together
    "position": pl.Int64,  # in forward order, from 0; -1 for all together
    "kind": pl.String,  # the class of the module or of the network
    "parameters": pl.Int64,  # how many move
    "alpha": pl.Float64,  # 0: init, 1: final
    "split": pl.String,  # "test" or "train"
    "examples": pl.Int64,
    "errors": pl.Int64,
    "error": pl.Float64,  # errors / examples
    "loss": pl.Float64,  # mean cross-entropy in nats; null where logits are not finite
    "status": pl.String,  # "ok", "not finite", "unavailable"
    "reason": pl.String,
}
SUMMARY = {
    "layer": pl.String,
    "position": pl.Int64,
    "split": pl.String,
    "quantity": pl.String,  # "error" or "loss"
    "init": pl.Float64,  # its value at the lowest alpha
    "final": pl.Float64,  # its value at the highest alpha
    "violation": pl.Float64,  # the largest rise from one alpha to a higher one; 0: monotone
    "from_alpha": pl.Float64,  # where that rise begins; null if there is none
    "to_alpha": pl.Float64,  # where it ends
    "monotone": pl.Boolean,  # violation <= tolerance
}
Statistics = Literal["keep", "interpolate"]


@dataclass(frozen=True, repr=False)
class Paths(Result):
    """The table of :func:`path`, with what it rests on.

    Attributes:
        table: one row per layer, alpha and split. ``layer`` is ``"all layers"`` and ``position`` -1 where all move together.
            ``error`` in [0, 1], ``loss`` in nats. A row that could not be computed has a ``status`` other than ``"ok"`` and
            a ``reason``.
        provenance: what, with which arguments, versions, seeds and hashes.
    """

    NAME: ClassVar[str] = "path"

    def summary(self, tolerance: float = 1e-6) -> pl.DataFrame:
        r"""Whether error and loss only fall from init to final: one row per layer, split and quantity.

        .. math:: \max_{\alpha \le \alpha'} \bigl(L(\alpha') - L(\alpha)\bigr)

        over the alphas of the table is the ``violation``: 0 where the curve never rises on the way to the final weights.

        Args:
            tolerance: a rise up to here, in units of the quantity, is taken for rounding: ``monotone`` is true all the same.

        Returns: columns as in :data:`SUMMARY`; ``violation`` >= 0, null where a point of the curve has no number.
        """
        rows = []
        for keys, curve in self.table.sort("alpha").group_by("layer", "position", "split", maintain_order=True):
            for quantity in ("error", "loss"):
                rise = _largest_rise(curve["alpha"].to_list(), curve[quantity].to_list())
                monotone = None if rise["violation"] is None else rise["violation"] <= tolerance
                rows.append(dict(zip(SUMMARY, (*keys, quantity))) | rise | {"monotone": monotone})
        return pl.DataFrame(rows, schema=SUMMARY).sort("position", maintain_order=True)

    def plot(self, **arguments: Any) -> Any:
        """Curves over alpha of the first split, as in figure 4; see :func:`shaketable.plots.path_curves`."""
        from shaketable.plots import path_curves

        return path_curves(self.table, **{"split": self.splits()[0], **arguments})


def path(
    study: Study,
    by: Grouping = "module",
    *,
    alphas: int | Iterable[float] = 21,
    layers: Iterable[str] | str | None = None,
    together: bool = True,
    parameters: Parameters = "weight",
    statistics: Statistics = "keep",
    splits: Sequence[str] | None = None,
    level: Level = "auto",
    memory: int | None = None,
    batch_size: int | None = None,
    store: str | Path | None = None,
    command: str | None = None,
) -> Paths:
    r"""Error and loss along the convex combination of initial and final weights, for each layer alone and for all together.

    .. math:: \theta_i^\alpha = (1 - \alpha)\, \theta_i^0 + \alpha\, \theta_i^F, \qquad
              \theta_j = \theta_j^F \text{ for all other layers } j \ne i

    for ``alphas`` :math:`\alpha`, the study's init :math:`\theta^0` and its final weights :math:`\theta^F`. Nothing is
    retrained, and batch norm's running statistics are not measured anew at any point.

    Args:
        study: a trained network with its initial weights, and data.
        by: the grouping into layers; see :func:`shaketable.params.layers`.
        alphas: how many points at equal steps from 0 to 1, or the points themselves, in [0, 1].
        layers: names of the layers to move; all of the grouping, if left out.
        together: add a row for all layers at once: every trained parameter of the network moves, biases and normalisations
            included, whatever ``layers`` and ``parameters`` say.
        parameters: what of a single layer moves: ``"weight"``, the weights of linear operators alone (with
            ``by="module"`` the modules of the paper), or ``"all"`` of its parameters.
        statistics: whether running statistics stay as trained (``"keep"``) or move with the parameters of their layer, and
            with all of them (``"interpolate"``). With ``parameters="weight"`` a single layer has none of its own.
        splits: ``"test"``, ``"train"``; those that the study has, if left out.
        level, memory, batch_size: of the :class:`shaketable.engine.Engine`; they change speed and memory, not the result.
        store: a folder that keeps the sums as they come: interrupted work goes on from there, finished work is read.
        command: what the user typed, for the report.

    Returns: a :class:`Paths`; its table has the columns of :data:`SCHEMA`. At alpha 0 the layer has its initial weights
        exactly, at alpha 1 the network is the final one exactly. A layer of integers is ``"unavailable"``; where logits
        were NaN or infinite the row says ``"not finite"``, these examples count as errors, and the loss is null.

    Raises:
        InputError: no init, no data, an unknown layer, grouping or option, or an alpha outside of [0, 1].

    Cost: for each layer and alpha the part of a pass over the data that the layer reaches; a single linear operator itself
        runs twice a batch, not once an alpha. All together: a pass an alpha.

    Deviates: the paper does not say whether biases and normalisations move; its networks but FCN have no normalisation.
        Without any, ``statistics`` changes nothing. Extrapolation is refused: alpha outside of [0, 1] is no convex combination.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.eye(2)}, init={"weight": -torch.eye(2)},
        ...               test=(torch.eye(2), [0, 1]))
        >>> path(study, alphas=3, together=False).table.select("layer", "alpha", "error").rows()
        [('linear', 0.0, 1.0), ('linear', 0.5, 0.5), ('linear', 1.0, 0.0)]

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
    networks", 2020, section 3, figure 4.
    """
    started = time.monotonic()
    points = grid("alphas", alphas, 1.0)
    if statistics not in ("keep", "interpolate"):
        raise InputError(f"unknown statistics={statistics!r}; use 'keep' or 'interpolate'.")
    chosen = moved_layers(study, by, parameters, layers)
    data = data_of(study, splits)
    engine = Engine(study.network, study.final, level=level, memory=memory, batch_size=batch_size)
    plan = _Plan(study, engine, data, chosen, points, together, statistics)
    facts = facts_of(
        study,
        data,
        layers_by=by if isinstance(by, str) else "your own",
        parameters=parameters,
        statistics=statistics,
        alphas=list(points),
        together=together,
        command=command,
    )

    def measure(cells: Cells) -> Paths:
        table = pl.DataFrame([dict.fromkeys(SCHEMA) | row for row in plan.rows(cells)], schema=SCHEMA)
        provenance = facts | {"engine": engine.choice} | time_taken(started)
        return Paths(table.sort("position", "split", "alpha", maintain_order=True), provenance)

    return stored(Paths, store, plan.identity, measure, command)


@dataclass(frozen=True)
class _Plan:
    """What is measured: everything that decides a number, and the engine."""

    study: Study
    engine: Engine
    data: Mapping[str, Data]
    layers: Mapping[int, Layer]
    alphas: tuple[float, ...]
    together: bool
    statistics: Statistics

    def identity(self) -> dict[str, Any]:
        """What the numbers are the numbers of, as plain values."""
        what = {"alphas": self.alphas, "together": self.together, "statistics": self.statistics}
        found = [[position, one.name, one.params, one.buffers] for position, one in self.layers.items()]
        return identity_of(self.study, "path", VERSION, self.data, layers=found, **what)

    def rows(self, cells: Cells) -> list[Cell]:
        """All rows of the table."""
        moves, rows = self._moves()
        jobs = [(what | {"alpha": alpha}, move.at(alpha)) for what, move in moves for alpha in self.alphas]
        with progress("path", sum(map(len, self.data.values()))) as advance:
            for split, data in self.data.items():
                sums = sums_in_sections(cells, [split], self.engine, [variant for _, variant in jobs], data, advance)
                rows += [what | {"split": split} | numbers_of(one) for (what, _), one in zip(jobs, sums, strict=True)]
        return rows

    def _moves(self) -> tuple[list[tuple[Cell, Move]], list[Cell]]:
        """What moves, with what its rows say; and the rows of what cannot."""
        study, along = self.study, self.statistics == "interpolate"
        moves: list[tuple[Cell, Move]] = []
        rows: list[Cell] = []
        for position, layer in self.layers.items():
            what = {"layer": layer.name, "position": position, "kind": layer.kind}
            what["parameters"] = sum(study.final[name].numel() for name in layer.params)
            reason = stuck(study, layer)
            if reason is None:
                moves.append((what, move_of(study, layer, along)))
            for split in self.data if reason else ():
                where = {"split": split, "status": "unavailable", "reason": reason}
                rows += [what | where | {"alpha": alpha} for alpha in self.alphas]
        if self.together:
            size = sum(parameter.numel() for parameter in study.network.parameters())
            what = {"layer": ALL_LAYERS, "position": -1, "kind": type(study.network).__name__, "parameters": size}
            moves.append((what, move_of_all(study, along)))
        return moves, rows


def _largest_rise(alphas: Sequence[float], values: Sequence[float | None]) -> dict[str, float | None]:
    """The ends of a curve, and its largest rise from one alpha to a higher one."""
    ends = {"init": values[0], "final": values[-1]}
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return ends | {"violation": None, "from_alpha": None, "to_alpha": None}
    lowest, best = 0, (0.0, None, None)
    for index, value in enumerate(known):
        if value < known[lowest]:
            lowest = index
        if value - known[lowest] > best[0]:
            best = (value - known[lowest], alphas[lowest], alphas[index])
    return ends | dict(zip(("violation", "from_alpha", "to_alpha"), best))
