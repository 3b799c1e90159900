"""Prunability: the naive scan over every fraction, closed forms, and what the curve says."""

import math
from functools import cache

import polars as pl
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import shaketable as st
from shaketable.data import Data
from shaketable.engine import Engine
from shaketable.errors import InputError
from shaketable.evaluate import evaluate
from shaketable.params import snapshot
from shaketable.probes import pruning_search
from shaketable.probes.prunability import Prunability, prunability
from shaketable.probes.pruning_search import Losses, is_monotone, smallest_kept


@cache
def study() -> st.Study:
    """A small network on digits, trained for a second."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(images[:1000]), labels[:1000]).backward()
        optimiser.step()
    return st.Study(network.eval(), train=(images[:1000], labels[:1000]), test=(images[1000:], labels[1000:]))


def naive(of: st.Study, beta: float, steps: int, names: list[str], relative: bool = True) -> dict[float, bool]:
    """Every fraction by the plain loop: sort all magnitudes, zero the smallest, evaluate on all data."""
    clean = evaluate(of.network, of.final, of.data("train")).mean_loss
    flat = torch.cat([of.final[name].abs().flatten() for name in names])
    found = {}
    for step in range(steps):
        gone = round((1 - step / steps) * len(flat))
        threshold = flat.sort().values[gone - 1]
        params = {name: of.final[name] * (of.final[name].abs() > threshold) for name in names}
        loss = evaluate(of.network, {**of.final, **params}, of.data("train")).mean_loss
        found[step / steps] = loss <= (clean * (1 + beta) if relative else clean + beta)
    return found


WEIGHTS = ["0.weight", "2.weight"]


@pytest.mark.parametrize("beta", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("level", ["loop", "auto", "fused"])
def test_it_is_that_of_the_plain_loop_over_every_fraction(beta, level):
    expected = naive(study(), beta, 50, WEIGHTS)
    found = prunability(study(), beta=beta, steps=50, search="every", sparsities=None, level=level)
    assert dict(found.tests.select("kept", "holds").rows()) == expected
    smallest = min((kept for kept, holds in expected.items() if holds), default=1.0)
    assert found.summary()["prunability"][0] == smallest
    assert found.summary()["kept"][0] == 2368 - round((1 - smallest) * 2368)


@pytest.mark.parametrize("beta", [0.02, 0.1, 1.0])
def test_bisection_finds_the_same_with_a_tenth_of_the_tests(beta):
    every = prunability(study(), beta=beta, search="every", sparsities=None)
    found = prunability(study(), beta=beta, sparsities=None)
    assert found.summary()["prunability"][0] == every.summary()["prunability"][0]
    assert found.summary()["tested"][0] <= 12
    assert found.summary()["seen"][0] < 0.15 * 100 * 1000, "and a small part of the outcomes of a plain scan"


def test_all_parameters_by_the_plain_loop_and_an_absolute_tolerance():
    names = [name for name, _ in study().network.named_parameters()]
    expected = naive(study(), 0.05, 50, names, relative=False)
    found = prunability(
        study(), beta=0.05, tolerance="absolute", parameters="all", steps=50, search="every", sparsities=()
    )
    assert dict(found.tests.select("kept", "holds").rows()) == expected


def test_where_it_holds_every_example_was_seen_and_where_it_fails_the_sum_passed_the_bound():
    tests = prunability(study(), sparsities=None).tests
    held, failed = tests.filter("holds"), tests.filter(~pl.col("holds"))
    assert held["seen"].to_list() == [1000] * len(held)
    assert (held["loss"] <= held["bound"]).all()
    assert (failed["loss"] > failed["bound"]).all()
    assert failed["seen"].min() < 300, "hardest first: far from the bound few examples settle it"
    assert (held["removed"] == ((1 - held["kept"]) * 2368).round().cast(pl.Int64)).all()


def test_weights_that_do_nothing_can_all_go():
    network = nn.Linear(4, 2, bias=False).eval()
    weight = torch.zeros(2, 4)
    weight[0, 0] = weight[1, 1] = 5.0
    inputs = torch.eye(4)[:2]
    found = prunability(st.Study(network, final={"weight": weight}, train=(inputs, [0, 1])), beta=0, steps=8)
    assert found.summary()["prunability"][0] == 0.25
    assert found.summary()["kept"][0] == 2


def test_a_network_that_is_worse_than_zeros_needs_no_weight():
    network = nn.Linear(2, 2, bias=False).eval()
    wrong = st.Study(network, final={"weight": 3 * torch.eye(2)}, train=(torch.eye(2), [1, 0]))
    assert prunability(wrong, search="every", sparsities=None).summary()["prunability"][0] == 0


def test_by_layer_the_same_fraction_of_each_layer_is_kept():
    found = prunability(study(), scope="layer", sparsities=None)
    one = found.summary()["prunability"][0]
    assert found.summary()["kept"][0] == 2368 - round((1 - one) * 2048) - round((1 - one) * 320)
    assert one > prunability(study(), sparsities=None).summary()["prunability"][0]


def test_random_pruning_has_a_mean_and_a_standard_error_over_draws_and_keeps_more():
    found = prunability(study(), ["magnitude", "random"], draws=4, beta=1, sparsities=None)
    magnitude, random = found.summary().to_dicts()
    assert (magnitude["draws"], magnitude["stderr"], random["draws"]) == (1, None, 4)
    each = [
        min(tests.filter("holds")["kept"].to_list(), default=1.0)
        for _, tests in found.tests.filter(method="random").group_by("draw")
    ]
    assert random["prunability"] == pytest.approx(sum(each) / 4)
    assert random["stderr"] == pytest.approx(pl.Series(each).std() / 2)
    assert random["prunability"] > magnitude["prunability"]


def test_a_curve_that_falls_again_behind_the_bound_is_followed_and_told():
    feasible = {0.9, 0.8, 0.7, 0.6, 0.4, 0.3}
    kept, tested = smallest_kept(10, False, 3, lambda kept: kept in feasible, lambda done: None)
    assert kept == 0.3
    assert not is_monotone(tested)
    plain, tested = smallest_kept(10, False, 0, lambda kept: kept in feasible and kept != 0.5, lambda done: None)
    assert plain in (0.6, 0.3)
    assert smallest_kept(10, True, 0, lambda kept: kept in {0.9, 0.1}, lambda done: None)[0] == 0.1
    assert smallest_kept(10, False, 2, lambda kept: False, lambda done: None)[0] == 1.0
    assert smallest_kept(10, False, 2, lambda kept: True, lambda done: None)[0] == 0.0


def test_the_curve_is_that_of_the_plain_loop_and_starts_at_the_network_itself():
    found = prunability(study(), sparsities=[0, 0.5, 0.9])
    clean = {split: evaluate(study().network, study().final, study().data(split)) for split in ("train", "test")}
    rows = {(row["split"], row["sparsity"]): row for row in found.table.to_dicts()}
    assert set(rows) == {(split, sparsity) for split in clean for sparsity in (0, 0.5, 0.9)}
    for split, sums in clean.items():
        assert rows[split, 0]["loss"] == pytest.approx(sums.mean_loss, rel=1e-6)
        assert (rows[split, 0]["errors"], rows[split, 0]["size"]) == (sums.errors, 0)
        assert rows[split, 0.9]["loss"] > rows[split, 0.5]["loss"]
    flat = torch.cat([study().final[name].flatten() for name in WEIGHTS]).double()
    smallest = flat.abs().sort().values[: round(0.5 * 2368)]
    assert rows["train", 0.5]["size"] == pytest.approx(float(smallest.norm()), rel=1e-6)


def test_noise_has_the_size_of_what_pruning_removes_and_falls_on_the_same_weights(monkeypatch):
    seen = []
    sums = Engine.sums
    monkeypatch.setattr(
        Engine, "sums", lambda self, variants, *a, **k: seen.append(variants) or sums(self, variants, *a, **k)
    )
    found = prunability(study(), sparsities=[0.5, 1], noise=3, splits=["train"])
    sizes = {(row["perturbation"], row["sparsity"], row["noise_draw"]): row["size"] for row in found.table.to_dicts()}
    assert len(sizes) == 8
    for (_, sparsity, _), size in sizes.items():
        assert size == pytest.approx(sizes["pruning", sparsity, None], rel=1e-5)
    pruned, noisy = next((v[0], v[2]) for v in seen if len(v) == 8)
    for name in WEIGHTS:
        gone = pruned[name] == 0
        assert torch.equal(noisy[name][~gone], study().final[name][~gone])
        assert (noisy[name][gone] != study().final[name][gone]).all()


def test_losses_come_in_any_order_to_the_same_answer():
    data = study().data("train")
    half = {name: study().final[name] / 2 for name in WEIGHTS}
    losses = Losses(Engine(study().network, study().final), data, half)
    assert losses.clean == pytest.approx(evaluate(study().network, study().final, data).mean_loss, rel=1e-6)
    exact = evaluate(study().network, {**study().final, **half}, data).mean_loss
    for bound in (0.9 * exact, 1.1 * exact, 0.9 * exact):
        assert losses.answer(half, bound)["holds"] == (bound > exact)


def test_a_guess_from_few_examples_saves_tests_and_changes_no_answer(monkeypatch):
    plain = prunability(study(), sparsities=None)
    monkeypatch.setattr(pruning_search, "GUESSED", 100)
    guessed = prunability(study(), sparsities=None)
    assert guessed.summary()["prunability"][0] == plain.summary()["prunability"][0]
    assert len(guessed.tests) < len(plain.tests)
    assert guessed.tests["in_float32"].sum() < plain.tests["in_float32"].sum()
    assert guessed.tests.filter("holds")["seen"].to_list() == [1000] * guessed.tests["holds"].sum()


@pytest.mark.parametrize("start", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_from_any_guess_a_search_ends_where_it_ends_without(start):
    kept, tested = smallest_kept(10, False, 2, lambda kept: kept >= 0.6, lambda done: None, start)
    assert kept == 0.6
    assert dict(tested)[0.5] is False
    assert smallest_kept(10, False, 2, lambda kept: False, lambda done: None, start)[0] == 1.0
    assert smallest_kept(10, False, 2, lambda kept: True, lambda done: None, start)[0] == 0.0


def test_logits_that_are_not_finite_do_not_hold():
    network = nn.Linear(2, 2).eval()
    data = Data(torch.eye(2), torch.tensor([0, 1]), 2)
    losses = Losses(Engine(network), data, {"weight": torch.eye(2)})
    assert losses.answer({"weight": torch.full((2, 2), math.inf)}, 1e9)["holds"] is False


def test_a_finished_search_is_read_and_an_interrupted_one_goes_on(tmp_path, monkeypatch):
    asked = {"store": tmp_path, "sparsities": [0.5], "beta": 0.2}
    answer, counted = Losses.answer, []

    def interrupted(self, *arguments):
        counted.append(1)
        if len(counted) == 4:
            raise KeyboardInterrupt
        return answer(self, *arguments)

    monkeypatch.setattr(Losses, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prunability(study(), **asked)
    found = prunability(study(), **asked)
    assert len(counted) == len(found.tests) + 1, "three tests were kept, and one was interrupted"
    before = len(counted)
    again = prunability(study(), **asked)
    assert len(counted) == before
    assert again.table.equals(found.table)
    assert again.tests.equals(found.tests)
    assert Prunability.load(next(tmp_path.glob("*/provenance.json")).parent).summary().equals(found.summary())
    whole = prunability(study(), sparsities=[0.5], beta=0.2)
    assert whole.tests.select("kept", "holds", "removed").equals(found.tests.select("kept", "holds", "removed"))


def test_a_language_model_is_pruned_by_its_loss_per_token():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)).eval()
    tokens = torch.randint(5, (30, 6))
    labels = tokens.clone()
    labels[:, 0] = -100
    of = st.Study(network, train=(tokens, labels))
    losses = Losses(Engine(network), of.data("train"), {"0.weight": torch.ones(5, 4), "1.weight": torch.ones(5, 4)})
    assert losses.examples == 150
    assert losses.clean == pytest.approx(evaluate(network, of.final, of.data("train")).mean_loss, rel=1e-6)
    found = prunability(of, beta=0.5, steps=20, search="every", sparsities=None)
    names = ["0.weight", "1.weight"]
    assert dict(found.tests.select("kept", "holds").rows()) == naive(of, 0.5, 20, names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": "l1"}, r"methods=\['l1'\]"),
        ({"methods": []}, r"methods=\[\]"),
        ({"beta": -1}, "beta=-1"),
        ({"tolerance": "ratio"}, "tolerance='ratio'"),
        ({"steps": 0}, "steps=0"),
        ({"search": "linear"}, "search='linear'"),
        ({"sparsities": [1.5]}, "sparsities: 1.5 is out of range"),
        ({"noise": -1}, "noise=-1"),
        ({"draws": 0, "methods": "random"}, "draws=0"),
        ({"split": "valid"}, "no valid data"),
        ({"scope": "channel"}, "scope='channel'"),
    ],
)
def test_bad_arguments_are_one_clear_error(arguments, message):
    with pytest.raises(InputError, match=message):
        prunability(study(), **arguments)


def test_the_network_and_its_weights_stay_as_they_were():
    before = snapshot(study().network)
    prunability(study(), ["magnitude", "random"], noise=1, sparsities=[0.5], draws=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(study().network).items())
