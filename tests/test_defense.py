"""Randomised classifiers against the network with replaced weights; attacks against closed forms; the self-checks."""

import os
import sys

import polars as pl
import pytest
import torch
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
    pixels,
    randomised_accuracy,
)
from shaketable.errors import InputError
from shaketable.identity import fingerprint, generator_from
from shaketable.networks import build
from shaketable.study import Study

BLOCKS = ["stage1.resblk1", "stage1.resblk2", "stage1.resblk3", "stage2.resblk1", "stage2.resblk2"]


@pytest.fixture(scope="session")
def captum():
    """The library of the attacks; without it as for ``data_root``."""
    if os.environ.get("SHAKETABLE_REQUIRE_DATA") != "1":
        pytest.importorskip("captum")


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def study():
    """A small ResN with stages of three and two blocks, in float64, trained by chance."""
    network = build("resn-3-2-bn", (1, 6, 6), 3, width=0.06, init="kaiming-normal").double()
    init = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        for number, (name, value) in enumerate(network.state_dict().items()):
            if value.is_floating_point():
                value += 0.5 * (noise(*value.shape, seed=number) - (0 if "var" in name else 0.5))
        network.final_linear.bias -= network(noise(60, 1, 6, 6, seed=5)).mean(0)  # each class is somebody's
    return Study(network, init=init)


@pytest.fixture(scope="module")
def data(study):
    """Images, with the labels that the network gives them, so that it has no errors."""
    images = noise(12, 1, 6, 6, seed=99)
    with torch.no_grad():
        return Data(images, study.network(images).argmax(1), 3)


def replaced(study, classifier, choices):
    """The logits function of the study's network with the chosen weight sets in place, by torch.func."""
    weights = dict(study.final)
    for block, choice, number in zip(BLOCKS, classifier._choices, choices.tolist(), strict=True):
        for name, value in choice.variants[number].state_dict().items():
            weights[f"{block}.{name}"] = value
    return lambda image: torch.func.functional_call(study.network, weights, image[None])[0]


def test_each_example_is_answered_by_the_network_with_the_blocks_replaced_that_were_drawn_for_it(study, data):
    classifier = RandomisedClassifier(study, r=3, s=2)
    choices = classifier.draw(len(data), torch.Generator().manual_seed(0))
    assert len(choices.unique(dim=0)) > 3
    with classifier.fixed(choices):
        logits = classifier(data.inputs)
    expected = [replaced(study, classifier, row)(x) for row, x in zip(choices, data.inputs, strict=True)]
    torch.testing.assert_close(logits, torch.stack(expected))
    assert not torch.allclose(logits, study.network(data.inputs))


def test_without_randomised_stages_it_is_the_network(study, data):
    assert torch.equal(RandomisedClassifier(study, r=4, s=0)(data.inputs), study.network(data.inputs))


def test_weight_sets_are_fresh_draws_and_running_statistics_stay_as_trained(study):
    classifier = RandomisedClassifier(study, r=2, s=1)
    for block, choice in zip(BLOCKS, classifier._choices, strict=True):
        states = [variant.state_dict() for variant in choice.variants]
        assert len(states) == 3
        for name, trained in states[0].items():
            assert torch.equal(trained, study.final[f"{block}.{name}"])
            if "running" in name:
                assert torch.equal(states[1][name], trained)
            elif name.endswith("conv1.weight"):
                assert len({fingerprint({"w": state[name]}) for state in states}) == 3


def test_weight_sets_have_the_variance_of_the_initial_distribution():
    classifier = RandomisedClassifier(Study(build("resn-2", (1, 6, 6), 3, init="kaiming-normal")), r=1, s=1)
    weight = classifier._choices[0].variants[1].conv1.weight
    assert weight.square().mean().item() == pytest.approx(2 / (64 * 9), rel=3 * (2 / weight.numel()) ** 0.5)


