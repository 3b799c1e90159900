"""Figures of layer robustness: heat maps in the layout of Zhang et al. (2022), curves, distances."""

from typing import Any, Literal

import altair as alt
import polars as pl

from shaketable.errors import InputError
from shaketable.plots.drawing import (
    FINAL,
    GREY,
    ORANGE,
    RAND,
    TRANSPOSE_ABOVE,
    Side,
    band_axis,
    check_choice,
    finish,
    finite,
    heatmap,
    largest,
    step,
)
from shaketable.probes.result import FULL_MODEL

QUANTITIES = {"error": "error", "loss": "loss (nats)", "accuracy_drop": "accuracy drop"}
DISTANCES = {"normalised_l2": "2-norm / √dimension", "linf": "∞-norm"}
HOW = (  # a Vega expression over fixed field names: a name from outside is a value in a row, never part of a program
    f"datum.column === '{FINAL}' ? 'none: the final network' : datum.column === '{RAND}' ? 're-randomised' "
    ": (datum.reference ? 'all parameters of checkpoint ' : 're-initialised to checkpoint ') + datum.column"
)
_COLUMN = (
    pl.when(pl.col("perturbation") == "rerandomise")
    .then(pl.lit(RAND))
    .otherwise(pl.coalesce(pl.col("checkpoint").cast(pl.String), pl.lit(FINAL)))
    .alias("column")
)


def shown(rows: list[dict[str, Any]], quantity: str, split: str, classes: int | None) -> dict[str, Any]:
    """How a heat map shows a quantity: errors and drops in percent up to chance, losses up to the largest one."""
    percent, chance = quantity != "loss", 1 - 1 / classes if classes and classes > 1 else 1.0
    return {
        "top": chance if percent else largest(rows, quantity),
        "legend": f"{split} {QUANTITIES[quantity]}",
        "formats": (".0%", ".1%") if percent else (".3~g", ".2f"),
    }


def robustness_heatmap(
    summary: pl.DataFrame,
    split: str = "test",
    quantity: Literal["error", "loss", "accuracy_drop"] = "error",
    transpose: bool | None = None,
    title: str | None = None,
    classes: int | None = None,
) -> alt.LayerChart:
    """Heat map of one number per layer and perturbation, in the layout of figure 1 of the paper.

    Rows are the layers in forward order and, last, the full model with the parameters of each checkpoint. The first
    column, ``rand``, is re-randomisation; then come the checkpoints that a layer was re-initialised to, the final one
    last. The axis of checkpoints is ordinal: epochs 1, 2 and 50 stand side by side. A cell that has a row but no number
    (unavailable, or not finite) is grey and crossed out; a cell without a row (the full model re-randomised) is blank.

    The colours of an error or an accuracy drop go from 0 to 1, or to the chance level ``1 - 1 / classes`` where
    ``classes`` is given; values outside get the colour of the nearer end. Those of a loss go from 0 to the largest one.

    Args:
        summary: what ``Robustness.summary()`` returns.
        split: ``"test"`` or ``"train"``.
        quantity: ``"error"``, ``"loss"`` or ``"accuracy_drop"``.
        transpose: layers as columns, as figures 3 to 5 have it; by default above 12 layers.
        title: the figure's title; none by default.
        classes: number of classes.

    Returns:
        An Altair chart; every cell says its numbers when pointed at.

    Raises:
        InputError: an unknown quantity, or a split of which the table has no row.

    Example:
        >>> row = dict(layer="fc1", position=0, parameters=20, split="test", draws=1, error=0.7, error_std=None, loss=1.9,
        ...            loss_std=None, accuracy_drop=0.6, accuracy_drop_std=None, reason=None)
        >>> rows = [row | dict(perturbation="rerandomise", checkpoint=None),
        ...         row | dict(perturbation="reinitialise", checkpoint=0)]
        >>> spec = robustness_heatmap(pl.DataFrame(rows)).to_dict()
        >>> spec["encoding"]["x"]["scale"]["domain"], spec["encoding"]["y"]["scale"]["domain"]
        (['rand', '0'], ['fc1'])

    References:
        Zhang, Bengio, Singer, *Are All Layers Created Equal?*, JMLR 2022, figures 1 and 3.
    """
    rows, layers, columns = cells(summary, split, quantity)
    names = [*layers, FULL_MODEL] if any(row["reference"] for row in rows) else layers
    return heatmap(
        rows,
        quantity,
        *_sides(columns, names, len(layers) > TRANSPOSE_ABOVE if transpose is None else transpose),
        **shown(rows, quantity, split, classes),
        tooltip=_tooltip(split),
        calculated=_texts(),
        title=title,
    )


