"""What the report says about unit ablation."""

from typing import Any

import polars as pl

from shaketable import plots
from shaketable.probes import Ablation
from shaketable.report.parts import Part, missing_rows, network_facts
from shaketable.report.words import listing, percent

CURVES = 3
"""Classes of each layer whose curves are drawn."""
BY = {
    "activation": "by the L1 norm of their activation on the class",
    "selectivity": "by their selectivity for the class",
    "weight": "by the L1 norm of their weights",
    "random": "in random order",
}


def ablation_charts(result: Ablation) -> dict[str, Any]:
    """The curves of some classes of each layer, and zeta against kappa, by name."""
    summary = result.summary()
    charts: dict[str, Any] = {}
    for number, layer in enumerate(summary["layer"].unique(maintain_order=True)):
        own = summary.filter(pl.col("layer") == layer, pl.col("over") != "mean of classes")
        for group in own["class"].to_list()[:CURVES]:
            name, what = ("all", "all data") if group is None else (group, f"class {group}")
            charts[f"ablation-{number}-{name}"] = result.plot(layer=layer, group=group, title=f"{layer}, {what}")
    return charts | {"ablation-scatter": plots.sparsity_scatter(summary)}


def ablation_part(result: Ablation, size: int) -> Part:
    """Curves of some classes, zeta against kappa, and the turning points of each class."""
    summary = result.summary()
    notes, figures = [], {}
    if max(len(summary), *summary["units"]) <= size:
        figures = {name: chart.to_dict() for name, chart in ablation_charts(result).items()}
    else:
        notes.append("Ablation: the figures are left out; the result's own tables have them.")
    if len(summary) > size:
        notes.append(f"Ablation: the table shows {size:,} of {len(summary):,} rows.")
    told = result.table.with_columns(what=pl.lit("unit ablation"), where=pl.format("class {}", "class"))
    return {
        "template": "ablation.html",
        "paragraphs": ablation_paragraphs(result),
        "facts": network_facts(result),
        "notes": notes,
        "figures": figures,
        "missing": missing_rows(told, size),
        "rows": summary.filter(pl.col("over") != "class").head(size).to_dicts(),
        "classes": summary.filter(pl.col("over") == "class").head(size).to_dicts(),
    }


def ablation_paragraphs(result: Ablation) -> list[str]:
    """What the curves come to, how units were ordered, and what it does not say."""
    facts, summary = result.provenance, result.summary()
    found = []
    for row in summary.filter(pl.col("over") != "class").to_dicts():
        who = "over all data" if row["over"] == "all" else "in the mean over classes"
        found.append(
            f"Of the {row['units']:,} units of {row['layer']}, {who}, the removal of the {row['n_0']:.4g} that are most active takes "
            f"the accuracy from {percent(row['accuracy'])} to chance, and without the {row['n_0_r']:.4g} least active ones it is at its "
            f"best: zeta is {row['zeta']:.3f}, kappa {row['kappa']:.3f}."
        )
        if row["reached"] < 1:
            share = (
                "It never falls"
                if row["over"] == "all"
                else f"For {percent(1 - row['reached'])} of the classes it never falls"
            )
            counts = "all units count" if facts["rule"] == "paper" else "the first minimum counts"
            found[-1] += f" {share} to chance; then {counts}."
    sites = summary.unique("layer", maintain_order=True)
    where = listing(
        [
            f"{layer} at the output of {module}"
            for layer, module in zip(sites["layer"], sites["activation"], strict=True)
        ]
    )
    how = (
        f"Units are set to zero one by one, {BY[facts['attribute']]}, in both orders: {where}. Classes go by the labels of the "
        f"{facts['split']} data as they are, corrupted ones too."
    )
    says = (
        "Nothing was retrained. Among networks trained on the same data, a smaller zeta and a larger kappa should go with a smaller gap "
        "between test and training error: fewer units do a class's work. It is a tendency, and no bound."
    )
    return [" ".join(found), how, says]
