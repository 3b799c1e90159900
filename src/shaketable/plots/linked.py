"""Figures of linked networks: the channels of a cell with their long-range links, and how many come from which layer."""

from typing import Any

import altair as alt
import polars as pl

from shaketable.plots.drawing import BLUE, ORANGE, Side, check_choice, finish, heatmap, largest


def cell_diagram(table: pl.DataFrame, links: pl.DataFrame, cell: int = 1, title: str | None = None) -> alt.LayerChart:
    """The channels of a cell as points, a column a layer, and a line from each channel that supplies long-range links.

    A channel that is linked to a layer supplies a link to each of its channels; the line ends in their middle. Links between a
    layer and the next are not drawn: there all channels are linked to all.

    Args:
        table: ``cell``, ``layer`` and ``channels``, a row a layer.
        links: ``cell``, ``layer``, ``source_layer`` and ``source_channel``, a row for each channel that a layer is linked to.
        cell: which.
        title: the figure's title; none by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: a cell that there is not.

    Example:
        >>> table = pl.DataFrame({"cell": [1, 1, 1], "layer": [0, 1, 2], "channels": [2, 2, 2]})
        >>> links = pl.DataFrame({"cell": [1], "layer": [2], "source_layer": [0], "source_channel": [1]})
        >>> [layer["name"] for layer in cell_diagram(table, links).to_dict()["layer"]]
        ['links', 'channels']

    References: "Towards unifying neural architecture space exploration and generalization" (NN-Mass), 2020, figures 2 and 8.
    """
    check_choice(str(cell), [str(one) for one in table["cell"].unique().sort()], "cell of this network")
    layers = table.filter(pl.col("cell") == cell)
    middles = {row["layer"]: (row["channels"] - 1) / 2 for row in layers.to_dicts()}
    rows: list[dict[str, Any]] = [
        {"what": "channel", "layer": row["layer"], "channel": channel, "to": None, "end": None}
        for row in layers.to_dicts()
        for channel in range(row["channels"])
    ]
    rows += [
        {
            "what": "link",
            "layer": row["source_layer"],
            "channel": row["source_channel"],
            "to": row["layer"],
            "end": middles[row["layer"]],
        }
        for row in links.filter(pl.col("cell") == cell).to_dicts()
    ]
    ticks = alt.Axis(values=sorted(middles), format="d", grid=False)
    x, y = (
        alt.X("layer:Q", title="layer", axis=ticks),
        alt.Y("channel:Q", title="channel", axis=alt.Axis(grid=False, tickMinStep=1, format="d")),
    )
    line: Any = alt.Chart().transform_filter("datum.what == 'link'").mark_rule(color=ORANGE, opacity=0.35)
    tips = [alt.Tooltip("layer:Q", title="from layer"), alt.Tooltip("channel:Q"), alt.Tooltip("to:Q", title="to layer")]
    lines = line.encode(x=x, y=y, x2="to:Q", y2="end:Q", tooltip=tips).properties(name="links")
    dot: Any = alt.Chart().transform_filter("datum.what == 'channel'").mark_circle(color=BLUE, size=24, opacity=1)
    dots = dot.encode(x=x, y=y).properties(name="channels")
    most = int(layers["channels"].max() or 1)  # pyright: ignore[reportArgumentType]
    layered: Any = alt.layer(lines, dots)
    return finish(layered, rows, {}, title, max(200, 44 * len(middles)), min(420, max(120, 12 * most)))


def link_heatmap(table: pl.DataFrame, links: pl.DataFrame, cell: int = 1, title: str | None = None) -> alt.LayerChart:
    """How many channels of each layer of a cell each later layer is linked to: the matrix of long-range links.

    Args:
        table, links, cell, title: as for :func:`cell_diagram`.

    Returns:
        An Altair chart; layers next to each other, and those behind, stay empty.

    Raises:
        InputError: a cell that there is not.

    Example:
        >>> table = pl.DataFrame({"cell": [1, 1, 1], "layer": [0, 1, 2], "channels": [2, 2, 2]})
        >>> links = pl.DataFrame({"cell": [1], "layer": [2], "source_layer": [0], "source_channel": [1]})
        >>> link_heatmap(table, links).to_dict()["layer"][0]["name"]
        'cells'
    """
    check_choice(str(cell), [str(one) for one in table["cell"].unique().sort()], "cell of this network")
    names = [str(layer) for layer in table.filter(pl.col("cell") == cell)["layer"].sort()]
    counted = links.filter(pl.col("cell") == cell).group_by("layer", "source_layer").len()
    count = {(row["source_layer"], row["layer"]): row["len"] for row in counted.to_dicts()}
    rows = [
        {"from": source, "to": layer, "linked": count.get((int(source), int(layer)), 0)}
        for layer in names
        for source in names
        if int(source) <= int(layer) - 2
    ]
    return heatmap(
        rows or [{"from": names[0], "to": names[-1], "linked": 0}],
        "linked",
        Side("from", "from layer", names),
        Side("to", "to layer", names),
        top=largest(rows, "linked"),
        legend="channels linked",
        formats=("d", "d"),
        tooltip=[alt.Tooltip("from:N"), alt.Tooltip("to:N"), alt.Tooltip("linked:Q")],
        title=title,
    )
