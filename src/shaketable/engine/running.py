"""Units taken one by one, in an order of each example's own: which rows that makes, and the state of each."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass
class Steps:
    """Examples, each with its first 0, 1, 2, ... active units of an order: a row for each, step after step.

    Attributes:
        at: [N] the examples, those with many active units first: at each step those that are left come first.
        alive: how many are left at each step, from 0 on.
        taken: [steps, N] the unit that comes at each step, from 1 on.
        there: [steps + 1, N] whether the example has that many; its true places are the rows, in their order.
        counts: [N, units + 1] by example as given: how many of the first 0, 1, 2, ... units are active.
    """

    at: Tensor
    alive: list[int]
    taken: Tensor
    there: Tensor
    counts: Tensor

    @classmethod
    def of(cls, order: Tensor, acts: Tensor) -> "Steps":
        """Of an order [N, units] of each example, and which of the units in it are active."""
        counts = pad(acts.cumsum(1), (1, 0))
        total, at = counts[:, -1].sort(descending=True, stable=True)
        numbers = torch.arange(int(total[0]) + 1, device=total.device)
        taken = order.new_zeros(len(at), len(numbers) - 1)
        taken.masked_scatter_(numbers[1:] <= counts[:, -1:], order.masked_select(acts))
        there = numbers[:, None] <= total
        return cls(at, there.sum(1).tolist(), taken[at].t().contiguous(), there, counts)

    def examples(self, start: int, stop: int) -> Tensor:
        """The examples of the rows of some steps."""
        return torch.cat([self.at[:count] for count in self.alive[start:stop]])

    def spread(self, rows: Tensor) -> Tensor:
        """Values of rows as [steps + 1, N], zeros elsewhere."""
        return rows.new_zeros(self.there.shape).masked_scatter_(self.there, rows)

    def by_number(self, found: Tensor) -> Tensor:
        """Values [steps + 1, N] by example and number of units [N, units + 1]: inactive ones leave what there was."""
        by_example = found.new_empty(found.t().shape)
        by_example[self.at] = found.t()
        return by_example.gather(1, self.counts)

    def kept(self, step: Tensor, example: Tensor, order: Tensor) -> Tensor:
        """Which units [R, units] some rows have: the active ones that came up to their step, others that change nothing."""
        came = self.counts[example, 1:] <= step[:, None]
        return torch.empty_like(came).scatter_(1, order[example], came)


def states(
    steps: Steps, empty: Tensor, terms: Tensor, weight: Tensor | None, room: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """What rows are made of, and the examples that they belong to: as many steps together as the room holds, used again and again.

    Args:
        steps: which rows.
        empty: [N, ...] the state of each example without its units.
        terms: [N, units, positions, taps] what is added for a unit, as a product with ``weight``; without one the state is
            [N, units, ...], and a unit's place gets its term [N, units, ...].
        weight: [units, taps, out].
        room: rows.
    """
    at, taken = steps.at, steps.taken
    if weight is not None:
        terms = terms.flatten(0, 1)[at * terms.shape[1] + taken]  # [step, N, positions, taps]
        weights = empty.new_empty(len(at), *weight.shape[1:])
    else:
        weights = empty
    made = empty.new_empty(max(room, len(at)), *empty.shape[1:])
    state, filled, first = empty[at], 0, 0
    for step, rows in enumerate(steps.alive):
        if filled + rows > len(made):
            yield made[:filled], steps.examples(first, step)
            filled, first = 0, step
        before, state = state[:rows], made[filled : filled + rows]
        filled += rows
        if not step:
            state.copy_(before)
            continue
        unit = taken[step - 1, :rows]
        if weight is None:
            state.copy_(before)[torch.arange(rows, device=at.device), unit] = terms[at[:rows], unit]
            continue
        product = torch.index_select(weight, 0, unit, out=weights[:rows])
        if weight.shape[1] == 1:
            torch.addcmul(before, terms[step - 1, :rows], product, out=state)
        else:
            torch.baddbmm(before, terms[step - 1, :rows], product, out=state)
    yield made[:filled], steps.examples(first, len(steps.alive))
