"""shaketable: find out what holds a neural network up, and how well it will generalise.

Names are imported when they are first used, so that ``import shaketable`` costs torch and nothing else.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Ablation": "probes",
    "Combination": "engine",
    "Criticality": "probes",
    "Data": "data",
    "Dataset": "data",
    "Engine": "engine",
    "InputError": "errors",
    "JointCriticality": "probes",
    "JointRobustness": "probes",
    "Layer": "params",
    "LayerSets": "probes",
    "MEASURES": "measures",
    "Measurement": "measures",
    "Paths": "probes",
    "Prunability": "probes",
    "Recipe": "training",
    "Robustness": "probes",
    "Run": "training",
    "RunError": "errors",
    "Sensitivity": "probes",
    "Study": "study",
    "Valley": "probes",
    "ablation": "probes",
    "build": "networks",
    "criticality": "probes",
    "distances": "probes",
    "joint_criticality": "probes",
    "joint_robustness": "probes",
    "largest_set": "probes",
    "layers": "params",
    "load": "data",
    "measurements": "measures",
    "path": "probes",
    "prunability": "probes",
    "robustness": "probes",
    "sensitivity": "probes",
    "snapshot": "params",
    "train": "training",
    "valley": "probes",
    "without": "removal",
    "write_report": "report",
}

__all__ = [
    "MEASURES",
    "Ablation",
    "Combination",
    "Criticality",
    "Data",
    "Dataset",
    "Engine",
    "InputError",
    "JointCriticality",
    "JointRobustness",
    "Layer",
    "LayerSets",
    "Measurement",
    "Paths",
    "Prunability",
    "Recipe",
    "Robustness",
    "Run",
    "RunError",
    "Sensitivity",
    "Study",
    "Valley",
    "__version__",
    "ablation",
    "build",
    "criticality",
    "distances",
    "joint_criticality",
    "joint_robustness",
    "largest_set",
    "layers",
    "load",
    "measurements",
    "path",
    "prunability",
    "robustness",
    "sensitivity",
    "snapshot",
    "train",
    "valley",
    "without",
    "write_report",
]

if TYPE_CHECKING:
    from shaketable.data import Data, Dataset, load
    from shaketable.engine import Combination, Engine
    from shaketable.errors import InputError, RunError
    from shaketable.measures import MEASURES, Measurement, measurements
    from shaketable.networks import build
    from shaketable.params import Layer, layers, snapshot
    from shaketable.probes import (
        Ablation,
        Criticality,
        JointCriticality,
        JointRobustness,
        LayerSets,
        Paths,
        Prunability,
        Robustness,
        Sensitivity,
        Valley,
        ablation,
        criticality,
        distances,
        joint_criticality,
        joint_robustness,
        largest_set,
        path,
        prunability,
        robustness,
        sensitivity,
        valley,
    )
    from shaketable.removal import without
    from shaketable.report import write_report
    from shaketable.study import Study
    from shaketable.training import Recipe, Run, train


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'shaketable' has no attribute {name!r}")
    return getattr(importlib.import_module(f"shaketable.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
