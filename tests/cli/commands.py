"""How the tests start a command, and what it answers."""

import json
import os
import subprocess
import sys

import pytest

from shaketable import cli

TINY = ["--network", "fcn-2x8", "--epochs", "2", "--data-arg", "train_examples=100", "--data-arg", "test_examples=50"]


def run(*arguments, cwd, code: int = 0, env: dict | None = None) -> subprocess.CompletedProcess:
    """The installed command, as a user starts it."""
    command = [sys.executable, "-m", "shaketable", *map(str, arguments)]
    environment = (
        {k: v for k, v in os.environ.items() if k != "SHAKETABLE_DATA"} | {"OMP_NUM_THREADS": "1"} | (env or {})
    )
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == code, done.stderr + done.stdout
    return done


def call(*arguments, capsys) -> tuple[int, str, str]:
    """The command inside this process: quick."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def answer(out: str) -> dict:
    return json.loads(out.strip().splitlines()[-1])
