"""Figures of paths from init to final weights, and of the valleys around them."""

from collections.abc import Iterable
from typing import Any, Literal

import altair as alt
import polars as pl

from shaketable.plots.drawing import (
    BLUE,
    COLOURS,
    FRAMELESS,
    Side,
    check_choice,
    chosen_layers,
    finish,
    finite,
    heatmap,
    largest,
    names_of,
    titled,
)
from shaketable.probes.moves import ALL_LAYERS

HEIGHTS = {"error": "error", "loss": "loss (nats)"}
DASHES = ([6, 3], [7, 3, 2, 3], [2, 2], [10, 4])
Height = Literal["error", "loss"]


def path_curves(
    table: pl.DataFrame,
    split: str = "test",
    quantity: Height = "error",
    layers: Iterable[str] | str | None = None,
    title: str | None = None,
) -> alt.LayerChart:
    """Error or loss on the way from init (alpha 0) to final weights (alpha 1): a curve for each layer, and for all together.

    All layers together are the solid blue curve. Up to eight layers have colours and dashes of their own; more are coloured
    from dark (the first) to light (the last). A point without a number interrupts its curve.

    Args:
        table: the table of a ``Paths``.
        split: ``"test"`` or ``"train"``.
        quantity: ``"error"`` or ``"loss"``.
        layers: names of those to draw; all of the table by default.
        title: the figure's title; none by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: an unknown quantity or layer, or a split of which the table has no row.

    References:
        Chatterji, Neyshabur, Sedghi, *The intriguing role of module criticality*, 2020, figure 4.
    """
    check_choice(quantity, HEIGHTS, "quantity of this table")
    check_choice(split, sorted(table["split"].unique().to_list()), "split of this table")
    kept = chosen_layers(table.filter(pl.col("split") == split), layers)
    kept = finite(kept, HEIGHTS).sort("position", "alpha", maintain_order=True)
    single = [name for name in names_of(kept) if name != ALL_LAYERS]
    rows = kept.select("layer", "alpha", "error", "loss", "status").to_dicts()
    x = alt.X("alpha:Q", title="α (0: initial weights, 1: trained)", axis=alt.Axis(grid=False, tickCount=6))
    form = ".0%" if quantity == "error" else ".3~g"
    y = alt.Y(f"{quantity}:Q", title=f"{split} {HEIGHTS[quantity]}", axis=alt.Axis(format=form, tickCount=5))
    tooltip = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("alpha:Q", format=".3~g"),
        alt.Tooltip("error:Q", title=f"{split} error", format=".2%"),
        alt.Tooltip("loss:Q", title=f"{split} loss (nats)", format=".4~g"),
    ]
    few = len(single) <= len(COLOURS)
    shades: dict[str, Any] = {"range": list(COLOURS[: len(single)])} if few else {"scheme": "viridis"}
    legend = alt.Legend(title="layer", symbolLimit=0, labelLimit=260, columns=1 + (len(single) - 1) // 20)
    colour = alt.Color("layer:O", scale=alt.Scale(domain=single, **shades), legend=legend)
    drawn = []
    if single:
        lines = alt.Chart().transform_filter(f"datum.layer !== '{ALL_LAYERS}'").properties(name="layers")
        lines = lines.mark_line(strokeWidth=2, strokeJoin="round", invalid="break-paths-show-domains")
        lines = lines.encode(x=x, y=y, color=colour, tooltip=tooltip)
        if few:
            dashes = [DASHES[index % len(DASHES)] for index in range(len(single))]
            scale = alt.Scale(domain=single, range=dashes)
            lines = lines.encode(strokeDash=alt.StrokeDash("layer:O", scale=scale, legend=None))
        drawn.append(lines)
    if len(single) < len(names_of(kept)):
        together = alt.Chart().transform_filter(f"datum.layer === '{ALL_LAYERS}'").properties(name="together")
        together = together.mark_line(strokeWidth=3, strokeJoin="round", invalid="break-paths-show-domains")
        own = alt.Color("layer:O", scale=alt.Scale(domain=[ALL_LAYERS], range=[BLUE]), legend=alt.Legend(title=None))
        drawn.append(together.encode(x=x, y=y, color=own, tooltip=tooltip))
    layered: Any = alt.layer(*drawn)
    return finish(layered.resolve_scale(color="independent"), rows, {}, title, 420, 260)


def valley_surface(
    surface: pl.DataFrame,
    quantity: Height = "loss",
    layers: Iterable[str] | str | None = None,
    title: str | None = None,
) -> alt.HConcatChart | alt.LayerChart:
    """The valley of each layer from above: loss over alpha (across) and the signed size of the noise (down).

    The upper half is noise towards the init, the lower half noise away from it. Colours follow the square root of the
    height, from 0 to the largest of all layers, so that the floor of a valley can be seen beside its walls. The steps of
    the noise are those of the table, not to scale. A point without a number is crossed.

    Args:
        surface: what ``Valley.surface()`` returns.
        quantity: ``"loss"`` or ``"error"``.
        layers: names of those to draw, side by side; all of the table by default.
        title: the figure's title; none by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: an unknown quantity or layer, or an empty table.

    References:
        Chatterji, Neyshabur, Sedghi, *The intriguing role of module criticality*, 2020, figure 1.
    """
    check_choice(quantity, HEIGHTS, "quantity of this table")
    kept = finite(chosen_layers(surface, layers), HEIGHTS)
    top = largest(kept.to_dicts(), quantity)
    title_of_y = "signed sigma (above: towards init)"
    panels = [
        _valley(one, "y", title_of_y, quantity, top, f"{one['split'][0]} {HEIGHTS[quantity]}", one["layer"][0])
        for one in kept.partition_by("layer", maintain_order=True)
    ]
    return panels[0] if len(panels) == 1 and not title else titled(alt.hconcat(*panels), title)


def valley_grid(
    summary: pl.DataFrame, layers: Iterable[str] | str | None = None, title: str | None = None
) -> alt.ConcatChart:
    """Error and loss over alpha (across) and sigma (up), side by side, a line of panels for each layer.

    Args:
        summary: what ``Valley.summary()`` returns.
        layers: names of those to draw; all of the table by default.
        title: the figure's title; none by default.

    Returns:
        An Altair chart; the colours of an error go from 0 to 1, those of a loss from 0 to the largest, by square roots.

    Raises:
        InputError: an unknown layer, or an empty table.

    References:
        Chatterji, Neyshabur, Sedghi, *The intriguing role of module criticality*, 2020, figure 10.
    """
    kept = finite(chosen_layers(summary, layers), HEIGHTS)
    tops = {"error": 1.0, "loss": largest(kept.to_dicts(), "loss")}
    panels = [
        _valley(one, "sigma", "sigma of the noise", what, tops[what], f"{one['split'][0]} {label}", one["layer"][0])
        for one in kept.partition_by("layer", maintain_order=True)
        for what, label in HEIGHTS.items()
    ]
    both: Any = alt.concat(*panels, columns=2)
    return titled(both.resolve_scale(color="independent"), title)


def _valley(
    table: pl.DataFrame, up: str, up_title: str, quantity: str, top: float, legend: str, title: str
) -> alt.LayerChart:
    """A heat map over alpha and the noise, the largest above."""
    alphas = [_number(value) for value in table["alpha"].unique().sort()]
    ups = [_number(value) for value in table[up].unique().sort(descending=True)]
    spreads = [name for name in ("error_stderr", "loss_stderr") if name in table.columns]
    rows = [
        {"alpha": _number(row["alpha"]), "noise": _number(row[up]), "draws": row["draws"]}
        | {name: row[name] for name in (*HEIGHTS, *spreads)}
        for row in finite(table, spreads).to_dicts()
    ]
    tooltip = [
        alt.Tooltip("alpha:O"),
        alt.Tooltip("noise:O", title=up_title),
        alt.Tooltip("error:Q", format=".2%"),
        alt.Tooltip("loss:Q", title="loss (nats)", format=".4~g"),
        *(
            alt.Tooltip(f"{name}:Q", title=name.replace("_stderr", ", standard error"), format=".2~g")
            for name in spreads
        ),
        alt.Tooltip("draws:Q"),
    ]
    chart = heatmap(
        rows,
        quantity,
        Side("alpha", "α (0: init, 1: trained)", alphas),
        Side("noise", up_title, ups),
        top=top,
        legend=legend,
        formats=(".0%", ".0%") if quantity == "error" else (".2~g", ".2~g"),
        tooltip=tooltip,
        title=title,
        numbers=False,
        scale="linear" if quantity == "error" else "sqrt",
    )
    return chart.properties(width=alt.Step(26), height=alt.Step(18), view=FRAMELESS)


def _number(value: float) -> str:
    """A tick of an axis."""
    return f"{value:.3g}".replace("-", "−")
