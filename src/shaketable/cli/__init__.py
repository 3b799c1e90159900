"""The command line: parse, call, print. Nothing heavy is imported before a command runs."""

import json
import os
import sys
from collections.abc import Iterable

from cyclopts import CycloptsError

from shaketable.cli import (
    ablation,
    attack,
    catalogue,
    criticality,
    estimate,
    measures,
    pruning,
    report,
    robustness,
    sensitivity,
    together,
    topology,
    training,
    zoo,
)
from shaketable.cli.terminal import app

__all__ = [
    "ablation",
    "app",
    "attack",
    "catalogue",
    "criticality",
    "estimate",
    "main",
    "measures",
    "pruning",
    "report",
    "robustness",
    "sensitivity",
    "together",
    "topology",
    "training",
    "zoo",
]


def main(arguments: Iterable[str] | None = None) -> None:
    """Run a command and exit: 0 well, 2 wrong use, 1 failed."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        code = 0
    except CycloptsError as error:
        code = _fail(f"{str(error).strip()} See `shaketable --help`.", 2, tokens)
    except KeyboardInterrupt:
        code = _fail("interrupted; what was saved is kept, and the same command goes on from there.", 1, tokens)
    except BrokenPipeError:  # the reader of our output has gone, as in `shaketable networks | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        from shaketable.errors import InputError, RunError

        if os.environ.get("SHAKETABLE_DEBUG"):
            raise
        expected = isinstance(error, InputError | RunError)
        reason = str(error) if expected else f"{type(error).__name__}: {error} (SHAKETABLE_DEBUG=1 shows where)"
        code = _fail(reason, 2 if isinstance(error, InputError) else 1, tokens)
    sys.exit(code)


def _fail(reason: str, code: int, tokens: list[str]) -> int:
    """Print one sentence to standard error, and with --json an object to standard output."""
    print(f"shaketable: {reason}", file=sys.stderr)
    if "--json" in tokens:
        print(json.dumps({"error": reason}))
    return code
