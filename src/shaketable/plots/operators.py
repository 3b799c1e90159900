"""Figures of spectra, operator norms, and the similarity of layers' outputs."""

from collections.abc import Iterable
from typing import Any, Literal

import altair as alt
import polars as pl

from shaketable.errors import InputError
from shaketable.plots.drawing import (
    FINAL,
    TRANSPOSE_ABOVE,
    Side,
    check_choice,
    chosen_layers,
    finite,
    heatmap,
    largest,
    names_of,
    titled,
)

NORMS = {
    "operator_distance": "operator norm of the way",
    "operator_norm": "operator norm",
    "matrix_distance": "spectral norm of the way, reshaped",
    "matrix_norm": "spectral norm, reshaped",
}
PANELS_A_ROW = 3


def spectrum_curves(
    table: pl.DataFrame, layers: Iterable[str] | str | None = None, title: str | None = None
) -> alt.FacetChart:
    """Singular values of each layer's operator by rank: a panel for each weight, a curve for each checkpoint (dark: early).

    Args:
        table: what :func:`shaketable.probes.spectra` returns.
        layers: names of those to draw; all of the table by default.
        title: the figure's title; none by default.

    Returns:
        An Altair chart. A weight without a spectrum has no panel.

    Raises:
        InputError: an unknown layer, or no spectrum at all.

    References:
        Chatterji, Neyshabur, Sedghi, *The intriguing role of module criticality*, 2020, figure 3.
    """
    kept = chosen_layers(table, layers).filter(pl.col("singular_value").is_not_null())
    if kept.is_empty():
        raise InputError("no layer of the table has a spectrum; the column reason says why.")
    kept = _with_columns(_with_names(kept))
    names, columns = names_of(kept), _columns(kept)
    rows = kept.select("layer", "column", "index", "singular_value", "values").to_dicts()
    colour = alt.Color(
        "column:O", scale=alt.Scale(domain=columns, scheme="viridis"), legend=alt.Legend(title="checkpoint")
    )
    lines = (
        alt.Chart({"values": rows})
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("index:Q", title="rank", axis=alt.Axis(grid=False, tickCount=5)),
            y=alt.Y("singular_value:Q", title="singular value", axis=alt.Axis(tickCount=5)),
            color=colour,
            tooltip=["layer:N", alt.Tooltip("column:O", title="checkpoint"), "index:Q", "singular_value:Q", "values:Q"],
        )
        .properties(width=200, height=150)
    )
    header = alt.Header(title=None, labelFontWeight="bold", labelLimit=200)
    facets: Any = lines.facet(alt.Facet("layer:O", sort=names, header=header), columns=PANELS_A_ROW)
    return titled(facets.resolve_scale(x="independent", y="independent"), title)


def operator_norm_heatmap(
    table: pl.DataFrame,
    quantity: Literal["operator_distance", "operator_norm", "matrix_distance", "matrix_norm"] = "operator_distance",
    transpose: bool | None = None,
    title: str | None = None,
) -> alt.LayerChart:
    """Heat map of the operator norm of each layer's way from a checkpoint to the trained weights, or of its weights.

    Args:
        table: what :func:`shaketable.probes.operator_norms` returns.
        quantity: a column of it.
        transpose: layers as columns; by default above 12 layers.
        title: the figure's title; none by default.

    Returns:
        An Altair chart; colours go from 0 to the largest. A weight without a number is crossed.

    Raises:
        InputError: an unknown quantity, or an empty table.

    References:
        Chatterji, Neyshabur, Sedghi, *The intriguing role of module criticality*, 2020, figure 8.
    """
    check_choice(quantity, NORMS, "norm of this table")
    kept = _with_columns(_with_names(finite(chosen_layers(table, None), NORMS)))
    names, columns = names_of(kept), _columns(kept)
    rows = kept.select("layer", "column", *NORMS, pl.col("reason").fill_null("none").alias("remark")).to_dicts()
    sides = Side("column", "checkpoint", columns), Side("layer", "layer", names)
    wide = len(names) > TRANSPOSE_ABOVE if transpose is None else transpose
    return heatmap(
        rows,
        quantity,
        *(sides[::-1] if wide else sides),
        top=largest(rows, quantity),
        legend=NORMS[quantity],
        formats=(".2~g", ".2~g"),
        tooltip=[
            alt.Tooltip("layer:N"),
            alt.Tooltip("column:O", title="checkpoint"),
            *(alt.Tooltip(f"{name}:Q", title=label, format=".4~g") for name, label in NORMS.items()),
            alt.Tooltip("remark:N"),
        ],
        title=title,
    )


