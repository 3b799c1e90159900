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
from shaketable.measures.measure import check_arguments
from shaketable.probes.stored import check_whole, names_of
from shaketable.progress import progress
from shaketable.training import Recipe
from shaketable.training.together import shape_of
from shaketable.zoo.executors import Resources, open_executor
from shaketable.zoo.plan import Plan
from shaketable.zoo.store import Zoo
from shaketable.zoo.tasks import is_there, is_trained, measure_one, put_failed, train_some
from shaketable.zoo.work import Borrowed, Task, work_through


def run(
    plan: Plan,
    folder: str | Path,
    *,
    executor: str | Executor = "local",
    jobs: int = 1,
    resources: Resources | None = None,
    options: Mapping[str, Any] | None = None,
    retries: int = 2,
    together: int = 1,
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
        resources: of each; by default those of :class:`Resources`.
        options: of the executor.
        retries: how often a network is tried again whose worker died.
        together: networks of one shape that each task trains at once (see :func:`shaketable.training.train_together`); their
            weights are those of one by one but for rounding, and so are measures.
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
    check_whole(1, together=together)
    zoo = Zoo(Path(folder).expanduser().resolve())
    if zoo.path.exists() and not zoo.path.is_dir():
        raise InputError(f"{folder}: is a file, and a zoo needs a folder; choose another one.")
    with zoo.driven():
        zoo.claim(plan)
        each = resources or Resources()
        place = (data_root and str(data_root), device, each.cpus)
        left = {entry.name: entry.recipe for entry in plan.networks if not is_trained(zoo.record(entry.name))}
        groups = _groups(left, together)
        tasks = {
            first: (train_some, (str(zoo.path), [left[name].to_dict() for name in names], *place))
            for first, names in groups.items()
        }

        def lost(first: str, reason: str) -> None:
            for name in groups[first]:
                if not is_trained(zoo.record(name)):
                    zoo.write_record(name, {"status": "failed", "reason": reason, "measures": {}})

        sizes = {first: len(names) for first, names in groups.items()}
        _do(zoo, "training", len(plan), tasks, sizes, lost, executor, jobs, each, options, retries)
    return zoo


def measure(
    zoo: Zoo | str | Path,
    measures: Iterable[str] | None = None,
    arguments: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    executor: str | Executor = "local",
    jobs: int = 1,
    resources: Resources | None = None,
    options: Mapping[str, Any] | None = None,
    retries: int = 2,
    data_root: str | Path | None = None,
    device: str = "cpu",
) -> Zoo:
    """The zoo with its trained networks measured: what is there already, for these weights and arguments, is not measured again.

    Each number is kept as soon as it is there. A measure with other arguments, or of a newer version, takes the place of the old one,
    with one exception: where it gives no number, a number of the same weights, data and version that is there stays in the table, and the
    network's record has what was tried below it, as ``refused``.

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
    check_arguments(arguments)
    given = {name: dict(values) for name, values in (arguments or {}).items()}
    every = [kind.name for kind in MEASURES.values() if kind.installed]
    chosen = every if measures is None else names_of("the name of a measure, or a list of them", measures=measures)
    _refuse_unknown(chosen, given)
    with found.driven():
        records = {entry.name: found.record(entry.name) for entry in found.plan.networks}
        trained = {name: record for name, record in records.items() if record is not None and is_trained(record)}
        if not trained:
            raise InputError(
                f"{found.path}: none of its {len(records)} networks is trained; run `shaketable zoo run` first."
            )
        each = resources or Resources()
        place = (data_root and str(data_root), device, each.cpus)
        left = {name: _missing(record, chosen, given) for name, record in trained.items()}
        tasks = {
            name: (measure_one, (str(found.path), name, wanted, *place)) for name, wanted in left.items() if wanted
        }

        def lost(name: str, reason: str) -> None:
            record = found.record(name) or records[name] or {}
            put_failed(record, _missing(record, chosen, given), reason)
            found.write_record(name, record)

        _do(
            found,
            "measuring",
            len(trained),
            tasks,
            dict.fromkeys(tasks, 1),
            lost,
            executor,
            jobs,
            each,
            options,
            retries,
        )
    return found


def _do(
    zoo: Zoo,
    what: str,
    total: int,
    tasks: Mapping[str, Task],
    sizes: Mapping[str, int],
    lost: Callable[[str, str], None],
    executor: str | Executor,
    jobs: int,
    resources: Resources,
    options: Mapping[str, Any] | None,
    retries: int,
) -> None:
    """Do the tasks that are left, and write the table, whatever came in between."""
    check_whole(1, jobs=jobs)
    check_whole(0, retries=retries)
    if isinstance(executor, str):
        start = partial(open_executor, executor, jobs, resources, options or {}, zoo.path / "jobs")
    else:
        start = Borrowed(executor).start

    def finished(name: str, reason: str | None, unsaid: bool) -> None:
        if unsaid and reason:
            lost(name, reason)
        advance(sizes[name], name)

    try:
        if tasks:
            with progress(what, total, total - sum(sizes.values())) as advance:
                work_through(tasks, start, jobs, retries, finished)
    finally:
        zoo.save_table()


def _groups(recipes: Mapping[str, Recipe], together: int) -> dict[str, list[str]]:
    """The names of networks that are trained in one task each, by the first of them."""
    by_shape: dict[str, list[str]] = {}
    for name, recipe in recipes.items():
        by_shape.setdefault(shape_of(recipe) or name, []).append(name)
    parts = (names[start : start + together] for names in by_shape.values() for start in range(0, len(names), together))
    return {part[0]: part for part in parts}


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
