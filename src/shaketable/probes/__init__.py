"""Tables about layers."""

from shaketable.probes.distances import distances
from shaketable.probes.paths import Paths, path
from shaketable.probes.result import Robustness
from shaketable.probes.robustness import robustness
from shaketable.probes.valleys import Valley, valley

__all__ = ["Paths", "Robustness", "Valley", "distances", "path", "robustness", "valley"]
