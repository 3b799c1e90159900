"""What a network's graph says before it is trained: density, mass, and designs of equal mass."""

from shaketable.networks.cells import Cell, cells_from
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

__all__ = [
    "Cell",
    "Topology",
    "cell_density",
    "cells_from",
    "flops",
    "links_for_density",
    "long_range_sources",
    "nn_density",
    "nn_mass",
    "parameters",
    "topology",
]
