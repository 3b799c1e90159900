"""A zoo on disk: its plan, a record of each network that is written whole, and one table of them all."""

import inspect
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from shaketable.errors import InputError, RunError
from shaketable.files import locked, write_atomically, write_text
from shaketable.identity import digest
from shaketable.measures import MEASURES
from shaketable.zoo.plan import Entry, Plan, cell

SCHEMA = 1
"""Of the records and of the table."""
TRAINING = {
    "epochs": pl.Int64,
    "train_loss": pl.Float64,
    "train_error": pl.Float64,
    "test_loss": pl.Float64,
    "test_error": pl.Float64,
    "training_seconds": pl.Float64,
    "weights": pl.String,
    "train_data": pl.String,
    "test_data": pl.String,
}
MEASURED = {
    "measure": pl.String,
    "version": pl.Int64,
    "direction": pl.String,
    "arguments": pl.String,
    "result": pl.String,
    "value": pl.Float64,
    "log10": pl.Float64,
    "stderr": pl.Float64,
    "draws": pl.Int64,
    "seconds": pl.Float64,
    "status": pl.String,
    "reason": pl.String,
    "shaketable": pl.String,
    "torch": pl.String,
}
NOT_IDENTITY = ("batch", "batch_size", "store")
"""Arguments of measures that change neither the number nor what it rests on."""
PREFIX = "hp_"
"""Of the columns of hyper-parameters."""


@dataclass(frozen=True)
class Zoo:
    """The folder of a zoo.

    It holds ``plan.json``, ``runs/`` (a training run of each network), ``networks/`` (of each the record: how training ended,
    and its measures) and ``table/zoo.parquet``, which is made of the records.
    """

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> "Zoo":
        """A zoo that is there.

        Raises:
            InputError: the folder is not that of a zoo.
        """
        zoo = cls(Path(path).expanduser().resolve())
        if not zoo._plan_path.is_file():
            raise InputError(
                f"{path}: not the folder of a zoo (it has no plan.json); make one with `shaketable zoo run`."
            )
        return zoo

    def claim(self, plan: Plan) -> None:
        """Make this the zoo of a plan: a new one, the same one, or one that had fewer networks and grows now.

        Raises:
            InputError: the folder holds a zoo with networks that are not in the plan.
        """
        if self._plan_path.is_file():
            missing = {entry.name for entry in self.plan.networks} - {entry.name for entry in plan.networks}
            if missing:
                raise InputError(
                    f"{self.path}: this folder holds the zoo of another plan, of which {len(missing)} networks are not in this one; "
                    "choose another folder with --out, or keep these networks in the plan."
                )
        write_text(self._plan_path, json.dumps({"schema": SCHEMA} | plan.to_dict(), indent=1) + "\n")

    @property
    def _plan_path(self) -> Path:
        return self.path / "plan.json"

    @property
    def plan(self) -> Plan:
        """Its plan."""
        found = _read(self._plan_path)
        try:
            return Plan.of_recipes(found)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{self._plan_path}: is damaged (no {error}); delete it, and run the plan again."
            ) from error

    @property
    def runs(self) -> Path:
        """Where the training runs lie."""
        return self.path / "runs"

    @property
    def table_path(self) -> Path:
        """The table as Parquet."""
        return self.path / "table" / "zoo.parquet"

    def folder(self, name: str) -> Path:
        """The folder of a network's record; who holds it alone may write the record."""
        return self.path / "networks" / name

    def record(self, name: str) -> dict[str, Any] | None:
        """What is known of a network: ``status``, ``reason``, the columns of its training, and ``measures``; None of one not begun."""
        path = self.folder(name) / "record.json"
        return _read(path) if path.is_file() else None

    def write_record(self, name: str, record: Mapping[str, Any]) -> None:
        """Write the record of a network, whole."""
        text = json.dumps({"schema": SCHEMA, **record}, indent=1, allow_nan=False)
        write_text(self.folder(name) / "record.json", text + "\n")

    @contextmanager
    def driven(self) -> Iterator[None]:
        """Hold the zoo alone, as the one that sends out its work.

        Raises:
            RunError: another process does so.
        """
        with ExitStack() as held:
            try:
                held.enter_context(locked(self.table_path.parent))
            except RunError as error:
                raise RunError(
                    f"{self.path}: another process runs or measures this zoo; wait until it is done, or choose another folder."
                ) from error
            yield

    def table(self) -> pl.DataFrame:
        """One row for each network and measure; a network without measures has one row, with its status and reason.

        Columns: ``schema``, ``network`` (the name of its run), ``recipe`` (the recipe's hash), the hyper-parameters with the
        prefix ``hp_``, how training ended (``epochs``, ``train_error``, ...), ``gap`` (test error less train error),
        ``loss_gap``, the fingerprints ``weights``, ``train_data`` and ``test_data``, then ``measure`` with its ``version`` and
        ``direction``, the ``arguments`` that were given (JSON), ``result`` (a hash of all that the number rests on), ``value``,
        ``log10``, ``stderr``, ``draws``, ``seconds``, ``status``, ``reason``, and the versions that measured it.
        """
        plan = self.plan
        axes = list(dict.fromkeys(name for entry in plan.networks for name in entry.hyperparameters))
        rows = [row for entry in plan.networks for row in _rows(entry, self.record(entry.name))]
        columns = _columns([entry.hyperparameters for entry in plan.networks], axes)
        schema = {"schema": pl.Int64, "network": pl.String, "recipe": pl.String, **columns, **TRAINING, **MEASURED}
        table = pl.DataFrame([_texts(row, columns) for row in rows], schema=schema, orient="row")
        table = table.with_columns(
            gap=pl.col("test_error") - pl.col("train_error"), loss_gap=pl.col("test_loss") - pl.col("train_loss")
        )
        before = list(schema).index("test_error") + 1
        return table.select(*list(schema)[:before], "gap", "loss_gap", *list(schema)[before:])

    def save_table(self) -> Path:
        """Write the table as Parquet; returns where."""
        write_atomically(self.table_path, self.table().write_parquet)
        return self.table_path


