"""Figures of a zoo: measures against the gap, their ranks against its rank, and rank correlations as a heat map."""

from typing import Any

import altair as alt
import polars as pl

from shaketable.errors import InputError
from shaketable.plots.drawing import BLUE, CROSS, HOLE, band_axis, check_choice, finish, finite, step

DIVERGING = "redblue"  # -1 to 1, pale at 0; safe for the colour-blind
TARGETS = {"gap": "gap (test error - train error)", "loss_gap": "gap of the loss (nats)", "test_error": "test error"}


def measure_scatter(
    points: pl.DataFrame, measure: str, target: str = "gap", logarithm: bool = False, title: str | None = None
) -> alt.LayerChart:
    """A measure against what it should predict: a point a network.

    Args:
        points: the ``points`` of a ``Ranking``.
        measure: its name.
        target: what the points' target is, for the axis.
        logarithm: whether the points have the logarithm of the measure.
        title: the figure's title; none by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: a measure that the points do not have.

    Example:
        >>> row = {"network": "a", "measure": "path_norm", "value": 1.0, "target": 0.1, "rank": 1.0, "target_rank": 1.0}
        >>> measure_scatter(pl.DataFrame([row]), "path_norm").to_dict()["layer"][0]["encoding"]["x"]["title"]
        'path_norm'
    """
    x = alt.X("value:Q", title=f"log10 of {measure}" if logarithm else measure, scale=alt.Scale(zero=False))
    y = alt.Y("target:Q", title=TARGETS.get(target, target), scale=alt.Scale(zero=False))
    return _points(points, measure, x, y, title)


def rank_plot(points: pl.DataFrame, measure: str, target: str = "gap", title: str | None = None) -> alt.LayerChart:
    """The rank of networks by a measure against their rank by what it should predict: on the diagonal where they agree.

    Args:
        points, measure, target, title: as for :func:`measure_scatter`.

    Returns:
        An Altair chart.

    Raises:
        InputError: a measure that the points do not have.

    Example:
        >>> row = {"network": "a", "measure": "path_norm", "value": 1.0, "target": 0.1, "rank": 1.0, "target_rank": 1.0}
        >>> rank_plot(pl.DataFrame([row]), "path_norm").to_dict()["layer"][0]["encoding"]["y"]["field"]
        'target_rank'
    """
    x, y = alt.X("rank:Q", title=f"rank by {measure}"), alt.Y("target_rank:Q", title=f"rank by {target}")
    return _points(points, measure, x, y, title)


def tau_heatmap(
    table: pl.DataFrame, down: str = "measure", across: str = "axis", title: str | None = None
) -> alt.LayerChart:
    """Heat map of rank correlations from -1 (red) to 1 (blue): granulated tau, or tau between measures. Without one: grey.

    Args:
        table: the ``axes`` of a ``Ranking``, or its ``relations`` with ``across="other"``.
        down, across: the columns whose names stand at the sides.
        title: the figure's title; none by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: an empty table.

    Example:
        >>> chart = tau_heatmap(pl.DataFrame([{"measure": "path_norm", "axis": "width", "tau": 0.5}]))
        >>> [layer["name"] for layer in chart.to_dict()["layer"]]
        ['cells', 'unavailable', 'numbers']
    """
    if table.is_empty():
        raise InputError("the table has no row; there is nothing to draw.")
    names, columns = (table[side].unique(maintain_order=True).to_list() for side in (down, across))
    columns = names if set(columns) == set(names) else columns  # the same order, where both sides are measures
    grid = pl.DataFrame({down: names}).join(pl.DataFrame({across: columns}), how="cross")
    rows = finite(grid.join(table, on=[down, across], how="left"), ["tau"]).to_dicts()
    valid, missing = "isValid(datum.tau)", "!isValid(datum.tau)"
    scale = alt.Scale(domain=[-1, 1], scheme=DIVERGING, clamp=True)
    colour = alt.Color("tau:Q", scale=scale, legend=alt.Legend(title="tau", tickCount=5))
    tooltip: list[Any] = [alt.Tooltip(field=down, type="nominal"), alt.Tooltip(field=across, type="nominal")]
    tooltip += [alt.Tooltip("tau:Q", format=".3f")]
    tooltip += [alt.Tooltip(f"{name}:Q") for name in ("pairs", "tied", "networks") if name in table.columns]
    boxes = alt.Chart().transform_filter(valid).mark_rect(stroke="white").properties(name="cells")
    holes = alt.Chart().transform_filter(missing).mark_rect(fill=HOLE, stroke=CROSS, strokeDash=[2, 2])
    ink = alt.when("abs(datum.tau) > 0.6").then(alt.value("white")).otherwise(alt.value("black"))
    text = alt.Chart().transform_filter(valid).mark_text(fontSize=10).properties(name="numbers")
    drawn: list[Any] = [
        boxes.encode(color=colour, tooltip=tooltip),
        holes.encode(tooltip=tooltip[:2]).properties(name="unavailable"),
        text.encode(text=alt.Text("tau:Q", format=".2f"), color=ink),
    ]
    layered: Any = alt.layer(*drawn).encode(
        x=alt.X(
            field=across,
            type="ordinal",
            title=None,
            scale=alt.Scale(domain=columns),
            axis=band_axis(columns, below=True),
        ),
        y=alt.Y(field=down, type="ordinal", title=None, scale=alt.Scale(domain=names), axis=band_axis(names)),
    )
    return finish(layered, rows, {}, title, alt.Step(step(columns, True)), alt.Step(22))


def _points(points: pl.DataFrame, measure: str, x: alt.X, y: alt.Y, title: str | None) -> Any:
    """A point a network, of one measure."""
    check_choice(measure, points["measure"].unique(maintain_order=True).to_list(), "measure of these points")
    own = finite(points.filter(pl.col("measure") == measure), ["value", "target", "rank", "target_rank"])
    tooltip = [alt.Tooltip("network:N"), alt.Tooltip("value:Q", format=".4~g"), alt.Tooltip("target:Q", format=".4~g")]
    drawn: Any = alt.Chart().mark_circle(size=40, color=BLUE, opacity=0.6).encode(x=x, y=y, tooltip=tooltip)
    layered: Any = alt.layer(drawn.properties(name="networks"))
    return finish(layered, own.drop("measure").to_dicts(), {}, title, 300, 220)
