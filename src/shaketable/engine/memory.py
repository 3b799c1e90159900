"""How many examples fit: a memory budget, and what to do when it was too much."""

from pathlib import Path

import torch

from shaketable.errors import InputError

SHARE = 0.5
"""Of the memory that is free, what the engine takes unless told otherwise."""


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, _left_in_group())
    except OSError:
        pass
    return 4 * 2**30  # not Linux: a guess on the safe side


def _left_in_group() -> int:
    """Bytes left to this process's control group (a container's limit), or very many."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except OSError:
        return 2**62
    return 2**62 if limit == "max" else max(0, int(limit) - used)


def budget(memory: int | None, device: torch.device) -> int:
    """Bytes that the engine may use: the number given, or a share of what is free.

    Raises:
        InputError: the number is not a whole one from 1.
    """
    if memory is None:
        return int(SHARE * free_memory(device))
    if isinstance(memory, bool) or not isinstance(memory, int) or memory < 1:
        raise InputError(f"memory={memory!r}: give the budget in bytes, a whole number from 1.")
    return memory


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, in any of the ways in which torch says it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
