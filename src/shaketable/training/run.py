"""Train a recipe, or go on with it, or find it done; and read what a run left."""

import json
import math
import platform
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

import shaketable
from shaketable import data, networks, params
from shaketable.data import Dataset, Tokenizer
from shaketable.data.augmentation import Augmentation
from shaketable.errors import InputError, RunError
from shaketable.evaluate import evaluate
from shaketable.files import locked, save_tensors, write_atomically, write_text
from shaketable.forward import usable_device
from shaketable.progress import progress
from shaketable.removal import without
from shaketable.training.checkpoints import HISTORY, State, load_plain
from shaketable.training.loop import Trainer
from shaketable.training.recipe import Recipe, learning_rate
from shaketable.training.trajectory import Checkpoints

if TYPE_CHECKING:
    import polars as pl

TOKENIZER = "tokenizer.model"
Session = Generator[tuple[Trainer, int], float, "Run"]


@dataclass(frozen=True)
class Run:
    """The folder of a training run.

    It holds ``recipe.json``, ``environment.json`` (versions and device of each start), ``checkpoints/``,
    ``state.safetensors`` (what the run goes on from), ``history.parquet`` and ``history.csv``; for a text the tokenizer,
    ``tokenizer.model``.
    """

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """A finished run.

        Raises:
            InputError: the folder is not that of a run, or the run is not finished; says how to go on.
        """
        run = cls(Path(path))
        if not (run.path / "recipe.json").is_file():
            raise InputError(
                f"{run.path}: not the folder of a run (it has no recipe.json); train one with `shaketable train`."
            )
        if not run.finished:
            at = (
                f"stopped after epoch {load_plain(run.state_path)['epoch']}"
                if run.state_path.is_file()
                else "has not begun"
            )
            raise InputError(
                f"{run.path}: this run {at} and is not finished; "
                f"go on with `shaketable train --recipe {run.path / 'recipe.json'} --out {run.path.parent}`."
            )
        return run

    @property
    def state_path(self) -> Path:
        """The file that the run goes on from."""
        return self.path / "state.safetensors"

    @property
    def recipe(self) -> Recipe:
        """The recipe that the run follows."""
        return Recipe.from_file(self.path / "recipe.json")

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done."""
        return self.state_path.is_file() and load_plain(self.state_path)["finished"]

    @property
    def checkpoints(self) -> Checkpoints:
        """The weights at each kept epoch, read when asked for."""
        return Checkpoints(self.path / "checkpoints")

    @property
    def history(self) -> "pl.DataFrame":
        """The history up to the last save: a row for epoch 0, before any step, and one for the end of each epoch."""
        return _history_table(load_plain(self.state_path)["history"])

    def network(self, epoch: int | None = None) -> nn.Module:
        """The network with the weights of a checkpoint (default: the last one), on the CPU, in evaluation mode."""
        about = load_plain(self.state_path)["about"]
        network = _build(self.recipe, tuple(about["input_shape"]), about["classes"])
        kept = self.checkpoints
        if epoch is not None and epoch not in kept:
            raise InputError(f"{self.path}: no checkpoint of epoch {epoch}; there are {', '.join(map(str, kept))}.")
        _load(network, kept[max(kept) if epoch is None else epoch])
        return network.eval()

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that the run was trained with, or None where the data are no text.

        Raises:
            InputError: its file is damaged, or another one.
        """
        path = self.path / TOKENIZER
        tokenizer = Tokenizer.load(path) if path.is_file() else None
        about = load_plain(self.state_path)["about"] if self.state_path.is_file() else {}
        if about and about.get("tokenizer") != (tokenizer and tokenizer.fingerprint):
            raise InputError(f"{path}: not the tokenizer that this run was trained with; restore it.")
        return tokenizer

    def dataset(self, data_root: str | Path | None = None) -> Dataset:
        """The data of the run, with the labels corrupted as they were in training.

        Raises:
            InputError: the data are missing, or are not those that the run was trained on.
        """
        dataset, about = dataset_of(self.recipe, data_root, self.tokenizer), load_plain(self.state_path)["about"]
        for split, found in (("train", dataset.train), ("test", dataset.test)):
            if found.fingerprint() != about[split]:
                raise InputError(
                    f"{self.path}: {self.recipe.data!r} has other {split} data now than when this run was trained; "
                    "give the data root that it was trained with."
                )
        return dataset


