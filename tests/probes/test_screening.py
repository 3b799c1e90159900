"""Losses in bfloat16: the mean that they give, when they decide, and that they decide as float32 does."""

import math

import pytest
import torch
from tests.probes.test_prunability import study
from torch import Tensor

from shaketable.data import Data
from shaketable.engine import Engine
from shaketable.engine.fused import Fused
from shaketable.errors import InputError
from shaketable.evaluate import evaluate
from shaketable.probes.prunability import prunability
from shaketable.probes.pruning_search import Losses
from shaketable.probes.screening import SAFETY, Screen
from shaketable.pruning import ordered

EXAMPLES = 4000


def drawn(seed: int, spread: float = 0.1, bias: float = 0.01) -> tuple[Screen, Tensor, list[tuple[int, bool]]]:
    """A screen of made-up losses: those of the variant in float32, and how many were asked for, roughly or not."""
    draw = torch.Generator().manual_seed(seed)
    clean = torch.randn(EXAMPLES, generator=draw, dtype=torch.float64).exp()
    exact = clean * (1 + torch.rand(EXAMPLES, generator=draw, dtype=torch.float64))
    rough = exact * (1 + bias + spread * torch.randn(EXAMPLES, generator=draw, dtype=torch.float64)).abs()
    asked: list[tuple[int, bool]] = []

    def run(variant, which: Tensor, roughly: bool) -> Tensor:
        asked.append((len(which), roughly))
        return (rough if roughly else exact)[which]

    return Screen(run, clean, torch.ones(EXAMPLES, dtype=torch.int64), seed), exact, asked


def test_the_mean_is_right_and_so_is_its_error_although_bfloat16_is_not():
    off = []
    for seed in range(60):
        screen, exact, _ = drawn(seed)
        answer, _ = screen.answer({}, 1.5 * float(exact.sum()))
        assert answer is not None
        off.append((answer["loss"] - float(exact.sum())) / (answer["error"] / SAFETY))
    scores = torch.tensor(off)
    assert abs(float(scores.mean())) < 3 / math.sqrt(60)
    assert 0.7 < float(scores.std()) < 1.3


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97, 1.03, 1.1, 2.0])
def test_what_is_decided_is_as_in_float32_from_fewer_examples_the_farther_the_bound(share):
    for seed in range(10):
        screen, exact, asked = drawn(seed)
        answer, _ = screen.answer({}, share * float(exact.sum()))
        assert answer is not None
        assert answer["holds"] == (share > 1)
        assert answer["seen"] == sum(count for count, rough in asked if rough)
        assert (answer["seen"] == EXAMPLES) or not answer["holds"], "that it holds rests on all examples"
        if share in (0.5, 2.0):
            assert answer["in_float32"] <= 64
        if share == 0.5:
            assert answer["seen"] <= 1024


def test_near_the_bound_there_is_doubt_and_all_losses_are_handed_over():
    screen, exact, asked = drawn(0)
    answer, rough = screen.answer({}, float(exact.sum()))
    assert answer is None
    assert torch.allclose(rough, exact, rtol=0.6)
    assert sum(count for count, rough in asked if not rough) < EXAMPLES / 2


def test_few_examples_that_lose_much_are_not_missed():
    for seed in range(10):
        screen, exact, _ = drawn(seed)
        bound = 1.05 * float(exact.sum())
        run, far = screen.run, torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(seed))[:3]
        more = torch.zeros(EXAMPLES, dtype=torch.float64).index_fill(0, far, bound / 20)
        screen.run = lambda variant, which, rough, run=run, more=more: run(variant, which, rough) + more[which]
        answer, _ = screen.answer({}, bound)
        assert answer is None or not answer["holds"]