def similarity_heatmap(table: pl.DataFrame, rewound: str | None = None, title: str | None = None) -> alt.LayerChart:
    """Heat map of how much of each layer's output is left when one layer is rewound: 1 (dark) is all of it.

    Without ``rewound``: a row for each rewound layer, a column for each layer that was looked at, over all examples. With it:
    the layers that were looked at as rows, the classes as columns.

    Args:
        table: what :func:`shaketable.probes.similarity` returns.
        rewound: one rewound layer, of a table that was made with ``per_class=True``.
        title: the figure's title; none by default.

    Returns:
        An Altair chart; colours go from 0 to 1. A cell without a number is crossed.

    Raises:
        InputError: no such rewound layer, or an empty table.

    References:
        Chatterji, Neyshabur, Sedghi, *The intriguing role of module criticality*, 2020, figure 9.
    """
    kept = finite(chosen_layers(table, None), ["cka"]).sort("rewound_position", "position", maintain_order=True)
    known = kept["rewound"].unique(maintain_order=True).to_list()
    if rewound is None:
        kept = kept.filter(pl.col("class").is_null())
        across = Side("layer", "layer whose output is compared", names_of(kept.sort("position")))
        down = Side("rewound", "rewound layer", known)
    elif rewound not in known:
        raise InputError(f"the table has no rewound layer {rewound!r}; it has {', '.join(known)}.")
    else:
        kept = kept.filter(pl.col("rewound") == rewound)
        classes = kept["class"].drop_nulls().unique().sort().to_list()
        across = Side("label", "class", ["all", *map(str, classes)])
        down = Side("layer", "layer whose output is compared", names_of(kept))
    label = pl.col("class").cast(pl.String).fill_null("all").alias("label")
    remark = pl.col("reason").fill_null("none").alias("remark")
    rows = kept.select("rewound", "layer", label, "cka", "examples", remark).to_dicts()
    return heatmap(
        rows,
        "cka",
        across,
        down,
        top=1.0,
        legend="similarity (CKA)",
        formats=(".1f", ".2f"),
        tooltip=[
            alt.Tooltip("rewound:N", title="rewound layer"),
            alt.Tooltip("layer:N"),
            alt.Tooltip("label:O", title="class"),
            alt.Tooltip("cka:Q", title="CKA", format=".4f"),
            alt.Tooltip("examples:Q"),
            alt.Tooltip("remark:N"),
        ],
        title=title,
    )


def _with_names(table: pl.DataFrame) -> pl.DataFrame:
    """A layer of several weights has a row for each, under the weight's name."""
    several = pl.col("weight").n_unique().over("layer") > 1
    return table.with_columns(pl.when(several).then("weight").otherwise("layer").alias("layer"))


def _with_columns(table: pl.DataFrame) -> pl.DataFrame:
    """The checkpoint as a label."""
    return table.with_columns(pl.col("checkpoint").cast(pl.String).fill_null(FINAL).alias("column"))


def _columns(table: pl.DataFrame) -> list[str]:
    """Labels of checkpoints in order, the final weights last where their epoch is not known."""
    known = table["checkpoint"].drop_nulls().unique().sort().to_list()
    return [*map(str, known), *([FINAL] if table["checkpoint"].null_count() else [])]
