"""Figures of the sensitivity of layers to noise and to pruning."""

from typing import Any, Literal

import altair as alt
import polars as pl

from shaketable.errors import InputError
from shaketable.plots.drawing import TRANSPOSE_ABOVE, Side, check_choice, finite, heatmap
from shaketable.plots.robustness import QUANTITIES, shown

WORDS = {"noise": "noise", "prune": "pruned"}


def sensitivity_heatmap(
    summary: pl.DataFrame,
    split: str = "test",
    quantity: Literal["error", "loss", "accuracy_drop"] = "error",
    transpose: bool | None = None,
    title: str | None = None,
    classes: int | None = None,
) -> alt.LayerChart:
    """Heat map of one number per layer and perturbation: noise of each size on it, and each fraction of it removed.

    Args:
        summary: what ``Sensitivity.summary()`` returns.
        split: ``"test"`` or ``"train"``.
        quantity: ``"error"``, ``"loss"`` or ``"accuracy_drop"``.
        transpose, title, classes: as for :func:`shaketable.plots.robustness_heatmap`.

    Returns:
        An Altair chart; every cell says its numbers when pointed at. A cell without a number is crossed.

    Raises:
        InputError: an unknown quantity, or a split of which the table has no row.
    """
    check_choice(quantity, QUANTITIES, "quantity of this table")
    rows, names, columns = _sides(summary, split)
    sides = Side("column", "perturbation", columns), Side("layer", "layer", names)
    return heatmap(
        rows,
        quantity,
        *(sides[::-1] if (len(names) > TRANSPOSE_ABOVE if transpose is None else transpose) else sides),
        **shown(rows, quantity, split, classes),
        tooltip=[
            alt.Tooltip("layer:N"),
            alt.Tooltip("column:N", title="perturbation"),
            alt.Tooltip("error:Q", title=f"{split} error", format=".2%"),
            alt.Tooltip("loss:Q", title=f"{split} loss (nats)", format=".3~f"),
            alt.Tooltip("accuracy_drop:Q", title="accuracy drop", format=".2%"),
            alt.Tooltip("draws:Q"),
            alt.Tooltip("remark:N"),
        ],
        title=title,
    )


def _sides(summary: pl.DataFrame, split: str) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Rows of the cells, names of the layers in forward order, and labels of the perturbations, noise first."""
    kept = summary.filter(pl.col("split") == split, pl.col("position") >= 0)
    if kept.is_empty():
        raise InputError(f"the table has no layer of the split {split!r}.")
    kept = finite(kept, QUANTITIES).sort("position", "perturbation", "magnitude", maintain_order=True)
    label = pl.format("{} {}", pl.col("perturbation").replace_strict(WORDS), pl.col("magnitude").round_sig_figs(6))
    kept = kept.with_columns(column=label, remark=pl.col("reason").fill_null("none"))
    order = kept.select("perturbation", "magnitude", "column").unique().sort("perturbation", "magnitude")
    rows = kept.select("layer", "column", *QUANTITIES, "draws", "parameters", "remark").to_dicts()
    return rows, kept["layer"].unique(maintain_order=True).to_list(), order["column"].to_list()
