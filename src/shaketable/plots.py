"""Tables to figures: heat maps in the layout of Zhang et al. (2022), curves, distances, training history."""

import functools
import html
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import altair as alt
import polars as pl
import vl_convert

from shaketable.errors import InputError
from shaketable.files import write_atomically
from shaketable.probes.result import FULL_MODEL

RAND = "rand"
FINAL = "final"  # the column of final weights whose epoch is not known
TRANSPOSE_ABOVE = 12  # layers
NUMBERS_UP_TO = 260  # cells
HEAT = "yellowgreenblue"  # pale to dark: safe for the colour-blind, and readable in a grey print
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#595959"  # colour-blind safe (Okabe and Ito)
QUANTITIES = {"error": "error", "loss": "loss (nats)", "accuracy_drop": "accuracy drop"}
DISTANCES = {"normalised_l2": "2-norm / √dimension", "linf": "∞-norm"}
PANELS = {
    "error": {"train_error": "train", "test_error": "test"},
    "loss (nats)": {"train_loss": "train", "test_loss": "test", "running_loss": "train, running"},
    "learning rate": {"learning_rate": "learning rate"},
}
HOW = (  # a Vega expression over fixed field names: a name from outside is a value in a row, never part of a program
    f"datum.column === '{FINAL}' ? 'none: the final network' : datum.column === '{RAND}' ? 're-randomised' "
    ": (datum.reference ? 'all parameters of checkpoint ' : 're-initialised to checkpoint ') + datum.column"
)
_FRAMELESS = alt.ViewBackground(stroke=None)
_COLUMN = (
    pl.when(pl.col("perturbation") == "rerandomise")
    .then(pl.lit(RAND))
    .otherwise(pl.coalesce(pl.col("checkpoint").cast(pl.String), pl.lit(FINAL)))
    .alias("column")
)


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
    chance = 1 - 1 / classes if classes and classes > 1 else 1.0
    percent = quantity != "loss"
    return _heatmap(
        rows,
        quantity,
        names,
        columns,
        transpose=len(layers) > TRANSPOSE_ABOVE if transpose is None else transpose,
        top=chance if percent else _largest(rows, quantity),
        legend=f"{split} {QUANTITIES[quantity]}",
        formats=(".0%", ".1%") if percent else (".3~g", ".2f"),
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
    x = alt.X("layer:O", title="layer", scale=alt.Scale(domain=layers), axis=_band_axis(layers, below=True))
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
    step = max(_step(layers, numbers=False), round(420 / max(len(layers), 1)))
    layered: Any = alt.layer(*drawn)
    return _finish(layered.resolve_scale(color="independent"), rows, _texts(), title, alt.Step(step), 260)


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
    if quantity not in DISTANCES:
        raise InputError(f"{quantity!r} is no distance; take one of: {', '.join(DISTANCES)}.")
    if distances.is_empty():
        raise InputError("the table of distances has no row: there was no checkpoint to measure a distance to.")
    keys = ["position", "perturbation", "checkpoint", "layer", "dimension"]
    means = [pl.len().alias("draws"), *(pl.col(name).mean() for name in DISTANCES)]
    table = distances.group_by(keys).agg(means).sort(keys[:3])
    layers = table["layer"].unique(maintain_order=True).to_list()
    rows = _finite(table.select("layer", _COLUMN, "dimension", "draws", *DISTANCES), DISTANCES).to_dicts()
    return _heatmap(
        rows,
        quantity,
        layers,
        _columns(table),
        transpose=len(layers) > TRANSPOSE_ABOVE if transpose is None else transpose,
        top=_largest(rows, quantity),
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


def training_history(history: pl.DataFrame, title: str | None = None) -> alt.HConcatChart:
    """Error, loss and learning rate at the end of each epoch, side by side; what was not recorded is left out.

    Args:
        history: the table ``Robustness.history``, with columns such as ``epoch``, ``train_error``, ``test_loss``.
        title: the figure's title; none by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: the table has no row, or nothing but epochs.
    """
    colours = alt.Scale(domain=["train", "test", "train, running"], range=[BLUE, ORANGE, GREEN])
    epochs = alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, format="d", tickCount=6, grid=False))
    drawn = []
    for label, curves in PANELS.items():
        rows = [
            {"epoch": epoch, "curve": curve, "value": value}
            for column, curve in curves.items()
            if {column, "epoch"} <= set(history.columns)
            for epoch, value in history.select("epoch", pl.col(column).cast(pl.Float64)).iter_rows()
            if value is not None and math.isfinite(value)
        ]
        if not rows:
            continue
        percent = label == "error"
        value = alt.Y("value:Q", title=label, axis=alt.Axis(format=".0%" if percent else ".2~g", tickCount=5))
        number = alt.Tooltip("value:Q", title=label, format=".2%" if percent else ".4~g")
        if label == "learning rate":
            line = alt.Chart({"values": rows}).mark_line(interpolate="step-after", color=GREY)
        else:
            legend = alt.Legend(title=None, orient="bottom")
            line = alt.Chart({"values": rows}).mark_line(point=alt.OverlayMarkDef(size=24), strokeJoin="round")
            line = line.encode(color=alt.Color("curve:N", scale=colours, legend=legend))
        line = line.encode(x=epochs, y=value, tooltip=["epoch:Q", "curve:N", number])
        drawn.append(line.properties(width=250, height=180, view=_FRAMELESS))
    if not drawn:
        raise InputError(
            "the training history has no recorded error, loss or learning rate; it needs the column epoch and one of these."
        )
    return _titled(alt.hconcat(*drawn), title)