def test_what_the_last_variant_lost_on_few_examples_does_not_count_against_the_next():
    for seed in range(10):
        screen, exact, _ = drawn(seed, spread=0.003, bias=0.0)
        bound = 1.05 * float(exact.sum())
        run, more = screen.run, torch.zeros(EXAMPLES, dtype=torch.float64)
        more[screen._order[-1]] = 1.15 * (bound - float(exact.sum()))
        screen.run = lambda variant, which, rough, run=run, more=more: (
            run(variant, which, rough) + variant["lost"] * more[which]
        )
        lost, won_back = (screen.answer({"lost": torch.tensor(times)}, bound)[0] for times in (1.0, 0.0))
        assert lost is None or not lost["holds"]
        assert won_back is None or won_back["holds"]


def test_losses_that_are_not_finite_are_left_to_float32():
    screen, _, _ = drawn(0)
    run = screen.run
    screen.run = lambda variant, which, rough: run(variant, which, rough).where(which != 7, math.nan)
    assert screen.answer({}, 1e9)[0] is None


def test_prunability_is_that_of_float32_and_says_which_answers_rest_on_bfloat16():
    exact = prunability(study(), sparsities=None)
    found = prunability(study(), sparsities=None, level="fused", precision="bfloat16")
    assert found.tests.select("kept", "holds").equals(exact.tests.select("kept", "holds"))
    assert "in bfloat16" in found.provenance["engine"]
    assert exact.tests["error"].null_count() == len(exact.tests)
    assert exact.tests["in_float32"].equals(exact.tests["seen"])
    estimated = found.tests.drop_nulls("error")
    assert len(estimated) > 0
    assert (estimated["in_float32"] < estimated["seen"]).all()
    assert ((estimated["loss"] - estimated["bound"]).abs() > estimated["error"]).all()
    for row in estimated.to_dicts():
        pruned = ordered(study().final, [["0.weight", "2.weight"]]).at(1 - row["kept"])
        truth = evaluate(study().network, {**study().final, **pruned}, study().data("train")).mean_loss
        assert abs(row["loss"] - truth) < row["error"]


def test_labels_and_not_examples_are_counted_in_a_language_model():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Embedding(5, 8), torch.nn.Linear(8, 5)).eval()
    tokens = torch.randint(5, (600, 6))
    labels = tokens.clone()
    labels[::2, 0] = -100
    variant = {"1.weight": 3 * network[1].weight.detach(), "0.weight": network[0].weight.detach()}
    losses = Losses(Engine(network, level="fused", precision="bfloat16"), Data(tokens, labels, 5), variant)
    truth = evaluate(network, variant, Data(tokens, labels, 5)).mean_loss
    found = losses.answer(variant, 2 * truth)
    assert found["holds"]
    assert (found["seen"], found["error"] > 0) == (3300, True)
    assert found["in_float32"] < 64 * 6
    assert found["loss"] == pytest.approx(truth, abs=found["error"])


def test_rough_logits_are_asked_for_where_the_engine_has_them():
    engine = Engine(study().network, study().final, level="fused", precision="bfloat16")
    data, half = study().data("train"), {name: tensor / 2 for name, tensor in study().final.items()}
    assert not engine.rounds(half, data), "no level is chosen yet"
    with pytest.raises(InputError, match="rounds"):
        list(engine.map([half], data, lambda logits, labels: logits, rough=True))
    truth = torch.cat([found for _, (found,) in engine.map([half], data, lambda logits, labels: logits)])
    assert engine.rounds(half, data)
    rough = torch.cat([found for _, (found,) in engine.map([half], data, lambda logits, labels: logits, rough=True)])
    assert 0 < float((rough - truth).abs().max()) < 0.02 * float(truth.abs().max())
    assert not Engine(study().network, study().final, level="fused", precision="float32").rounds(half, data)


def test_what_bfloat16_cannot_run_is_answered_in_float32(monkeypatch):
    whole = Fused.whole

    def refusing(self, changes, inputs):
        if self._dtype == torch.bfloat16:
            raise RuntimeError("not implemented for 'BFloat16'")
        return whole(self, changes, inputs)

    monkeypatch.setattr(Fused, "whole", refusing)
    found = prunability(study(), sparsities=None, steps=4, level="fused", precision="bfloat16")
    assert found.tests["error"].null_count() == len(found.tests)
    assert "no bfloat16: RuntimeError: not implemented" in found.provenance["engine"]
