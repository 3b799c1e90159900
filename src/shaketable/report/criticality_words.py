"""Numbers to English: what the report says about criticality, paths, valleys, measures and bounds."""

import math
from typing import Any

import polars as pl

from shaketable.bounds import Bound
from shaketable.probes import Paths, Valley
from shaketable.probes.criticality import Criticality
from shaketable.report.words import listing, of_the_layers, percent

SHOWN = 3
"""Layers that a sentence names with their numbers."""


def quantity(value: float | None, error: float | None = None) -> str:
    """A number of any size as one reads it, with its standard error.

    Example:
        >>> quantity(0.0), quantity(3334.745, 317.4), quantity(17659.9), quantity(2.5e-7), quantity(None)
        ('0', '3,335 ± 317', '17,660', '2.50e-07', '–')
    """
    if value is None or not math.isfinite(value):
        return "–" if value is None else "infinite" if value > 0 else "no value"
    size = abs(value)
    form = ",.0f" if size == 0 or 1e4 <= size < 1e7 else ",.4g" if 1e-3 <= size < 1e4 else ".2e"
    return f"{value:{form}}" + (
        "" if error is None or not math.isfinite(error) else f" ± {quantity(float(f'{error:.3g}'))}"
    )


def condition(result: Criticality, bound: float) -> str:
    """What the criticality was found under."""
    what = result.provenance.get("quantity", "error")
    number = percent(bound) if what == "error" else f"{bound:.4g} nats"
    return f"the {result.splits()[0]} {what} with noise stays at most {number}"


def criticality_paragraphs(result: Criticality, epsilon: float) -> list[str]:
    """Which layers are critical, network criticality with its standard error, and what neither says."""
    table = result.table.filter(pl.col("epsilon") == epsilon).sort("position")
    total = result.summary().filter(pl.col("epsilon") == epsilon).row(0, named=True)
    count, held = len(table), condition(result, total["bound"])
    ranked = table.filter(pl.col("criticality") > 0).sort("criticality", descending=True).to_dicts()
    named = [f"{row['layer']} ({quantity(row['criticality'], row['criticality_stderr'])})" for row in ranked[:SHOWN]]
    free = table.filter(pl.col("criticality") == 0)["layer"].to_list()
    without = table.filter(pl.col("criticality").is_null())["layer"].to_list()
    first = []
    if named:
        most = "the most critical layer is" if len(named) == 1 else "the most critical layers are"
        first.append(f"As long as {held}, {most} {listing(named)}.")
    if free or not without:
        where = "may go back to its initial weights altogether (criticality 0)"
        first.append(of_the_layers(free, count, where, where.replace("its", "their")))
    if without:
        first.append(
            of_the_layers(without, count, "has no criticality", "have no criticality") + " The reasons are below."
        )
    if total["network_criticality"] is None:
        first.append("Network criticality, the sum over layers, is therefore not known.")
    else:
        value = quantity(total["network_criticality"], total["network_criticality_stderr"])
        of_final = (
            ""
            if total["pac_bayes"] is None
            else f" At the trained weights (alpha = 1) it is {quantity(total['pac_bayes'], total['pac_bayes_stderr'])}."
        )
        first.append(f"Network criticality, the sum over layers, is {value}.{of_final}")
    return [
        " ".join(first),
        (
            "The criticality of a layer is the square of the distance to its initial weights at which it could stand, divided by the "
            f"variance of the noise that it bears there, as small as it can be made while {held}. It is small where a wide valley "
            "leads back to the initial weights. All other layers stay as trained, and nothing is retrained. What follows ± is one "
            "standard error."
        ),
        (
            "What it does not say: it is no probability and no bound. Layers that are not critical one by one may be so together. The "
            "number depends on the threshold and on the scale of the weights, so that only networks with the same threshold, trained on "
            "the same data, can be compared: the smaller network criticality should then go with the smaller gap between test and "
            "training error. That is a tendency: among networks of one family that differ in width the paper found the opposite."
        ),
    ]


def path_paragraphs(result: Paths, split: str) -> list[str]:
    """Whether error falls all the way, and at which layer it is highest at the start."""
    rows = result.table.filter(pl.col("split") == split, pl.col("position") >= 0, pl.col("error").is_not_null())
    if rows.is_empty():
        return ["No layer has an error on its path; the reasons are below."]
    lowest = rows.filter(pl.col("alpha") == pl.col("alpha").min()).sort("error", descending=True).row(0, named=True)
    falls = result.summary(tolerance=1e-6).filter(pl.col("split") == split, pl.col("quantity") == "error")
    rising = falls.filter(~pl.col("monotone"))
    steps = "falls or stays all the way to the trained weights on every curve"
    if len(rising):
        names, worst = rising["layer"].to_list(), rising.select(pl.col("violation").max()).item()
        steps = f"rises somewhere on the way of {listing(names)}, by at most {percent(worst)}"
    return [
        (
            f"One layer at a time goes from its initial weights (alpha 0) to its trained ones (alpha 1). At alpha {lowest['alpha']:g} the "
            f"{split} error is highest for {lowest['layer']}: {percent(lowest['error'])}. The {split} error {steps}."
        )
    ]


def valley_paragraphs(result: Valley) -> list[str]:
    """What the picture of a valley is."""
    names = result.table["layer"].unique(maintain_order=True).to_list()
    draws = result.provenance.get("draws")
    over = "" if draws is None else f" Each point is a mean over {draws} draws of the noise."
    return [
        (
            f"The {result.splits()[0]} loss around the way of {listing(names)} from init (alpha 0) to trained weights (alpha 1). The "
            f"other direction stands for all other directions: Gaussian noise of standard deviation sigma, on the side of the "
            f"initial weights or on the other.{over} A layer whose valley is wide all the way to alpha 0 is not critical."
        )
    ]


def bound_verdict(bound: Bound) -> str:
    """One word or two on a bound."""
    statuses = {assumption.status for assumption in bound.assumptions}
    if "fails" in statuses:
        return "no bound: an assumption fails"
    if bound.vacuous:
        return "vacuous: it says nothing"
    if bound.chance is not None and bound.value >= bound.chance:
        return "says no more than guessing"
    return "rests on what was not checked" if "not checked" in statuses else "proved"


def measure_value(row: dict[str, Any]) -> str:
    """The number of a measure, as a power of ten where it is no float."""
    if row["value"] is None and row["log10"] is not None:
        return f"10^{row['log10']:.2f}"
    return quantity(row["value"], row["stderr"])
