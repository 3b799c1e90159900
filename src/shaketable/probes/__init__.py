"""Tables about layers."""

from shaketable.probes.ablation import Ablation, ablation
from shaketable.probes.criticality import Criticality, criticality
from shaketable.probes.distances import distances
from shaketable.probes.joint import JointCriticality, joint_criticality
from shaketable.probes.joint_robustness import JointRobustness, joint_robustness
from shaketable.probes.layer_sets import LayerSets, largest_set
from shaketable.probes.paths import Paths, path
from shaketable.probes.prunability import Prunability, prunability
from shaketable.probes.result import Robustness
from shaketable.probes.robustness import robustness
from shaketable.probes.sensitivity import Sensitivity, sensitivity
from shaketable.probes.similarity import cka, similarity
from shaketable.probes.spectra import operator_norms, spectra
from shaketable.probes.valleys import Valley, valley

__all__ = [
    "Ablation",
    "Criticality",
    "JointCriticality",
    "JointRobustness",
    "LayerSets",
    "Paths",
    "Prunability",
    "Robustness",
    "Sensitivity",
    "Valley",
    "ablation",
    "cka",
    "criticality",
    "distances",
    "joint_criticality",
    "joint_robustness",
    "largest_set",
    "operator_norms",
    "path",
    "prunability",
    "robustness",
    "sensitivity",
    "similarity",
    "spectra",
    "valley",
]