def read_table(path: str | Path) -> pl.DataFrame:
    """The table of a zoo from its folder, or from a Parquet file.

    Args:
        path: of either.

    Returns: see :meth:`Zoo.table`.

    Raises:
        InputError: there is none, it cannot be read, or another version wrote it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pl.DataFrame({"schema": [SCHEMA], "network": ["a"]}).write_parquet(f"{folder}/zoo.parquet")
        ...     read_table(f"{folder}/zoo.parquet").columns
        ['schema', 'network']
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return Zoo.open(path).table()
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: this table cannot be read ({str(error).splitlines()[0]}).") from error
    found = table["schema"].unique().to_list() if "schema" in table.columns else [0]
    if found != [SCHEMA]:
        raise InputError(
            f"{path}: this table is of schema {', '.join(map(str, found))}, and this version reads {SCHEMA}; "
            "write it anew from the folder of its zoo with `shaketable zoo measure`."
        )
    return table


def identity(record: Mapping[str, Any], measure: str, arguments: Mapping[str, Any]) -> str:
    """A hash of all that a number rests on: measure, version, every argument, weights and data."""
    kind = MEASURES[measure]
    parameters = list(inspect.signature(kind.function).parameters.values())[1:]
    every = {one.name: one.default for one in parameters if one.name not in NOT_IDENTITY} | dict(arguments)
    data = {split: record[split] for split in ("train_data", "test_data")}
    return digest(
        {"measure": measure, "version": kind.version, "arguments": every, "weights": record["weights"], **data}
    )


def _read(path: Path) -> dict[str, Any]:
    """A JSON file of a zoo, of this version."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged ({error}); delete it, and give the same command again.") from error
    if version != SCHEMA:
        raise InputError(
            f"{path}: is of schema {version}, and this version reads {SCHEMA}; use the version of shaketable that wrote it, "
            "or choose another folder."
        )
    return found


def _rows(entry: Entry, record: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The rows of one network."""
    hyperparameters = {PREFIX + name: value for name, value in entry.hyperparameters.items()}
    same = {"schema": SCHEMA, "network": entry.name, "recipe": entry.recipe.digest, **hyperparameters}
    if record is None:
        return [{**same, "status": "not trained", "reason": "its training has not ended"}]
    same |= {name: record.get(name) for name in TRAINING}
    if record["status"] != "ok" or not record["measures"]:
        return [{**same, "status": record["status"], "reason": record["reason"]}]
    rows = []
    for name, measured in record["measures"].items():
        row = {**same, "measure": name, **{key: measured.get(key) for key in MEASURED if key != "measure"}}
        row["log10"] = -math.inf if row["value"] == 0 else row["log10"]
        rows.append(row)
    return rows


def _columns(hyperparameters: list[dict[str, Any]], axes: list[str]) -> dict[str, Any]:
    """The type of the column of each hyper-parameter: numbers, truth values, or text."""
    kinds = {bool: pl.Boolean, int: pl.Int64, float: pl.Float64}
    found = {}
    for name in axes:
        types = {type(one[name]) for one in hyperparameters if one.get(name) is not None}
        types = {float} if types == {int, float} else types
        found[PREFIX + name] = kinds.get(next(iter(types)), pl.String) if len(types) == 1 else pl.String
    return found


def _texts(row: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose hyper-parameters are of the type of their columns."""
    found = dict(row)
    for name, kind in columns.items():
        value = cell(row.get(name))
        found[name] = str(value) if kind == pl.String and value is not None else value
    return found
