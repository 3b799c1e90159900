"""Tables about layers."""

from shaketable.probes.distances import distances
from shaketable.probes.result import Robustness
from shaketable.probes.robustness import robustness

__all__ = ["Robustness", "distances", "robustness"]
