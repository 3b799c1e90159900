"""Tables about layers."""

from shaketable.probes.distances import distances
from shaketable.probes.robustness import Robustness, robustness

__all__ = ["Robustness", "distances", "robustness"]
