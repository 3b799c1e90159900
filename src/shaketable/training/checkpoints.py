"""What a run leaves on disk so that it can be killed at any moment and go on: one state file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from shaketable import identity
from shaketable.errors import InputError
from shaketable.files import load_metadata, load_tensors, save_tensors
from shaketable.params import Params

HISTORY = ("epoch", "learning_rate", "running_loss", "train_loss", "train_error", "test_loss", "test_error", "seconds")
"""The columns of the history table; what was not measured in an epoch is null."""


@dataclass(frozen=True)
class State:
    """All that the next epoch depends on; random numbers are a function of seed and epoch, and need no state here."""

    epoch: int
    finished: bool
    history: list[dict[str, Any]]
    about: dict[str, Any]
    """Facts of the data: ``input_shape`` of one example, ``classes``, ``train`` and ``test`` fingerprints."""
    weights: Params
    optimiser: Mapping[str, Tensor]
    """Its tensors, named ``<parameter>/<name in the optimiser>``."""
    scaler: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the state as one file; the file is the old or the new one at any moment."""
        tensors = {f"weights/{name}": tensor for name, tensor in self.weights.items()}
        tensors |= {f"optimiser/{name}": tensor for name, tensor in self.optimiser.items()}
        plain = {name: getattr(self, name) for name in ("epoch", "finished", "history", "about", "scaler")}
        save_tensors(path, tensors, {"state": identity.canonical(plain), "fingerprint": identity.fingerprint(tensors)})

    @classmethod
    def load(cls, path: Path) -> "State":
        """Read a state, and check that it is whole."""
        plain, fingerprint = _plain(path)
        tensors = load_tensors(path)
        if identity.fingerprint(tensors) != fingerprint:
            raise InputError(f"{path}: damaged, its tensors are not those that were written; {_ADVICE}")
        weights = {name.removeprefix("weights/"): t for name, t in tensors.items() if name.startswith("weights/")}
        optimiser = {name.removeprefix("optimiser/"): t for name, t in tensors.items() if name.startswith("optimiser/")}
        return cls(weights=weights, optimiser=optimiser, **plain)


_ADVICE = "restore it from a copy, or delete the run's folder and train afresh."


def load_plain(path: Path) -> dict[str, Any]:
    """A state without its tensors: epoch, finished, history, about, scaler."""
    return _plain(path)[0]


def _plain(path: Path) -> tuple[dict[str, Any], str]:
    """The plain values in a state file, and the fingerprint of its tensors."""
    try:
        metadata = load_metadata(path)
        return json.loads(metadata["state"]), metadata["fingerprint"]
    except (InputError, KeyError, ValueError) as error:
        raise InputError(f"{path}: damaged, or not the state of a run ({error}); {_ADVICE}") from error
