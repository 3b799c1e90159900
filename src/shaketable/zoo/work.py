"""Tasks on an executor until each is done: one that loses its worker is tried again, and takes no other with it."""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from typing import Any

from shaketable.errors import RunError

Task = tuple[Callable[..., str | None], tuple[Any, ...]]
"""A function that can be sent to another process, and its arguments; it returns why it failed, or None."""


def work_through(
    tasks: Mapping[str, Task],
    start: Callable[[], Executor],
    jobs: int,
    retries: int,
    finished: Callable[[str, str | None, bool], object],
) -> None:
    """Do every task.

    At most ``jobs`` tasks are submitted at a time. A task whose worker dies, or that ends in an error of another kind than
    those it returns, is tried again. Where a death takes the whole executor with it (a process pool), all that was under way
    is suspect, and is tried again one at a time on a new executor: only a task that was alone has failed.

    Args:
        tasks: by name.
        start: makes an executor, at first and after one broke.
        jobs: tasks at a time.
        retries: how often a task is tried again.
        finished: called as each task ends, with its name, why it failed (or None), and whether its worker could not say so itself.
    """
    queue, suspects, tries = deque(tasks), set[str](), Counter[str]()
    flying: dict[Future[Any], str] = {}
    executor = start()
    done_well = False
    try:
        while queue or flying:
            while queue and len(flying) < (1 if suspects else jobs):
                name = queue.popleft()
                function, arguments = tasks[name]
                flying[_submitted(executor, function, arguments)] = name
            ended, _ = wait(flying, return_when=FIRST_COMPLETED)
            broke = any(isinstance(_error(future), BrokenExecutor) for future in ended)
            if broke:
                ended, _ = wait(flying)
                executor.shutdown(wait=False)
                executor = start()
            alone = len(flying) == 1
            for future in ended:
                name, error = flying.pop(future), _error(future)
                suspects.discard(name)
                if error is None:
                    finished(name, future.result(), False)
                    continue
                lost = isinstance(error, BrokenExecutor)
                tries[name] += alone or not lost
                if tries[name] > retries:
                    finished(name, f"{_said(error)} (tried {tries[name]} times)", True)
                elif lost:
                    suspects.add(name)
                    queue.appendleft(name)
                else:
                    queue.append(name)
        done_well = True
    finally:
        executor.shutdown(wait=done_well, cancel_futures=not done_well)


def _submitted(executor: Executor, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Future[Any]:
    """The future of a task; one that failed, where the executor is broken already."""
    try:
        return executor.submit(function, *arguments)
    except BrokenExecutor as error:
        future: Future[Any] = Future()
        future.set_exception(error)
        return future


def _error(future: Future[Any]) -> BaseException | None:
    """How a future that has ended failed; a cluster that goes away cancels its futures."""
    return CancelledError("cancelled") if future.cancelled() else future.exception()


def _said(error: BaseException) -> str:
    """An error in one line."""
    first = next(iter(str(error).strip().splitlines()), "")
    kind = "its worker died" if isinstance(error, BrokenExecutor) else type(error).__name__
    return f"{kind}: {first}" if first else kind


class Borrowed(Executor):
    """An executor of the caller's own, which is not shut down here."""

    def __init__(self, executor: Executor) -> None:
        self._executor, self._started = executor, False

    def start(self) -> Executor:
        """Itself, once: where it broke, there is no other."""
        if self._started:
            raise RunError("the executor broke, and it was given from outside; call again with a new one to go on.")
        self._started = True
        return self

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._executor.submit(fn, *args, **kwargs)
