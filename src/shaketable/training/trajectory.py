"""The trajectory of a run: its checkpoints on disk, read when they are asked for."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from shaketable.files import load_tensors
from shaketable.params import Params


class Checkpoints(Mapping[int, Params]):
    """Checkpoint epochs of a folder, in order, each with its weights.

    A checkpoint is read from disk each time that it is asked for, and nothing is kept: ``{epoch: params}`` that is
    larger than memory is no trouble.

    Args:
        folder: where the files ``epoch-0000.safetensors``, ... lie.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, epoch: int) -> Path:
        """The file of one epoch, whether it exists or not."""
        return self.folder / f"epoch-{epoch:04d}.safetensors"

    def __getitem__(self, epoch: int) -> Params:
        if epoch not in self:
            raise KeyError(
                f"{self.folder}: no checkpoint of epoch {epoch!r}; there are {', '.join(map(str, self)) or 'none'}."
            )
        return load_tensors(self.path(epoch))

    def __contains__(self, epoch: object) -> bool:
        return isinstance(epoch, int) and self.path(epoch).is_file()

    def __iter__(self) -> Iterator[int]:
        names = (re.fullmatch(r"epoch-(\d+)\.safetensors", path.name) for path in self.folder.glob("epoch-*"))
        return iter(sorted(int(name[1]) for name in names if name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"Checkpoints({str(self.folder)!r}, epochs={list(self)})"
