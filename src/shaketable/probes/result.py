"""The table of layer robustness: what it says, how it is summed up, saved and read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from shaketable.errors import InputError
from shaketable.probes.stored import as_pandas, read_result, write_result

FULL_MODEL = "full model"
SCHEMA = {
    "layer": pl.String,
    "position": pl.Int64,
    "kind": pl.String,
    "parameters": pl.Int64,
    "perturbation": pl.String,
    "checkpoint": pl.Int64,
    "draw": pl.Int64,
    "split": pl.String,
    "examples": pl.Int64,
    "errors": pl.Int64,
    "error": pl.Float64,
    "error_low": pl.Float64,
    "error_high": pl.Float64,
    "loss": pl.Float64,
    "accuracy": pl.Float64,
    "accuracy_drop": pl.Float64,
    "distribution": pl.String,
    "status": pl.String,
    "reason": pl.String,
}


@dataclass(frozen=True)
class Robustness:
    """The table of layer robustness, with what it rests on.

    Attributes:
        table: one row per layer, perturbation, checkpoint, draw and split. ``perturbation`` is ``"rerandomise"``,
            ``"reinitialise"`` (to ``checkpoint``) or, in the reference rows of the full model, ``"none"``: the whole
            network at ``checkpoint``. ``error`` and ``accuracy`` in [0, 1], ``loss`` in nats, ``accuracy_drop`` = accuracy
            of the final network - accuracy. ``error_low`` and ``error_high`` are the error again, unless it was measured
            to a precision: then they are the ends of its interval, and there is no loss.
            A row that could not be computed has a ``status`` other than ``"ok"`` and a
            ``reason``.
        distances: one row per layer and checkpoint or draw: the normalised 2-norm and the infinity norm of its change.
        robust, critical: the thresholds of the verdict, on the accuracy drop.
        provenance: what, with which arguments, versions, seeds and hashes.
        history: the training history, where the study came from a run.
    """

    table: pl.DataFrame
    distances: pl.DataFrame
    robust: float
    critical: float
    provenance: dict[str, Any] = field(default_factory=dict)
    history: pl.DataFrame | None = None

    def __repr__(self) -> str:
        layers = self.table.filter(pl.col("position") >= 0)["position"].n_unique()
        return f"<Robustness of {self.provenance.get('name', 'a network')}: {layers} layers, {len(self.table)} rows>"

    def summary(self) -> pl.DataFrame:
        """Mean and standard deviation over draws: one row per layer, perturbation, checkpoint and split.

        Returns: ``error``, ``loss``, ``accuracy_drop`` are means; ``error_std``, ``loss_std``, ``accuracy_drop_std`` are
            standard deviations over draws (divisor draws - 1; null for a single one). Where a draw has no number
            (a loss that is not finite) neither has the mean.
        """
        keys = ["layer", "position", "kind", "parameters", "perturbation", "checkpoint", "split"]
        numbers = ["error", "loss", "accuracy_drop"]
        whole = {
            name: pl.when(pl.col(name).null_count() == 0) for name in numbers
        }  # never a mean over some of the draws
        means = [whole[name].then(pl.col(name).mean()).alias(name) for name in numbers]
        deviations = [whole[name].then(pl.col(name).std(ddof=1)).alias(f"{name}_std") for name in numbers]
        facts = [pl.col("error").count().alias("draws"), *means, *deviations, pl.col("distribution").first()]
        facts += [pl.col("status").sort_by(pl.col("status") == "ok").first(), pl.col("reason").drop_nulls().first()]
        return self.table.group_by(keys, maintain_order=True).agg(facts)

    def verdicts(self, split: str = "test") -> pl.DataFrame:
        """For each layer: robust, critical, or between, to re-initialisation (checkpoint 0) and to re-randomisation.

        ``"robust"``: the accuracy drops by at most ``self.robust``; ``"critical"``: by at least ``self.critical``;
        ``"between"`` otherwise; null where it could not be measured. The drop of re-randomisation is the mean over draws.

        Raises:
            InputError: the split was not measured.

        Deviates: the paper sets no threshold ("there is no universal threshold across all models and tasks"); ours are
        arguments of :func:`robustness`, and stand in every report.
        """
        if split not in self.splits():
            raise InputError(f"there are no {split!r} rows in this result; there are {', '.join(self.splits())}.")
        summary = self.summary().filter(pl.col("split") == split, pl.col("position") >= 0)
        keys = ["layer", "position", "kind", "parameters"]
        found = summary.select(keys).unique(maintain_order=True)
        for perturbation in ("reinitialise", "rerandomise"):
            rows = summary.filter(pl.col("perturbation") == perturbation)
            if perturbation == "reinitialise":
                rows = rows.filter(pl.col("checkpoint") == 0)
            drop = pl.col("accuracy_drop")
            verdict = (
                pl.when(drop <= self.robust)
                .then(pl.lit("robust"))
                .when(drop >= self.critical)
                .then(pl.lit("critical"))
                .when(drop.is_not_null())
                .then(pl.lit("between"))
            )
            columns = [drop.alias(f"{perturbation}_drop"), verdict.alias(perturbation)]
            if perturbation == "rerandomise":
                columns.insert(1, pl.col("accuracy_drop_std").alias("rerandomise_drop_std"))
            found = found.join(rows.select("position", *columns), on="position", how="left", maintain_order="left")
        return found

    def layers_that_are(self, verdict: str, perturbation: str = "reinitialise", split: str = "test") -> list[str]:
        """Names of the layers with a verdict, in forward order.

        Raises:
            InputError: no layer has a verdict on this perturbation.
        """
        if self.verdicts(split)[perturbation].null_count() == len(self.verdicts(split)):
            reasons = self.table.filter(pl.col("perturbation") == perturbation)["reason"].drop_nulls()
            reason = reasons[0] if len(reasons) else "it was not asked for"
            raise InputError(f"no layer has a verdict on {perturbation!r}: {reason}.")
        return self.verdicts(split).filter(pl.col(perturbation) == verdict)["layer"].to_list()

    def splits(self) -> list[str]:
        """The splits that were measured."""
        return self.table["split"].unique(maintain_order=True).to_list()

    def save(self, folder: str | Path) -> Path:
        """Write ``robustness`` and ``distances`` (``history`` too) as Parquet and CSV, and ``provenance.json``, into a folder."""
        tables = {"robustness": self.table, "distances": self.distances, "summary": self.summary()}
        tables |= {"history": self.history} if self.history is not None else {}
        facts = {"robust": self.robust, "critical": self.critical, "provenance": self.provenance}
        return write_result(Path(folder), "robustness", tables, facts)

    @classmethod
    def load(cls, folder: str | Path) -> "Robustness":
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the folder holds no such result.
        """
        names = ["robustness", "distances", *(["history"] if (Path(folder) / "history.parquet").is_file() else [])]
        facts, tables = read_result(Path(folder), "robustness", names, ("robust", "critical", "provenance"))
        return cls(tables["robustness"], tables["distances"], **facts, history=tables.get("history"))

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame (extra ``shaketable[pandas]``)."""
        return as_pandas(self.table)

    def plot(self, **arguments: Any) -> Any:
        """The heat map of the paper's figures 1 (a), 3 and 4; see :func:`shaketable.plots.robustness_heatmap`."""
        from shaketable.plots import (
            robustness_heatmap,  # a figure is drawn only when asked for: nothing above depends on it
        )

        return robustness_heatmap(self.summary(), **arguments)
