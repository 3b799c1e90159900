"""What the tables of probes share: sums that survive interruption, a folder for each result, and what a result rests on."""

import json
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from numbers import Integral, Real
from operator import add
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

import polars as pl
import torch

from shaketable import __version__
from shaketable.data import Data
from shaketable.engine import Engine, Variant
from shaketable.engine.memory import free_memory
from shaketable.errors import InputError
from shaketable.evaluate import Sums, checked
from shaketable.files import locked, write_atomically, write_text
from shaketable.identity import digest
from shaketable.probes.cells import Cell, Cells
from shaketable.study import SPLITS, Study

FIRST, SECTION = 256, 20.0
"""Examples of the first section of the data, and the seconds that each section should take: then its sums are kept."""


COUNTED = {
    "split": pl.String,
    "examples": pl.Int64,
    "errors": pl.Int64,
    "error": pl.Float64,
    "loss": pl.Float64,
    "accuracy": pl.Float64,
    "accuracy_drop": pl.Float64,
}
"""The columns of what is counted on one split: :func:`compared` gives them."""
EPOCHS = "a list of epochs, such as [0, 1, 10]"
LAYERS = "the name of a layer, or a list of them"
"""What is asked for where checkpoints, or layers, are given as something else."""


@dataclass(frozen=True)
class Result(ABC):
    """One table, with what it rests on.

    Attributes:
        table: one row per number; a row that could not be computed has a ``status`` other than ``"ok"`` and a ``reason``.
        provenance: what, with which arguments, versions, seeds and hashes.
    """

    NAME: ClassVar[str]
    table: pl.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        layers = self.table.filter(pl.col("position") >= 0)["position"].n_unique()
        name = self.provenance.get("name", "a network")
        return f"<{type(self).__name__} of {name}: {layers} layers, {len(self.table)} rows>"

    def splits(self) -> list[str]:
        """The splits that were measured."""
        return self.table["split"].unique(maintain_order=True).to_list()

    def save(self, folder: str | Path) -> Path:
        """Write the table and its summary as Parquet and CSV, and ``provenance.json``, into a folder."""
        tables = {self.NAME: self.table, "summary": self.summary()}
        return write_result(Path(folder), self.NAME, tables, {"provenance": self.provenance})

    @abstractmethod
    def summary(self) -> pl.DataFrame:
        """What the table comes to."""

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the folder holds no such result.
        """
        facts, tables = read_result(Path(folder), cls.NAME, [cls.NAME])
        return cls(tables[cls.NAME], facts["provenance"])

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame (extra ``shaketable[pandas]``)."""
        return as_pandas(self.table)