def cells(summary: pl.DataFrame, split: str, quantity: str) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Rows of the figures' cells, names of the layers in forward order, and labels of the columns, rand first."""
    if quantity not in QUANTITIES:
        raise InputError(f"{quantity!r} is no quantity of this table; take one of: {', '.join(QUANTITIES)}.")
    table = summary.filter(pl.col("split") == split).sort("position", "checkpoint", nulls_last=False)
    if table.is_empty():
        there = ", ".join(sorted(summary["split"].unique().to_list())) or "none"
        raise InputError(f"the table has no row of the split {split!r}; splits that it has: {there}.")
    numbers = [name for quantity in QUANTITIES for name in (quantity, f"{quantity}_std")]
    reference = (pl.col("position") < 0).alias("reference")
    chosen = table.select("layer", _COLUMN, reference, *numbers, "draws", "parameters", "reason")
    layers = table.filter(pl.col("position") >= 0)["layer"].unique(maintain_order=True).to_list()
    return _finite(chosen, numbers).to_dicts(), layers, _columns(table)


def save(chart: Any, path: str | Path) -> Path:
    """Write a chart whole: ``.svg``, ``.png`` (twice the size on screen), ``.pdf``, ``.json`` (Vega-Lite) or ``.html``.

    The HTML file holds the programs that draw it (0.9 MB) and asks nothing of a network.

    Args:
        chart: a chart of this module or any other Altair chart.
        path: where to; the suffix says what.

    Returns:
        The path.

    Raises:
        InputError: a suffix that is none of these.
    """
    path = Path(path)
    spec, version = chart.to_dict(), _vega_lite()
    writers: dict[str, Callable[[], str | bytes]] = {
        ".svg": lambda: vl_convert.vegalite_to_svg(spec, vl_version=version),
        ".png": lambda: vl_convert.vegalite_to_png(spec, vl_version=version, scale=2),
        ".pdf": lambda: vl_convert.vegalite_to_pdf(spec, vl_version=version),
        ".json": lambda: json.dumps(spec, indent=1, ensure_ascii=False, allow_nan=False),
        ".html": lambda: _page(spec, path.stem),
    }
    if path.suffix.lower() not in writers:
        raise InputError(f"{path}: a figure is written as one of {', '.join(writers)}; give the file such a suffix.")
    content = writers[path.suffix.lower()]()
    whole = content.encode() if isinstance(content, str) else content
    write_atomically(path, lambda part: part.write_bytes(whole))
    return path


