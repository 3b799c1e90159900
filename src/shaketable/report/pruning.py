"""What the report says about pruning."""

import polars as pl

from shaketable import plots
from shaketable.probes import Prunability
from shaketable.probes.screening import SAFETY
from shaketable.report.criticality_words import quantity
from shaketable.report.parts import Part, missing_rows, network_facts
from shaketable.report.words import listing, percent

WHICH = {"magnitude": "those of smallest magnitude", "random": "random ones"}


def pruning_part(result: Prunability, size: int) -> Part:
    """The curves of loss and error, and the search with every fraction that it tested."""
    methods = result.summary()["method"].to_list()
    notes, figures = [], {}
    drawn = result.table["method"].unique(maintain_order=True).to_list()
    if len(result.table) > size:
        notes.append("Pruning: the curves are left out; the result's own tables have them.")
    else:
        for method in drawn:
            for what in ("loss", "error"):
                spec = plots.pruning_curves(result.table, result.summary(), what, method).to_dict()
                figures[f"pruning-{method}-{what}"] = spec
    if len(result.tests) > size:
        notes.append(f"Pruning: the table shows {size:,} of {len(result.tests):,} tests.")
    told = result.table.with_columns(
        layer=pl.lit("all"), what=pl.lit("pruning"), where=pl.format("sparsity {}", "sparsity")
    )
    return {
        "template": "pruning.html",
        "paragraphs": prunability_paragraphs(result),
        "facts": network_facts(result),
        "notes": notes,
        "figures": figures,
        "missing": missing_rows(told, size),
        "methods": methods,
        "which": WHICH,
        "noise": "noise" in result.table["perturbation"],
        "tests": sorted(
            result.tests.head(size).to_dicts(), key=lambda row: (row["method"], row["draw"] or 0, row["kept"])
        ),
    }


def prunability_paragraphs(result: Prunability) -> list[str]:
    """How much can go, on what that rests, and what it does not say."""
    facts = result.provenance
    relative = facts.get("tolerance", "relative") == "relative"
    bound = f"at most {result.summary()['bound'][0]:.4g} nats"
    times = f"{1 + facts['beta']:g} times" if relative else f"{facts['beta']:g} nats above"
    found = []
    for row in result.summary().to_dicts():
        error = row["stderr"]
        several = f", the mean over {row['draws']} draws" if row["draws"] > 1 else ""
        found.append(
            f"Of the {row['parameters']:,} weights that count, {percent(1 - row['prunability'])} can be set to zero at once, "
            f"{WHICH[row['method']]}, while the {facts.get('split', 'train')} loss stays {bound} ({times} its value). The "
            f"prunability by {row['method']} is {quantity(row['prunability'], error)}{several}."
        )
        if not row["monotone"]:
            found[-1] += (
                " The loss was not monotone: it was within the bound again below a fraction at which it was not."
            )
    tested = {
        method: tests["kept"].n_unique() for (method,), tests in result.tests.group_by("method", maintain_order=True)
    }
    how = listing([f"{count} by {method}" for method, count in tested.items()])
    estimated = 0 if "error" not in result.tests.columns else result.tests["error"].is_not_null().sum()
    certain = (
        "it rests on the exact sum of losses over all examples, or on a part of it that exceeds the bound already."
    )
    searched = f"Fractions tested: {how}. Every answer is certain: {certain}"
    if estimated:
        searched = (
            f"Fractions tested: {how}. {estimated} of the answers rest on losses in bfloat16, their mean at least {SAFETY:g} "
            "standard errors away from the bound: the error that was measured, of rounding on some examples in float32 and of "
            f"those not looked at. An answer without such an error is certain: {certain}"
        )
    if facts.get("search") != "every":
        searched += (
            " A fraction that was not tested, below the one found, could be within the bound; search every one to know."
        )
    says = (
        "Nothing was retrained. The smaller the fraction that must be kept, the smaller the gap between test and training error "
        "should be, among networks trained on the same data. It is a tendency, and no bound."
    )
    return [" ".join(found), searched, says]