def test_s_stages_are_drawn_each_with_one_block_and_all_blocks_and_sets_are_equally_likely(study):
    for s in (1, 2):
        classifier = RandomisedClassifier(study, r=4, s=s)
        count = 20_000
        choices = classifier.draw(count, torch.Generator().manual_seed(s))
        by_stage = torch.stack([(choices[:, :3] > 0).sum(1), (choices[:, 3:] > 0).sum(1)], 1)
        assert int(by_stage.max()) == 1
        assert (by_stage.sum(1) == s).all()
        for column in range(5):
            for number in (1, 2, 3, 4):
                rate = s / 2 / (3 if column < 3 else 2) / 4
                seen = float((choices[:, column] == number).double().mean())
                assert seen == pytest.approx(rate, abs=4 * (rate * (1 - rate) / count) ** 0.5)  # 40 comparisons


def test_calls_differ_until_it_is_reseeded_and_the_network_and_the_random_state_are_left_alone(study, data):
    before, state = fingerprint(study.network.state_dict()), torch.get_rng_state()
    classifier = RandomisedClassifier(study, seed=3)
    first, second = classifier(data.inputs), classifier(data.inputs)
    assert not torch.equal(first, second)
    classifier.reseed(3)
    assert torch.equal(classifier(data.inputs), first)
    assert torch.equal(RandomisedClassifier(study, seed=3)(data.inputs), first)
    assert fingerprint(study.network.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_the_accuracy_does_not_depend_on_the_batch_size_and_repeats_differ(study, data):
    classifier = RandomisedClassifier(study, s=2)
    tables = [randomised_accuracy(classifier, data, repeats=8, batch_size=size) for size in (1, 5, 12)]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    assert tables[0]["correct"].n_unique() > 1
    plain = randomised_accuracy(study.network, data, repeats=2)
    assert plain["accuracy"].to_list() == [1.0, 1.0]


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
            loss = lambda image, f=logits, y=data.labels[i]: cross_entropy(f(image), y)  # noqa: E731
            sums[i] += torch.func.grad(loss)(data.inputs[i])
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


def test_the_summary_is_mean_and_standard_deviation_over_repeats():
    row = {"model": "m", "attack": "fgsm", "eps": 0.1, "examples": 10, "clean_accuracy": 0.9, "reason": None}
    rows = [row | {"accuracy": accuracy, "status": "ok"} for accuracy in (0.2, 0.4, 0.6)]
    keys = {"steps": None, "step_size": None, "gradient_draws": 1}
    found = attack_summary(pl.DataFrame([r | keys for r in rows], schema_overrides={"reason": pl.String}))
    assert found["accuracy"].to_list() == pytest.approx([0.4])
    assert found["accuracy_std"].to_list() == pytest.approx([0.2])
    assert found["repeats"].to_list() == [3]


def test_pixels_and_the_normalisation_in_the_network_undo_each_other():
    raw = noise(4, 2, 3, 3).float()
    normalisation = Normalisation.fit(raw)
    data = Data(normalisation.apply(raw), torch.zeros(4, dtype=torch.long), 2)
    torch.testing.assert_close(pixels(data, normalisation).inputs, raw, rtol=0, atol=1e-6)
    assert pixels(data, None) is data
    network = nn.Sequential(nn.Flatten(), nn.Linear(18, 2)).eval()
    torch.testing.assert_close(Normalised(network, normalisation)(raw), network(data.inputs))
    with pytest.raises(InputError, match="not in \\[0, 1\\]"):
        pixels(data, Normalisation((0.0, 0.0), (1.0, 1.0)))


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


def test_a_classifier_that_cannot_be_randomised_is_refused(study):
    for arguments, message in (({"r": 0}, "r=0"), ({"s": 3}, "from 0 to 2"), ({"s": -1}, "s=-1")):
        with pytest.raises(InputError, match=message):
            RandomisedClassifier(study, **arguments)
    with pytest.raises(InputError, match="no residual blocks"):
        RandomisedClassifier(Study(build("fcn-1x4", (3,), 2)))
    classifier = RandomisedClassifier(study)
    with pytest.raises(InputError, match="need \\[2, 5\\]"), classifier.fixed(torch.zeros(1, 5)):
        classifier(torch.zeros(2, 1, 6, 6))


def test_without_captum_an_attack_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.robust", None)
    with pytest.raises(InputError, match="pip install 'shaketable\\[attacks\\]'"):
        adversarial_examples(Linear().eval(), three(), "fgsm", eps=0.1)
