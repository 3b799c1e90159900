"""Attacks against closed forms, and against themselves."""

import sys

import polars as pl
import pytest
import torch
from tests.defense.conftest import noise, replaced
from torch import nn
from torch.nn.functional import cross_entropy

from shaketable.data import Data
from shaketable.data.data import Normalisation
from shaketable.defense import (
    Normalised,
    RandomisedClassifier,
    adversarial_examples,
    attack_summary,
    attack_table,
)
from shaketable.errors import InputError
from shaketable.identity import fingerprint, generator_from


class Linear(nn.Module):
    """Two classes, logits W x."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.weight = nn.Parameter(scale * torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 3.0]], dtype=torch.float64))

    def forward(self, inputs):
        return inputs @ self.weight.T


INPUTS = [[0.5, 0.5, 0.5], [0.02, 0.98, 0.5], [0.9, 0.1, 0.0]]
LABELS = [0, 1, 0]


def three(dtype=torch.float64):
    return Data(torch.tensor(INPUTS, dtype=dtype), torch.tensor(LABELS), 2)


def corner(eps):
    """Against a linear network of two classes: towards the other class in every coordinate, as far as is allowed."""
    data, weight = three(), Linear().weight.detach()
    away = torch.stack([weight[1 - label] - weight[label] for label in LABELS])
    return (data.inputs + eps * away.sign()).clamp(0, 1)


@pytest.mark.usefixtures("captum")
@pytest.mark.parametrize("scale", [1.0, 40.0])  # at 40 margins are up to 166, and gradients 1e-71
def test_fgsm_and_pgd_against_a_linear_network_end_in_the_corner_of_the_ball(scale):
    network, data = Linear(scale).eval(), three()
    fgsm = adversarial_examples(network, data, "fgsm", eps=0.05)
    torch.testing.assert_close(fgsm, corner(0.05))
    for start in (True, False):
        moved = adversarial_examples(
            network, data, "pgd", eps=0.05, steps=8, step_size=0.02, random_start=start, batch_size=2
        )
        torch.testing.assert_close(moved, corner(0.05))


@pytest.mark.usefixtures("captum")
def test_pgd_without_steps_enough_is_where_its_steps_lead():
    moved = adversarial_examples(Linear().eval(), three(), "pgd", eps=0.05, steps=2, step_size=0.01, random_start=False)
    torch.testing.assert_close(moved, corner(0.02))


@pytest.mark.usefixtures("captum")
@pytest.mark.parametrize("draws", [1, 3])
def test_the_gradient_is_the_mean_over_the_draws_of_each_example(study, data, draws):
    classifier = RandomisedClassifier(study, r=3, s=2)
    moved = adversarial_examples(classifier, data, "fgsm", eps=0.03, gradient_draws=draws, seed=7, batch_size=5)
    sums = torch.zeros_like(data.inputs)
    for draw in range(draws):
        choices = classifier.draw(len(data), generator_from(7, "repeat", 0, "gradient", 0, draw))
        for i, row in enumerate(choices):
            logits = replaced(study, classifier, row)
            sums[i] += torch.func.grad(lambda image, f=logits, y=data.labels[i]: cross_entropy(f(image), y))(
                data.inputs[i]
            )
    torch.testing.assert_close(moved, (data.inputs + 0.03 * sums.sign()).clamp(0, 1))


@pytest.mark.usefixtures("captum")
def test_a_budget_of_0_equals_clean(study, data):
    models = {"plain": study.network, "random": RandomisedClassifier(study, s=2)}
    table = attack_table(models, data, eps=0.0, steps=2, repeats=2)
    assert table.height == 2 * 3 * 2
    assert table["accuracy"].equals(table["clean_accuracy"].alias("accuracy"))
    assert table.filter(model="plain")["accuracy"].unique().to_list() == [1.0]
    assert table.filter(model="random", attack="clean")["accuracy"].max() < 1


@pytest.mark.usefixtures("captum")
def test_pgd_is_at_least_as_strong_as_fgsm_and_both_stay_in_the_ball_and_the_bounds(study, data):
    with torch.no_grad():
        images = noise(60, 1, 6, 6, seed=5)
        many = Data(images, study.network(images).argmax(1), 3)
    eps = 0.1
    correct = {}
    for attack in ("fgsm", "pgd"):
        moved = adversarial_examples(study.network, many, attack, eps=eps, steps=20, step_size=0.02)
        assert float((moved - images).abs().max()) <= eps + 1e-12
        assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
        with torch.no_grad():
            logits = study.network(moved)
        correct[attack] = int((logits.argmax(1) == many.labels).sum())
    assert correct["pgd"] <= correct["fgsm"] < 60
    table = attack_table(study.network, many, eps=eps, steps=20, step_size=0.02, repeats=1)
    found = dict(table.select("attack", "correct").rows())
    assert found == {"clean": 60, **correct}
    assert table["status"].unique().to_list() == ["ok"]


@pytest.mark.usefixtures("captum")
def test_pgd_that_one_step_of_fgsm_beats_is_suspect(study):
    with torch.no_grad():
        images = noise(60, 1, 6, 6, seed=5)
        many = Data(images, study.network(images).argmax(1), 3)
    table = attack_table(study.network, many, eps=0.3, steps=1, step_size=1e-6, random_start=False, repeats=2)
    rows = {attack: set(part["status"]) for (attack,), part in table.group_by("attack")}
    assert rows == {"clean": {"ok"}, "fgsm": {"ok"}, "pgd": {"suspect"}}
    assert "more steps" in attack_summary(table).filter(attack="pgd")["reason"][0]


@pytest.mark.usefixtures("captum")
def test_the_table_repeats_exactly_whatever_the_batch_size_and_leaves_everything_alone(study, data):
    classifier = RandomisedClassifier(study, s=2)
    before, state = fingerprint(classifier.state_dict()), torch.get_rng_state()
    tables = [
        attack_table(classifier, data, eps=0.05, steps=3, examples=7, repeats=3, gradient_draws=2, batch_size=size)
        for size in (2, 7)
    ]
    assert tables[0].equals(tables[1])
    assert tables[0]["examples"].to_list() == [12] * 3 + [7] * 6
    assert fingerprint(classifier.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("captum")
def test_an_attack_that_is_named_twice_is_one_attack(study, data):
    few = {"eps": 0.05, "repeats": 2}
    twice = attack_table(study.network, data, attacks=("fgsm", "fgsm"), **few)
    assert twice.equals(attack_table(study.network, data, attacks=("fgsm",), **few))


def test_the_summary_is_mean_and_standard_deviation_over_repeats():
    row = {"model": "m", "attack": "fgsm", "eps": 0.1, "examples": 10, "clean_accuracy": 0.9, "reason": None}
    rows = [row | {"accuracy": accuracy, "status": "ok"} for accuracy in (0.2, 0.4, 0.6)]
    keys = {"steps": None, "step_size": None, "gradient_draws": 1}
    found = attack_summary(pl.DataFrame([r | keys for r in rows], schema_overrides={"reason": pl.String}))
    assert found["accuracy"].to_list() == pytest.approx([0.4])
    assert found["accuracy_std"].to_list() == pytest.approx([0.2])
    assert found["repeats"].to_list() == [3]


@pytest.mark.usefixtures("captum")
def test_a_randomised_classifier_is_found_inside_of_a_normalisation(study, data):
    identity = Normalisation((0.0,), (1.0,))
    classifier = RandomisedClassifier(study, s=2)
    arguments = {"eps": 0.05, "steps": 2, "repeats": 2}
    inside = attack_table({"m": Normalised(classifier, identity)}, data, **arguments)
    assert inside.equals(attack_table({"m": classifier}, data, **arguments))


@pytest.mark.usefixtures("captum")
def test_logits_that_are_not_finite_are_a_row_that_says_so():
    class Broken(Linear):
        def forward(self, inputs):
            return super().forward(inputs) / (inputs[:, :1] > 0.1)

    table = attack_table(Broken().eval(), three(), eps=0.01, steps=1, repeats=1)
    assert table["status"].to_list() == ["not finite"] * 3
    assert table["correct"][0] < 3
    assert "1 answers" in table["reason"][0]


BAD = [
    ({"eps": -0.1}, "eps=-0.1: a budget must lie between 0 and 1"),
    ({"eps": 1.5}, "eps=1.5: a budget must lie between 0 and 1"),
    ({"eps": float("nan")}, "eps=nan"),
    ({"eps": 0.6, "bounds": (0.0, 0.5)}, "beyond bounds"),
    ({"steps": 0}, "steps=0"),
    ({"step_size": 0.0}, "step_size=0.0"),
    ({"bounds": (1.0, 0.0)}, "lowest and the highest"),
    ({"bounds": (0.0, float("inf"))}, "lowest and the highest"),
    ({"attacks": ("cw",)}, "attack 'cw' is unknown; use one of fgsm, pgd"),
    ({"gradient_draws": 0}, "gradient_draws=0"),
    ({"repeats": 0}, "repeats=0"),
    ({"examples": True}, "examples=True"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"models": {}}, "no models"),
    ({"data": Data(torch.tensor([[-1.0, 0.0, 2.0]]), torch.tensor([0]), 2)}, "give raw pixels"),
    ({"data": Data(torch.tensor([[1, 2, 3]]), torch.tensor([0]), 2)}, "floating-point"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message for _, message in BAD])
def test_what_makes_no_sense_is_refused_in_one_sentence(changes, message):
    arguments = {"models": Linear().eval(), "data": three(), "eps": 0.1} | changes
    with pytest.raises(InputError, match=message) as caught:
        attack_table(arguments.pop("models"), arguments.pop("data"), **arguments)
    assert "\n" not in str(caught.value)


def test_without_captum_an_attack_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.robust", None)
    with pytest.raises(InputError, match="pip install 'shaketable\\[attacks\\]'"):
        adversarial_examples(Linear().eval(), three(), "fgsm", eps=0.1)
