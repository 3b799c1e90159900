"""Density and mass of a network that we did not build, from its graph."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from shaketable.errors import InputError
from shaketable.forward import Inputs
from shaketable.topology.mass import span
from shaketable.topology.tracing import ChannelGraph, Operator, Traced, channel_graph_of, traced

Additive = Literal["none", "bhardwaj2021"]
"""What an addition of two paths counts for."""


@dataclass(frozen=True)
class TracedCell:
    """A run of layers that long-range links span.

    Attributes:
        layers: the first and the last one, as numbers of operators on the way from the input.
        channels: of all its layers.
        links, possible: long-range links between channels that there are, and that there could be.
        density: their ratio.
        mass: density times channels.
    """

    layers: tuple[int, int]
    channels: int
    links: int
    possible: int
    density: float
    mass: float


@dataclass(frozen=True)
class TracedTopology:
    """Mass and density of a traced network.

    Attributes:
        nn_mass: the sum over cells, with what additions count for.
        nn_density: the mean over cells; 0 without one.
        cells: each run of layers that links span.
        layers: operators on the longest way from input to output.
        additions: of two paths.
        additive_mass: what they count for, with ``additive="bhardwaj2021"``.
        notes: what the number is, and what it is not, a sentence each.
    """

    nn_mass: float
    nn_density: float
    cells: tuple[TracedCell, ...]
    layers: int
    additions: int
    additive_mass: float
    notes: tuple[str, ...]


def traced_topology(
    network: nn.Module | Traced, inputs: Inputs | None = None, additive: Additive = "none"
) -> TracedTopology:
    r"""NN-Mass and NN-Density of any network with concatenations, from its graph.

    .. math:: m = \sum_c \rho_c \sum_{l \in c} w_l, \qquad
        \rho_c = \frac{\sum_{l \in c} w_l \, |S_l|}{\sum_{l \in c} w_l \sum_{k \in c, \, k \le l - 2} w_k}

    with :math:`w_l` the channels that the operators l (convolutions, linear layers) make, l counted along the longest way from the
    input, and :math:`S_l` the channels of layers up to l - 2 that l sees. A cell is a longest run of layers that such links span; two
    that meet in one layer (a transition) share it. On a linked network this is equation 3, to the last digit. What is not done:
    the channels of the input, and the classifier (the operator that no other follows), count for nothing; weights do not enter.

    Args:
        network: any, or its graph (:func:`shaketable.topology.traced`).
        inputs: two examples or so, for a network.
        additive: ``"none"``: additions of two paths (residual skips) count for nothing, as in the paper. ``"bhardwaj2021"``: a block of
            two operators counts w_0 + w_1, one of three (w_0 + 2 w_1) w_0 / (2 w_0 + w_1), with w_0 the channels of its input and
            w_1 those of its first operator, as in the follow-up's code for ResNets and MobileNet-v2.

    Returns: a :class:`TracedTopology`; a mass of 0 means that no channel reaches a layer but from the one before it.

    Raises:
        InputError: no inputs for a network, or another word for ``additive``.
        RunError: a graph that cannot be traced, or an operation through which channels cannot be followed.

    Cost: the trace, and about a millisecond an operator.

    Deviates: the definition is for cells of one width with links inside; widths of each layer, and runs of layers as cells, are ours.
        Two layers as far from the input (branches) count as one.

    Example:
        >>> from shaketable.networks import build
        >>> import torch
        >>> found = traced_topology(build("linked-4x2t3-4x3t4-4x4t5", (3, 8, 8), 10), torch.zeros(2, 3, 8, 8))
        >>> round(found.nn_mass, 6), [cell.layers for cell in found.cells]
        (28.0, [(1, 4), (5, 8), (9, 12)])

    References: "Towards unifying neural architecture space exploration and generalization" (NN-Mass), 2020, definitions 1 and 2.
        K. Bhardwaj, G. Li, R. Marculescu, How does topology influence gradient propagation and model performance of deep networks with
        DenseNet-type skip connections?, CVPR 2021, and its code (SLDGroup/NN_Mass).
    """
    if additive not in get_args(Additive):
        raise InputError(f"additive={additive!r}: use one of {', '.join(get_args(Additive))}.")
    if isinstance(network, nn.Module):
        if inputs is None:
            raise InputError("inputs: give two examples that the network takes, so that its graph can be traced.")
        network = traced(network, inputs)
    graph = channel_graph_of(network)
    body = [one for one in graph.operators if one.used]
    cells = _cells(graph, body)
    counted, unknown = _additive(graph) if additive == "bhardwaj2021" else (0.0, 0)
    notes = []
    if not cells and not counted:
        notes.append(
            "no channel is concatenated to a layer two or more behind its own, the last layer aside: the mass is 0 by definition, "
            "which says nothing about how good the network is."
        )
    if graph.skips and additive == "none":
        notes.append(
            f"{len(graph.skips)} additions of two paths (residual skips) count for nothing: the definition is for "
            "concatenations; additive='bhardwaj2021' is the follow-up paper's form."
        )
    if unknown:
        notes.append(
            f"{unknown} of {len(graph.skips)} additions are no blocks of two or three operators, and count for nothing."
        )
    return TracedTopology(
        sum(cell.mass for cell in cells) + counted,
        sum(cell.density for cell in cells) / len(cells) if cells else 0.0,
        tuple(cells),
        1 + max((one.depth for one in graph.operators), default=-1),
        len(graph.skips),
        counted,
        tuple(notes),
    )


def _cells(graph: ChannelGraph, body: list[Operator]) -> list[TracedCell]:
    """The runs of layers that long-range links span."""
    depth_of = np.array([one.depth for one in graph.operators])[graph.made_by] if len(graph.made_by) else np.zeros(0)
    widths = np.zeros(1 + max((one.depth for one in body), default=-1), np.int64)
    links = np.zeros_like(widths)
    spans = []
    for one in body:
        widths[one.depth] += one.outputs
        sources = depth_of[one.inputs[one.inputs >= 0]]
        long = sources[sources <= one.depth - 2]
        if len(long):
            links[one.depth] += len(long) * one.outputs // one.groups
            spans.append((int(long.min()), one.depth))
    found = []
    for first, last in _merged(spans):
        own, reaching = widths[first : last + 1], links[first : last + 1].copy()
        reaching[0] = 0  # those of the cell that ends here
        possible, density, mass = span(own.tolist(), reaching.tolist())
        found.append(TracedCell((first, last), int(own.sum()), int(reaching.sum()), possible, density, mass))
    return found


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Intervals that overlap in more than an end, as one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first < found[-1][1]:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def _additive(graph: ChannelGraph) -> tuple[float, int]:
    """The follow-up's mass of residual blocks, and how many additions are none."""
    total, unknown = 0.0, 0
    for skip in graph.skips:
        branch = _branch(graph, skip.end, skip.shortcut)
        if branch is None:
            unknown += 1
            continue
        inputs, first = float(len(branch[-1].inputs)), float(branch[-1].outputs)
        total += inputs + first if len(branch) == 2 else (inputs + 2 * first) * inputs / (2 * inputs + first)
    return total, unknown


def _branch(graph: ChannelGraph, end: int, shortcut: np.ndarray) -> list[Operator] | None:
    """The two or three operators of a block's longer path, the last first; None of anything else."""
    if end < 0:
        return None
    starts: list[Any] = [shortcut]
    maker = graph.operators[graph.made_by[shortcut[0]]] if shortcut[0] >= 0 else None
    if maker is not None:
        starts.append(maker.inputs)  # a projection of the block's input
    branch = [graph.operators[end]]
    while not any(np.array_equal(branch[-1].inputs, start) for start in starts):
        before = np.unique(graph.made_by[branch[-1].inputs[branch[-1].inputs >= 0]])
        if len(before) != 1 or len(branch) == 3:
            return None
        branch.append(graph.operators[before[0]])
    return branch if len(branch) in (2, 3) else None
