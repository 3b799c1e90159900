"""Near ties, and the error of margins in bfloat16: what is not finite, tiny or huge, and several threads at a time."""

from math import inf, nan

import pytest
import torch

from shaketable.engine import compare
from shaketable.engine.compare import MEASURED, ROUNDING, Seen, margin_error, near_ties


@pytest.mark.parametrize("scale", [1.0, 1e-36, 1e36])
def test_the_error_of_a_margin_is_relative_to_the_largest_logit_of_any_size(scale: float) -> None:
    rough = torch.tensor([[1.0, 0.5, -2.0]])
    exact = torch.tensor([[1.0, 0.9, -2.0]])
    assert margin_error(scale * exact, scale * rough) == pytest.approx(0.2, rel=1e-5)


def test_opposite_logits_near_the_largest_number_have_a_finite_error() -> None:
    rough, exact = torch.tensor([[3e38, -3e38, 0.0]]), torch.tensor([[3e38, -1.5e38, 0.0]])
    assert margin_error(exact, rough) == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_once_a_logit_is_not_finite_every_example_is_near_a_tie(bad: float) -> None:
    finite, other = torch.tensor([[1.0, 2.0], [0.5, 1.0]]), torch.tensor([[1.0, 2.0], [0.5, bad]])
    for exact, rough in ((other, finite), (finite, other), (other, other)):
        seen = Seen()
        seen.add(exact, rough)
        assert seen.error == inf
        assert seen.near(torch.cat([rough, 0 * finite, -finite]), ROUNDING).all()


def test_what_is_not_finite_or_may_be_infinite_is_near_a_tie() -> None:
    logits = torch.tensor(
        [[1.0, 2.0], [nan, 1.0], [inf, 1.0], [-inf, 1.0], [3.402e38, 0.0], [-3.402e38, 0.0], [1e38, 0]]
    )
    assert near_ties(logits, 0.01).tolist() == [False, True, True, True, True, True, False]
    assert near_ties(logits.unsqueeze(1), 0.01).tolist() == [False, True, True, True, True, True, False]


def test_an_error_that_another_thread_saw_meanwhile_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, exact = Seen(), torch.tensor([[1.0, 0.9]])

    def meanwhile(exact: torch.Tensor, rough: torch.Tensor) -> float:
        monkeypatch.setattr(compare, "margin_error", margin_error)
        seen.add(exact, torch.tensor([[1.0, 0.4]]))
        return margin_error(exact, rough)

    monkeypatch.setattr(compare, "margin_error", meanwhile)
    seen.add(exact, torch.tensor([[1.0, 0.8]]))
    assert seen.error == pytest.approx(0.5)
    assert seen.examples == 2


def test_few_examples_are_measured_at_least_then_those_within_three_times_the_error() -> None:
    seen = Seen()
    rough = torch.stack([torch.ones(100), 1 - torch.arange(1.0, 101) / 200], -1)  # margins 0.005, 0.01, ..., 0.5
    first = seen.near(rough, ROUNDING)
    assert first.nonzero().flatten().tolist() == list(range(MEASURED))
    seen.add(rough[first] + torch.tensor([0.0, 0.021]), rough[first])
    assert seen.near(rough, ROUNDING).nonzero().flatten().tolist() == list(range(12))  # up to 0.063
