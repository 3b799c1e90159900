"""Two levels compared: their logits, how near a decision is to a tie, and their seconds."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from math import inf
from statistics import median
from threading import Lock

import torch
from torch import Tensor

ROUNDING = 5e-5
"""Error of a margin, relative to the largest logit, within which an inexact level's decision is left to the loop."""
SAFETY = 3.0
"""How many times the largest error of a margin in bfloat16 that was seen is taken as its bound: an empirical one."""
MEASURED = 8
"""Examples of each variant, at least, on which bfloat16 is compared with float32: those that are nearest to a tie."""

TINY = torch.finfo(torch.float32).tiny


@dataclass
class Seen:
    """The largest error of a margin of one variant in bfloat16, and on how many examples it was compared."""

    error: float = 0.0
    examples: int = 0
    _one: Lock = field(default_factory=Lock, repr=False)

    def near(self, rough: Tensor, floor: float, labels: Tensor | None = None) -> Tensor:
        """Which examples [N] may be decided otherwise in float32: an error :data:`SAFETY` times that seen, or ``floor``, could."""
        found = near_ties(rough, max(floor, SAFETY * self.error), labels)
        missing = MEASURED - self.examples
        if missing > 0 and int(found.sum()) < missing:
            found |= nearest(rough, missing)
        return found

    def add(self, exact: Tensor, rough: Tensor) -> None:
        """Take in how far some examples were off; from several threads."""
        error = margin_error(exact, rough)
        with self._one:
            self.error = max(self.error, error)
            self.examples += len(exact)


def near_ties(logits: Tensor, tolerance: float, labels: Tensor | None = None) -> Tensor:
    """Which examples [N] an error of ``tolerance``, relative to their largest logit, could give another decision.

    With ``labels``, of the shape of the decisions: could make right what is wrong, or wrong what is right.
    """
    lowest, highest = logits.amin(-1, keepdim=True), logits.amax(-1, keepdim=True)
    largest = torch.maximum(highest, -lowest)
    among = logits >= highest - tolerance * largest
    near = among.sum(-1) != 1
    if labels is not None and labels.shape == near.shape:
        near &= among.gather(-1, labels.clamp(0, logits.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
    near |= ~(largest * (1 + tolerance)).isfinite().squeeze(-1)  # nor may it be infinite, or not a number
    return near.flatten(1).any(1) if near.ndim > 1 else near


def nearest(logits: Tensor, count: int) -> Tensor:
    """Which ``count`` examples [N] are nearest to a tie, relative to their largest logit."""
    two = logits.topk(min(2, logits.shape[-1]), -1).values
    gaps = (two[..., 0] - two[..., -1]) / logits.abs().amax(-1).clamp_min(TINY)
    gaps = gaps.flatten(1).amin(1) if gaps.ndim > 1 else gaps
    found = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    return found.index_fill(0, gaps.topk(min(count, len(gaps)), largest=False).indices, True)


def margin_error(exact: Tensor, rough: Tensor) -> float:
    """The largest error of a margin against the rough decision, relative to the largest logit of its row.

    Infinite where a logit is not finite: oneDNN's ReLU in bfloat16 makes 0 of NaN, so that others may seem to be.
    """
    if not (exact.isfinite().all() and rough.isfinite().all()):
        return inf
    scale = rough.abs().amax(-1, keepdim=True).clamp_min(TINY)
    decided = rough.argmax(-1, keepdim=True)
    exact, rough = exact / scale, rough / scale
    apart = (exact - exact.gather(-1, decided)) - (rough - rough.gather(-1, decided))
    return float(apart.nan_to_num(inf, inf, 0).amax())


def same(one: Tensor, other: Tensor | None) -> bool:
    """Whether two tensors are the same bit for bit, all NaN being one; on a GPU, to the rounding of float32."""
    if other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.device.type == "cuda":
        return torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two logits are equal well within the rounding that near ties are settled for."""
    if torch.equal(one, other):
        return True
    if one.shape != other.shape or not torch.equal(one.isfinite(), other.isfinite()):
        return False
    scale = one.nan_to_num(0, 0, 0).abs().amax(-1, keepdim=True)
    return bool(((one - other).nan_to_num(0, 0, 0).abs() <= ROUNDING / 4 * scale).all())


def clocked(compute: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Seconds, and what was computed: on a CPU this thread's own, which others on the machine do not lengthen."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = time.perf_counter if device.type == "cuda" else time.thread_time
    started = clock()
    found = compute()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started, found


@cache
def bfloat16_gain() -> float:
    """How many times faster than in float32 this processor multiplies matrices in bfloat16; measured once."""
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        one = torch.ones(1024, 1024, dtype=dtype)
        _ = one @ one
        seconds.append(median(clocked(lambda one=one: one @ one, one.device)[0] for _ in range(5)))
    return seconds[0] / seconds[1]
