"""What a worker does for a zoo: train one network, or measure it, and write its record."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

import shaketable
from shaketable.errors import InputError, RunError
from shaketable.files import locked
from shaketable.identity import fingerprint
from shaketable.measures import MEASURES
from shaketable.measures.rows import measured_row
from shaketable.progress import silent
from shaketable.study import Study
from shaketable.training import Recipe, Run, train, train_together
from shaketable.training.checkpoints import load_plain
from shaketable.zoo.store import Zoo, identity


def train_some(
    zoo: str, recipes: Sequence[dict[str, Any]], data_root: str | None, device: str, threads: int
) -> str | None:
    """Train one network, or several of one shape at once, and write the record of each: what a worker does.

    Returns why the first that failed did, or None."""
    place = Zoo(Path(zoo))
    chosen = {one.folder_name: one for one in sorted(map(Recipe.from_dict, recipes), key=lambda one: one.folder_name)}
    with ExitStack() as held:
        for name in chosen:  # a worker whose driver was killed may hold it still
            held.enter_context(locked(place.folder(name), wait=True))
        held.enter_context(_threads(threads))
        held.enter_context(silent())
        left = {name: recipe for name, recipe in chosen.items() if not is_trained(place.record(name))}
        where = {"out": place.runs, "data_root": data_root, "device": device}
        reasons = []
        for name, found in zip(left, _runs(list(left.values()), where), strict=True):
            if isinstance(found, Run):
                place.write_record(name, _record_of(found))
            else:
                place.write_record(name, {"status": "failed", "reason": str(found), "measures": {}})
                reasons.append(str(found))
        return next(iter(reasons), None)


def _runs(recipes: list[Recipe], where: dict[str, Any]) -> list[Run | InputError | RunError]:
    """The runs of recipes, or why there is none."""
    if len(recipes) > 1:
        return train_together(recipes, **where)
    try:
        return [train(recipe, **where) for recipe in recipes]
    except (InputError, RunError) as error:
        return [error]


def _record_of(run: Run) -> dict[str, Any]:
    """The record of a network that is trained, and not measured."""
    about, last = load_plain(run.state_path)["about"], run.history.row(-1, named=True)
    losses = {column: last[column] for column in ("train_loss", "train_error", "test_loss", "test_error")}
    data = {f"{split}_data": about[split] for split in ("train", "test")}
    ended = {"epochs": last["epoch"], "training_seconds": last["seconds"]}
    weights = fingerprint(run.checkpoints[last["epoch"]])
    return {"status": "ok", "reason": None, **losses, **ended, "weights": weights, **data, "measures": {}}


def is_trained(record: Mapping[str, Any] | None) -> bool:
    """Whether a network is trained."""
    return record is not None and record["status"] == "ok"


def measure_one(
    zoo: str, name: str, wanted: Mapping[str, dict[str, Any]], data_root: str | None, device: str, threads: int
) -> str | None:
    """Take measures of one network, each written to its record as it comes: what a worker does."""
    place = Zoo(Path(zoo))
    with locked(place.folder(name), wait=True), _threads(threads), silent():
        record = place.record(name)
        assert record is not None
        try:
            study = Study.from_run(place.runs / name, data_root, device)
        except (InputError, RunError) as error:
            put_failed(record, wanted, str(error))
            place.write_record(name, record)
            return str(error)
        for one, arguments in wanted.items():
            if is_there(record, one, arguments):
                continue
            began, result = time.monotonic(), identity(record, one, arguments)
            try:
                row: dict[str, Any] = measured_row(study, one, arguments)
            except (
                Exception
            ) as error:  # one measure that fails in a way of its own leaves the others alone, and is tried again
                row, result = {"value": None, "status": "failed", "reason": f"{type(error).__name__}: {error}"}, None
            if row.get("value") is not None and not math.isfinite(row["value"]):
                row |= {"status": "not finite", "reason": f"the measure gave {row['value']}"}
            kept = ("value", "log10", "stderr", "draws", "status", "reason")
            whole = {key: _strict(row.get(key)) for key in kept} | {
                "version": MEASURES[one].version,
                "direction": MEASURES[one].direction,
                "result": result,
                "seconds": round(time.monotonic() - began, 3),
                "shaketable": shaketable.__version__,
                "torch": torch.__version__,
            }
            _put(record, one, arguments, whole)
            place.write_record(name, record)
        return None


def put_failed(record: Mapping[str, Any], wanted: Mapping[str, dict[str, Any]], reason: str) -> None:
    """Note in a record why measures could not be taken of its network."""
    for measure, arguments in wanted.items():
        _put(record, measure, arguments, {"status": "failed", "reason": reason})


def _put(record: Mapping[str, Any], measure: str, arguments: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    """Put the row of a measure into a record; where it has no number, one that there is stays, and the row stands below it as
    what was ``refused``: a number of these weights and data and of this version is not lost to other arguments."""
    whole, old = {**row, "arguments": json.dumps(arguments, sort_keys=True)}, record["measures"].get(measure)
    if whole["status"] != "ok" and old is not None and old["status"] == "ok" and _holds(record, measure, old):
        whole = {**old, "refused": whole}
    record["measures"][measure] = whole


def _holds(record: Mapping[str, Any], measure: str, row: Mapping[str, Any]) -> bool:
    """Whether a row is of the weights and data of its record, and of this version of its measure."""
    return row["result"] == identity(record, measure, json.loads(row["arguments"]))


def is_there(record: Mapping[str, Any], measure: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a measure was taken of these weights with these arguments, whatever came of it."""
    row = record["measures"].get(measure) or {}
    return identity(record, measure, arguments) in (row.get("result"), row.get("refused", {}).get("result"))


def _strict(value: Any) -> Any:
    """A number as JSON has it: no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads of torch: the last bits of sums depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
