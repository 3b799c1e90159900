"""Early answers against the whole sum."""

import pytest
import torch
from torch import Tensor, nn

from shaketable.data import Data
from shaketable.engine import Engine, decide, errors
from shaketable.engine.decisions import BoundedMean
from shaketable.engine.questions import looks
from shaketable.errors import InputError
from shaketable.evaluate import evaluate
from shaketable.forward import forward
from shaketable.params import state


def threshold(share_wrong: float, examples: int = 4000) -> tuple[nn.Module, Data]:
    """A network of one weight whose error is the share of numbers in [0, 1] below its threshold, and those numbers."""
    network = nn.Linear(1, 2).eval()
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[0.0], [1.0]]))
        network.bias.copy_(torch.tensor([share_wrong, 0.0]))
    x = (torch.arange(examples) + 0.5).div(examples).unsqueeze(1)
    return network, Data(x, torch.ones(examples, dtype=torch.int64), classes=2)


def at(share_wrong: float) -> dict[str, Tensor]:
    return {"bias": torch.tensor([share_wrong, 0.0])}


@pytest.mark.parametrize("exact", [False, True])
def test_each_question_has_its_own_answer_and_clear_ones_need_few_examples(exact):
    network, data = threshold(0.0)
    shares = [0.0, 0.05, 0.099, 0.101, 0.15, 0.9]
    found = decide(Engine(network), [[at(share)] for share in shares], data, 0.1, exact=exact)
    assert [decision.holds for decision in found] == [True, True, True, False, False, False]
    used = [decision.examples for decision in found]
    assert all(decision.certain for decision in found) or not exact
    assert used[0] < 4000
    assert used[5] < 1000
    if not exact:
        assert used[0] <= 400
        assert not found[0].certain
        assert max(used) == used[2] or max(used) == used[3]


def test_what_some_pairs_leave_open_is_guessed_by_their_mean():
    network, data = threshold(0.0)
    shares = [0.0, 0.0995, 0.1005, 0.9]
    found = decide(Engine(network), [[at(share)] for share in shares], data, 0.1, most=600)
    assert [decision.outcomes for decision in found][1:3] == [600, 600]
    assert not any(decision.certain for decision in found[1:3])
    assert [decision.holds for decision in found] == [decision.mean <= 0.1 for decision in found]
    whole = decide(Engine(network), [[at(share)] for share in shares], data, 0.1, most=len(data))
    assert [decision.holds for decision in whole] == [True, True, False, False]


def test_the_draws_of_a_question_are_averaged():
    network, data = threshold(0.0, 500)
    low, high = [at(0.0)] * 4 + [at(0.4)], [at(0.0)] * 4 + [at(0.6)]  # 8% and 12% in the mean
    found = decide(Engine(network), [low, high], data, 0.1)
    assert [decision.holds for decision in found] == [True, False]
    assert found[0].draws == 5
    assert found[0].outcomes <= 2500
    exact = decide(Engine(network), [low, high], data, 0.1, exact=True)
    assert [decision.holds for decision in exact] == [True, False]
    assert exact[1].certain


def test_the_bound_itself_holds_and_one_more_example_does_not():
    network, data = threshold(0.0, 1000)
    ten, eleven = [at(0.01)], [at(0.011)]
    for bound, expected in ((0.01, [True, False]), (0.011, [True, True]), (0.0099, [False, False])):
        assert [d.holds for d in decide(Engine(network), [ten, eleven], data, bound, exact=True)] == expected


def test_a_loss_is_decided_on_the_exact_sum_and_early_only_when_it_is_too_high():
    network, data = threshold(0.5, 1000)
    mean = evaluate(network, state(network), data).mean_loss
    above, below, far = (
        decide(Engine(network), [[{}]], data, bound, quantity="loss")[0]
        for bound in (mean * 1.0001, mean * 0.9999, mean / 3)
    )
    assert (above.holds, below.holds, far.holds) == (True, False, False)
    assert above.examples == 1000
    assert far.examples < 600
    assert all(decision.certain for decision in (above, below, far))


