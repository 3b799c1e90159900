"""Figures of unit ablation: accuracy against units removed, with the turning points, and zeta against kappa."""

from typing import Any

import altair as alt
import polars as pl

from shaketable.errors import InputError
from shaketable.plots.drawing import BLUE, GREEN, GREY, check_choice, chosen_layers, finish, names_of

AREA = "#d9d9d9"
CURVES = {"most first": (BLUE, "n_0"), "least first": (GREEN, "n_0_r")}


def ablation_curves(
    table: pl.DataFrame,
    summary: pl.DataFrame,
    layer: str | None = None,
    group: int | None = None,
    chance: float | None = None,
    title: str | None = None,
) -> alt.LayerChart:
    """Accuracy against the number of units removed, in both orders, with the turning points marked and the area between grey.

    Args:
        table: the table of an ``Ablation``.
        summary: its summary, for the turning points.
        layer: one of its layers; the first by default.
        group: a class; the first by default, or all data where there are no classes.
        chance: accuracy of guessing, a dashed line; none by default.
        title: the figure's title; none by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: a table without curves, or a layer or class that it does not have.

    Example:
        >>> rows = [dict(layer="a", position=0, order=order, removed=n, accuracy=1.0 - n, status="ok")
        ...         for order in CURVES for n in (0, 1)]
        >>> table = pl.DataFrame(rows).with_columns(pl.lit(0).alias("class"))
        >>> turn = pl.DataFrame([{"layer": "a", "class": 0, "over": "class", "n_0": 1.0, "n_0_r": 0.0}])
        >>> [each["name"] for each in ablation_curves(table, turn).to_dict()["layer"]]
        ['area', 'curves', 'n_0', 'n_0_r']

    References:
        "Estimating the generalization in deep neural networks via sparsity", figures 1, 2A, 4A, 5A and 6A.
    """
    good = table.filter(status="ok")
    if good.is_empty():
        raise InputError("the table of ablations has no curve; measure one with shaketable.ablation.")
    layer = names_of(good)[0] if layer is None else layer
    own = chosen_layers(good, layer)
    known = own["class"].unique(maintain_order=True).to_list()
    group = known[0] if group is None else group
    check_choice(str(group), [str(one) for one in known], "class of this table")
    own = own.filter(pl.col("class").eq_missing(pl.lit(group, pl.Int64)))
    turning = summary.filter(
        pl.col("layer") == layer,
        pl.col("over") != "mean of classes",
        pl.col("class").eq_missing(pl.lit(group, pl.Int64)),
    ).row(0, named=True)
    wide = own.pivot("order", index="removed", values="accuracy").sort("removed")
    rows = [row | {point: row["removed"] == turning[point] for _, point in CURVES.values()} for row in wide.to_dicts()]
    x = alt.X("removed:Q", title="units removed", scale=alt.Scale(domain=[0, len(rows) - 1], nice=False))
    y_axis: dict[str, Any] = {"title": "accuracy", "scale": alt.Scale(domain=[0, 1]), "axis": alt.Axis(format=".0%")}
    tooltip = [alt.Tooltip("removed:Q"), *(alt.Tooltip(f"{name}:Q", format=".2%") for name in CURVES)]
    first, second = CURVES
    area = alt.Chart().mark_area(color=AREA).properties(name="area")
    drawn: list[Any] = [area.encode(x=x, y=alt.Y(f"{first}:Q", **y_axis), y2=f"{second}:Q")]
    colours = alt.Scale(domain=list(CURVES), range=[colour for colour, _ in CURVES.values()])
    colour = alt.Color("order:N", title="removed", scale=colours)
    lines = alt.Chart().transform_fold(list(CURVES), as_=["order", "accuracy"]).mark_line(strokeWidth=2)
    drawn.append(
        lines.encode(x=x, y=alt.Y("accuracy:Q", **y_axis), color=colour, tooltip=tooltip).properties(name="curves")
    )
    for name, (fill, point) in CURVES.items():
        marker = (
            alt.Chart().transform_filter(f"datum.{point}").mark_point(size=90, fill=fill, stroke="black", opacity=1)
        )
        drawn.append(marker.encode(x=x, y=alt.Y(f"{name}:Q", **y_axis), tooltip=tooltip).properties(name=point))
    if chance is not None:
        rule = alt.Chart().mark_rule(color=GREY, strokeDash=[4, 3]).properties(name="chance")
        drawn.append(rule.encode(y=alt.datum(chance)))
    layered: Any = alt.layer(*drawn)
    return finish(layered, rows, {}, title, 300, 200)


def sparsity_scatter(summary: pl.DataFrame, title: str | None = None) -> alt.LayerChart:
    """Kappa against zeta, a point for each class, in the colour of its layer; the means are larger.

    Args:
        summary: of an ``Ablation``, or several put together.
        title: the figure's title; none by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: an empty table.

    Example:
        >>> row = {"layer": "a", "position": 0, "over": "class", "class": 1, "zeta": 0.2, "kappa": 0.6}
        >>> spec = sparsity_scatter(pl.DataFrame([row, row | {"over": "mean of classes", "class": None}])).to_dict()
        >>> [each["name"] for each in spec["layer"]]
        ['classes', 'means']

    References:
        "Estimating the generalization in deep neural networks via sparsity", figures 2B and 4B.
    """
    own = chosen_layers(summary, None)
    place = {
        "x": alt.X("zeta:Q", scale=alt.Scale(domain=[0, 1])),
        "y": alt.Y("kappa:Q", scale=alt.Scale(domain=[0, 1])),
        "color": alt.Color("layer:N", sort=names_of(own)),
        "tooltip": [
            "layer:N",
            "over:N",
            "class:Q",
            alt.Tooltip("zeta:Q", format=".3f"),
            alt.Tooltip("kappa:Q", format=".3f"),
        ],
    }
    classes = alt.Chart().transform_filter("datum.over == 'class'").mark_circle(size=30, opacity=0.5)
    means = alt.Chart().transform_filter("datum.over != 'class'").mark_point(size=140, filled=True, stroke="black")
    drawn = [classes.encode(**place).properties(name="classes"), means.encode(**place).properties(name="means")]
    rows = own.select("layer", "over", "class", "zeta", "kappa").to_dicts()
    layered: Any = alt.layer(*drawn)
    return finish(layered, rows, {}, title, 260, 260)
