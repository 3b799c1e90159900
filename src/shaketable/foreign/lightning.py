"""Studies of networks that Lightning trained: state dicts in its checkpoint files, read without running code."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from shaketable.errors import InputError
from shaketable.files import load_tensors
from shaketable.params import aliases, state
from shaketable.study import Study, Weights


def from_lightning(
    path: str | Path,
    network: nn.Module,
    data: Any = None,
    *,
    train: Any = None,
    prefix: str | None = None,
    init: Weights | None = None,
    checkpoints: Mapping[int, Weights] | None = None,
    **arguments: Any,
) -> Study:
    """The study of a network whose weights are in a Lightning checkpoint.

    Not done: the LightningModule's class is not imported, its hyper-parameters and the optimiser's state are left aside.

    Args:
        path: the ``.ckpt`` file with the final weights; only the state dict in it is used.
        network: the network itself (or the LightningModule), made as it was for training, in evaluation mode.
        data: the test data, as for :class:`shaketable.Study`.
        train: the training data.
        prefix: what stands before the network's names in the file: ``"model."`` where the module keeps it as
            ``self.model``. If left out, the one prefix that fits; tensors without it (metrics, losses) are left aside, and
            their names are in ``study.provenance["left_out"]``.
        init: the weights before training: a ``.ckpt``, or as for :class:`shaketable.Study`.
        checkpoints: by epoch; ``.ckpt`` files are read when they are needed.
        arguments: of :class:`shaketable.Study`.

    Raises:
        InputError: no such file, one that cannot be read with ``weights_only=True``, no prefix that fits, or several.

    Cost: each file is read once, whenever its weights are asked for.

    Example:
        >>> import tempfile, torch
        >>> file = Path(tempfile.mkdtemp()) / "last.ckpt"
        >>> network = nn.Linear(2, 2).eval()
        >>> weights = {f"model.{name}": torch.ones_like(tensor) for name, tensor in network.state_dict().items()}
        >>> torch.save({"epoch": 3, "state_dict": weights}, file)
        >>> from_lightning(file, network).final["bias"].tolist()
        [1.0, 1.0]
    """
    if not isinstance(network, nn.Module):
        raise InputError(f"network is a {type(network).__name__}; give a torch.nn.Module.")
    given = _read(path)
    chosen = _prefix(given, network, str(path)) if prefix is None else prefix
    known = {*state(network), *aliases(network)}
    left_out = sorted(name for name in given if not name.startswith(chosen) or name.removeprefix(chosen) not in known)
    if prefix is not None and not any(name.startswith(prefix) for name in given):
        raise InputError(f"{path}: no name begins with {prefix!r}; the first ones are {_some(given)}.")
    arguments.setdefault("provenance", {"file": Path(path).name, "prefix": chosen, "left_out": left_out})
    return Study(
        network,
        final=_stripped(given, chosen, known),
        init=_weights(init, chosen, known),
        checkpoints=None if checkpoints is None else _Files(checkpoints, chosen, known),
        test=data,
        train=train,
        **arguments,
    )


class _Files(Mapping[int, Any]):
    """Weights by epoch, read when they are asked for, without the prefix."""

    def __init__(self, files: Mapping[int, Weights], prefix: str, known: set[str]) -> None:
        if not isinstance(files, Mapping):
            kind = type(files).__name__
            raise InputError(
                f"checkpoints is a {kind}; give a mapping from epochs to files, such as {{5: 'epoch=4.ckpt'}}."
            )
        self._files, self._prefix, self._known = files, prefix, known

    def __getitem__(self, epoch: int) -> Any:
        return _weights(self._files[epoch], self._prefix, self._known)

    def __iter__(self) -> Iterator[int]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _read(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint file."""
    try:
        return load_tensors(path)
    except InputError as error:
        if "weights_only" not in str(error):
            raise
        raise InputError(
            f"{error} A Lightning checkpoint that holds objects of your own (save_hyperparameters) is not read, because that "
            'would run code: load it where you trust it, and save checkpoint["state_dict"] alone.'
        ) from error


def _weights(given: Weights | None, prefix: str, known: set[str]) -> Any:
    """Weights from a file with the prefix removed; weights that are there already as they are."""
    if not isinstance(given, str | Path):
        return given
    tensors = _read(given)
    return _stripped(tensors, prefix, known) if any(name.startswith(prefix) for name in tensors) else tensors


def _stripped(tensors: Mapping[str, Tensor], prefix: str, known: set[str]) -> dict[str, Tensor]:
    """The tensors below a prefix; what the network does not have is left aside only where it is not below it."""
    below = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return below if prefix else {name: tensor for name, tensor in below.items() if name in known}


def _prefix(given: Mapping[str, Tensor], network: nn.Module, where: str) -> str:
    """The one prefix below which a file has every parameter of the network."""
    kept = state(network)
    wanted = {name: parameter.shape for name, parameter in network.named_parameters() if name in kept}
    first = next(iter(wanted), "")
    ends = {name.removesuffix(first) for name in given if first and name.endswith(first)}
    fits = [start for start in sorted(ends) if not start or start.endswith(".")]
    fits = [start for start in fits if all(f"{start}{name}" in given for name in wanted)]
    shapes = [start for start in fits if all(given[f"{start}{name}"].shape == shape for name, shape in wanted.items())]
    fits = shapes or (fits if len(fits) == 1 else [])  # other shapes under the right names: the study says which
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise InputError(f"{where}: the weights fit below {', '.join(map(repr, fits))}; choose one with prefix=.")
    raise InputError(
        f"{where}: no prefix gives the names of {type(network).__name__}, which begin with {_some(wanted)}; the file's are "
        f"{_some(given)}: make the network with the arguments that it was trained with, or give prefix=."
    )


def _some(names: Any) -> str:
    """The first three names."""
    listed = list(names)
    return ", ".join(map(repr, listed[:3])) + (" ..." if len(listed) > 3 else "")
