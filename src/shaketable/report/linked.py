"""What the report says and draws about the cells of a linked network."""

import math
from typing import Any

from shaketable import plots
from shaketable.report.parts import Part, network_facts
from shaketable.report.results import Cells

DRAWN = 400
"""Links of a cell that can be told apart in a drawing."""


def cells_charts(result: Cells, size: float = math.inf) -> tuple[dict[str, Any], list[str]]:
    """The links of each cell and their numbers between layers, by name, and sentences on those that are too many to be drawn one
    by one; ``size`` marks in all."""
    charts, notes, left = {}, [], size
    for cell, layers in enumerate(result.provenance["layers"], start=1):
        count = len(result.links.filter(cell=cell))
        channels = int(result.table.filter(cell=cell)["channels"].sum())
        if count <= DRAWN and count + channels <= left:
            charts[f"cell-{cell}-links"] = plots.cell_diagram(result.table, result.links, cell)
            left -= count + channels
        else:
            notes.append(
                f"Cell {cell}: its {count:,} links are told by number alone; the result's own tables have each."
            )
        if layers > 2 and layers * layers // 2 <= left:
            charts[f"cell-{cell}-matrix"] = plots.link_heatmap(result.table, result.links, cell)
            left -= layers * layers // 2
    return charts, notes


def cells_part(result: Cells, size: int) -> Part:
    """Each cell with its links, or with the number of them where they are too many to be drawn one by one."""
    facts, (charts, notes) = result.provenance, cells_charts(result, size)
    rows = [
        {"cell": cell, "layers": layers, "channels": channels, "links": links, "density": density}
        for cell, (layers, channels, links, density) in enumerate(
            zip(facts["layers"], facts["channels"], facts["linked"], facts["cell_density"], strict=True), start=1
        )
    ]
    return {
        "template": "linked.html",
        "paragraphs": cells_paragraphs(result),
        "facts": [
            *network_facts(result),
            ("NN-Mass", f"{facts['nn_mass']:.4g}"),
            ("NN-Density", f"{facts['nn_density']:.3g}"),
        ],
        "notes": notes,
        "figures": {name: chart.to_dict() for name, chart in charts.items()},
        "missing": [],
        "rows": rows,
    }


def cells_paragraphs(result: Cells) -> list[str]:
    """Mass and density in words, and what they do not say."""
    facts = result.provenance
    count = len(facts["layers"])
    first = (
        f"The network has {count} cell{'s' if count > 1 else ''}; each layer sees the layer before it, and "
        f"{sum(facts['linked']):,} times in all a channel of an earlier one that was drawn for it. Of the long-range links that there "
        f"could be, it has {facts['nn_density']:.1%} (NN-Density, the mean over cells); times the channels of each cell this is its "
        f"NN-Mass, {facts['nn_mass']:.4g}."
    )
    said = [first]
    if not facts["nn_mass"]:
        said.append(
            "Without long-range links the mass is 0 by definition, which says nothing about how good the network is."
        )
    said.append(
        "Mass is known before training. That networks of one width and equal mass reach about the same accuracy is the claim of "
        "the NN-Mass paper, from experiments; its bound by mass bounds nothing (docs/concepts.md)."
    )
    return said