def train(
    recipe: Recipe,
    *,
    out: str | Path = "runs",
    data_root: str | Path | None = None,
    device: str | torch.device = "cpu",
    callback: Callable[..., object] | None = None,
    save_every_seconds: float = 10.0,
) -> Run:
    """The finished run of a recipe: trained now, gone on with where it was stopped, or found done.

    The run lies in ``out / recipe.folder_name``. All that the next epoch depends on is written to one file, whole and
    renamed, at the end of each checkpoint epoch, and of the first epoch to end ``save_every_seconds`` after the last
    save. Killed at any moment, the same call goes on from there. The random numbers of an epoch are a function of the
    seed and the epoch, so that on the CPU, with the same number of threads and the same versions, the final weights are
    those of an undisturbed run, bit for bit. Torch's global random state is left alone.

    What is not done: no validation split, no choice of the best epoch. An interrupt (Ctrl-C) passes through; what was
    done since the last save is lost. On CUDA a resumed run may differ in the last bits, as any two runs do there.

    Args:
        recipe: what to train.
        out: where run folders lie.
        data_root: where data sets lie; default: the environment variable ``SHAKETABLE_DATA``.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``, ...
        callback: called as ``callback(record, step=epoch)`` at the end of each epoch trained now, 0 included, with the
            measured columns of the history's row; ``wandb.log`` has this shape.
        save_every_seconds: save at least so often (at the end of an epoch).

    Returns: the run. One that is finished is returned at once, without touching data or device.

    Raises:
        InputError: unknown names in the recipe, data or a device that is not there, a folder that belongs to another
            recipe or other data, a damaged state.
        RunError: another process trains this run, or the loss is no longer finite (earlier checkpoints stay).

    Cost: per epoch one pass forward and backward; one pass forward over training and test data per evaluated epoch. All
    data lies on the device. On disk, the weights per checkpoint, and two (SGD) or three (Adam) times as much once.

    Deviates: ``stop_below`` tests the loss of the whole training set at the end of an epoch, without augmentation, in
    evaluation mode and on corrupted labels where there are such; Chatterji et al. do not say which loss they tested.
    """
    going = session(recipe, out, data_root, device, callback, save_every_seconds)
    try:
        trainer, epoch = next(going)
        while True:
            trainer, epoch = going.send(trainer.epoch(epoch))
    except StopIteration as end:
        return end.value
    finally:
        going.close()


def session(
    recipe: Recipe,
    out: str | Path,
    data_root: str | Path | None,
    device: str | torch.device,
    callback: Callable[..., object] | None = None,
    save_every_seconds: float = 10.0,
) -> Session:
    """A run as a generator, for those who train the epochs: yields the trainer and the epoch that is next, is sent the epoch's
    running loss, and returns the run. The arguments and the errors are those of :func:`train`."""
    if not isinstance(recipe, Recipe):
        raise InputError(f"recipe is a {type(recipe).__name__}; give a Recipe, such as Recipe(network='fcn-3x256').")
    folder = Path(out).expanduser() / recipe.folder_name
    run = Run(folder)
    if run.finished:
        _claim(run, recipe)
        return run
    device = usable_device(device)
    # what can be wrong with a recipe shows before there is a folder
    dataset = dataset_of(recipe, data_root, run.tokenizer)
    about = {
        "input_shape": list(dataset.input_shape),
        "classes": dataset.classes,
        "train": dataset.train.fingerprint(),
        "test": dataset.test.fingerprint(),
    }
    if dataset.tokenizer:
        about["tokenizer"] = dataset.tokenizer.fingerprint
        if not recipe.network.startswith("decoder-"):
            raise InputError(
                f"recipe: {recipe.network} does not take tokens, and {recipe.data} is a text; give decoder-<blocks>x<width>."
            )
    network = _build(recipe, dataset.input_shape, dataset.classes).to(device)
    dataset = dataset.to(device)
    trainer = Trainer(recipe, network, dataset.train, _augmentation(recipe, dataset))
    with locked(folder):
        _claim(run, recipe)
        if not run.finished:  # by another process, while this one was reading data
            _note_environment(folder, device)
            if dataset.tokenizer:
                model = dataset.tokenizer.model
                write_atomically(folder / TOKENIZER, lambda part: part.write_bytes(model))
            yield from _go_on(run, recipe, dataset, trainer, about, callback, save_every_seconds)
    return run


