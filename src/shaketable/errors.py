"""The two errors that the package raises on purpose; the command line turns them into one sentence."""


class InputError(ValueError):
    """What the caller gave is wrong: says what, where, and what to do (exit code 2 at the command line)."""


class RunError(RuntimeError):
    """The input was right and the work could not be done, e.g. a download that does not match its checksum (exit code 1)."""
