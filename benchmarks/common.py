"""What the benchmarks share: a clock, the naive loop, and a row of results."""

import copy
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shaketable.data import Data
from shaketable.params import Params

Seconds = np.ndarray
"""Processor time and wall time [2]."""
T = TypeVar("T")
BATCHES = (32, 50, 64, 100, 128, 250)
"""Batch sizes among which the naive loop finds its best."""


@dataclass(frozen=True)
class Options:
    """The command line of a benchmark."""

    full: bool = False
    repeats: int = 3
    threads: int = 1
    level: Any = "auto"
    losses: bool = False
    data_root: Path | None = None
    runs: Path = Path("runs/benchmarks")


@dataclass(frozen=True)
class Row:
    """One result. Seconds are those of the whole work; where ``sampled`` is true, ``sampled_how`` says what was multiplied.

    ``ratio`` is the median over repeats of naive over engine processor time. ``goal`` holds on processors without bfloat16
    matrices, ``goal_amx`` on those with them. ``identical``: every answer that both sides gave is the same.
    """

    work: str
    ratio: float | None = None
    wall_ratio: float | None = None
    goal: float | None = None
    goal_amx: float | None = None
    naive_seconds: float | None = None
    engine_seconds: float | None = None
    naive_wall_seconds: float | None = None
    engine_wall_seconds: float | None = None
    identical: bool | None = None
    network: str = ""
    data: str = ""
    examples: int = 0
    variants: int = 0
    batch_naive: int | None = None
    batch_engine: int | None = None
    level: str = ""
    choice: str = ""
    sampled: bool = False
    sampled_how: str = ""
    ratios: tuple[float, ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The row as plain JSON values, with ``more`` at the top."""
        plain = asdict(self)
        more = plain.pop("more")
        return {**plain, **more}


def row(work: str, times: Sequence[tuple[Seconds, Seconds]], **fields: Any) -> Row:
    """A row from the seconds of the naive loop and of the engine in each repeat: medians, and medians of ratios."""
    naive, engine = np.array(times).transpose(1, 2, 0)  # [2, repeats] each: processor and wall
    seconds = [median(values) for values in (*naive, *engine)]
    return Row(
        work,
        ratio=round(median(naive[0] / engine[0]), 3),
        wall_ratio=round(median(naive[1] / engine[1]), 3),
        naive_seconds=round(seconds[0], 3),
        naive_wall_seconds=round(seconds[1], 3),
        engine_seconds=round(seconds[2], 3),
        engine_wall_seconds=round(seconds[3], 3),
        ratios=tuple(round(float(ratio), 3) for ratio in naive[0] / engine[0]),
        machine=machine(),
        **fields,
    )


def timed(function: Callable[[], T]) -> tuple[T, Seconds]:
    """What a function returns, and the seconds that it took."""
    started = now()
    found = function()
    return found, now() - started


def now() -> Seconds:
    """The processor's clock and that on the wall."""
    return np.array([process_time(), perf_counter()])


def machine() -> dict[str, Any]:
    """Processor, whether it has bfloat16 and matrices of it (AMX), threads, torch's version."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    return {
        "cpu": facts.get("model name", platform.processor() or platform.machine()),
        "bf16": "avx512_bf16" in flags,
        "amx": "amx_bf16" in flags,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def say(text: str) -> None:
    """A line of progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


class Naive:
    """What people write: eager float32; put a layer's weights in, run all the data in batches, put the old ones back."""

    def __init__(self, network: nn.Module, batch_size: int) -> None:
        self.network = copy.deepcopy(network).eval()  # its weights are written to; those of the engine are not
        self.batch_size = batch_size

    def sums(self, variants: Sequence[Params], data: Data) -> list[tuple[int, float]]:
        """The number of errors and the sum of cross-entropies of each variant."""
        final = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        found = []
        for changed in variants:
            self.network.load_state_dict(changed, strict=False)
            errors, loss = 0, 0.0
            with torch.no_grad():
                for inputs, labels in data.batches(self.batch_size):
                    logits = self.network(inputs)
                    logits, labels = logits.flatten(0, -2), labels.flatten()  # a row for each label of a sequence
                    errors += int((logits.argmax(1) != labels).sum())
                    loss += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
            self.network.load_state_dict({name: final[name] for name in changed}, strict=False)
            found.append((errors, loss))
        return found

    def logits(self, variant: Params, inputs: Tensor) -> Tensor:
        """Logits of one variant on one batch."""
        with torch.no_grad():
            return torch.func.functional_call(self.network, dict(variant), (inputs,))


def best_batch(network: nn.Module, data: Data, sizes: Sequence[int] = BATCHES) -> int:
    """The batch size at which the naive loop is fastest: all are tried on about as many examples, the best three again."""
    able = [size for size in sizes if size <= len(data)] or [len(data)]
    enough = max(200, *able)
    seconds_an_example(network, data, able[0], enough)
    taken = {size: seconds_an_example(network, data, size, enough) for size in able}
    best = sorted(able, key=taken.__getitem__)[:3]
    return min(best, key=lambda size: min(taken[size], seconds_an_example(network, data, size, enough)))


def seconds_an_example(network: nn.Module, data: Data, size: int, enough: int) -> float:
    """Processor time of the naive loop for an example, over whole batches of this size that hold enough examples."""
    part = first(data, -(-enough // size) * size)
    _, taken = timed(lambda: Naive(network, size).sums([{}], part))
    return float(taken[0]) / len(part)


def first(data: Data, count: int, start: int = 0) -> Data:
    """So many examples, in order."""
    return data.subset(torch.arange(start, min(start + count, len(data))))


def agree(one: Sequence[tuple[int, float]], other: Sequence[tuple[int, float]]) -> bool:
    """Whether errors are the same and losses too, up to the rounding of sums, where both were asked for (not NaN)."""
    pairs = list(zip(one, other, strict=True))
    losses = np.array([(a[1], b[1]) for a, b in pairs if a[1] == a[1] and b[1] == b[1]]).reshape(-1, 2)
    return all(a[0] == b[0] for a, b in pairs) and np.allclose(losses[:, 0], losses[:, 1], rtol=1e-5)
