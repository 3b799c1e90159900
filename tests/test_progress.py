"""Progress in a real terminal of 80 columns, and silence without one."""

import os
import pty
import re
import subprocess
import sys

CODE = """
import time
from shaketable.progress import progress
with progress("robustness", total=40, done=10) as advance:
    for _ in range(30):
        time.sleep(0.02)
        advance(1, "transformer.h.11.mlp.a_layer_with_a_rather_long_name, reinitialise")
"""


def shown(code: str) -> str:
    """What a terminal shows."""
    outer, inner = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=inner, env=environment)
    os.close(inner)
    seen = b""
    while True:
        try:
            part = os.read(outer, 10_000)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    assert process.wait(60) == 0
    os.close(outer)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


def test_in_a_terminal_the_steps_and_both_times_are_shown_whole():
    text = shown(CODE)
    assert re.search(r"robustness .* 40/40 +0:00:\d\d left 0:00:00 transformer", text)


def test_without_a_terminal_nothing_is_printed():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_inside_silent_nothing_is_shown_in_a_terminal_either():
    quiet = CODE.replace("import progress", "import progress, silent").replace(
        "with progress", "with silent(), progress"
    )
    assert shown(quiet) == ""
