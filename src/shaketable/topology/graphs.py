"""The channels of a cell as a graph, and what theory says of their degrees."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from shaketable.errors import InputError
from shaketable.networks.cells import Cell, Link, draw_links
from shaketable.topology.mass import cell_density
from shaketable.topology.theory import asymptotic_poisson_entropy, poisson_entropy

if TYPE_CHECKING:
    import networkx as nx


def channel_graph(cell: Cell, links: Sequence[Sequence[Link]]) -> "nx.DiGraph":
    """The channels of a cell as nodes (layer, channel), with an edge from each to every channel that it contributes to.

    Args:
        cell: its sizes.
        links: for each layer the earlier channels that it is linked to, as a linked network's cells have them.

    Returns: a directed graph; edges have the attribute ``long``.

    Raises:
        InputError: links that are not those of a cell of these sizes.

    Example:
        >>> graph = channel_graph(Cell(3, 2, 1), ((), (), ((0, 1),)))
        >>> graph.number_of_edges(), graph.has_edge((0, 1), (2, 0)), graph.has_edge((0, 0), (2, 0))
        (10, True, False)
    """
    import networkx as nx

    counts = tuple(map(len, links))
    if counts != cell.sources:
        raise InputError(
            f"the layers have {counts} links, those of the cell {cell} have {cell.sources}; give that cell's links."
        )
    for layer, sources in enumerate(links):
        if any(not (0 <= earlier <= layer - 2 and 0 <= channel < cell.width) for earlier, channel in sources):
            raise InputError(
                f"the links of layer {layer} are not all from channels of layers up to {layer - 2} of the cell {cell}."
            )
    graph = nx.DiGraph()
    graph.add_nodes_from((layer, channel) for layer in range(cell.depth) for channel in range(cell.width))
    for layer in range(1, cell.depth):
        before = [(layer - 1, channel) for channel in range(cell.width)]
        for channel in range(cell.width):
            graph.add_edges_from(((source, (layer, channel)) for source in before), long=False)
            graph.add_edges_from(((source, (layer, channel)) for source in links[layer]), long=True)
    return graph


@dataclass(frozen=True)
class Degrees:
    """Average degrees of a cell's channels: links over channels, as in equation 9.

    Attributes:
        sampled: of the graph that was drawn; it equals ``exact``, as every draw has as many links.
        exact: of the lattice, w_c (d_c - 1) / d_c, and of the long-range links, sum_i min{w_c (i - 1), t_c} / d_c.
        limit: w_c + m / 2, which the paper's intuition speaks of, for d_c much larger than 2.
        mean: of the long-range links alone: the paper's lambda.
        entropy, asymptotic_entropy: of a Poisson distribution of that mean; the latter is None for a mean of 0.
        table: of long-range links that leave a channel, and of those that reach it: ``degree``, ``outgoing``, ``incoming`` (numbers of
            channels) and ``poisson`` (the number that a Poisson distribution would have).
    """

    sampled: float
    exact: float
    limit: float
    mean: float
    entropy: float
    asymptotic_entropy: float | None
    table: pl.DataFrame


def degrees(cell: Cell, links: Sequence[Sequence[Link]] | None = None, seed: int = 0) -> Degrees:
    r"""Degrees of a cell's channel graph, sampled and by the formulas.

    .. math:: \bar k = \frac{w_c (d_c - 1)}{d_c} + \frac{1}{d_c} \sum_{i=2}^{d_c - 1} \min\{w_c (i - 1), t_c\}
        \;\to\; w_c + \frac m 2

    Args:
        cell: its sizes.
        links: of a network; drawn, without them.
        seed: of the draw.

    Returns: a :class:`Degrees`.

    Raises:
        InputError: links of another cell.

    Cost: the graph: of a cell of 20 layers of 128 channels and 300 links about a million edges.

    Deviates: the paper takes degrees for Poisson. Links that reach a channel are as many as the design says, no random number; the
        table shows both ends beside Poisson.

    Example:
        >>> found = degrees(Cell(9, 4, 6))
        >>> round(found.sampled, 4), round(found.exact, 4), round(found.limit, 4)
        (8.0, 8.0, 10.4286)

    References: "Towards unifying neural architecture space exploration and generalization" (NN-Mass), 2020, equations 9 to 13.
    """
    drawn = draw_links((cell.width,) * cell.depth, cell.sources, seed) if links is None else links
    graph = channel_graph(cell, drawn)
    long = graph.edge_subgraph(edge for edge in graph.edges if graph.edges[edge]["long"])
    nodes = graph.number_of_nodes()
    mean = sum(cell.sources) / cell.depth
    ends = {"outgoing": dict(long.out_degree()), "incoming": dict(long.in_degree())}
    counts = {name: [found.get(node, 0) for node in graph] for name, found in ends.items()}
    top = max(map(max, counts.values()))
    table = pl.DataFrame(
        {
            "degree": range(top + 1),
            **{name: [found.count(k) for k in range(top + 1)] for name, found in counts.items()},
            "poisson": nodes * _poisson(mean, top + 1),
        }
    )
    mass = cell.width * cell.depth * cell_density(cell)
    return Degrees(
        graph.number_of_edges() / nodes,
        cell.width * (cell.depth - 1) / cell.depth + mean,
        cell.width + mass / 2,
        mean,
        poisson_entropy(mean),
        asymptotic_poisson_entropy(mean) if mean else None,
        table,
    )


def _poisson(mean: float, count: int):
    """The first probabilities of a Poisson distribution."""
    from scipy.stats import poisson

    return poisson.pmf(range(count), mean)