def robustness_curves(
    summary: pl.DataFrame,
    split: str = "test",
    quantity: Literal["error", "loss", "accuracy_drop"] = "error",
    title: str | None = None,
    final: int | None = None,
) -> alt.LayerChart:
    """The heat map's numbers as curves over the layers, in the form of appendix E of the paper.

    One curve for re-randomisation (orange, with one standard deviation over the draws on both sides) and one for each
    checkpoint that the layers were re-initialised to (dark: early). The dashed line is the final network as it is.
    A layer without a number interrupts the curve.

    Args:
        summary: what ``Robustness.summary()`` returns.
        split: ``"test"`` or ``"train"``.
        quantity: ``"error"``, ``"loss"`` or ``"accuracy_drop"``.
        title: the figure's title; none by default.
        final: the epoch of the final network; the last column by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: an unknown quantity, or a split of which the table has no row.

    References:
        Zhang, Bengio, Singer, *Are All Layers Created Equal?*, JMLR 2022, figures 20 and 21.
    """
    rows, layers, columns = cells(summary, split, quantity)
    checkpoints = [column for column in columns if column not in (RAND, FINAL)]
    y_axis = alt.Axis(format=".0%" if quantity != "loss" else ".3~g")
    x = alt.X("layer:O", title="layer", scale=alt.Scale(domain=layers), axis=band_axis(layers, below=True))
    y = alt.Y(f"{quantity}:Q", title=f"{split} {QUANTITIES[quantity]}", axis=y_axis)

    def part(name: str, where: str) -> alt.Chart:
        return alt.Chart().transform_filter(where).properties(name=name)

    last = columns[-1] if final is None else str(final)
    reference = part("final", f"datum.reference && datum.column === '{last}'")
    drawn = [reference.mark_rule(strokeDash=[5, 4], color=GREY).encode(y=y, tooltip=_tooltip(split))]
    if checkpoints:
        legend = alt.Legend(title=["re-initialised", "to checkpoint"], columns=1 if len(checkpoints) <= 14 else 2)
        colour = alt.Color("column:O", scale=alt.Scale(domain=checkpoints, scheme="viridis"), legend=legend)
        lines = part("reinitialised", f"!datum.reference && datum.column !== '{RAND}'").mark_line(
            point=alt.OverlayMarkDef(size=36), strokeJoin="round"
        )
        drawn.append(lines.encode(x=x, y=y, color=colour, tooltip=_tooltip(split)))
    if RAND in columns:
        # A scale of one name gives this curve its own legend and keeps the checkpoints' colours apart from it.
        colour = alt.Color("column:O", scale=alt.Scale(domain=[RAND], range=[ORANGE]), legend=alt.Legend(title=None))
        lines = part("rerandomised", f"datum.column === '{RAND}'").mark_line(
            point=alt.OverlayMarkDef(size=50, shape="square"), strokeWidth=2.5, strokeJoin="round"
        )
        both = f"isValid(datum.{quantity}) && isValid(datum.{quantity}_std)"
        spread = part("spread", f"datum.column === '{RAND}' && {both}").transform_calculate(
            low=f"datum.{quantity} - datum.{quantity}_std", high=f"datum.{quantity} + datum.{quantity}_std"
        )
        drawn += [
            spread.mark_rule(color=ORANGE).encode(x=x, y=alt.Y("low:Q"), y2="high:Q"),
            lines.encode(x=x, y=y, color=colour, tooltip=_tooltip(split)),
        ]
    width = max(step(layers, numbers=False), round(420 / max(len(layers), 1)))
    layered: Any = alt.layer(*drawn)
    return finish(layered.resolve_scale(color="independent"), rows, _texts(), title, alt.Step(width), 260)


