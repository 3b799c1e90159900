"""Train the networks of a plan, and measure them, on any executor; go on after any interruption."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from shaketable.errors import InputError
from shaketable.measures import MEASURES
from shaketable.progress import progress
from shaketable.zoo.executors import Resources, open_executor
from shaketable.zoo.plan import Plan
from shaketable.zoo.store import Zoo
from shaketable.zoo.tasks import is_there, measure_one, train_one
from shaketable.zoo.work import Borrowed, Task, work_through


def run(
    plan: Plan,
    folder: str | Path,
    *,
    executor: str | Executor = "local",
    jobs: int = 1,
    resources: Resources = Resources(),  # noqa: B008 (frozen)
    options: Mapping[str, Any] | None = None,
    retries: int = 2,
    data_root: str | Path | None = None,
    device: str = "cpu",
) -> Zoo:
    """The zoo of a plan: each network trained now, gone on with where it was stopped, or found done.

    What happens to one network leaves the others alone: where training cannot be done (it diverges, say), the network's record
    has the reason; where a worker dies, the network is tried again. The record is written by the worker, so that nothing
    finished is lost when the process that sends out the work is killed. The same call goes on, and tries again what failed. A plan
    may grow: one that has all networks of the folder's plan, and more, takes the folder over.

    What is not done: no network is measured (:func:`measure` does), and none is trained in parts on several machines.

    Args:
        plan: which networks.
        folder: of the zoo; where workers are on other machines, one that they share.
        executor: where the work is done: ``"local"``, ``"loky"``, ``"ray"``, ``"dask"``, ``"slurm"`` (see
            :func:`shaketable.zoo.open_executor`), or an executor of your own, which stays open.
        jobs: networks at a time.
        resources: of each.
        options: of the executor.
        retries: how often a network is tried again whose worker died.
        data_root: where data sets lie; default: the environment variable ``SHAKETABLE_DATA``.
        device: that each network is trained on.

    Returns: the zoo, with its table written.

    Raises:
        InputError: a number out of its range, an executor that is not there, a folder with another plan.
        RunError: another process runs or measures this zoo.

    Cost: that of the training runs, which are those of :func:`shaketable.train`.

    Example:
        >>> import tempfile
        >>> from shaketable.training import Recipe
        >>> base = Recipe(network="fcn-1x{width}", epochs=1, data_args={"train_examples": 20, "test_examples": 20})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     zoo = run(Plan.grid(base, {"width": [2, 3]}), folder)
        ...     zoo.table().select("hp_width", "epochs", "status").rows()
        [(2, 1, 'ok'), (3, 1, 'ok')]
    """
    zoo = Zoo.claim(folder, plan)
    entries = {entry.name: entry for entry in plan.networks}

    def tasks() -> dict[str, Task]:
        found = {}
        for name, entry in entries.items():
            record = zoo.record(name)
            if record is None or record["status"] != "ok":
                found[name] = (
                    train_one,
                    (str(zoo.path), entry.recipe.to_dict(), data_root and str(data_root), device, resources.cpus),
                )
        return found

    def lost(name: str, reason: str) -> None:
        zoo.write_record(name, {"status": "failed", "reason": reason, "measures": {}})

    _do(zoo, "training", len(entries), tasks, lost, executor, jobs, resources, options, retries)
    return zoo


def measure(
    zoo: Zoo | str | Path,
    measures: Iterable[str] | None = None,
    arguments: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    executor: str | Executor = "local",
    jobs: int = 1,
    resources: Resources = Resources(),  # noqa: B008 (frozen)
    options: Mapping[str, Any] | None = None,
    retries: int = 2,
    data_root: str | Path | None = None,
    device: str = "cpu",
) -> Zoo:
    """The zoo with its trained networks measured: what is there already, for these weights and arguments, is not measured again.

    Each number is kept as soon as it is there. A measure with other arguments, or of a newer version, takes the place of the old one.

    Args:
        zoo: or its folder.
        measures: names; all that there are, without it.
        arguments: by the name of a measure, what it is called with beside the study.
        executor, jobs, resources, options, retries, data_root, device: as for :func:`run`.

    Returns: the zoo, with its table written.

    Raises:
        InputError: a measure, or an argument of one, that there is not; no trained network; and as for :func:`run`.
        RunError: another process runs or measures this zoo.

    Cost: that of the measures.
    """
    found = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
    given = {name: dict(values) for name, values in (arguments or {}).items()}
    chosen = [kind.name for kind in MEASURES.values() if kind.installed] if measures is None else list(measures)
    _refuse_unknown(chosen, given)
    entries = {entry.name: entry for entry in found.plan.networks}
    whole = {name: record for name in entries if (record := found.record(name)) and record["status"] == "ok"}
    if not whole:
        raise InputError(
            f"{found.path}: none of its {len(entries)} networks is trained; run `shaketable zoo run` first."
        )

    def tasks() -> dict[str, Task]:
        made = {}
        for name in whole:
            record = found.record(name) or {}
            missing = [one for one in chosen if not is_there(record, one, given.get(one, {}))]
            if missing:
                wanted = {one: given.get(one, {}) for one in missing}
                place = (data_root and str(data_root), device, resources.cpus)
                made[name] = (measure_one, (str(found.path), name, wanted, *place))
        return made

    def lost(name: str, reason: str) -> None:
        record = found.record(name) or {}
        for one in chosen:
            if not is_there(record, one, given.get(one, {})):
                record["measures"][one] = {"status": "failed", "reason": reason}
        found.write_record(name, record)

    _do(found, "measuring", len(whole), tasks, lost, executor, jobs, resources, options, retries)
    return found


def _do(
    zoo: Zoo,
    what: str,
    total: int,
    tasks: Callable[[], dict[str, Task]],
    lost: Callable[[str, str], None],
    executor: str | Executor,
    jobs: int,
    resources: Resources,
    options: Mapping[str, Any] | None,
    retries: int,
) -> None:
    """Do the tasks that are left, and write the table, whatever came in between."""
    for name, value, least in (("jobs", jobs, 1), ("retries", retries, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}={value!r}: give a whole number from {least}.")
    if isinstance(executor, str):
        start = partial(open_executor, executor, jobs, resources, options or {}, zoo.path / "jobs")
    else:
        start = Borrowed(executor).start
    with zoo.driven():
        left = tasks()
        try:
            with progress(what, total, total - len(left)) as advance:

                def finished(name: str, reason: str | None, unsaid: bool) -> None:
                    if unsaid and reason:
                        lost(name, reason)
                    advance(1, name)

                if left:
                    work_through(left, start, jobs, retries, finished)
        finally:
            zoo.save_table()


def _refuse_unknown(measures: Iterable[str], arguments: Mapping[str, Mapping[str, Any]]) -> None:
    """An error for the first name of a measure, or of an argument of one, that there is not."""
    for name in (*measures, *arguments):
        if name not in MEASURES:
            near = get_close_matches(name, MEASURES, 1)
            raise InputError(
                f"there is no measure {name!r}; "
                + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(MEASURES)}.")
            )
    for name, values in arguments.items():
        accepted = list(inspect.signature(MEASURES[name].function).parameters)[1:]
        for argument in values:
            if argument not in accepted:
                raise InputError(
                    f"measure {name!r} has no argument {argument!r}; it has {', '.join(accepted) or 'none'}."
                )
