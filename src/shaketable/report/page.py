"""The report: tables and figures of one result in one HTML file that needs no network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from shaketable import plots
from shaketable.errors import InputError, RunError
from shaketable.files import write_text
from shaketable.probes import Robustness
from shaketable.probes.result import FULL_MODEL
from shaketable.report.words import DONE, VERDICTS, clean_row, paragraphs, percent, points

HERE = Path(__file__).parent
MOST_BYTES = 1_500_000
SIZES = (6000, 4000, 2500, 1500, 900, 500, 300)  # cells of a heat map and rows of a table that the report may have
ORDER = {verdict: place for place, verdict in enumerate(VERDICTS)}


def write_report(robustness: Robustness, path: str | Path) -> Path:
    """Write one HTML file with the verdicts in plain words, the figures, the tables and where the numbers come from.

    The file asks nothing of a network, is at most 1.5 MB, and forbids itself by its content security policy to load
    anything. Where a table is too large for that, the figures show some of the checkpoints only, or are left out, and
    the tables are cut; the report says so. Names from outside are escaped.

    Args:
        robustness: the result of :func:`shaketable.probes.robustness`.
        path: the HTML file; its folder is made if need be.

    Returns:
        The path.

    Raises:
        RunError: names so long that no report of 1.5 MB can hold them.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of the HTML file to write.")
    for size in SIZES:
        text = _html(robustness, size)
        if len(text.encode()) <= MOST_BYTES:
            write_text(path, text)
            return path
    raise RunError(f"{path}: the names of layers are too long for a report of {MOST_BYTES:,} bytes; shorten them.")


def _html(robustness: Robustness, size: int) -> str:
    """The page with heat maps of at most ``size`` cells and tables of at most ``size`` rows."""
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
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}
    return environment.get_template("page.html").render(
        title=f"Which layers hold {provenance.get('name') or 'this network'} up?",
        paragraphs=paragraphs(robustness, main),
        facts=_facts(robustness, verdicts, splits),
        notes=notes,
        split=main,
        splits=splits,
        figures=_packed(figures),
        drawn=list(figures),
        grid=_grid(shown, main, size) if kept else None,
        verdicts=[row | {"order": ORDER} for row in verdicts.head(size).iter_rows(named=True)],
        thresholds=(points(robustness.robust), points(robustness.critical)),
        missing=_missing(summary).head(size).iter_rows(named=True),
        command=provenance.get("command"),
        provenance=[(key.replace("_", " "), _plain(value)) for key, value in provenance.items() if key != "command"],
        statistics=provenance.get("statistics"),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        library=Markup(plots.javascript()),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
    )


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
        how=pl.col("perturbation").replace_strict(DONE, default="as it was"),
        checkpoint=pl.col("checkpoint").cast(pl.String),
    )
    together = bad.group_by("layer", "how", "status", "reason", maintain_order=True)
    return together.agg(pl.col("checkpoint").drop_nulls().unique(maintain_order=True), pl.col("split").unique().sort())


def _packed(figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Specs with their data taken out: a table that two figures share is stored once, by columns."""
    tables: dict[str, Any] = {}
    for spec in figures.values():
        for name, rows in spec["datasets"].items():
            tables[name] = {field: _column([_short(row[field]) for row in rows]) for field in rows[0]}
        spec["datasets"] = list(spec["datasets"])
    return {"specs": figures, "tables": tables}


def _column(values: list[Any]) -> list[Any] | dict[str, list[Any]]:
    """A column as it is, or its distinct values and where they stand, if these are few."""
    place = {value: index for index, value in enumerate(dict.fromkeys(values))}
    if 2 * len(place) > len(values):
        return values
    return {"values": list(place), "places": [place[value] for value in values]}


def _short(value: Any) -> Any:
    """Six significant digits are more than a figure shows."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
