"""Figures of layers that are reset together: heat maps with the group marked, and size against error."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt
import polars as pl

from shaketable.errors import InputError
from shaketable.plots.drawing import (
    BLUE,
    GREY,
    ORANGE,
    RAND,
    TRANSPOSE_ABOVE,
    Side,
    check_choice,
    finish,
    finite,
    heatmap,
)
from shaketable.plots.robustness import QUANTITIES, cells, shown
from shaketable.probes.result import FULL_MODEL

REMOVED = "removed"
"""The column of dropped layers."""
MARK = "* "
HOW = (  # a Vega expression over fixed field names
    f"(datum.alone ? 'alone, ' : '') + (datum.column === '{REMOVED}' ? 'removed' : datum.column === '{RAND}' ? 're-randomised' "
    ": (datum.reference ? 'all parameters of checkpoint ' : 're-initialised to checkpoint ') + datum.column)"
)


def joint_heatmap(
    summary: pl.DataFrame,
    groups: Mapping[str, Sequence[str]],
    layers: Sequence[str],
    group: str | Sequence[str] | None = None,
    split: str = "test",
    quantity: Literal["error", "loss", "accuracy_drop"] = "error",
    individual: pl.DataFrame | None = None,
    transpose: bool | None = None,
    title: str | None = None,
    classes: int | None = None,
) -> alt.LayerChart:
    """The heat map of layer robustness with the layers of a group marked, which are reset together: figures 6, 11 to 13.

    The layout is that of :func:`shaketable.plots.robustness_heatmap`. Every layer of a group has the numbers of its group: the
    same row again and again, as in the paper. Layers of the first group drawn carry a star and are printed in blue. A column
    ``removed`` stands first where blocks were dropped. Layers of no group are left out, unless ``individual`` has them.

    Args:
        summary: what ``JointRobustness.summary()`` returns.
        groups: the layers of each group.
        layers: all layers, in forward order.
        group: the group drawn, or several that share no layer (a group and its rest); the first one by default, with its rest.
        split: ``"test"`` or ``"train"``.
        quantity: ``"error"``, ``"loss"`` or ``"accuracy_drop"``.
        individual: what ``Robustness.summary()`` returns: the other layers, each reset alone.
        transpose, title, classes: as for :func:`shaketable.plots.robustness_heatmap`.

    Returns:
        An Altair chart; every cell says its numbers when pointed at.

    Raises:
        InputError: an unknown quantity or group, groups that share a layer, or a split of which the table has no row.

    References:
        Zhang, Bengio, Singer, *Are All Layers Created Equal?*, JMLR 2022, figures 6 and 11 to 13.
    """
    drawn = _drawn(groups, group)
    group_of = {layer: name for name in drawn for layer in groups[name]}
    of_group = summary.filter(pl.col("group").is_in([*drawn, FULL_MODEL])).drop("layers")
    place = {layer: position for position, layer in enumerate(layers)}
    parts = [of_group.filter(pl.col("position") < 0).with_columns(layer=pl.lit(FULL_MODEL), alone=pl.lit(value=False))]
    for layer in layers:
        facts: dict[str, pl.Expr] = {"position": pl.lit(place[layer], pl.Int64), "layer": pl.lit(layer)}
        if layer in group_of:
            own = of_group.filter(pl.col("group") == group_of[layer])
            parts.append(own.with_columns(**facts, alone=pl.lit(value=False)))
        elif individual is not None:
            own = individual.filter((pl.col("layer") == layer) & (pl.col("position") >= 0))
            parts.append(own.with_columns(**facts, alone=pl.lit(value=True), group=pl.lit("-")))
    table = pl.concat([part.select(parts[0].columns) for part in parts])
    marked = set(groups[drawn[0]])
    table = table.with_columns(
        layer=pl.when(pl.col("layer").is_in(marked)).then(MARK + pl.col("layer")).otherwise(pl.col("layer"))
    )
    rows, names, columns = cells(table.filter(pl.col("perturbation") != "remove"), split, quantity)
    dropped = table.filter((pl.col("perturbation") == "remove") & (pl.col("split") == split))
    if dropped["error"].count():  # else nothing could be dropped
        numbers = [name for quantity in QUANTITIES for name in (quantity, f"{quantity}_std")]
        fields = ["layer", *numbers, "draws", "parameters", "reason"]
        more = finite(dropped.select(fields), numbers).to_dicts()
        rows += [row | {"column": REMOVED, "reference": False} for row in more]
        columns = [REMOVED, *columns]
        names = [name for name in dict.fromkeys(table.sort("position")["layer"]) if name != FULL_MODEL]
    told = {(row["layer"], row["alone"]): row["group"] for row in table.select("layer", "alone", "group").to_dicts()}
    own = {layer: (alone, name) for (layer, alone), name in told.items()}
    rows = [row | {"alone": own[row["layer"]][0], "group": own[row["layer"]][1]} for row in rows]
    names = [*names, FULL_MODEL] if any(row["reference"] for row in rows) else names
    transpose = len(names) - 1 > TRANSPOSE_ABOVE if transpose is None else transpose
    sides = Side("column", "perturbation or checkpoint", columns), Side("layer", "layer", names)
    chart: Any = heatmap(
        rows,
        quantity,
        *(reversed(sides) if transpose else sides),
        **shown(rows, quantity, split, classes),
        tooltip=[
            alt.Tooltip("layer:N"),
            alt.Tooltip("group:N"),
            alt.Tooltip("how:N", title="perturbation"),
            alt.Tooltip("error:Q", title=f"{split} error", format=".2%"),
            alt.Tooltip("loss:Q", title=f"{split} loss (nats)", format=".3~f"),
            alt.Tooltip("accuracy_drop:Q", title="accuracy drop", format=".2%"),
            alt.Tooltip("draws:Q"),
            alt.Tooltip("reason:N", title="remark"),
        ],
        calculated={"how": HOW},
        title=title,
    )
    axis = chart["encoding"]["x" if transpose else "y"]["axis"]
    starred = {"test": f"slice(datum.label, 0, {len(MARK)}) === '{MARK}'", "value": BLUE}
    axis["labelColor"] = {"condition": starred, "value": "black"}
    return chart


def trade_off_curve(
    table: pl.DataFrame,
    curve: pl.DataFrame,
    tolerance: float | None = None,
    size: Literal["layers", "parameters"] = "layers",
    title: str | None = None,
) -> alt.LayerChart:
    """How the error grows with the set of layers that are reset or dropped together.

    Grey points are the sets that the search counted on all examples; the line joins the best of them, from the final network on; the dashed
    line is the highest error within the tolerance.

    Args:
        table: ``LayerSets.table``.
        curve: ``LayerSets.summary()``.
        tolerance: the drop in accuracy that was allowed; no line without it.
        size: ``"layers"`` or ``"parameters"``: how large a set is.
        title: the figure's title; none by default.

    Returns:
        An Altair chart; every point says its set when pointed at.

    Raises:
        InputError: an unknown size, or an empty table.
    """
    check_choice(size, ("layers", "parameters"), "size")
    if table.is_empty():
        raise InputError("the table of layer sets has no row; there is nothing to draw.")
    table = table.drop_nulls("error")
    fields = ["set", "layers", "parameters", "error", "accuracy_drop", "within"]
    best = set(curve["set"])
    rows = [row | {"best": row["set"] in best} for row in finite(table.select(fields), ["error"]).to_dicts()]
    split = table["split"][0]
    whole = alt.Axis(format="d", tickMinStep=1) if size == "layers" else alt.Axis(format="~s")
    x = alt.X(f"{size}:Q", title=f"{size} reset or dropped together", axis=whole)
    y = alt.Y("error:Q", title=f"{split} error", axis=alt.Axis(format=".0%"), scale=alt.Scale(zero=True))
    tooltip = [
        alt.Tooltip("set:N"),
        alt.Tooltip("layers:Q"),
        alt.Tooltip("parameters:Q", format=","),
        alt.Tooltip("error:Q", format=".2%"),
        alt.Tooltip("accuracy_drop:Q", title="accuracy drop", format=".2%"),
    ]
    tried = alt.Chart().mark_point(color=GREY, opacity=0.4, size=20).encode(x=x, y=y, tooltip=tooltip)
    line = alt.Chart().transform_filter("datum.best").mark_line(color=BLUE, point=alt.OverlayMarkDef(size=50))
    drawn: list[Any] = [tried.properties(name="tried"), line.encode(x=x, y=y, tooltip=tooltip).properties(name="best")]
    if tolerance is not None:
        final = table.filter(pl.col("step") == 0)["error"][0]
        rule = alt.Chart().transform_filter("datum.layers === 0").mark_rule(strokeDash=[5, 4], color=ORANGE)
        rule = rule.transform_calculate(limit=f"datum.error + {float(tolerance)!r}").encode(y=alt.Y("limit:Q"))
        drawn.append(rule.properties(name=f"tolerance {final + tolerance:.4g}"))
    return finish(alt.layer(*drawn), rows, {}, title, 420, 260)


def _drawn(groups: Mapping[str, Sequence[str]], group: str | Sequence[str] | None) -> list[str]:
    """The groups of one figure; they share no layer."""
    known = list(groups)
    if group is None:
        wanted = [known[0], *(name for name in known if name == f"rest of {known[0]}")]
    else:
        wanted = [group] if isinstance(group, str) else list(group)
    for name in wanted:
        check_choice(name, known, "group of this table")
    taken: dict[str, str] = {}
    for name in wanted:
        for layer in groups[name]:
            if layer in taken:
                raise InputError(
                    f"layer {layer!r} is in two groups, {taken[layer]!r} and {name!r}; choose groups that share none."
                )
            taken[layer] = name
    if not wanted:
        raise InputError("no group was chosen; name at least one.")
    return wanted
