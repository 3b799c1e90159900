"""What the commands share: the options that several have, and how they print."""

import json
import shutil
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from shaketable import __version__

app = App(
    name="shaketable",
    version=__version__,
    suppress_keyboard_interrupt=False,  # main() says what was kept
    help="Find out which layers hold a neural network up: reset or perturb each of them, and see what still works.",
    help_format="plaintext",
    help_epilogue="""Examples:
  shaketable demo
  shaketable train --network resnet18-bn --data cifar10 --data-root ~/data
  shaketable robustness runs/RUN --draws 5
  shaketable joint runs/RUN --search
  shaketable criticality runs/RUN --epsilon 0.1
  shaketable report runs/RUN

`shaketable COMMAND --help` tells more. Exit codes: 0 well, 2 wrong use, 1 failed.""",
)

Root = Annotated[Path | None, Parameter(name="--data-root", env_var="SHAKETABLE_DATA", help="Where data sets lie.")]
Json = Annotated[
    bool,
    Parameter(
        name="--json", negative=(), show_default=False, help="One JSON object on the last line of standard output."
    ),
]
Device = Annotated[str, Parameter(help="cpu, cuda, cuda:1, ...")]
Pairs = Annotated[list[str] | None, Parameter(negative=())]
Only = Annotated[list[str] | None, Parameter(negative=(), consume_multiple=True)]
"""Names of measures, one or several."""


def finish(answer: dict[str, Any], told: Iterable[object], as_json: bool) -> None:
    """Print what a person reads, or last of all the one line that a machine reads."""
    if as_json:
        print(json.dumps(answer))
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in told:
        console.print(line)


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Any:
    """A table for the terminal; names from outside are shown as they are."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def wrapped(paragraphs: Iterable[str]) -> str:
    """Paragraphs as wide as the terminal, and no wider than one reads with ease."""
    width = min(shutil.get_terminal_size().columns, 100)
    return "\n\n".join(textwrap.fill(text, width, break_on_hyphens=False) for text in paragraphs)


def pairs(given: list[str] | None, option: str) -> dict[str, Any] | None:
    """NAME=VALUE options as a dict; values are read as JSON where they are, else as text."""
    if given is None:
        return None
    from shaketable.errors import InputError

    found = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"{option} {pair}: write NAME=VALUE, such as {option} width=0.25.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def percent(fraction: float) -> str:
    """A fraction in per cent, one decimal."""
    return f"{100 * fraction:.1f}%"
