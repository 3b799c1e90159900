"""Plausible results without training anything: the error of a reset falls with depth and with the checkpoint."""

import math
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from shaketable.probes import Robustness
from shaketable.probes.distances import SCHEMA as DISTANCES
from shaketable.probes.robustness import SCHEMA

FCN = ("layers.0", "layers.1", "layers.2", "final")
EXAMPLES, CLEAN = {"test": 10_000, "train": 60_000}, {"test": 0.0181, "train": 0.0002}
UNAVAILABLE = {"status": "unavailable", "reason": "no distribution of its initial weights is known"}


def robustness(
    layers: tuple[str, ...] = FCN,
    checkpoints: tuple[int, ...] = (0, 1, 2, 3, 5, 10, 20),
    splits: tuple[str, ...] = ("test", "train"),
    draws: int = 5,
    unavailable: tuple[str, ...] = (),
    **provenance: Any,
) -> Robustness:
    """A result for these layers; those in ``unavailable`` could not be re-randomised."""
    last = checkpoints[-1]
    rows = []
    for split in splits:
        for position, layer in enumerate(layers):
            weight = math.exp(-1.7 * (position % 9)) * (1 if position % 9 else 1.2)
            what = {"layer": layer, "position": position, "kind": "Linear", "parameters": 65_792, "split": split}
            for draw in range(draws):
                error = min(0.9, 0.02 + 0.8 * weight + 0.01 * draw)
                numbers = UNAVAILABLE if layer in unavailable else _numbers(split, error)
                rows.append(
                    what | {"perturbation": "rerandomise", "draw": draw, "distribution": "initialise"} | numbers
                )
            for checkpoint in checkpoints:
                fall = 0 if checkpoint == last else math.exp(-0.5 * checkpoint)
                numbers = _numbers(split, min(0.9, CLEAN[split] + 0.75 * weight * fall))
                rows.append(what | {"perturbation": "reinitialise", "checkpoint": checkpoint} | numbers)
        what = {
            "layer": "full model",
            "position": -1,
            "kind": "FCN",
            "parameters": 65_792 * len(layers),
            "split": split,
        }
        for checkpoint in checkpoints:
            fall = 0 if checkpoint == last else math.exp(-1.5 * checkpoint) + 0.02
            numbers = _numbers(split, min(0.9, CLEAN[split] + 0.88 * fall))
            rows.append(what | {"perturbation": "none", "checkpoint": checkpoint} | numbers)
    distances = [
        {
            "layer": layer,
            "position": position,
            "perturbation": "rerandomise" if checkpoint is None else "reinitialise",
            "checkpoint": checkpoint,
            "draw": 0 if checkpoint is None else None,
            "dimension": 65_792,
            "normalised_l2": 0.03 * math.exp(-0.1 * position) * (1 - (checkpoint or 0) / last),
            "linf": 0.4 * math.exp(-0.05 * position) * (1 - (checkpoint or 0) / last),
        }
        for position, layer in enumerate(layers)
        for checkpoint in (None, *checkpoints)
    ]
    history = [
        {
            "epoch": epoch,
            "learning_rate": 0.1 if epoch < last / 2 else 0.02,
            "running_loss": None if epoch == 0 else math.exp(-0.35 * epoch) + 0.01,
            "train_loss": 2.3 * math.exp(-0.4 * epoch),
            "train_error": 0.9 * math.exp(-0.9 * epoch) + 0.0002,
            "test_loss": 2.2 * math.exp(-0.4 * epoch) + 0.07,
            "test_error": 0.88 * math.exp(-0.9 * epoch) + 0.018,
            "seconds": 1.5 * epoch,
        }
        for epoch in range(last + 1)
    ]
    given = {
        "name": "fcn-3x256 on mnist",
        "network": "FCN",
        "classes": 10,
        "layers_by": "block",
        "checkpoints": list(checkpoints),
        "final_checkpoint": last,
        "draws": draws,
        "statistics": "keep",
        "seed": 0,
        "command": "shaketable robustness runs/fcn-3x256-mnist --by block --draws 5 --seed 0 --out results/fcn",
        "shaketable": "0.1.0",
        "torch": "2.13.0+cpu",
        "python": "3.11.9",
        "device": "cpu",
        "weights": "b7e23ec29af22b0b",
        "data": {"test": "4e9d1a7c6f3b2a10", "train": "0f1e2d3c4b5a6978"},
        "result": "90b1c2d3e4f50617",
        "created": "2024-05-01T12:00:00+00:00",
        "seconds": 12.5,
        "run": "fcn-3x256-mnist",
        "recipe": {"network": "fcn-3x256", "data": "mnist", "epochs": last, "batch_size": 128},
    }
    return Robustness(
        table=pl.DataFrame([dict.fromkeys(SCHEMA) | row for row in rows], schema=SCHEMA),
        distances=pl.DataFrame(distances, schema=DISTANCES),
        robust=0.05,
        critical=0.25,
        provenance=given | provenance,
        history=pl.DataFrame(history, infer_schema_length=None),
    )


def _numbers(split: str, error: float) -> dict[str, Any]:
    errors = round(error * EXAMPLES[split])
    error = errors / EXAMPLES[split]
    drop = error - round(CLEAN[split] * EXAMPLES[split]) / EXAMPLES[split]
    counts = {"examples": EXAMPLES[split], "errors": errors, "status": "ok"}
    return counts | {"error": error, "loss": 0.05 + 2.4 * error, "accuracy": 1 - error, "accuracy_drop": drop}


@pytest.fixture(scope="session")
def build() -> Callable[..., Robustness]:
    """Makes a plausible result."""
    return robustness