def distance_heatmap(
    distances: pl.DataFrame,
    quantity: Literal["normalised_l2", "linf"] = "normalised_l2",
    transpose: bool | None = None,
    title: str | None = None,
) -> alt.LayerChart:
    """Heat map of how far each trained layer is from what a reset puts in its place (figures 1 b, c and 17 to 19).

    The layout is that of :func:`robustness_heatmap` without the full model; ``rand`` is the mean over the fresh draws.
    The colours go from 0 to the largest distance.

    Args:
        distances: the table ``Robustness.distances``.
        quantity: ``"normalised_l2"`` (2-norm divided by the square root of the dimension) or ``"linf"`` (the largest
            change of one parameter).
        transpose: layers as columns; by default above 12 layers.
        title: the figure's title; none by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: an unknown quantity or an empty table.

    References:
        Zhang, Bengio, Singer, *Are All Layers Created Equal?*, JMLR 2022, figures 1 and 17 to 19.
    """
    check_choice(quantity, DISTANCES, "distance")
    if distances.is_empty():
        raise InputError("the table of distances has no row: there was no checkpoint to measure a distance to.")
    keys = ["position", "perturbation", "checkpoint", "layer", "dimension"]
    means = [pl.len().alias("draws"), *(pl.col(name).mean() for name in DISTANCES)]
    table = distances.group_by(keys).agg(means).sort(keys[:3])
    layers = table["layer"].unique(maintain_order=True).to_list()
    rows = finite(table.select("layer", _COLUMN, "dimension", "draws", *DISTANCES), DISTANCES).to_dicts()
    return heatmap(
        rows,
        quantity,
        *_sides(_columns(table), layers, len(layers) > TRANSPOSE_ABOVE if transpose is None else transpose),
        top=largest(rows, quantity),
        legend=DISTANCES[quantity],
        formats=(".2~g", ".3~f"),
        tooltip=[
            alt.Tooltip("layer:N"),
            alt.Tooltip("how:N", title="distance to"),
            *(alt.Tooltip(f"{field}:Q", title=label, format=".4~g") for field, label in DISTANCES.items()),
            alt.Tooltip("dimension:Q", format=","),
            alt.Tooltip("draws:Q"),
        ],
        calculated={"how": f"datum.column === '{RAND}' ? 'fresh draws (mean)' : 'checkpoint ' + datum.column"},
        title=title,
    )


def cells(summary: pl.DataFrame, split: str, quantity: str) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Rows of the figures' cells, names of the layers in forward order, and labels of the columns, rand first."""
    check_choice(quantity, QUANTITIES, "quantity of this table")
    table = summary.filter(pl.col("split") == split).sort("position", "checkpoint", nulls_last=False)
    if table.is_empty():
        there = ", ".join(sorted(summary["split"].unique().to_list())) or "none"
        raise InputError(f"the table has no row of the split {split!r}; splits that it has: {there}.")
    numbers = [name for quantity in QUANTITIES for name in (quantity, f"{quantity}_std")]
    reference = (pl.col("position") < 0).alias("reference")
    chosen = table.select("layer", _COLUMN, reference, *numbers, "draws", "parameters", "reason")
    layers = table.filter(pl.col("position") >= 0)["layer"].unique(maintain_order=True).to_list()
    return finite(chosen, numbers).to_dicts(), layers, _columns(table)


def _sides(columns: list[str], names: list[str], transpose: bool) -> tuple[Side, Side]:
    """Across and down: layers down, or transposed."""
    title = f"{RAND} or checkpoint" if RAND in columns else "checkpoint"
    sides = Side("column", title, columns), Side("layer", "layer", names)
    return (sides[1], sides[0]) if transpose else sides


def _columns(table: pl.DataFrame) -> list[str]:
    """Labels in order: rand, the checkpoints, and the final network where its epoch is not known."""
    known = table["checkpoint"].drop_nulls().unique().sort().to_list()
    labels = set(table.select(_COLUMN)["column"])
    return [label for label in (RAND, *map(str, known), FINAL) if label in labels]


def _texts() -> dict[str, str]:
    """Vega expressions of the tooltips' texts."""

    def mean(field: str, form: str) -> str:
        spread = f"isValid(datum.{field}_std) ? ' ± ' + format(datum.{field}_std, '{form}') : ''"
        return f"isValid(datum.{field}) ? format(datum.{field}, '{form}') + ({spread}) : 'unavailable'"

    return {
        "how": HOW,
        "error_text": mean("error", ".2%"),
        "loss_text": mean("loss", ".3~f"),
        "drop_text": mean("accuracy_drop", ".2%"),
        "remark": "isValid(datum.reason) ? datum.reason : 'none'",
    }


def _tooltip(split: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("layer:N", title="layer"),
        alt.Tooltip("how:N", title="perturbation"),
        alt.Tooltip("error_text:N", title=f"{split} error"),
        alt.Tooltip("loss_text:N", title=f"{split} loss (nats)"),
        alt.Tooltip("drop_text:N", title="accuracy drop"),
        alt.Tooltip("draws:Q", title="draws"),
        alt.Tooltip("parameters:Q", title="parameters", format=","),
        alt.Tooltip("remark:N", title="remark"),
    ]
