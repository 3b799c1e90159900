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
    zoo = Zoo(Path(folder).expanduser().resolve())
    with zoo.driven():
        zoo.claim(plan)
        place = (data_root and str(data_root), device, resources.cpus)
        left = {entry.name: entry.recipe.to_dict() for entry in plan.networks if not _trained(zoo.record(entry.name))}
        tasks = {name: (train_one, (str(zoo.path), recipe, *place)) for name, recipe in left.items()}

        def lost(name: str, reason: str) -> None:
            zoo.write_record(name, {"status": "failed", "reason": reason, "measures": {}})

        _do(zoo, "training", len(plan), tasks, lost, executor, jobs, resources, options, retries)
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

    Example:
        >>> import tempfile
        >>> from shaketable.training import Recipe
        >>> base = Recipe(network="fcn-1x2", epochs=1, data_args={"train_examples": 20, "test_examples": 20})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     zoo = measure(run(Plan.grid(base, {"seed": [0, 1]}), folder), ["number_of_parameters"])
        ...     zoo.table().select("hp_seed", "measure", "value").rows()
        [(0, 'number_of_parameters', 160.0), (1, 'number_of_parameters', 160.0)]
    """
    found = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
    given = {name: dict(values) for name, values in (arguments or {}).items()}
    chosen = [kind.name for kind in MEASURES.values() if kind.installed] if measures is None else list(measures)
    _refuse_unknown(chosen, given)
    with found.driven():
        records = {entry.name: found.record(entry.name) for entry in found.plan.networks}
        trained = {name: record for name, record in records.items() if record is not None and _trained(record)}
        if not trained:
            raise InputError(
                f"{found.path}: none of its {len(records)} networks is trained; run `shaketable zoo run` first."
            )
        place = (data_root and str(data_root), device, resources.cpus)
        left = {name: _missing(record, chosen, given) for name, record in trained.items()}
        tasks = {
            name: (measure_one, (str(found.path), name, wanted, *place)) for name, wanted in left.items() if wanted
        }

        def lost(name: str, reason: str) -> None:
            record = found.record(name) or records[name] or {}
            failed = {"status": "failed", "reason": reason}
            record["measures"] |= dict.fromkeys(_missing(record, chosen, given), failed)
            found.write_record(name, record)

        _do(found, "measuring", len(trained), tasks, lost, executor, jobs, resources, options, retries)
    return found


def _do(
    zoo: Zoo,
    what: str,
    total: int,
    tasks: Mapping[str, Task],
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

    def finished(name: str, reason: str | None, unsaid: bool) -> None:
        if unsaid and reason:
            lost(name, reason)
        advance(1, name)

    try:
        if tasks:
            with progress(what, total, total - len(tasks)) as advance:
                work_through(tasks, start, jobs, retries, finished)
    finally:
        zoo.save_table()


def _trained(record: Mapping[str, Any] | None) -> bool:
    """Whether a network is trained."""
    return record is not None and record["status"] == "ok"


def _missing(
    record: Mapping[str, Any], measures: Iterable[str], arguments: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The measures that are to be taken of a network, with their arguments."""
    wanted = {name: arguments.get(name, {}) for name in measures}
    return {name: own for name, own in wanted.items() if not is_there(record, name, own)}


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
