"""The plain loop against sums worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn

import shaketable.evaluate as evaluation
from shaketable.data import Data
from shaketable.errors import InputError
from shaketable.evaluate import evaluate, tally
from shaketable.params import state


def test_errors_and_loss_are_those_of_a_dense_reference_in_float64():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4)).eval()
    data = Data(torch.randn(101, 3), torch.randint(4, (101,)), classes=4)
    sums = evaluate(network, state(network), data, batch_size=7)
    logits = network(data.inputs).detach().double()
    assert sums.examples == 101
    assert sums.errors == int((logits.argmax(1) != data.labels).sum())
    assert sums.loss == pytest.approx(float(-logits.log_softmax(1)[range(101), data.labels].sum()), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(batch_size=some.integers(1, 40))
def test_the_result_does_not_depend_on_the_batch_size(batch_size):
    generator = torch.Generator().manual_seed(0)
    data = Data(torch.randn(33, 5, generator=generator), torch.randint(3, (33,), generator=generator), classes=3)
    network, params = nn.Linear(5, 3).eval(), {"weight": torch.randn(3, 5, generator=generator), "bias": torch.zeros(3)}
    whole, parts = evaluate(network, params, data, 33), evaluate(network, params, data, batch_size)
    assert (whole.examples, whole.errors) == (parts.examples, parts.errors)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)


def test_a_language_model_counts_tokens_and_leaves_out_the_ignored_ones():
    network = nn.Embedding(3, 3).eval()  # logits [N, T, 3]
    data = Data(torch.tensor([[0, 1, 2], [2, 1, 0]]), torch.tensor([[0, 1, -100], [2, 2, -100]]), classes=3)
    sums = evaluate(network, {"weight": torch.eye(3)}, data)
    assert (sums.examples, sums.errors) == (4, 1)


def test_an_example_with_nan_logits_is_an_error_and_is_counted_as_not_finite():
    data = Data(torch.eye(2), torch.tensor([0, 0]), classes=2)
    sums = evaluate(nn.Linear(2, 2, bias=False).eval(), {"weight": torch.tensor([[float("inf"), 0], [0, 1.0]])}, data)
    assert sums.errors == 2
    assert sums.not_finite == 2  # inf times zero is NaN in the second example


def test_a_network_in_training_mode_is_evaluated_in_evaluation_mode_and_left_in_training_mode():
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)).train()
    network[1].eval()
    evaluate(network, state(network), Data(torch.randn(8, 2), torch.zeros(8, dtype=torch.long), classes=2))
    assert network.training
    assert network[0].training
    assert not network[1].training
    assert network[0].num_batches_tracked == 0


def test_labels_that_do_not_match_the_logits_are_one_clear_error():
    data = Data(torch.eye(2), torch.zeros(2, 3, dtype=torch.long), classes=2)
    with pytest.raises(InputError, match=r"logits of shape \[2, 2\] for labels of shape \[2, 3\]"):
        evaluate(nn.Linear(2, 2).eval(), {}, data)


def test_many_logits_are_looked_at_in_parts_with_the_same_outcomes_and_one_that_is_not_finite_is_found(monkeypatch):
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 7
    monkeypatch.setattr(evaluation, "WIDE", 10**6)
    whole = evaluation.outcomes(logits, labels)
    monkeypatch.setattr(evaluation, "WIDE", 20)
    wrong, losses, finite = evaluation.outcomes(logits, labels)
    expected = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none").float()
    torch.testing.assert_close(losses, expected)
    assert torch.equal(wrong, whole[0])
    assert torch.equal(wrong, logits.argmax(1) != labels)
    assert finite is None
    logits[31, 2] = float("nan")
    wrong, _, finite = evaluation.outcomes(logits, labels)
    assert finite.logical_not().nonzero().flatten().tolist() == [31]
    assert bool(wrong[31])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_among_equal_logits_the_lowest_class_is_the_decision(dtype):
    logits = torch.tensor([[1.0, 3, 3], [1, 3, 3], [2, 2, 2], [2, 2, 2], [0, 1, 2]], dtype=dtype)
    sums = tally(logits, torch.tensor([1, 2, 0, 1, 2]), per_class=True, margins=True)
    assert sums.errors == 2
    assert sums.class_errors == (0, 1, 1)
    losses = [math.log(2 + math.exp(-2))] * 2 + [math.log(3)] * 2 + [math.log(1 + math.exp(-1) + math.exp(-2))]
    assert sums.loss == pytest.approx(sum(losses), rel=1e-6)
    assert sums.margin == pytest.approx(1.0)
