"""Progress with the time left, on standard error; silent when that is not a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_silent = ContextVar("silent", default=False)


@contextmanager
def silent() -> Iterator[None]:
    """No progress bar inside: for work that is one step of a larger one."""
    before = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(before)


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """A progress bar as a context: yields ``advance(steps=1, detail="")``.

    ``done`` steps count as made already (resumed work). Without a terminal nothing is printed, nor inside :func:`silent`.
    """
    if _silent.get() or not sys.stderr.isatty():
        yield lambda steps=1, detail="": None
        return
    from rich import progress as rich
    from rich.console import Console
    from rich.table import Column

    def whole(kind: type[rich.ProgressColumn]) -> rich.ProgressColumn:
        """A time that is never cut off."""
        return kind(table_column=Column(no_wrap=True, min_width=7))

    columns = [
        rich.TextColumn("{task.description}"),
        rich.BarColumn(bar_width=14),
        rich.MofNCompleteColumn(),
        whole(rich.TimeElapsedColumn),
        rich.TextColumn("left"),
        whole(rich.TimeRemainingColumn),
        rich.TextColumn("{task.fields[detail]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
    ]
    with rich.Progress(*columns, console=Console(stderr=True), expand=True) as bar:
        task = bar.add_task(description, total=total, completed=done, detail="")
        yield lambda steps=1, detail="": bar.update(task, advance=steps, detail=detail)