def dataset_of(recipe: Recipe, data_root: str | Path | None = None, tokenizer: Tokenizer | None = None) -> Dataset:
    """The data that a recipe trains on, with its share of the training labels corrupted, on the CPU.

    The tokenizer of a text is trained on it, unless one is given.
    """
    dataset = data.load(recipe.data, root=data_root, tokenizer=tokenizer, **recipe.data_args)
    if recipe.label_corruption:
        dataset = replace(dataset, train=data.corrupt_labels(dataset.train, recipe.label_corruption, recipe.seed))
    return dataset


def _go_on(
    run: Run,
    recipe: Recipe,
    dataset: Dataset,
    trainer: Trainer,
    about: dict[str, Any],
    callback: Callable[..., object] | None,
    save_every_seconds: float,
) -> Generator[tuple[Trainer, int], float, None]:
    """All epochs that are left; epoch 0 is the evaluation before any step."""
    history: list[dict[str, Any]] = []
    if run.state_path.is_file():
        history = _restore(run, trainer, about)
    done = len(history) - 1
    began = time.perf_counter() - (history[-1]["seconds"] if history else 0.0)
    saved = time.monotonic()
    with progress("training", recipe.epochs, max(done, 0)) as advance:
        for epoch in range(done + 1, recipe.epochs + 1):
            row: dict[str, Any] = {**dict.fromkeys(HISTORY), "epoch": epoch}
            if epoch:
                row["learning_rate"], row["running_loss"] = learning_rate(recipe, epoch), (yield trainer, epoch)
            keep = epoch in (0, recipe.epochs) or recipe.checkpoints is None or epoch in recipe.checkpoints
            if keep or epoch % recipe.evaluate_every == 0:
                for split, measured in (("train", dataset.train), ("test", dataset.test)):
                    sums = evaluate(trainer.network, {}, measured)
                    row[f"{split}_loss"], row[f"{split}_error"] = sums.mean_loss, sums.error
            _check_finite(run, row)
            low = (
                recipe.stop_below is not None
                and row["train_loss"] is not None
                and row["train_loss"] < recipe.stop_below
            )
            finished = epoch == recipe.epochs or (epoch > 0 and low)
            row["seconds"] = time.perf_counter() - began
            history.append(row)
            if keep or finished or time.monotonic() - saved >= save_every_seconds:
                _save(run, trainer, history, about, keep or finished, finished)
                saved = time.monotonic()
            if callback:
                callback({name: value for name, value in row.items() if value is not None}, step=epoch)
            if epoch:
                advance(detail=f"loss {row['running_loss']:.4f}")
            if finished:
                return