@functools.cache
def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script of 0.9 MB that defines ``vegaEmbed``; vl-convert brings it along."""
    bundle: Any = vl_convert.javascript_bundle  # its type stub calls an optional argument required
    return bundle(vl_version=_vega_lite())


def _vega_lite() -> str:
    """The version of Vega-Lite that Altair writes, as vl-convert spells it."""
    return "_".join(alt.SCHEMA_VERSION.split(".")[:2])


def _page(spec: dict[str, Any], name: str) -> str:
    """A page with one chart; ``<`` is escaped in the JSON so that no name can end the script."""
    data = json.dumps(spec, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(name)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<script>{javascript()}</script></head>\n<body><div id="figure"></div>\n'
        f'<script>vegaEmbed("#figure", {data}, {{renderer: "svg", actions: false}});</script></body></html>\n'
    )


def _columns(table: pl.DataFrame) -> list[str]:
    """Labels in order: rand, the checkpoints, and the final network where its epoch is not known."""
    known = table["checkpoint"].drop_nulls().unique().sort().to_list()
    labels = set(table.select(_COLUMN)["column"])
    return [label for label in (RAND, *map(str, known), FINAL) if label in labels]


def _finite(table: pl.DataFrame, columns: Iterable[str]) -> pl.DataFrame:
    """JSON has no NaN and no infinity: such a cell is drawn as one without a number."""
    numbers = [pl.col(name).cast(pl.Float64) for name in columns]
    return table.with_columns(pl.when(number.is_finite()).then(number) for number in numbers)


def _largest(rows: list[dict[str, Any]], field: str) -> float:
    return max((row[field] for row in rows if row[field] is not None), default=0.0) or 1.0


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


def _band_axis(names: list[str], below: bool = False) -> alt.Axis:
    """Long labels stand askew below the figure; checkpoints are thinned where they would overlap."""
    numbers = all(name in (RAND, FINAL) or name.isdigit() for name in names)
    return alt.Axis(
        labelAngle=-45 if below and max(map(len, names), default=0) > 5 else 0,
        labelLimit=260,
        labelOverlap="greedy" if numbers else False,
        labelPadding=5,
        grid=False,
        domain=False,
        ticks=False,
        titlePadding=8,
    )


def _step(names: list[str], numbers: bool) -> int:
    return 44 if numbers else 30 if len(names) <= 20 else 18


def _heatmap(
    rows: list[dict[str, Any]],
    quantity: str,
    names: list[str],
    columns: list[str],
    *,
    transpose: bool,
    top: float,
    legend: str,
    formats: tuple[str, str],
    tooltip: list[alt.Tooltip],
    calculated: dict[str, str],
    title: str | None,
) -> alt.LayerChart:
    """Cells coloured from pale (0) to dark (``top``), crossed grey ones where there is no number, numbers on top."""
    sides = [
        ("column", f"{RAND} or checkpoint" if RAND in columns else "checkpoint", columns),
        ("layer", "layer", names),
    ]
    (x, x_title, across), (y, y_title, down) = reversed(sides) if transpose else sides
    x_axis, y_axis = _band_axis(across, below=True), _band_axis(down)
    place = {
        "x": alt.X(field=x, type="ordinal", title=x_title, scale=alt.Scale(domain=across), axis=x_axis),
        "y": alt.Y(field=y, type="ordinal", title=y_title, scale=alt.Scale(domain=down), axis=y_axis),
    }
    valid, missing = f"isValid(datum.{quantity})", f"!isValid(datum.{quantity})"
    colour = alt.Color(
        f"{quantity}:Q",
        scale=alt.Scale(domain=[0, top], clamp=True, scheme=HEAT),
        legend=alt.Legend(title=legend, format=formats[0], tickCount=4),
    )
    boxes = alt.Chart().transform_filter(valid).mark_rect(stroke="white", strokeWidth=1)
    holes = alt.Chart().transform_filter(missing).mark_rect(fill="#d9d9d9", stroke="white", strokeWidth=1)
    layers = [
        boxes.encode(color=colour, tooltip=tooltip).properties(name="cells"),
        holes.encode(tooltip=tooltip).properties(name="unavailable"),
    ]
    for start, stop in ((0, 1), (1, 0)):
        cross = alt.Chart().transform_filter(missing).mark_rule(color="#767676").properties(name=f"cross{start}")
        layers.append(
            cross.encode(
                x=alt.X(field=x, type="ordinal", bandPosition=0),
                x2=alt.X2(field=x, bandPosition=1),
                y=alt.Y(field=y, type="ordinal", bandPosition=start),
                y2=alt.Y2(field=y, bandPosition=stop),
            )
        )
    numbers = len(across) <= 20 and len(names) * len(columns) <= NUMBERS_UP_TO
    if numbers:
        ink = alt.when(f"datum.{quantity} > {0.7 * top}").then(alt.value("white")).otherwise(alt.value("black"))
        text = alt.Chart().transform_filter(valid).mark_text(fontSize=10).properties(name="numbers")
        layers.append(text.encode(text=alt.Text(f"{quantity}:Q", format=formats[1]), color=ink))
    chart: Any = alt.layer(*layers).encode(**place)
    width, height = alt.Step(_step(across, numbers)), alt.Step(28 if numbers else 20)
    return _finish(chart, rows, calculated, title, width, height)


def _finish(
    chart: Any, rows: list[dict[str, Any]], calculated: dict[str, str], title: str | None, width: Any, height: Any
) -> Any:
    """A layered chart with its rows: last, for Altair copies them in each step; as a dict, which it takes as it is."""
    chart = _titled(
        chart.transform_calculate(**calculated).properties(width=width, height=height, view=_FRAMELESS), title
    )
    chart.data = {"values": rows}
    return chart


def _titled(chart: Any, title: str | None) -> Any:
    return chart.properties(title=alt.TitleParams(title, anchor="start", offset=12)) if title else chart
