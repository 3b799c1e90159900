"""What a network's graph says before it is trained: density, mass, and designs of equal mass."""

from shaketable.networks.cells import Cell, cells_from
from shaketable.topology.design import Designs, Limits, designs, export
from shaketable.topology.graphs import Degrees, channel_graph, degrees
from shaketable.topology.mass import (
    Topology,
    cell_density,
    flops,
    links_for_density,
    long_range_sources,
    nn_density,
    nn_mass,
    parameters,
    topology,
)
from shaketable.topology.space import Space, pareto
from shaketable.topology.theory import (
    MassBound,
    asymptotic_poisson_entropy,
    kl_term,
    mass_bound,
    mass_difference_bound,
    poisson_entropy,
)
from shaketable.topology.traced import Additive, TracedCell, TracedTopology, traced_topology
from shaketable.topology.tracing import Traced, traced

__all__ = [
    "Additive",
    "Cell",
    "Degrees",
    "Designs",
    "Limits",
    "MassBound",
    "Space",
    "Topology",
    "Traced",
    "TracedCell",
    "TracedTopology",
    "asymptotic_poisson_entropy",
    "cell_density",
    "cells_from",
    "channel_graph",
    "degrees",
    "designs",
    "export",
    "flops",
    "kl_term",
    "links_for_density",
    "long_range_sources",
    "mass_bound",
    "mass_difference_bound",
    "nn_density",
    "nn_mass",
    "parameters",
    "pareto",
    "poisson_entropy",
    "topology",
    "traced",
    "traced_topology",
]
