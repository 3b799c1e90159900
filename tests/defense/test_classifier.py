"""Randomised classifiers against the network with the blocks in place that were drawn."""

import pytest
import torch
from tests.defense.conftest import BLOCKS, noise, replaced
from torch import nn

from shaketable.data import Data
from shaketable.data.data import Normalisation
from shaketable.defense import (
    Normalised,
    RandomisedClassifier,
    pixels,
    randomised_accuracy,
)
from shaketable.errors import InputError
from shaketable.identity import fingerprint
from shaketable.networks import build
from shaketable.study import Study


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


def test_a_classifier_that_cannot_be_randomised_is_refused(study):
    for arguments, message in (({"r": 0}, "r=0"), ({"s": 3}, "from 0 to 2"), ({"s": -1}, "s=-1")):
        with pytest.raises(InputError, match=message):
            RandomisedClassifier(study, **arguments)
    with pytest.raises(InputError, match="no residual blocks"):
        RandomisedClassifier(Study(build("fcn-1x4", (3,), 2)))
    classifier = RandomisedClassifier(study)
    with pytest.raises(InputError, match="need \\[2, 5\\]"), classifier.fixed(torch.zeros(1, 5)):
        classifier(torch.zeros(2, 1, 6, 6))
