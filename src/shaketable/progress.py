"""Progress with the time left, on standard error; silent when that is not a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """A progress bar as a context: yields ``advance(steps=1, detail="")``.

    ``done`` steps count as made already (resumed work). Without a terminal nothing is printed.
    """
    if not sys.stderr.isatty():
        yield lambda steps=1, detail="": None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
    )
    with Progress(
        *columns, TimeRemainingColumn(), TextColumn("{task.fields[detail]}"), console=Console(stderr=True)
    ) as bar:
        task = bar.add_task(description, total=total, completed=done, detail="")
        yield lambda steps=1, detail="": bar.update(task, advance=steps, detail=detail)
