"""Networks of the papers, built from a name and plain arguments; each can redraw its own initial weights."""

from shaketable.networks.build import FAMILIES, Family, build, construct, describe
from shaketable.networks.initialisers import INITIALISERS, Network

__all__ = ["FAMILIES", "INITIALISERS", "Family", "Network", "build", "construct", "describe"]