class Kept(Protocol):
    """A result that a folder keeps: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def provenance(self) -> dict[str, Any]: ...
    def save(self, folder: str | Path) -> Path: ...
    @classmethod
    def load(cls, folder: str | Path) -> Self: ...


R = TypeVar("R", bound=Kept)
T = TypeVar("T")


def stored(
    kind: type[R],
    store: str | Path | None,
    identity: Callable[[], dict[str, Any]],
    measure: Callable[[Cells], R],
    command: str | None,
    **now: Any,
) -> R:
    """A result from the folder of its identity in the store, or measured now, and kept there.

    Args:
        identity: what the numbers are the numbers of, as plain values; asked for only where there is a store.
        measure: makes the result, with cells that survive interruption.
        command: what the user typed now.
        now: fields of the result that are those of this call, whenever it was measured.
    """
    if store is None:
        return measure(Cells(None, ""))
    name = digest(identity())
    folder = Path(store).expanduser() / name
    with locked(folder):
        if (folder / "provenance.json").is_file():
            found = kind.load(folder)
            told = found.provenance | ({"command": command} if command else {})
        else:
            with Cells(folder / "cells.jsonl", name) as cells:
                found = measure(cells)
            told = found.provenance | {"result": name}
        result: R = replace(found, provenance=told, **now)
        result.save(folder)
        (folder / "cells.jsonl").unlink(missing_ok=True)
    return result


def sums_in_sections(
    cells: Cells,
    key: Sequence[Any],
    engine: Engine,
    variants: Sequence[Variant],
    data: Data,
    advance: Callable[[int], object],
) -> list[Cell]:
    """The sums of each variant: those kept, and the rest computed now, a section of the data at a time."""
    total: list[Sums] = []
    start, size = 0, FIRST
    while start < len(data):
        began, span = time.monotonic(), (start, min(start + size, len(data)))
        kept = cells.get(json.dumps([*key, start]), lambda span=span: _section(engine, variants, data, span, advance))
        found = [Sums(*numbers) for numbers in kept["sums"]]
        total = list(map(add, total, found)) if total else found
        start = kept["stop"]
        size = max(FIRST, int(size * min(8.0, SECTION / max(time.monotonic() - began, 1e-3))))
    return [vars(checked(sums)) for sums in total]


def _section(
    engine: Engine, variants: Sequence[Variant], data: Data, span: tuple[int, int], advance: Callable[[int], object]
) -> Cell:
    """The sums of each variant on some of the examples."""
    found = engine.sums(variants, data, span=span, planned=len(data), advance=advance)
    return {"stop": span[1], "sums": [[s.examples, s.errors, s.loss, s.not_finite] for s in found]}


def numbers_of(sums: Cell) -> Cell:
    """The numbers of a row from the sums of a variant; a status and the reason where logits were not finite."""
    examples, not_finite = sums["examples"], sums["not_finite"]
    numbers: Cell = {
        "examples": examples,
        "errors": sums["errors"],
        "error": sums["errors"] / examples,
        # the order of sums depends on the batches: twelve digits do not
        "loss": None if not_finite else float(f"{sums['loss'] / examples:.12g}"),
        "status": "ok",
    }
    return numbers | status_of(sums)


def compared(sums: Cell, baseline: Cell) -> Cell:
    """The numbers of a row from the sums of a variant and of the final network: accuracy, and how far it fell, too."""
    drop = (sums["errors"] - baseline["errors"]) / sums["examples"]
    numbers = numbers_of(sums)
    return numbers | {"accuracy": 1 - numbers["error"], "accuracy_drop": drop}


def in_memory(sources: Sequence[T], study: Study) -> list[list[T]]:
    """Sources of whole sets of weights, as many together as fit into a quarter of the free memory, at least one."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in study.final.values())
    together = max(1, free_memory(torch.device("cpu")) // 4 // size)
    return [list(sources[start : start + together]) for start in range(0, len(sources), together)] or [[]]


def status_of(sums: Cell) -> Cell:
    """Status and reason where logits were not finite; nothing otherwise."""
    reason = f"{sums['not_finite']} examples have NaN or infinite logits; they count as errors"
    return {"status": "not finite", "reason": reason} if sums["not_finite"] else {}


def data_of(study: Study, splits: Sequence[str] | None) -> dict[str, Data]:
    """The data of the splits asked for, each once; of all that there are without a choice."""
    asked = list_of(str, "a list of 'test' and 'train'", splits=() if splits is None else splits)
    if not set(asked) <= set(SPLITS):
        raise InputError(f"splits={splits!r}: give a list of 'test' and 'train'.")
    chosen = tuple(dict.fromkeys(asked or [split for split in SPLITS if getattr(study, split) is not None]))
    if not chosen:
        raise InputError("the study has no data; make it with test=(inputs, labels), train=(inputs, labels), or both.")
    return {split: study.data(split) for split in chosen}


def list_of(kind: type, wish: str, /, **given: Any) -> list[Any]:
    """The items of an argument, given by its name, that is a list; one error with a wish for what is none, or holds something else."""
    ((name, value),) = given.items()
    items = list(value) if isinstance(value, Iterable) and not isinstance(value, str | Mapping) else [None]
    right = {int: Integral, float: Real}.get(kind, kind)
    if not all(isinstance(one, right) and not isinstance(one, bool) for one in items):
        raise InputError(f"{name}={value!r}: give {wish}.")
    return [int(one) if isinstance(one, Integral) else kind(one) for one in items]  # NumPy's own are no keys of JSON


def names_of(wish: str, /, **given: Any) -> list[str]:
    """The same for an argument that is one name or a list of them."""
    return [value for value in given.values() if isinstance(value, str)] or list_of(str, wish, **given)


def check_whole(lowest: int | None = None, **numbers: Any) -> None:
    """One error for an argument that is no whole number, or below the lowest one allowed."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{name}={value!r}: give a whole number.")
        if lowest is not None and value < lowest:
            raise InputError(f"{name}={value}: {name} must be at least {lowest}.")


def facts_of(study: Study, data: Mapping[str, Data], **arguments: Any) -> dict[str, Any]:
    """What a result rests on: the study, the arguments, versions and hashes."""
    return {
        "name": study.name,
        "network": type(study.network).__name__,
        "task": study.task,
        "classes": study.classes,
        "final_checkpoint": study.final_epoch,
        **arguments,
        "shaketable": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(study.device),
        "weights": study.weights_fingerprint,
        "data": {split: one.fingerprint() for split, one in data.items()},
        **study.provenance,
    }


def identity_of(study: Study, probe: str, version: int, data: Mapping[str, Data], **what: Any) -> dict[str, Any]:
    """What the numbers of a probe are the numbers of, as plain values: the network, its weights, the data, and all that decides."""
    return {
        "probe": probe,
        "version": version,
        "forward": study.forward_fingerprint,
        "weights": study.weights_fingerprint,
        "data": {split: one.fingerprint() for split, one in data.items()},
        **what,
    }


def time_taken(started: float) -> dict[str, Any]:
    """When a result was made, and how long it took."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"created": now, "seconds": round(time.monotonic() - started, 2)}


def write_result(folder: Path, probe: str, tables: Mapping[str, pl.DataFrame], facts: Mapping[str, Any]) -> Path:
    """Write tables as Parquet and CSV and, last, ``provenance.json``: where that is, the result is whole."""
    for name, frame in tables.items():
        write_atomically(folder / f"{name}.parquet", frame.write_parquet)
        write_atomically(folder / f"{name}.csv", frame.write_csv)
    write_text(folder / "provenance.json", json.dumps({"probe": probe, **facts}, indent=2))
    return folder


def read_result(
    folder: Path, probe: str, names: Sequence[str], facts: Sequence[str] = ("provenance",)
) -> tuple[dict[str, Any], dict[str, pl.DataFrame]]:
    """The facts and the tables that :func:`write_result` wrote; each of those named must be there.

    Raises:
        InputError: the folder holds no result of this probe, or a damaged one.
    """
    if not (folder / "provenance.json").is_file():
        raise InputError(f"{folder}: holds no {probe} result; give the folder of one.")
    try:
        found = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        if found.get("probe", probe) != probe:
            raise InputError(f"{folder}: holds a {found['probe']} result, not a {probe} one; give another folder.")
        tables = {name: pl.read_parquet(folder / f"{name}.parquet") for name in names}
        return {name: found[name] for name in facts}, tables
    except (OSError, ValueError, KeyError, AttributeError, TypeError, pl.exceptions.PolarsError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).partition("\n")[0]
        raise InputError(f"{folder}: is damaged ({reason}); delete it, and measure anew.") from error


def as_pandas(table: pl.DataFrame) -> Any:
    """A table as a pandas DataFrame."""
    try:
        return table.to_pandas()
    except ModuleNotFoundError as error:
        raise InputError("pandas is not installed; pip install 'shaketable[pandas]'.") from error
