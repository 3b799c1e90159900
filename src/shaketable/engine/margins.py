"""By how much the label's logit of a row is above all others: in bfloat16, and in float32 where that could decide otherwise."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shaketable.engine.compare import MEASURED, ROUNDING, SAFETY, TINY

SPREAD = 64
"""Of so many rows one is compared with float32 wherever it lies, beside those that are nearest to a tie."""
Logits = Callable[[Tensor, Tensor], Tensor]
"""Logits [R, classes] from what a row is made of [R, ...] and the example that it belongs to [R]."""


@dataclass
class Margins:
    """Margins of rows, each decided as in float32 as far as three times the largest error that was seen tells.

    ``rough``: the logits in bfloat16, or None where these do not pay; then all are of ``exact``. ``error``: the largest one of a
    margin so far, relative to the largest logit of its row.
    """

    exact: Logits
    rough: Logits | None = None
    error: float = 0.0

    def of(self, made: Tensor, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of each row its margin, and its largest logit."""
        if self.rough is None:
            return margins(self.exact(made, rows), labels)
        margin, largest = margins(self.rough(made, rows), labels)
        gap = margin.abs() / largest.clamp_min(TINY)
        asked = torch.zeros(len(gap), dtype=torch.bool, device=gap.device)
        asked[gap.topk(min(MEASURED, len(gap)), largest=False).indices] = True
        asked[::SPREAD] = True
        done = torch.zeros_like(asked)
        while True:
            bound = max(ROUNDING, SAFETY * self.error)
            some = ((~(gap > bound) | asked) & ~done).nonzero().flatten()  # what is not a number, too
            if not len(some):
                return margin, largest
            exact, scale = margins(self.exact(made[some], rows[some]), labels[some])
            off = (exact - margin[some]).abs() / largest[some].clamp_min(TINY)
            self.error = max(self.error, float(off.nan_to_num(torch.inf, torch.inf).amax()))
            margin[some], largest[some], done[some] = exact, scale, True


def margins(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row the logit of its label less the highest other one [R], and the largest absolute logit [R]."""
    logits, place = logits.float(), labels[:, None]  # the highest of numbers in bfloat16 takes longer
    own, lowest = logits.gather(1, place).squeeze(1), logits.amin(1)
    highest = logits.scatter_(1, place, -torch.inf).amax(1)
    logits.scatter_(1, place, own[:, None])  # as it was
    return own - highest, torch.maximum(torch.maximum(highest, own), -lowest)
