"""The options that say what is looked at: a run, or a network with weights and data from files."""

import os
import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from shaketable.cli.terminal import Device, Pairs, Root, pairs

if TYPE_CHECKING:
    from shaketable.data import Dataset
    from shaketable.data.data import Normalisation
    from shaketable.study import Study


@Parameter(name="*")
@dataclass(frozen=True)
class Source:
    """What several commands take beside the folder of a run."""

    network: str | None = None
    """A name of `shaketable networks`, or MODULE:FUNCTION of your own that returns a torch module."""
    network_arg: Pairs = None
    """An argument of the network as NAME=VALUE; may be repeated."""
    final: Path | None = None
    """File with the weights after training."""
    init: Path | None = None
    """File with the weights before training; without it nothing can be re-initialised."""
    weights: Pairs = None
    """A checkpoint as EPOCH=FILE; may be repeated."""
    data: str | None = None
    """A name of `shaketable data`, or a .npz file with test_inputs, test_labels, train_inputs, train_labels."""
    data_arg: Pairs = None
    """An argument of the data as NAME=VALUE; may be repeated."""
    out: Path | None = None
    """Where results go; default RUN, or a folder below runs that is named for network and weights."""
    data_root: Root = None
    device: Device = "cpu"


FOREIGN = ("final", "init", "weights", "data", "data_arg", "network_arg")


def opened(run: Path | None, source: Source | None) -> tuple["Study", Path]:
    """The study that the options name, and the folder where its results go."""
    from shaketable.errors import InputError
    from shaketable.files import refuse_file
    from shaketable.study import Study

    source = source or Source()
    if source.out is not None:
        refuse_file(source.out.expanduser().absolute())
    if (run is None) == (source.network is None):
        raise InputError("give either the folder of a run, or --network with --final and --data.")
    given = [
        field.name for field in fields(source) if field.name in FOREIGN and getattr(source, field.name) is not None
    ]
    if run is not None:
        if given:
            option = "--" + given[0].replace("_", "-")
            raise InputError(f"{option} goes with --network; the run {run} brings its own.")
        return Study.from_run(run, source.data_root, source.device), source.out or run
    study = _foreign_study(source)
    name = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in source.network or "")
    return study, source.out or Path("runs") / f"{name}-{study.weights_fingerprint}"


def normalisation_of(run: Path | None, source: Source | None) -> "Normalisation | None":
    """What was applied to the data that :func:`opened` gave, if anything."""
    source = source or Source()
    if run is None:
        return _dataset(source).normalisation
    from shaketable.training import Run

    return Run.open(run).dataset(source.data_root).normalisation


def command_typed() -> str:
    """What the user typed."""
    return shlex.join(["shaketable", *sys.argv[1:]])


def _foreign_study(source: Source) -> "Study":
    """A study of a network with weights from files."""
    from shaketable.errors import InputError
    from shaketable.forward import usable_device
    from shaketable.networks import build
    from shaketable.study import Study

    network = str(source.network)
    if source.final is None or source.data is None:
        raise InputError("--network needs --final FILE (its weights) and --data NAME (what it is tested on).")
    checkpoints: dict[int, str | Path] = {}
    for name, file in (pairs(source.weights, "--weights") or {}).items():
        if not name.isdecimal() or int(name) in checkpoints:
            raise InputError(
                f"--weights {name}={file}: write EPOCH=FILE, such as --weights 5=epoch5.pt, each epoch once."
            )
        checkpoints[int(name)] = str(file)
    dataset = _dataset(source)
    arguments = pairs(source.network_arg, "--network-arg") or {}
    own = ":" in network
    made = own_network(network, arguments) if own else build(network, dataset.input_shape, dataset.classes, **arguments)
    return Study(
        made.to(usable_device(source.device)).eval(),
        final=source.final,
        init=source.init,
        checkpoints=checkpoints,
        train=dataset.train,
        test=dataset.test,
        name=f"{network} on {dataset.name}",
    )


def _dataset(source: Source) -> "Dataset":
    """The data that the options name."""
    from shaketable.data import load
    from shaketable.errors import InputError
    from shaketable.training.recipe import DATA_ARGUMENTS

    data_args = pairs(source.data_arg, "--data-arg") or {}
    for name in data_args:
        if name not in DATA_ARGUMENTS:
            raise InputError(f"--data-arg {name}: there is no such argument; there are {', '.join(DATA_ARGUMENTS)}.")
    return load(str(source.data), root=source.data_root, **data_args)


def own_network(name: str, arguments: dict[str, Any]) -> Any:
    """What MODULE:FUNCTION returns, MODULE being importable from the current folder."""
    import importlib

    from torch import nn

    from shaketable.errors import InputError

    module, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        made = getattr(importlib.import_module(module), function)(**arguments)
    except (ImportError, AttributeError, TypeError) as error:
        raise InputError(
            f"--network {name}: {error}; give MODULE:FUNCTION, a function that returns a torch module."
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(made, nn.Module):
        raise InputError(f"--network {name}: it returned a {type(made).__name__}, not a torch module.")
    return made
