"""Margins in bfloat16: what they decide is what float32 decides, and what is near a tie is float32's own."""

import pytest
import torch
from torch import Tensor, nn

from shaketable.engine import removals
from shaketable.engine.margins import Margins, margins
from shaketable.engine.removals import Removals
from shaketable.intervene import ablated, site_of
from shaketable.params import snapshot


def test_a_margin_is_the_label_less_the_highest_other_logit_and_logits_are_left_as_they_were():
    logits = torch.tensor([[1.0, -4, 2], [3, 3, 0], [torch.nan, 0, 1]])
    before = logits.clone()
    margin, largest = margins(logits, torch.tensor([2, 0, 1]))
    assert margin[:2].tolist() == [1.0, 0.0]
    assert largest[:2].tolist() == [4.0, 3.0]
    assert margin[2].isnan()
    assert torch.equal(logits.nan_to_num(9), before.nan_to_num(9))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_decisions_are_those_of_float32_and_few_rows_are_asked_there():
    weight, states = normal(64, 10, seed=0), normal(5000, 64, seed=1)
    labels = torch.randint(10, (5000,), generator=torch.Generator().manual_seed(2))
    asked: list[int] = []

    def exact(made: Tensor, rows: Tensor) -> Tensor:
        asked.append(len(made))
        return made @ weight

    found = Margins(exact, lambda made, rows: made.bfloat16() @ weight.bfloat16())
    margin, _ = found.of(states, torch.arange(5000), labels)
    truth, _ = margins(states @ weight, labels)
    assert torch.equal(margin > 0, truth > 0)
    assert 0 < found.error < 0.05
    assert sum(asked) < 1000
    rough, _ = margins((states.bfloat16() @ weight.bfloat16()), labels)
    assert not torch.equal(rough > 0, truth > 0)  # there is something to put right


def test_an_error_far_from_every_tie_is_seen_as_well():
    """Only rows of large margins are rough: those nearest to a tie show nothing of it."""
    gaps = torch.linspace(0.01, 5, 1000)
    states = torch.stack([gaps, torch.zeros(1000)], 1)
    off = torch.where(torch.arange(1000) >= 500, 10.0, 0.0)
    found = Margins(lambda made, rows: made.clone(), lambda made, rows: torch.stack([made[:, 0] - off, made[:, 1]], 1))
    margin, _ = found.of(states, torch.arange(1000), torch.zeros(1000, dtype=torch.int64))
    assert torch.equal(margin, gaps)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_where_the_rough_answer_is_not_a_number_all_rows_are_of_float32(value):
    states, labels = normal(100, 3, seed=0), torch.zeros(100, dtype=torch.int64)
    found = Margins(lambda made, rows: made.clone(), lambda made, rows: torch.full_like(made, value))
    assert torch.equal(found.of(states, torch.arange(100), labels)[0], margins(states, labels)[0])


def test_curves_by_bfloat16_are_those_of_the_naive_loop_behind_hidden_layers_and_in_the_suffix(monkeypatch):
    monkeypatch.setattr(Removals, "_rounding_pays", lambda self, base: True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(2, 12, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(48, 16),
            nn.ReLU(),
            nn.Linear(16, 4),
        ).eval()
        x = torch.randn(12, 2, 6, 6)
    labels = network(x).argmax(1)
    labels[::3] = (labels[::3] + 1) % 4
    site = site_of(network, "0", x)
    order = torch.stack([normal(12, seed=seed).argsort() for seed in range(len(x))])
    truth = torch.zeros(len(x), 13, dtype=torch.bool)
    for row in range(len(x)):
        for kept in range(13):
            with torch.no_grad(), ablated(network, site, order[row, kept:]):
                truth[row, kept] = network(x[row : row + 1]).argmax(1)[0] == labels[row]
    for way in ("sum", "suffix"):
        made = Removals(network, snapshot(network), site, x, way=way)
        assert made.rounds
        assert torch.equal(made.right(made.record(x), labels, [order])[0], truth)
        assert not Removals(network, snapshot(network), site, x, way=way, precision="float32").rounds


def test_what_has_no_bfloat16_is_computed_in_float32(monkeypatch):
    class Typed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.relu, self.two, self.three = nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.three(self.two(self.relu(self.one(x))).relu().to(torch.float64).to(torch.float32))

    monkeypatch.setattr(removals, "bfloat16_gain", lambda: 10.0)
    network, x = Typed().eval(), normal(4, 3, seed=0)
    made = Removals(network, snapshot(network), site_of(network, "one", x), x)
    assert made.way == "sum"
    assert not made.rounds
