"""Plans that train in a moment, and tasks for the tests of executors."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from shaketable.training import Recipe
from shaketable.zoo import Plan

BASE = Recipe(network="fcn-1x{width}", epochs=1, data_args={"train_examples": 40, "test_examples": 30})
MEASURES = ["number_of_parameters", "training_loss", "squared_distance_to_init"]


LEARNT = replace(BASE, epochs=8, batch_size=10, learning_rate=0.01)
"""After this the networks are better than chance."""


def tiny(widths=(2, 3), seeds=(0, 1), base=BASE) -> Plan:
    return Plan.grid(base, {"width": list(widths), "seed": list(seeds)})


def write(folder: str, name: str) -> None:
    """A task that leaves a file behind."""
    Path(folder, name).write_text("done")


def write_later(folder: str, name: str) -> None:
    time.sleep(0.3)
    write(folder, name)


def die_once(folder: str, name: str) -> None:
    """A task whose worker is killed the first time, and the second time does its work."""
    if not Path(folder, f"{name}.tried").exists():
        Path(folder, f"{name}.tried").write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    write(folder, name)


def die(folder: str, name: str) -> None:
    """A task that always kills its worker."""
    with Path(folder, f"{name}.tries").open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def stumble(folder: str, name: str) -> None:
    """A task that raises the first time."""
    if not Path(folder, f"{name}.tried").exists():
        Path(folder, f"{name}.tried").write_text("")
        raise OSError("the disk went away")
    write(folder, name)
