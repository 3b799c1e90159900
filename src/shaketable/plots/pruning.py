"""The figure of pruning: loss or error against sparsity."""

from typing import Any, Literal

import altair as alt
import polars as pl

from shaketable.errors import InputError
from shaketable.plots.drawing import BLUE, GREY, ORANGE, check_choice, finish, finite

QUANTITIES = {"loss": "loss (nats)", "error": "error"}
SPLITS = {"train": BLUE, "test": ORANGE}
PERTURBATIONS = {"pruning": [1, 0], "noise": [4, 3]}


def pruning_curves(
    table: pl.DataFrame,
    summary: pl.DataFrame | None = None,
    quantity: Literal["loss", "error"] = "loss",
    method: str | None = None,
    title: str | None = None,
) -> alt.LayerChart:
    """Loss or error against the fraction of weights removed, on training and test data: the mean over draws.

    Solid lines are pruning, dashed ones random noise of the same size on the same weights. A vertical line stands at the
    largest sparsity that the tolerance allows. The axis of the loss is a symmetric logarithm. A point without a number
    interrupts its line.

    Args:
        table: the table of a ``Prunability``.
        summary: its summary, for the vertical line; no line without it.
        quantity: ``"loss"`` or ``"error"``.
        method: ``"magnitude"`` or ``"random"``; the first of the table by default.
        title: the figure's title; none by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: an empty table, or a method or quantity that it does not have.

    Example:
        >>> row = dict(method="magnitude", perturbation="pruning", sparsity=0.5, split="train", loss=0.1, error=0.0, size=1.0)
        >>> spec = pruning_curves(pl.DataFrame([row])).to_dict()
        >>> [layer["name"] for layer in spec["layer"]]
        ['curves']

    References: Kuhn, Lyle, Gomez, Rothfuss, Gal, "Robustness to pruning predicts generalization in deep neural networks", 2021,
        figures 2 and 5.
    """
    if table.is_empty():
        raise InputError("the table of pruning has no curve; measure one with sparsities=....")
    known = table["method"].unique(maintain_order=True).to_list()
    chosen = known[0] if method is None else method
    check_choice(chosen, known, "method of this table")
    check_choice(quantity, QUANTITIES, "quantity of this table")
    keys = ["perturbation", "split", "sparsity"]
    means = finite(table.filter(pl.col("method") == chosen), ["loss", "error", "size"]).group_by(
        keys, maintain_order=True
    )
    whole = [pl.when(pl.col(name).null_count() == 0).then(pl.col(name).mean()).alias(name) for name in QUANTITIES]
    rows = means.agg(*whole, pl.col("size").mean()).sort(keys).to_dicts()
    splits = [split for split in SPLITS if split in table["split"].unique().to_list()]
    kinds = [kind for kind in PERTURBATIONS if kind in table["perturbation"].unique().to_list()]
    percent = alt.Axis(format=".0%", tickCount=6)
    scale = alt.Scale(type="symlog", constant=0.1) if quantity == "loss" else alt.Scale()
    axis = alt.Axis(format="~g", tickCount=6) if quantity == "loss" else percent
    lines = (
        alt.Chart().mark_line(strokeWidth=2, point=True, invalid="break-paths-show-domains").properties(name="curves")
    )
    dashes = alt.Scale(domain=kinds, range=[PERTURBATIONS[kind] for kind in kinds])
    lines = lines.encode(
        x=alt.X("sparsity:Q", title="weights removed", axis=percent, scale=alt.Scale(domain=[0, 1])),
        y=alt.Y(f"{quantity}:Q", title=QUANTITIES[quantity], axis=axis, scale=scale),
        color=alt.Color("split:N", title="data", scale=alt.Scale(domain=splits, range=[SPLITS[s] for s in splits])),
        strokeDash=alt.StrokeDash("perturbation:N", title="change", scale=dashes),
        tooltip=[
            alt.Tooltip("perturbation:N"),
            alt.Tooltip("split:N"),
            alt.Tooltip("sparsity:Q", format=".0%"),
            alt.Tooltip("loss:Q", format=".4~g"),
            alt.Tooltip("error:Q", format=".2%"),
            alt.Tooltip("size:Q", title="size of the change", format=".4~g"),
        ],
    )
    drawn: list[Any] = [lines]
    if summary is not None:
        found = summary.filter(pl.col("method") == chosen)["prunability"]
        rule = alt.Chart().mark_rule(color=GREY, strokeDash=[2, 2]).properties(name="prunability")
        drawn.append(rule.encode(x=alt.datum(1 - found[0])))
    layered: Any = alt.layer(*drawn)
    return finish(layered, rows, {}, title, 420, 260)
