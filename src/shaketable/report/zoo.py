"""What the report says about the measures of a zoo."""

from typing import Any

import polars as pl

from shaketable import plots
from shaketable.report.parts import Part
from shaketable.report.words import listing
from shaketable.zoo import Ranking

DRAWN = 4
"""Measures that are drawn against the gap: the best of them."""
FACTOR = 2
"""A tau within so many standard errors of 0 is none that chance does not give."""


def zoo_part(result: Ranking, size: int) -> Part:
    """The verdict, the heat map along the axes, the relations, and the best measures against the gap."""
    target, notes, figures = result.provenance["target"], [], {}
    if 0 < len(result.axes) <= size:
        figures["zoo-axes"] = plots.tau_heatmap(result.axes).to_dict()
    if 0 < len(result.relations) <= size:
        figures["zoo-relations"] = plots.tau_heatmap(result.relations, across="other").to_dict()
    elif len(result.relations):
        notes.append("Zoo: the heat map of relations is left out; the tables of the ranking have it.")
    best = result.table.filter(pl.col("tau").is_not_null()).head(DRAWN)
    if len(best) * result.provenance["networks"] <= size:
        for name, logarithm in best.select("measure", "logarithm").rows():
            figures[f"zoo-scatter-{name}"] = plots.measure_scatter(result.points, name, target, logarithm).to_dict()
            figures[f"zoo-ranks-{name}"] = plots.rank_plot(result.points, name, target).to_dict()
    else:
        notes.append("Zoo: measures against the gap are not drawn; the tables of the ranking have the points.")
    return {
        "template": "zoo.html",
        "paragraphs": zoo_paragraphs(result),
        "facts": [
            ("Networks", f"{result.provenance['networks']:,}"),
            ("Predicted", plots.TARGETS.get(target, target)),
            ("Axes", ", ".join(result.provenance["axes"]) or "none"),
        ],
        "notes": notes,
        "figures": figures,
        "missing": [
            {"layer": row["measure"], "what": "measure", "where": [], "split": [], **row}
            for row in result.table.filter(pl.col("status") != "ok")
            .head(size)
            .select("measure", "status", "reason")
            .to_dicts()
        ],
        "rows": result.table.head(size).to_dicts(),
        "information": result.relations.filter(pl.col("information").is_not_null())
        .sort("information", descending=True)
        .head(min(size, 20))
        .to_dicts(),
    }


def zoo_paragraphs(result: Ranking) -> list[str]:
    """Which measures predict, on which axes they fail, and how they relate."""
    facts, table = result.provenance, result.table
    ranked = table.filter(pl.col("tau").is_not_null())
    predict = ranked.filter(pl.col("tau") > FACTOR * pl.col("tau_stderr"))
    against = ranked.filter(pl.col("tau") < -FACTOR * pl.col("tau_stderr"))
    said = []
    if len(predict):
        best = predict.row(0, named=True)
        said.append(
            f"Of {len(table)} measures of {facts['networks']:,} networks {len(predict)} order the {_short(facts)} as they should, by more "
            f"than chance would: {_named(predict)}. The best is {best['measure']} (tau {_tau(best['tau'], best['tau_stderr'])})."
        )
    else:
        said.append(
            f"None of {len(table)} measures of {facts['networks']:,} networks orders the {_short(facts)} by more than chance would."
        )
    if len(against):
        said.append(f"The wrong way round, by more than chance: {_named(against.reverse())}.")
    said += _failing(result, predict["measure"].to_list())
    related = result.relations.filter(pl.col("tau").is_not_null(), pl.col("measure") < pl.col("other"))
    if len(related):
        most = related.sort(pl.col("tau").abs(), descending=True).row(0, named=True)
        said.append(
            f"Most alike are {most['measure']} and {most['other']}: tau {most['tau']:.2f} between the two, of "
            f"{most['networks']:,} networks."
        )
    without = table.filter(pl.col("status") == "unavailable")["measure"].to_list()
    if without:
        said.append(f"Without a verdict: {listing(without)}; the reasons are in the table.")
    if facts["left_out"]:
        reasons = [f"{count} ({reason.rstrip('.')})" for reason, count in facts["left_out"].items()]
        said.append(f"Networks left out: {listing(reasons, 3)}.")
    said.append(
        f"More than chance is tau beyond {FACTOR} of the standard errors that tau has where orders have nothing to do with each "
        "other, for each measure by itself: of many measures some pass by chance. A measure that predicts is not by that a cause."
    )
    return said


def _failing(result: Ranking, measures: list[str]) -> list[str]:
    """On which axes the measures that predict overall do not."""
    if not measures or result.axes.is_empty():
        return []
    weak = result.axes.filter(pl.col("measure").is_in(measures), pl.col("tau") <= 0)
    if weak.is_empty():
        return [
            "Where one hyper-parameter alone changes, each of them orders more pairs as it should than the other way round."
        ]
    told = []
    names = weak["measure"].unique(maintain_order=True).to_list()
    for name in names[:DRAWN]:
        axes = weak.filter(pl.col("measure") == name)
        told.append(
            f"{name} along {listing([f'{axis} ({tau:.2f})' for axis, tau in axes.select('axis', 'tau').rows()])}"
        )
    more = f"; and {len(names) - DRAWN} more" if len(names) > DRAWN else ""
    return [f"Where one hyper-parameter alone changes, these fail (tau at most 0): {'; '.join(told)}{more}."]


def _short(facts: dict[str, Any]) -> str:
    return str(plots.TARGETS.get(facts["target"], facts["target"])).partition(" (")[0]


def _named(rows: pl.DataFrame) -> str:
    return listing([f"{name} ({tau:.2f})" for name, tau in rows.select("measure", "tau").rows()])


def _tau(value: float, error: float) -> str:
    return f"{value:.2f} ± {error:.2f}"
