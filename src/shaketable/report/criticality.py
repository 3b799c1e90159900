"""What the report says about criticality, paths, valleys, measures and bounds."""

from typing import Any

import polars as pl

from shaketable import plots
from shaketable.probes import Paths, Valley
from shaketable.probes.criticality import Criticality
from shaketable.report.criticality_words import (
    bound_verdict,
    condition,
    criticality_paragraphs,
    measure_value,
    path_paragraphs,
    quantity,
    valley_paragraphs,
)
from shaketable.report.parts import Part, missing_rows, network_facts
from shaketable.report.results import Bounds, Measures

SURFACES = 4
"""Valleys that are drawn."""


def criticality_part(result: Criticality, size: int) -> Part:
    """Bars at each threshold, network criticality against the threshold, and the table."""
    table = result.table.sort("epsilon", "position")
    epsilons = table["epsilon"].unique().sort(descending=True).to_list()
    main = epsilons[0]
    notes, names = [], table["layer"].unique(maintain_order=True).to_list()
    room = max(1, size // 8)
    shown = table
    if len(names) > room:
        most = table.filter(pl.col("epsilon") == main).sort("criticality", descending=True, nulls_last=True)
        shown = table.filter(pl.col("layer").is_in(most["layer"].head(room).implode()))
        notes.append(f"Criticality: the figure and the table show the {room:,} most critical of {len(names):,} layers.")
    figures = {"criticality": plots.criticality_bars(shown, main).to_dict()}
    if len(epsilons) > 1:
        figures["network-criticality"] = plots.criticality_curve(result.summary()).to_dict()
    summary = result.summary()
    rows = [
        row
        | {
            "criticality_text": quantity(row["criticality"], row["criticality_stderr"]),
            "pac_bayes_text": quantity(row["pac_bayes"], row["pac_bayes_stderr"]),
        }
        for row in shown.filter(pl.col("epsilon") == main).to_dicts()
    ]
    sums = [
        {
            "epsilon": row["epsilon"],
            "network": quantity(row["network_criticality"], row["network_criticality_stderr"]),
            "pac_bayes": quantity(row["pac_bayes"], row["pac_bayes_stderr"]),
            "without": row["without"],
        }
        for row in summary.to_dicts()
    ]
    total = summary.filter(pl.col("epsilon") == main).row(0, named=True)
    facts = [
        *network_facts(result),
        ("Layers", f"{len(names):,}"),
        ("Error threshold", f"{main:g} ({result.provenance.get('threshold', 'absolute')})"),
        ("Network criticality", quantity(total["network_criticality"], total["network_criticality_stderr"])),
    ]
    return {
        "template": "criticality.html",
        "paragraphs": criticality_paragraphs(result, main),
        "facts": facts,
        "notes": notes,
        "figures": figures,
        "missing": _missing(table.with_columns(where=pl.format("epsilon {}", "epsilon")), "criticality", size),
        "condition": condition(result, total["bound"]),
        "rows": rows,
        "sums": sums,
    }


def path_part(result: Paths, size: int) -> Part:
    """Curves of error and loss along the paths."""
    splits = [split for split in ("test", "train") if split in result.splits()]
    table, notes = result.table, []
    names = table.filter(pl.col("position") >= 0)["layer"].unique(maintain_order=True).to_list()
    room = max(1, size // (5 * table["alpha"].n_unique()))
    if len(names) > room:
        first = table.filter(pl.col("position") >= 0, pl.col("alpha") == table["alpha"].min())
        worst = first.sort("error", descending=True, nulls_last=True)["layer"].unique(maintain_order=True).head(room)
        table = table.filter(pl.col("layer").is_in(worst.implode()) | (pl.col("position") < 0))
        notes.append(
            f"Paths: the figures show {room:,} of {len(names):,} layers, those with the largest error at the start."
        )
    figures = {f"path-{split}": plots.path_curves(table, split).to_dict() for split in splits}
    figures["path-loss"] = plots.path_curves(table, splits[-1], "loss").to_dict()
    return {
        "template": "path.html",
        "paragraphs": path_paragraphs(result, splits[0]),
        "facts": [*network_facts(result), ("Layers", f"{len(names):,}")],
        "notes": notes,
        "figures": figures,
        "missing": _missing(result.table.with_columns(where=pl.format("alpha {}", "alpha")), "path", size),
        "splits": splits,
    }


def valley_part(result: Valley, size: int) -> Part:
    """The valleys from above and as surfaces that can be turned, and error and loss over alpha and sigma."""
    found = result.surface()
    names = found["layer"].unique(maintain_order=True).to_list()
    room = min(SURFACES, max(1, size // (found["alpha"].n_unique() * found["y"].n_unique())))
    notes = [f"Valleys: {room} of {len(names)} layers are drawn."] if len(names) > room else []
    shown = names[:room]
    surface, summary = (table.filter(pl.col("layer").is_in(shown)) for table in (found, result.summary()))
    figures = {"valley-grid": plots.valley_grid(summary).to_dict()}
    for index, name in enumerate(shown):
        figures[f"valley-{index}"] = plots.valley_surface(surface, layers=name).to_dict()
    return {
        "template": "valley.html",
        "paragraphs": valley_paragraphs(result),
        "facts": network_facts(result),
        "notes": notes,
        "figures": figures,
        "missing": _missing(
            result.table.with_columns(where=pl.format("alpha {}, sigma {}", "alpha", "sigma")), "valley", size
        ),
        "names": shown,
        "split": result.splits()[0],
        "sides": " on both sides" if result.provenance.get("antithetic", True) else "",
        "surfaces": {f"valley-{index}": _surface(surface, name) for index, name in enumerate(shown)},
    }


def measures_part(result: Measures, size: int) -> Part:
    """The table of measures."""
    rows = result.table.head(size).to_dicts()
    return {
        "template": "measures.html",
        "paragraphs": [],
        "facts": network_facts(result),
        "notes": [],
        "figures": {},
        "missing": [],
        "rows": [row | {"text": measure_value(row), "name": row["measure"].replace("_", " ")} for row in rows],
        "papers": [paper for paper in result.table["paper"].unique(maintain_order=True) if paper],
    }


def bounds_part(result: Bounds, size: int) -> Part:
    """Each bound with its terms and what it rests on."""
    found = [
        {
            "theorem": bound.theorem,
            "statement": bound.statement(),
            "verdict": bound_verdict(bound),
            "terms": [(name, quantity(value), about) for name, value, about in bound.terms.rows()],
            "assumptions": bound.assumptions,
        }
        for bound in result.bounds[: max(1, size // 50)]
    ]
    return {
        "template": "bounds.html",
        "paragraphs": [],
        "facts": network_facts(result),
        "notes": [],
        "figures": {},
        "missing": [],
        "bounds": found,
    }


def _missing(table: pl.DataFrame, what: str, size: int) -> list[dict[str, Any]]:
    """What a probe could not measure."""
    split = pl.col("split") if "split" in table.columns else pl.lit("train")
    return missing_rows(table.with_columns(what=pl.lit(what), split=split), size)


def _surface(surface: pl.DataFrame, name: str) -> dict[str, Any]:
    """The heights of one valley: a list for each alpha, over the noise."""
    table = surface.filter(pl.col("layer") == name)
    alphas, noise = table["alpha"].unique().sort().to_list(), table["y"].unique().sort().to_list()
    heights = dict(zip(table.select("alpha", "y").rows(), table["loss"], strict=True))
    return {
        "alphas": alphas,
        "noise": [float(f"{value:.4g}") for value in noise],
        "heights": [[_rounded(heights.get((alpha, value))) for value in noise] for alpha in alphas],
    }


def _rounded(value: float | None) -> float | None:
    """Five significant digits; nothing for what is not finite."""
    return None if value is None or abs(value) == float("inf") or value != value else float(f"{value:.5g}")
