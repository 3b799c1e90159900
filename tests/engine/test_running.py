"""Units taken one by one: the rows that there are, and the state of each, are those of a loop over examples and numbers."""

import pytest
import torch

from shaketable.engine.running import Steps, states

ACTIVE = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]]).bool()
ORDER = torch.tensor([[2, 1, 3, 0], [0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]])


def steps() -> Steps:
    return Steps.of(ORDER, ACTIVE.gather(1, ORDER))


def first(example: int, number: int) -> list[int]:
    """The active units among the first of an example's order."""
    return [unit for unit in ORDER[example, :number].tolist() if ACTIVE[example, unit]]


@pytest.mark.parametrize("room", [1, 5, 100])
@pytest.mark.parametrize("taps", [1, 2])
def test_each_row_is_the_sum_of_the_terms_of_its_first_active_units(room, taps):
    generator = torch.Generator().manual_seed(0)
    terms = torch.randn(4, 4, 1, taps, generator=generator) * ACTIVE[:, :, None, None]
    weight, empty = torch.randn(4, taps, 3, generator=generator), torch.randn(4, 1, 3, generator=generator)
    made, examples = zip(*((m.clone(), e) for m, e in states(steps(), empty, terms, weight, room)), strict=True)
    assert torch.cat(examples).tolist() == [2, 0, 3, 1, 2, 0, 3, 2, 0, 2, 0, 2]
    seen = dict.fromkeys(range(4), 0)
    for state, example in zip(torch.cat(made), torch.cat(examples).tolist(), strict=True):
        units = [unit for unit in ORDER[example].tolist() if ACTIVE[example, unit]][: seen[example]]
        expected = empty[example] + sum(terms[example, unit] @ weight[unit] for unit in units)
        assert torch.allclose(state, expected, atol=1e-6)
        seen[example] += 1
    assert list(seen.values()) == [4, 1, 5, 2]


def test_values_of_rows_come_back_by_example_and_number_of_units():
    there = steps()
    rows = torch.cat([torch.full((count,), step) for step, count in enumerate(there.alive)])
    found = there.by_number(there.spread(rows))
    expected = [[len(first(example, number)) for number in range(5)] for example in range(4)]
    assert found.tolist() == expected == there.counts.tolist()


def test_what_a_row_keeps_are_its_active_units_and_of_the_others_what_changes_nothing():
    there = steps()
    for example in range(4):
        for number in range(5):
            step = there.counts[example, number]
            kept = there.kept(step[None], torch.tensor([example]), ORDER)[0]
            assert (kept & ACTIVE[example]).nonzero().flatten().tolist() == sorted(first(example, number))
