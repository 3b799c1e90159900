"""Figures of module and network criticality."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import altair as alt
import polars as pl

from shaketable.errors import InputError
from shaketable.plots.drawing import (
    BLUE,
    COLOURS,
    CROSS,
    HOLE,
    ORANGE,
    band_axis,
    check_choice,
    decade_below,
    finish,
    names_of,
)

MODULE, FINAL_ONLY = "criticality", "PAC-Bayes (alpha = 1)"
SUMS = {"network_criticality": "network criticality", "pac_bayes": "PAC-Bayes"}
BAR = 14  # pixels


def criticality_bars(
    table: pl.DataFrame, epsilon: float | None = None, pac_bayes: bool = True, title: str | None = None
) -> alt.LayerChart:
    """Bars of the criticality of each layer on a logarithmic axis, in forward order from above, with standard errors.

    A second bar is the layer's PAC-Bayes term, the same at alpha = 1. A criticality of 0 has no place on a logarithmic
    axis: a ``0`` stands at the axis. A layer without a number (infeasible, unavailable) is a grey band with a cross.

    Args:
        table: the table of a ``Criticality``.
        epsilon: which of its error thresholds; the largest by default.
        pac_bayes: whether to draw the second bar, where the table has one.
        title: the figure's title; none by default.

    Returns:
        An Altair chart; every bar says its numbers when pointed at.

    Raises:
        InputError: a table without rows, or without this epsilon.

    Example:
        >>> row = dict(layer="fc1", position=0, epsilon=0.1, bound=0.1, criticality=20.0, criticality_stderr=1.0, alpha=0.5,
        ...            sigma=0.1, error=0.09, pac_bayes=80.0, pac_bayes_stderr=None, pac_bayes_sigma=0.1, draws=10, reason=None)
        >>> spec = criticality_bars(pl.DataFrame([row])).to_dict()
        >>> spec["encoding"]["y"]["scale"]["domain"], [part["name"] for part in spec["layer"]]
        (['fc1'], ['unavailable', 'bars', 'errors', 'zeros', 'crosses'])

    References:
        Chatterji, Neyshabur, Sedghi, *The intriguing role of module criticality*, 2020, definition 3.1.
    """
    if table.is_empty():
        raise InputError("the table of criticality has no row; there is nothing to draw.")
    known = table["epsilon"].unique().sort().to_list()
    chosen = known[-1] if epsilon is None else epsilon
    if chosen not in known:
        raise InputError(f"the table has no epsilon {chosen:g}; it has {', '.join(f'{one:g}' for one in known)}.")
    table = table.filter(pl.col("epsilon") == chosen).sort("position")
    kinds = {MODULE: "criticality"}
    if pac_bayes and table["pac_bayes"].is_not_null().any():
        kinds[FINAL_ONLY] = "pac_bayes"
    rows = [_bar(row, kind, name) for row in table.to_dicts() for kind, name in kinds.items()]
    base, top = _ends(rows)
    for row in rows:
        row["low"] = None if row["low"] is None else max(row["low"], base)
    layers = names_of(table)
    y = alt.Y("layer:O", title=None, scale=alt.Scale(domain=layers, paddingInner=0.25), axis=band_axis(layers))
    axis = alt.Axis(format="~g" if 1e-3 < base < top < 1e6 else "~e", tickCount=6, grid=True, labelOverlap=True)
    scale = alt.Scale(type="log", domain=[base, top])
    label = f"criticality at error ≤ {table['bound'][0]:.3g} (logarithmic)"
    x = alt.X("value:Q", title=label, scale=scale, axis=axis)
    names, colours = list(kinds), [BLUE, ORANGE][: len(kinds)]
    legend = alt.Legend(title=None, orient="top") if len(kinds) > 1 else None
    colour = alt.Color("kind:N", scale=alt.Scale(domain=names, range=colours), legend=legend)
    offset = alt.YOffset("kind:N", scale=alt.Scale(domain=names))
    tooltip = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("kind:N", title="number"),
        alt.Tooltip("text:N", title="value"),
        alt.Tooltip("alpha:Q", format=".3~g"),
        alt.Tooltip("sigma:Q", format=".3~g"),
        alt.Tooltip("draws:Q"),
        alt.Tooltip("remark:N"),
    ]

    def part(name: str, where: str) -> alt.Chart:
        return alt.Chart().transform_filter(where).properties(name=name)

    missing, zero = "!isValid(datum.value)", "datum.value === 0"
    left = {"x": alt.value(7)}
    drawn = [
        part("unavailable", missing)
        .mark_bar(color=HOLE)
        .encode(x=alt.value(0), x2=alt.value("width"), yOffset=offset, tooltip=tooltip),
        part("bars", "datum.value > 0")
        .mark_bar()
        .encode(x=x, x2=alt.datum(base), yOffset=offset, color=colour, tooltip=tooltip),
        part("errors", "datum.value > 0 && isValid(datum.low)")
        .mark_rule(strokeWidth=1.5)
        .encode(x=alt.X("low:Q", scale=scale), x2="high:Q", yOffset=offset),
        part("zeros", zero)
        .mark_text(fontWeight="bold")
        .encode(**left, text=alt.value("0"), yOffset=offset, color=colour, tooltip=tooltip),
        part("crosses", missing)
        .mark_text(fontSize=15, color=CROSS)
        .encode(**left, text=alt.value("×"), yOffset=offset, tooltip=tooltip),
    ]
    chart: Any = alt.layer(*drawn).encode(y=y)
    return finish(chart, rows, {}, title, 460, alt.Step(BAR if len(layers) > 20 else BAR + 4, **{"for": "position"}))


def criticality_curve(
    summary: pl.DataFrame | Mapping[str, pl.DataFrame],
    quantity: Literal["network_criticality", "pac_bayes"] = "network_criticality",
    title: str | None = None,
) -> alt.LayerChart:
    """Network criticality as a function of the error threshold, a curve for each network, with standard errors.

    The axis is logarithmic; a network criticality of 0 is a ``0`` at its foot. A threshold at which a layer has no number
    interrupts the curve, and has a cross there.

    Args:
        summary: what ``Criticality.summary()`` returns; or several of these, by the name of the network.
        quantity: which sum over layers.
        title: the figure's title; none by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: an unknown quantity, or nothing to draw.

    References:
        Chatterji, Neyshabur, Sedghi, *The intriguing role of module criticality*, 2020, figure 5.
    """
    check_choice(quantity, SUMS, "quantity of this table")
    several = {"": summary} if isinstance(summary, pl.DataFrame) else dict(summary)
    rows: list[dict[str, Any]] = []
    for name, one in several.items():
        by_epsilon = one.sort("epsilon").to_dicts()
        rows += [{"network": name, "epsilon": row["epsilon"]} | _spread(row, quantity) for row in by_epsilon]
    if not rows:
        raise InputError("there is no row of network criticality; there is nothing to draw.")
    base, top = _ends(rows)
    names = list(several)
    for row in rows:
        row["low"] = None if row["low"] is None else max(row["low"], base)
    axis = alt.Axis(format="~g" if 1e-3 < base < top < 1e6 else "~e", tickCount=6)
    scale = alt.Scale(type="log", domain=[base, top])
    y = alt.Y("value:Q", title=f"{SUMS[quantity]} (logarithmic)", scale=scale, axis=axis)
    widest = 1.05 * max(row["epsilon"] for row in rows) or 1.0
    x = alt.X("epsilon:Q", title="error threshold ε", scale=alt.Scale(domain=[0, widest]), axis=alt.Axis(tickCount=6))
    shades = [(BLUE, *COLOURS)[index % (len(COLOURS) + 1)] for index in range(len(names))]
    legend = alt.Legend(title=None) if names != [""] else None
    colour = alt.Color("network:N", scale=alt.Scale(domain=names, range=shades), legend=legend)
    tooltip = [
        alt.Tooltip("network:N"),
        alt.Tooltip("epsilon:Q"),
        alt.Tooltip("text:N", title=SUMS[quantity]),
        alt.Tooltip("without:Q", title="layers without a number"),
    ]

    def part(name: str, where: str) -> alt.Chart:
        return alt.Chart().transform_filter(where).properties(name=name)

    foot = {"y": alt.value(173), "color": colour, "tooltip": tooltip}
    drawn = [
        part("errors", "datum.value > 0 && isValid(datum.low)")
        .mark_rule()
        .encode(y=alt.Y("low:Q", scale=scale), y2="high:Q", color=colour),
        part("curves", "datum.value !== 0")
        .mark_line(point=alt.OverlayMarkDef(size=40), invalid="break-paths-show-domains")
        .encode(y=y, color=colour, tooltip=tooltip),
        part("zeros", "datum.value === 0").mark_text(fontWeight="bold").encode(text=alt.value("0"), **foot),
        part("crosses", "!isValid(datum.value)").mark_text(fontSize=15).encode(text=alt.value("×"), **foot),
    ]
    chart: Any = alt.layer(*drawn).encode(x=x)
    return finish(chart, rows, {}, title, 360, 180)


def _bar(row: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    """One bar: its value, the ends of one standard error, and what it says."""
    module = kind == MODULE
    found = {"layer": row["layer"], "kind": kind} | _spread(row, name)
    alpha, sigma = (row["alpha"], row["sigma"]) if module else (1.0, row["pac_bayes_sigma"])
    remark = row["reason"] or ("none" if found["value"] is not None else "infeasible")
    return found | {"alpha": alpha, "sigma": sigma, "draws": row["draws"], "remark": remark}


def _spread(row: dict[str, Any], name: str) -> dict[str, Any]:
    """A value, one standard error to each side, and both in words."""
    value, error = (
        one if one is not None and math.isfinite(one) else None for one in (row[name], row[f"{name}_stderr"])
    )
    low, high = (None, None) if value is None or error is None else (value - error, value + error)
    text = "no number" if value is None else f"{value:.4g}" + ("" if error is None else f" ± {error:.2g}")
    found = {"value": value, "low": low, "high": high, "text": text}
    return found | ({"without": row["without"]} if "without" in row else {})


def _ends(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """The ends of the logarithmic axis: a power of ten below all that is drawn, and the highest of it."""
    values = [row["value"] for row in rows if row["value"]]
    if not values:
        return 1.0, 10.0
    return decade_below(min(values)), max(max(values), *(row["high"] or 0.0 for row in rows)) * 1.1
