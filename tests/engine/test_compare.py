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


@pytest.mark.parametrize("shape", [(3000, 4), (1000, 3, 4)])
def test_no_error_within_the_tolerance_makes_an_answer_about_a_label_another_one_but_near_a_tie(shape) -> None:
    draw, tolerance = torch.Generator().manual_seed(0), 0.1
    logits = torch.randn(shape, generator=draw)
    labels = torch.randint(4, shape[:-1], generator=draw)
    near = near_ties(logits, tolerance, labels)
    assert 0.02 < near.float().mean() < 0.9 * near_ties(logits, tolerance).float().mean()
    assert not (near & ~near_ties(logits, tolerance)).any()
    right, changed = logits.argmax(-1) == labels, torch.zeros(len(logits), dtype=torch.bool)
    for _ in range(200):  # each margin moves by up to the tolerance
        error = tolerance / 2 * (2 * torch.rand(shape, generator=draw) - 1).sign()
        moved = logits + error * logits.abs().amax(-1, keepdim=True)
        differs = (moved.argmax(-1) == labels) != right
        changed |= differs if differs.ndim == 1 else differs.any(1)
    assert not (changed & ~near).any()
    assert changed.sum() > 0.9 * near.sum()


def test_labels_that_do_not_count_or_are_no_class_need_no_care_but_what_is_not_finite_does() -> None:
    logits = torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.0, nan]])
    assert near_ties(logits, 0.01, torch.tensor([1, 1, 0])).tolist() == [True, False, True]
    assert near_ties(logits, 0.01, torch.tensor([5, 0, 9])).tolist() == [True, False, True]
    assert near_ties(logits, 0.01, torch.tensor([-100, -100, -100])).tolist() == [True, False, True]
