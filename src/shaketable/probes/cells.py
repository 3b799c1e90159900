"""Cells of a table that are computed one by one, kept on disk as they come, and never computed twice."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from shaketable.errors import InputError

Cell = dict[str, Any]


class Cells:
    """A mapping from keys to computed rows that survives interruption.

    Without a path it is a dict. With one, each new row is appended to a JSON-lines file and flushed; the first line names
    the identity of the whole result, so that rows of other weights, data or arguments are never taken for these.
    """

    def __init__(self, path: Path | None, identity: str) -> None:
        self._found: dict[str, Cell] = {}
        self._file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._read(path, identity)
            self._file = path.open("a", encoding="utf-8")
            if not self._file.tell():
                self._write({"identity": identity})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def get(self, key: str, compute: Callable[[], Cell]) -> Cell:
        """The row of a key: the one kept, or the one computed and kept now."""
        if key not in self._found:
            self._found[key] = compute()
            self._write({"key": key, "cell": self._found[key]})
        return self._found[key]

    def _write(self, line: Cell) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def _read(self, path: Path, identity: str) -> None:
        """Rows of an earlier run, up to the first line that is not whole; the file is cut off there."""
        if not path.exists():
            return
        kept = 0
        for number, line in enumerate(
            path.read_bytes().split(b"\n")[:-1]
        ):  # what follows the last newline is not whole
            try:
                record = json.loads(line)
                if number:
                    self._found[record["key"]] = record["cell"]
            except (ValueError, KeyError, TypeError):  # the machine went down while this was written
                break
            if not number and record != {"identity": identity}:
                raise InputError(
                    f"{path}: belongs to other weights, data or arguments; delete it or choose another folder."
                )
            kept += len(line) + 1
        os.truncate(path, kept)
