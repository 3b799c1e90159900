"""What the figures share: colours, axes, the heat map, and a chart with its rows."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import altair as alt
import polars as pl

from shaketable.errors import InputError

RAND = "rand"
FINAL = "final"  # the column of final weights whose epoch is not known
TRANSPOSE_ABOVE = 12  # layers
NUMBERS_UP_TO = 260  # cells
HEAT = "yellowgreenblue"  # pale to dark: safe for the colour-blind, and readable in a grey print
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#595959"  # colour-blind safe (Okabe and Ito)
COLOURS = (ORANGE, GREEN, "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c510a", "#7570b3")  # beside blue
HOLE, CROSS = "#d9d9d9", "#767676"
FRAMELESS = alt.ViewBackground(stroke=None)


class Side(NamedTuple):
    """One side of a heat map: the field of the rows, its title, and its names in order."""

    field: str
    title: str | None
    names: list[str]


def finite(table: pl.DataFrame, columns: Iterable[str]) -> pl.DataFrame:
    """JSON has no NaN and no infinity: such a cell is drawn as one without a number."""
    numbers = [pl.col(name).cast(pl.Float64) for name in columns]
    return table.with_columns(pl.when(number.is_finite()).then(number) for number in numbers)


def largest(rows: list[dict[str, Any]], field: str) -> float:
    """The top of a colour scale that begins at 0."""
    return max((row[field] for row in rows if row[field] is not None), default=0.0) or 1.0


def check_choice(given: str, known: Iterable[str], what: str) -> None:
    """One error for a choice that there is not."""
    if given not in list(known):
        raise InputError(f"{given!r} is no {what}; take one of: {', '.join(known)}.")


def chosen_layers(table: pl.DataFrame, layers: Iterable[str] | str | None) -> pl.DataFrame:
    """The rows of some layers, by name, in forward order; all without a choice.

    Raises:
        InputError: a name that the table does not have, or a table without rows.
    """
    if table.is_empty():
        raise InputError("the table has no row; there is nothing to draw.")
    names = None if layers is None else [layers] if isinstance(layers, str) else list(layers)
    known = table["layer"].unique(maintain_order=True).to_list()
    for name in names or []:
        if name not in known:
            raise InputError(f"the table has no layer {name!r}; it has {', '.join(known)}.")
    kept = table if names is None else table.filter(pl.col("layer").is_in(names))
    return kept.sort("position", maintain_order=True)


def names_of(table: pl.DataFrame) -> list[str]:
    """The layers of a table, as they come."""
    return table["layer"].unique(maintain_order=True).to_list()


def decade_below(value: float) -> float:
    """The power of ten below a number above 0."""
    return 10.0 ** math.floor(math.log10(value) - 1e-9)


def band_axis(names: Sequence[str], below: bool = False) -> alt.Axis:
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


def step(names: Sequence[str], numbers: bool) -> int:
    """The width of a column of so many, in pixels."""
    return 44 if numbers else 30 if len(names) <= 20 else 18


def heatmap(
    rows: list[dict[str, Any]],
    quantity: str,
    across: Side,
    down: Side,
    *,
    top: float,
    legend: str,
    formats: tuple[str, str],
    tooltip: list[alt.Tooltip],
    calculated: dict[str, str] | None = None,
    title: str | None = None,
    numbers: bool | None = None,
    scale: str = "linear",
) -> alt.LayerChart:
    """Cells coloured from pale (0) to dark (``top``), crossed grey ones where there is no number, numbers on top."""
    (x, x_title, columns), (y, y_title, names) = across, down
    x_axis, y_axis = band_axis(columns, below=True), band_axis(names)
    place = {
        "x": alt.X(field=x, type="ordinal", title=x_title, scale=alt.Scale(domain=columns), axis=x_axis),
        "y": alt.Y(field=y, type="ordinal", title=y_title, scale=alt.Scale(domain=names), axis=y_axis),
    }
    valid, missing = f"isValid(datum.{quantity})", f"!isValid(datum.{quantity})"
    kind: dict[str, Any] = {} if scale == "linear" else {"type": scale}
    colour = alt.Color(
        f"{quantity}:Q",
        scale=alt.Scale(domain=[0, top], clamp=True, scheme=HEAT, **kind),
        legend=alt.Legend(title=legend, format=formats[0], tickCount=4),
    )
    boxes = alt.Chart().transform_filter(valid).mark_rect(stroke="white", strokeWidth=1)
    holes = alt.Chart().transform_filter(missing).mark_rect(fill=HOLE, stroke="white", strokeWidth=1)
    layers = [
        boxes.encode(color=colour, tooltip=tooltip).properties(name="cells"),
        holes.encode(tooltip=tooltip).properties(name="unavailable"),
    ]
    for start, stop in ((0, 1), (1, 0)):
        cross = alt.Chart().transform_filter(missing).mark_rule(color=CROSS).properties(name=f"cross{start}")
        layers.append(
            cross.encode(
                x=alt.X(field=x, type="ordinal", bandPosition=0),
                x2=alt.X2(field=x, bandPosition=1),
                y=alt.Y(field=y, type="ordinal", bandPosition=start),
                y2=alt.Y2(field=y, bandPosition=stop),
            )
        )
    if numbers is None:
        numbers = len(columns) <= 20 and len(names) * len(columns) <= NUMBERS_UP_TO
    if numbers:
        dark = {"linear": 0.7, "sqrt": 0.5}[scale] * top
        ink = alt.when(f"datum.{quantity} > {dark}").then(alt.value("white")).otherwise(alt.value("black"))
        text = alt.Chart().transform_filter(valid).mark_text(fontSize=10).properties(name="numbers")
        layers.append(text.encode(text=alt.Text(f"{quantity}:Q", format=formats[1]), color=ink))
    chart: Any = alt.layer(*layers).encode(**place)
    width, height = alt.Step(step(columns, numbers)), alt.Step(28 if numbers else 20)
    return finish(chart, rows, calculated or {}, title, width, height)


def finish(
    chart: Any, rows: list[dict[str, Any]], calculated: dict[str, str], title: str | None, width: Any, height: Any
) -> Any:
    """A layered chart with its rows: last, for Altair copies them in each step; as a dict, which it takes as it is."""
    if calculated:
        chart = chart.transform_calculate(**calculated)
    chart = titled(chart.properties(width=width, height=height, view=FRAMELESS), title)
    chart.data = {"values": rows}
    return chart


def titled(chart: Any, title: str | None) -> Any:
    """A chart with its title, if it has one."""
    return chart.properties(title=alt.TitleParams(title, anchor="start", offset=12)) if title else chart