def _restore(run: Run, trainer: Trainer, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Put network and optimiser back to the saved state; returns the history up to it."""
    state = State.load(run.state_path)
    if state.about != about:
        raise InputError(
            f"{run.path}: this run was begun on other data than {run.recipe.data!r} is now "
            f"({state.about} then, {about} now); give the data that it was begun with, or another folder with --out."
        )
    _load(trainer.network, state.weights)
    trainer.restore(state.optimiser, state.scaler)
    return state.history


def _save(
    run: Run, trainer: Trainer, history: list[dict[str, Any]], about: dict[str, Any], keep: bool, finished: bool
) -> None:
    """Checkpoint, then history, then the state that vouches for both: a kill in between repeats work and loses none."""
    weights, epoch = params.state(trainer.network), history[-1]["epoch"]
    try:
        if keep:
            save_tensors(run.checkpoints.path(epoch), weights, {"epoch": str(epoch), "recipe": run.path.name})
        table = _history_table(history)
        write_atomically(run.path / "history.csv", table.write_csv)
        write_atomically(run.path / "history.parquet", table.write_parquet)
        State(epoch, finished, history, about, weights, trainer.optimiser_tensors(), trainer.scaler.state_dict()).save(
            run.state_path
        )
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{run.path}: epoch {epoch} could not be saved ({error}); make room, and give the same command to go on."
        ) from error


def _check_finite(run: Run, row: dict[str, Any]) -> None:
    """An error where training has diverged."""
    for name in ("running_loss", "train_loss", "test_loss"):
        if row[name] is not None and not math.isfinite(row[name]):
            rate = "before any step" if row["learning_rate"] is None else f"at learning rate {row['learning_rate']:g}"
            raise RunError(
                f"{run.path}: {name} is {row[name]} in epoch {row['epoch']}, {rate}; lower the learning rate. "
                "Earlier checkpoints are kept."
            )


def _history_table(history: list[dict[str, Any]]) -> "pl.DataFrame":
    """The history as a table."""
    import polars as pl

    schema = {name: pl.Int64 if name == "epoch" else pl.Float64 for name in HISTORY}
    return pl.DataFrame(history, schema=schema, orient="row")


def _build(recipe: Recipe, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """The network of a recipe with its initial weights, without the blocks that are removed."""
    network: nn.Module = networks.build(recipe.network, input_shape, classes, seed=recipe.seed, **recipe.network_args)
    if not recipe.removed:
        return network
    kind = torch.long if recipe.network.startswith("decoder-") else torch.float32
    try:
        return without(network, recipe.removed, torch.zeros(2, *input_shape, dtype=kind))
    except InputError as error:
        raise InputError(f"recipe: removed = {list(recipe.removed)} is not possible: {error}") from error


def _augmentation(recipe: Recipe, dataset: Dataset) -> Augmentation | None:
    """The recipe's augmentation for this data; what moves in from outside is black."""
    if not recipe.augmentation:
        return None
    if len(dataset.input_shape) != 3:
        raise InputError(
            f"recipe: augmentation is for images, and {recipe.data} has examples of shape {dataset.input_shape}."
        )
    return Augmentation(recipe.augmentation, dataset.normalisation.black if dataset.normalisation else None)


def _load(network: nn.Module, weights: params.Params) -> None:
    """Copy weights into a network, all of them."""
    own = params.state(network)
    shapes, given = ({name: tuple(t.shape) for name, t in tensors.items()} for tensors in (own, weights))
    if shapes != given:
        differ = sorted({name for name, _ in shapes.items() ^ given.items()})
        raise InputError(f"these weights are not of this {type(network).__name__}: {', '.join(differ[:5])} differ.")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])


def _claim(run: Run, recipe: Recipe) -> None:
    """Write the recipe into the folder, or check that it is there."""
    path = run.path / "recipe.json"
    if not path.exists():
        write_text(path, json.dumps(recipe.to_dict(), indent=2) + "\n")
    elif run.recipe != recipe:
        raise InputError(
            f"{path}: this is another recipe than the one to train; restore it, or choose another folder with --out."
        )


def _note_environment(folder: Path, device: torch.device) -> None:
    """Add this start to the list of starts, with all that may change the last bits of the result."""
    path = folder / "environment.json"
    starts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    start = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "shaketable": shaketable.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads(),
    }
    write_text(path, json.dumps([*starts, start], indent=2) + "\n")
