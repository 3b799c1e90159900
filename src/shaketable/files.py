"""Files: written whole and renamed into place, read without running anybody's code."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from shaketable.errors import InputError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary path beside ``path``, flush it to disk, and rename it: a reader sees all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
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

    PyTorch files are read with ``weights_only=True``, so that no code in them runs. A ``state_dict`` entry is taken
    out of its wrapper, and the prefix ``module.`` that ``DataParallel`` adds to every key is removed.
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
    while isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(
            f"{path}: holds no state dict (a mapping from parameter names to tensors); save network.state_dict()."
        )
    prefix = "module."
    if all(name.startswith(prefix) for name in content):
        content = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
    return dict(content)