def test_a_bounded_quantity_of_your_own_is_decided_early():
    network, data = threshold(0.5)

    def doubt(logits: Tensor, labels: Tensor) -> Tensor:
        return 1 - logits.softmax(-1).gather(1, labels.unsqueeze(1)).squeeze(1)

    with torch.no_grad():
        mean = float(doubt(forward(network, data.inputs), data.labels).mean())
    yes, no, close = (decide(Engine(network), [[{}]], data, mean + d, quantity=doubt)[0] for d in (0.1, -0.1, 0.0001))
    assert (yes.holds, no.holds, close.holds) == (True, False, True)
    assert max(yes.examples, no.examples) < 2000
    assert close.mean == pytest.approx(mean, abs=0.01)


def test_bets_on_a_bounded_quantity_see_the_pairs_in_their_random_order(monkeypatch):
    """What is bet on an outcome may rest on those before it: in an order of examples or draws the bet could be foreseen."""
    examples, seen = 700, []
    network = nn.Linear(1, 2, bias=False).eval()
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0], [0.0]]))
    data = Data(torch.ones(examples, 1), torch.arange(examples), classes=examples)
    draws = [{"weight": torch.tensor([[draw / 4], [0.0]])} for draw in range(3)]

    def known(logits: Tensor, labels: Tensor) -> Tensor:
        """Of which example and draw it is, as a number in [0, 1]."""
        return (labels * 3 + (logits[:, 0] * 4).round()).double() / (3 * examples)

    update = BoundedMean.update
    monkeypatch.setattr(
        BoundedMean, "update", lambda self, values: seen.extend(values.tolist()) or update(self, values)
    )
    decide(Engine(network), [draws], data, 0.5, quantity=known, exact=True, seed=5)
    order = torch.cat(list(looks(examples, 3, 5)))
    assert [round(3 * examples * value) for value in seen] == order[: len(seen)].tolist()
    assert len(seen) > examples


def test_tokens_are_decided_for_certain_only():
    network = nn.Embedding(3, 3).eval()
    tokens = torch.tensor([[0, 1, 2]] * 400)
    labels = torch.tensor([[0, 1, -100]] * 400)
    data = Data(tokens, labels, classes=3)
    right = {"weight": torch.eye(3)}
    (decision,) = decide(Engine(network), [[right]], data, 0.1)
    assert decision.holds
    assert decision.certain
    assert decision.outcomes == pytest.approx(720, abs=200)  # 90% of 800 must be seen right
    with pytest.raises(InputError, match="one label an example"):
        decide(Engine(network), [[right]], data, 0.1, quantity=lambda logits, labels: logits[:, 0, 0])


def test_errors_to_a_precision_have_intervals_of_that_width_around_the_truth():
    network, data = threshold(0.0, 20_000)
    shares = [0.0, 0.01, 0.1, 0.5]
    found = errors(Engine(network), [at(share) for share in shares], data, precision=0.02)
    for share, estimate in zip(shares, found, strict=True):
        assert estimate.low <= share <= estimate.high
        assert estimate.high - estimate.low <= 0.04
        assert abs(estimate.error - share) <= 0.02
    examples = [estimate.examples for estimate in found]
    assert examples == sorted(examples)
    assert examples[0] < 2000
    (whole,) = errors(Engine(network), [at(0.5)], data, precision=1e-6)
    assert (whole.error, whole.low, whole.high, whole.examples) == (0.5, 0.5, 0.5, 20_000)


def test_answers_do_not_depend_on_batch_size_or_workers():
    network, data = threshold(0.0)
    questions = [[at(share)] for share in (0.0, 0.09, 0.11)]
    one = decide(Engine(network, batch_size=7, workers=1), questions, data, 0.1, seed=3)
    assert one == decide(Engine(network, batch_size=1000, workers=2), questions, data, 0.1, seed=3)
    assert one != decide(Engine(network), questions, data, 0.1, seed=4)


def test_no_questions_have_no_answers_and_unequal_draws_are_an_error():
    network, data = threshold(0.0, 10)
    assert decide(Engine(network), [], data, 0.1) == []
    with pytest.raises(InputError, match="same number of variants"):
        decide(Engine(network), [[{}], [{}, {}]], data, 0.1)
    with pytest.raises(InputError, match="precision=2"):
        errors(Engine(network), [{}], data, precision=2)
