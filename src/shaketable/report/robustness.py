"""What the report says about layer robustness."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from shaketable import plots
from shaketable.errors import InputError
from shaketable.probes import Robustness
from shaketable.probes.result import FULL_MODEL
from shaketable.report.words import DONE, VERDICTS, clean_row, paragraphs, percent, points

ORDER = {verdict: place for place, verdict in enumerate(VERDICTS)}


def robustness_part(robustness: Robustness, size: int) -> dict[str, Any]:
    """The part with heat maps of at most ``size`` cells and tables of at most ``size`` rows."""
    summary, provenance = robustness.summary(), robustness.provenance
    splits = [split for split in ("test", "train") if split in robustness.splits()]
    main = splits[0]
    verdicts = robustness.verdicts("train" if main == "train" else "test")
    kept, notes = _kept(robustness, size)
    shown, distances = (
        table.filter(pl.col("checkpoint").is_null() | pl.col("checkpoint").is_in(kept))
        for table in (summary, robustness.distances)
    )
    if len(verdicts) > size:
        notes.append(f"The tables show {size:,} of {len(verdicts):,} layers; the result's own tables have them all.")
    figures: dict[str, dict[str, Any]] = {}
    if kept:
        classes = provenance.get("classes")
        for split in splits:
            figures[f"heatmap-{split}"] = plots.robustness_heatmap(shown, split, classes=classes).to_dict()
        figures["curves"] = plots.robustness_curves(shown, main, final=provenance.get("final_checkpoint")).to_dict()
        if not distances.is_empty():
            figures["distance-l2"] = plots.distance_heatmap(distances, "normalised_l2").to_dict()
            figures["distance-linf"] = plots.distance_heatmap(distances, "linf").to_dict()
    if robustness.history is not None:
        try:
            figures["history"] = plots.training_history(robustness.history).to_dict()
        except InputError as error:  # a history of one's own that has nothing to draw does not stop the report
            notes.append(f"No figure of the training: {error}")
    return {
        "template": "robustness.html",
        "paragraphs": paragraphs(robustness, main),
        "facts": _facts(robustness, verdicts, splits),
        "notes": notes,
        "figures": figures,
        "missing": _missing(summary).head(size).to_dicts(),
        "split": main,
        "splits": splits,
        "grid": _grid(shown, main, size) if kept else None,
        "verdicts": [row | {"order": ORDER} for row in verdicts.head(size).iter_rows(named=True)],
        "thresholds": (points(robustness.robust), points(robustness.critical)),
        "statistics": provenance.get("statistics"),
    }


def _kept(robustness: Robustness, size: int) -> tuple[list[int], list[str]]:
    """The checkpoints that the figures show, evenly chosen where there are too many, and what to say about it."""
    known = robustness.table["checkpoint"].drop_nulls().unique().sort().to_list()
    names = robustness.table["layer"].n_unique()
    room = size // names - 1  # one column is re-randomisation
    if room >= len(known):
        return known or [0], []
    if room < 2:
        return [], [
            f"The figures are left out: {names:,} layers are more than this file can show; the tables have them."
        ]
    kept = [known[round(place * (len(known) - 1) / (room - 1))] for place in range(room)]
    shown = f"{room:,} of the {len(known):,} checkpoints"
    return kept, [f"The figures show {shown}, so that this file stays small; the result's own tables have them all."]


def _facts(robustness: Robustness, verdicts: pl.DataFrame, splits: Sequence[str]) -> list[tuple[str, str]]:
    """What one wants to know at a glance."""
    provenance, facts = robustness.provenance, []
    reference = robustness.table.filter(pl.col("position") < 0)
    grouped = f", grouped by {provenance['layers_by']}" if provenance.get("layers_by") else ""
    facts.append(("Network", str(provenance.get("network") or provenance.get("name") or "not named")))
    facts.append(("Layers", f"{len(verdicts):,}{grouped}"))
    if len(reference):
        facts.append(("Parameters", f"{reference['parameters'][0]:,}"))
    if provenance.get("final_checkpoint") is not None:
        facts.append(("Trained for", f"{provenance['final_checkpoint']:,} epochs"))
    for split in splits:
        clean = clean_row(robustness, split)
        if clean:
            counts = f"{clean['errors']:,} of {clean['examples']:,}"
            facts.append((f"Clean {split} error", f"{percent(clean['error'])} ({counts})"))
    if provenance.get("classes"):
        facts.append(
            ("Chance level", f"{percent(1 - 1 / provenance['classes'])} error ({provenance['classes']} classes)")
        )
    facts.append(("Robust", f"accuracy falls by at most {points(robustness.robust)}"))
    facts.append(("Critical", f"accuracy falls by at least {points(robustness.critical)}"))
    if provenance.get("draws"):
        facts.append(("Fresh draws", f"{provenance['draws']} per layer"))
    if provenance.get("seconds") is not None:
        facts.append(("Measured in", f"{provenance['seconds']:,.1f} s"))
    return facts


def _grid(summary: pl.DataFrame, split: str, size: int) -> dict[str, Any]:
    """The heat map's numbers as a table of texts: a row per layer, the full model last."""
    rows, layers, columns = plots.cells(summary, split, "error")
    cells = {(row["layer"], row["column"]): row["error"] for row in rows}
    names = [*layers[:size], FULL_MODEL]
    return {
        "columns": columns,
        "rows": [(name, [cells.get((name, column), "") for column in columns]) for name in names],
    }


def _missing(summary: pl.DataFrame) -> pl.DataFrame:
    """What has a status other than ok: one row per layer, perturbation and reason."""
    bad = summary.filter(pl.col("status") != "ok").with_columns(
        what=pl.col("perturbation").replace_strict(DONE, default="as it was"),
        where=pl.lit("checkpoint ") + pl.col("checkpoint").cast(pl.String),
    )
    together = bad.group_by("layer", "what", "status", "reason", maintain_order=True)
    return together.agg(pl.col("where").drop_nulls().unique(maintain_order=True), pl.col("split").unique().sort())
