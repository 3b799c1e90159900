"""Whether a mean loss is at most a bound, from losses in bfloat16: where their error, measured in float32, leaves no doubt."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shaketable.engine import Variant
from shaketable.identity import generator_from
from shaketable.probes.cells import Cell

SAFETY = 4.0
"""Standard errors of the mean loss, as measured, that it must be away from the bound."""
FIRST, GROWTH = 512, 0.5
"""Examples in bfloat16 before the first look, and what each look adds, as a share of those seen."""
SAMPLE, SHARE = 64, 8
"""Examples in float32 at the first, and one in how many at most."""
Run = Callable[[Variant, Tensor, bool], Tensor]
"""Losses of a variant on some examples, float64 [n], in float32 or rough."""


@dataclass
class Screen:
    r"""The mean loss of a variant with its standard error, from losses in bfloat16 and of few examples in float32.

    .. math:: \hat L = \frac1N \sum_{i \le N} c_i + \frac1n \sum_{i \in S} (r_i - c_i)
        + \frac1m \sum_{j \le m} \frac{e_{i_j} - r_{i_j}}{n p_{i_j}}

    with losses c that are known of all examples (of the whole network, or in bfloat16 of the last variant that was seen on
    all: those from which r differs less; the latter no further above the former than on any of S, for what was lost on few
    examples may be won back where it was not looked), r of the variant in bfloat16 on n random examples S, and e of it in
    float32 on m draws out of S with replacement, by probabilities p: half of them equal, half in proportion to r. The squared
    standard error is that of the second mean (none once S is all examples) plus that of the third.

    Args:
        run: gives losses.
        clean: losses of the whole network, float64 [N].
        counts: labels of each example [N].
        seed: of S and of the draws.

    References: Hansen, Hurwitz, "On the theory of sampling from finite populations", 1943; Cochran, "Sampling techniques", 1977,
        chapter 7 (difference estimators).
    """

    run: Run
    clean: Tensor
    counts: Tensor
    seed: int

    def __post_init__(self) -> None:
        self._order = torch.randperm(len(self.clean), generator=generator_from(self.seed, "screening"))
        self._last = self.clean  # of the last variant that was seen on all examples

    def answer(self, variant: Variant, bound: float) -> tuple[Cell | None, Tensor]:
        """Whether the sum of losses is at most ``bound``; and the losses [N] in bfloat16, NaN where it was not looked.

        The answer, None where there is doubt: ``holds``, how many labels were ``seen``, how many ``in_float32``, the sum of
        losses and its ``error``, :data:`SAFETY` standard errors. It holds only where all examples were seen: few that lose
        much may be missing in a part, but not where its mean is too high already.
        """
        total, rough = len(self.clean), torch.full_like(self.clean, math.nan)
        start, stop = 0, min(FIRST, total)
        while start < total:
            part = self._order[start:stop]
            rough[part] = self.run(variant, part, True)
            if not rough[part].isfinite().all():
                return None, rough
            found = self._settled(variant, bound, rough, self._order[:stop])
            if stop == total:
                self._last = rough
            if found is not None:
                return found, rough
            start, stop = stop, min(stop + math.ceil(GROWTH * stop), total)
        return None, rough

    def _settled(self, variant: Variant, bound: float, rough: Tensor, seen: Tensor) -> Cell | None:
        """The answer from the examples seen, if there is one: where all are, from more and more of them in float32."""
        total, n = len(self.clean), len(seen)
        worse = self._last - self.clean
        last = self.clean + worse.clamp(max=float(worse[seen].max()))
        known = min((self.clean, last), key=lambda losses: _variance(rough[seen] - losses[seen]))
        apart, own, before = rough[seen] - known[seen], rough[seen], float(known.sum())
        sampling = _variance(apart) * (1 - n / total)
        if n < total and before + total * (float(apart.mean()) - SAFETY * math.sqrt(sampling)) <= bound:
            return None
        chances = (0.5 / n + 0.5 * own / own.sum()) if own.sum() > 0 else torch.full_like(own, 1 / n)
        generator = generator_from(self.seed, "float32", n)
        drawn, off = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
        while len(drawn) < n // SHARE:
            more = chances.multinomial(max(SAMPLE, len(drawn)), replacement=True, generator=generator)
            which, back = more.unique(return_inverse=True)
            exact = self.run(variant, seen[which], False)[back]
            drawn, off = torch.cat([drawn, more]), torch.cat([off, (exact - own[more]) / (n * chances[more])])
            loss = before + total * float(apart.mean() + off.mean())
            error = SAFETY * total * math.sqrt(sampling + _variance(off))
            holds = loss <= bound
            if abs(loss - bound) > error and (n == total or not holds):
                numbers = {"seen": self.counts[seen].sum(), "in_float32": self.counts[seen[drawn.unique()]].sum()}
                return {"holds": holds, **{k: int(v) for k, v in numbers.items()}, "loss": loss, "error": error}
        return None


def _variance(values: Tensor) -> float:
    """The squared standard error of a mean of independent draws."""
    return float(values.var()) / len(values) if len(values) > 1 else math.inf
