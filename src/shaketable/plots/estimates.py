"""Figures of estimators: estimated against true gap, two measures with the gap as colour, and residuals over many splits."""

from typing import Any

import altair as alt
import polars as pl

from shaketable.errors import InputError
from shaketable.plots.drawing import BLUE, GREY, ORANGE, check_choice, finish, finite
from shaketable.plots.zoo import TARGETS

RAINBOW = "turbo"
"""From the smallest to the largest gap; the paper's runs from red to purple."""
PARTS = {"train": BLUE, "test": ORANGE}
"""Networks that an estimator was fitted on, and those that it has not seen; the paper's colours, safe for the colour-blind."""


def estimate_scatter(points: pl.DataFrame, target: str = "gap", title: str | None = None) -> alt.LayerChart:
    """Estimated against true gap: a point a network, a bar for its interval where it has one, and the line y = x.

    Args:
        points: ``network``, ``gap``, ``estimate``; may have ``part`` (``"train"`` or ``"test"``), ``low`` and ``high``.
        target: what is estimated, for the axes.
        title: the figure's title; none by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: an empty table.

    Example:
        >>> chart = estimate_scatter(pl.DataFrame({"network": ["a"], "gap": [0.1], "estimate": [0.2]}))
        >>> [layer["name"] for layer in chart.to_dict()["layer"]]
        ['line', 'networks']
    """
    if points.is_empty():
        raise InputError("the table has no row; there is nothing to draw.")
    named = TARGETS.get(target, target)
    numbers = [name for name in ("gap", "estimate", "low", "high") if name in points.columns]
    rows = finite(points, numbers)
    ends = rows.select(low=pl.min_horizontal(numbers).min(), high=pl.max_horizontal(numbers).max()).row(0)
    line: Any = alt.Chart({"values": [{"at": end} for end in ends]}).mark_line(color=GREY, strokeDash=[4, 3])
    drawn = [line.encode(x=alt.X("at:Q"), y=alt.Y("at:Q")).properties(name="line")]
    x = alt.X("gap:Q", title=named, scale=alt.Scale(zero=False))
    y = alt.Y("estimate:Q", title=f"estimated {named}", scale=alt.Scale(zero=False))
    colour: Any = alt.value(BLUE)
    if "part" in points.columns:
        scale = alt.Scale(domain=list(PARTS), range=list(PARTS.values()))
        colour = alt.Color("part:N", scale=scale, legend=alt.Legend(title=None))
    if "low" in points.columns:
        bars: Any = alt.Chart().transform_filter("isValid(datum.low)").mark_rule(opacity=0.6)
        drawn.append(bars.encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour).properties(name="intervals"))
    tooltip = [alt.Tooltip("network:N"), *(alt.Tooltip(f"{name}:Q", format=".3f") for name in numbers)]
    dots: Any = alt.Chart().mark_circle(size=40, opacity=0.7).encode(x=x, y=y, color=colour, tooltip=tooltip)
    return finish(alt.layer(*drawn, dots.properties(name="networks")), rows.to_dicts(), {}, title, 300, 300)


def plane(
    table: pl.DataFrame, x: str = "zeta", y: str = "kappa", colour: str | None = "gap", title: str | None = None
) -> alt.LayerChart:
    """Two columns against each other, a point a row, coloured by a third.

    Args:
        table: with these columns.
        x, y: numbers.
        colour: a number, or a text for which each value has a colour of its own; None for one colour.
        title: the figure's title; none by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: an empty table, or a column that it does not have.

    Example:
        >>> plane(pl.DataFrame({"zeta": [0.1], "kappa": [0.5], "gap": [0.3]})).to_dict()["layer"][0]["encoding"]["color"]["field"]
        'gap'
    """
    if table.is_empty():
        raise InputError("the table has no row; there is nothing to draw.")
    for name in (x, y, *([colour] if colour else [])):
        check_choice(name, table.columns, "column of this table")
    numbers = [name for name in table.columns if table[name].dtype.is_float()]
    place = {"x": alt.X(f"{x}:Q", title=_titled(x)), "y": alt.Y(f"{y}:Q", title=_titled(y))}
    place = {side: channel.scale(zero=False) for side, channel in place.items()}
    paint: Any = alt.value(BLUE)
    if colour and table[colour].dtype.is_numeric():
        paint = alt.Color(f"{colour}:Q", scale=alt.Scale(scheme=RAINBOW, reverse=True), title=_titled(colour))
    elif colour:
        paint = alt.Color(f"{colour}:N", title=_titled(colour))
    tooltip = [alt.Tooltip(f"{name}:Q", format=".3f") for name in numbers]
    dots: Any = alt.Chart().mark_circle(size=40, opacity=0.7).encode(**place, color=paint, tooltip=tooltip)
    return finish(alt.layer(dots.properties(name="points")), finite(table, numbers).to_dicts(), {}, title, 300, 240)


def ssr_histogram(splits: pl.DataFrame, title: str | None = None) -> alt.LayerChart:
    """How often which sum of squared residuals came, over many splits.

    Args:
        splits: the ``table`` of :class:`shaketable.estimators.Splits`: ``ssr``.
        title: the figure's title; none by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: an empty table.

    Example:
        >>> ssr_histogram(pl.DataFrame({"ssr": [0.1, 0.2]})).to_dict()["layer"][0]["encoding"]["y"]["aggregate"]
        'count'
    """
    if splits.is_empty():
        raise InputError("the table has no row; there is nothing to draw.")
    x = alt.X("ssr:Q", bin=alt.Bin(maxbins=25), title="sum of squared residuals of the held-out networks")
    bars: Any = alt.Chart().mark_bar(color=BLUE).encode(x=x, y=alt.Y("count()", title="splits"))
    return finish(alt.layer(bars.properties(name="splits")), finite(splits, ["ssr"]).to_dicts(), {}, title, 300, 200)


def _titled(name: str) -> str:
    """The title of a column."""
    return TARGETS.get(name, name.replace("_", " "))
