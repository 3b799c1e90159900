"""Files: written whole and renamed into place, read without running anybody's code."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from shaketable.errors import InputError, RunError


def refuse_file(folder: Path) -> None:
    """One error where a file stands in the place of a folder, or of one that it would lie in."""
    for place in (folder, *folder.parents):
        try:
            there = place.exists()
        except OSError as error:  # too long a name, or a folder that may not be read
            raise InputError(f"{place}: no folder can be there ({error.strerror}); give another place.") from error
        if there:
            if not place.is_dir():
                raise InputError(f"{place}: is a file, and a folder is needed there; give another place.")
            return


def made_folder(folder: Path) -> Path:
    """A folder, made if need be.

    Raises:
        InputError: a file is in its place, or it cannot be made.
    """
    try:
        refuse_file(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: this folder cannot be made ({error.strerror}); give another place.") from error
    return folder


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary path beside ``path``, flush it to disk, and rename it: a reader sees all or nothing.

    Raises:
        InputError: a folder is in its place, or a file in that of its folder.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file to write.")
    made_folder(path.parent)
    part = path.with_name(f".{path.name}.part{os.getpid()}")
    try:
        write(part)
        part.chmod(0o666 & ~_umask())  # some writers make files that only their owner can read
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    """The permissions that new files are denied; reading it means setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, in UTF-8."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder alone; the system drops the lock with the process, however that ends. POSIX only.

    Args:
        folder: made if need be.
        wait: until another process that holds it lets go of it.

    Raises:
        InputError: a file is in its place.
        RunError: another process holds it, and it is not waited for.
    """
    import fcntl

    made_folder(folder)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            raise RunError(
                f"{folder}: another process is working on this; wait for it, or choose another folder."
            ) from error
        for left in folder.rglob(".*.part*"):  # what a killed process was writing
            left.unlink()
        yield


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as one safetensors file, with text metadata."""
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, lambda part: save_file(whole, part, dict(metadata or {})))


def load_metadata(path: Path) -> dict[str, str]:
    """The text metadata of a safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}).") from error


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Weights from a ``.safetensors`` file, or from a PyTorch file (``.pt``, ``.pth``, ``.th``, ``.ckpt``, ``.bin``).

    PyTorch files are read with ``weights_only=True``, so that no code in them runs. A state dict is taken out of a wrapper
    of the name ``state_dict``, ``model_state_dict`` or ``model``.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file; give the path of a .safetensors or .pt file with a state dict."
        )
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: not a readable safetensors file ({error}).") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in the reader
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: cannot be read with weights_only=True ({reason}); save the weights alone, "
            "with torch.save(network.state_dict(), path) or as safetensors."
        ) from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(
            f"{path}: holds no state dict (a mapping from parameter names to tensors); save network.state_dict()."
        )
    return dict(content)
