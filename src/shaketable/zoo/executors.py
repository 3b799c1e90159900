"""Where the work of a zoo is done: this process, all cores, Ray, Dask, SLURM, each as a ``concurrent.futures.Executor``."""

import importlib
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shaketable.errors import InputError, RunError

EXECUTORS = ("local", "loky", "ray", "dask", "slurm")


@dataclass(frozen=True)
class Resources:
    """What one task may take.

    Args:
        cpus: threads of a task, and the cores that Ray and SLURM keep for it.
        gpus: devices that Ray, SLURM and a Dask cluster with the resource ``GPU`` keep for it; Ray takes parts of one.
        memory_gb: that Ray and SLURM keep for it.
        minutes: after which SLURM ends it.
    """

    cpus: int = 1
    gpus: float = 0
    memory_gb: float | None = None
    minutes: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.cpus, bool) or not isinstance(self.cpus, int) or self.cpus < 1:
            raise InputError(f"cpus={self.cpus!r}: give a whole number from 1.")
        for name in ("gpus", "memory_gb", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"{name}={value!r}: give a number from 0.")


def open_executor(name: str, jobs: int, resources: Resources, options: Mapping[str, Any], folder: Path) -> Executor:
    """An executor for at most so many tasks at a time.

    Shut down with ``cancel_futures=True`` it ends what is running as far as it can. Tasks travel in the format of the package that
    sends them (pickles, which submitit leaves in its folder); no result does.

    Args:
        name: ``"local"``: in this process, one task after the other; ``"loky"``: processes on this machine that end with this one;
            ``"ray"``, ``"dask"``: a cluster, started on this machine unless ``options`` has an ``address``; ``"slurm"``: jobs
            that submitit hands in (its ``cluster="local"`` starts processes instead).
        jobs: tasks at a time.
        resources: of each task.
        options: of ``ray.init``, of ``distributed.LocalCluster``, or of submitit's ``update_parameters``.
        folder: where submitit keeps its files.

    Raises:
        InputError: an unknown name, options that nobody takes, or a package that is not installed; names the extra that brings it.
        RunError: it does not start.

    Example:
        >>> with open_executor("local", 1, Resources(), {}, Path("unused")) as executor:
        ...     executor.submit(max, 1, 2).result()
        2
    """
    made: dict[str, Callable[[], Executor]] = {
        "local": _Local,
        "loky": lambda: _loky(jobs, resources),
        "ray": lambda: _Ray(jobs, resources, options),
        "dask": lambda: _Dask(jobs, resources, options),
        "slurm": lambda: _Slurm(jobs, resources, options, folder),
    }
    if name not in made:
        raise InputError(f"there is no executor {name!r}; there are {', '.join(EXECUTORS)}.")
    if options and name in ("local", "loky"):
        raise InputError(f"the executor {name!r} takes no options, and {', '.join(options)} is given.")
    try:
        return made[name]()
    except InputError:
        raise
    except Exception as error:  # every cluster has errors of its own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunError(f"the executor {name!r} does not start: {reason}") from error


def _package(name: str, extra: str) -> Any:
    """A package that comes with an extra."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"the executor {extra!r} needs the package {name!r}; pip install 'shaketable[{extra}]'."
        ) from error


class _Local(Executor):
    """Each task is done when it is submitted, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _end_with(parent: int) -> None:
    """End this process soon after its parent has ended, however that went: what it computes nobody would collect."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _loky(jobs: int, resources: Resources) -> Executor:
    """Processes on this machine."""
    loky = _package("loky", "loky")

    class Processes(loky.ProcessPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=wait, kill_workers=cancel_futures)

    threads = {"OMP_NUM_THREADS": str(resources.cpus)}
    return Processes(jobs, initializer=_end_with, initargs=(os.getpid(),), env=threads)


class _Ray(Executor):
    """Tasks of Ray, which does not speak ``concurrent.futures`` itself."""

    def __init__(self, jobs: int, resources: Resources, options: Mapping[str, Any]) -> None:
        ray = self._ray = _package("ray", "ray")
        self._own = not ray.is_initialized()
        if self._own:
            quiet = {"log_to_driver": False, "include_dashboard": False}
            here = {"num_cpus": jobs * resources.cpus, "num_gpus": math.ceil(jobs * resources.gpus)} | quiet
            ray.init(**({"log_to_driver": False} if "address" in options else here) | dict(options))
        memory = None if resources.memory_gb is None else int(resources.memory_gb * 1e9)
        wanted = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "memory": memory, "max_retries": 0}
        self._call = ray.remote(**wanted)(_call)
        self._running: dict[Future[Any], Any] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        reference = self._call.remote(fn, args, kwargs)
        future = reference.future()
        self._running[future] = reference
        future.add_done_callback(self._running.pop)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if cancel_futures:
            for reference in list(self._running.values()):
                self._ray.cancel(reference, force=True)
        if self._own:
            self._ray.shutdown()


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a worker of Ray does."""
    return function(*args, **kwargs)


class _Dask(Executor):
    """Dask's own executor, with the cluster that it was started with."""

    def __init__(self, jobs: int, resources: Resources, options: Mapping[str, Any]) -> None:
        distributed = _package("distributed", "dask")
        self._cluster = None
        if "address" in options:
            self._client = distributed.Client(**options)
        else:
            here = {"n_workers": jobs, "threads_per_worker": 1, "dashboard_address": None}
            self._cluster = distributed.LocalCluster(**here | dict(options))
            self._client = distributed.Client(self._cluster)
        wanted = {"resources": {"GPU": resources.gpus}} if resources.gpus else {}
        self._executor = self._client.get_executor(pure=False, **wanted)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._executor.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._executor.shutdown(wait=wait and not cancel_futures)
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


class _Slurm(ThreadPoolExecutor):
    """Jobs that submitit hands in; a thread waits for each, as its jobs are no futures that can be waited for."""

    def __init__(self, jobs: int, resources: Resources, options: Mapping[str, Any], folder: Path) -> None:
        submitit = _package("submitit", "slurm")
        given = dict(options)
        self._queue = submitit.AutoExecutor(folder, cluster=given.pop("cluster", "slurm"))
        wanted = {
            "cpus_per_task": resources.cpus,
            "gpus_per_node": math.ceil(resources.gpus) or None,
            "mem_gb": resources.memory_gb,
            "timeout_min": resources.minutes,
        }
        self._queue.update_parameters(**{key: value for key, value in wanted.items() if value is not None} | given)
        self._lock, self._running = threading.Lock(), set()
        super().__init__(jobs)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(self._job, fn, args, kwargs)

    def _job(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._lock:
            job = self._queue.submit(fn, *args, **kwargs)
        self._running.add(job)
        try:
            return job.result()
        finally:
            self._running.discard(job)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if cancel_futures:
            for job in list(self._running):
                job.cancel()
        super().shutdown(wait=wait, cancel_futures=cancel_futures)
