"""Label corruption."""

import math

import pytest
import torch

from shaketable.data import Data, corrupt_labels
from shaketable.errors import InputError


def balanced(count: int = 100, classes: int = 4) -> Data:
    return Data(torch.zeros(count, 1), torch.arange(count) % classes, classes)


@pytest.mark.parametrize("fraction", [0, 0.1, 0.337, 1])
def test_exactly_the_fraction_is_chosen_and_the_corrupted_indices_are_kept(fraction):
    data = balanced()
    noisy = corrupt_labels(data, fraction, seed=1, other=True)
    assert noisy.corrupted.tolist() == (noisy.labels != data.labels).nonzero().flatten().tolist()
    assert len(noisy.corrupted) == round(fraction * 100)
    assert noisy.corrupted.dtype == torch.int64


def test_the_data_that_was_given_stays_as_it_was_and_inputs_are_shared():
    data = balanced()
    noisy = corrupt_labels(data, 1, seed=0)
    assert torch.equal(data.labels, torch.arange(100) % 4)
    assert data.corrupted is None
    assert noisy.inputs is data.inputs


def test_labels_that_were_not_chosen_stay():
    data = balanced()
    noisy = corrupt_labels(data, 0.5, seed=3)
    rest = torch.ones(100, dtype=torch.bool)
    rest[noisy.corrupted] = False
    assert torch.equal(noisy.labels[rest], data.labels[rest])


def test_new_labels_are_uniform_over_all_classes_or_over_the_others():
    count, classes = 40_000, 4
    data = Data(torch.zeros(count, 1), torch.zeros(count, dtype=torch.int64), classes)
    for other, share in ((False, [1 / 4] * 4), (True, [0, 1 / 3, 1 / 3, 1 / 3])):
        noisy = corrupt_labels(data, 1.0, seed=0, other=other)
        found = torch.bincount(noisy.labels, minlength=classes) / count
        for frequency, expected in zip(found.tolist(), share, strict=True):
            assert abs(frequency - expected) <= 3 * math.sqrt(expected * (1 - expected) / count)


def test_corruption_repeats_with_its_seed_and_changes_with_another():
    first, again, other = (corrupt_labels(balanced(), 0.5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.labels, again.labels)
    assert torch.equal(first.corrupted, again.corrupted)
    assert not torch.equal(first.corrupted, other.corrupted)


def test_per_class_takes_the_fraction_within_every_class():
    data = Data(torch.zeros(30, 1), torch.tensor([0] * 20 + [1] * 10), 2)
    noisy = corrupt_labels(data, 0.5, seed=0, per_class=True)
    assert torch.bincount(data.labels[noisy.corrupted]).tolist() == [10, 5]


def test_a_mapping_gives_classes_fractions_of_their_own():
    data = balanced(100, 4)
    noisy = corrupt_labels(data, 0.0, seed=0, per_class={2: 0.4, 3: 1.0})
    assert torch.bincount(data.labels[noisy.corrupted], minlength=4).tolist() == [0, 0, 10, 25]
    both = corrupt_labels(data, 0.2, seed=0, per_class={2: 1.0})
    assert torch.bincount(data.labels[both.corrupted], minlength=4).tolist() == [5, 5, 25, 5]


def test_a_second_corruption_keeps_the_indices_of_the_first():
    first = corrupt_labels(balanced(), 0.2, seed=0)
    second = corrupt_labels(first, 0.2, seed=1)
    alone = corrupt_labels(balanced(), 0.2, seed=1)
    assert second.corrupted.tolist() == sorted({*first.corrupted.tolist(), *alone.corrupted.tolist()})


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_outside_of_0_to_1_is_refused(fraction):
    with pytest.raises(InputError, match="fraction"):
        corrupt_labels(balanced(), fraction, seed=0)
    with pytest.raises(InputError, match="fraction"):
        corrupt_labels(balanced(), 0.5, seed=0, per_class={1: fraction})


def test_what_cannot_be_corrupted_is_refused():
    with pytest.raises(InputError, match="class 4"):
        corrupt_labels(balanced(), 0.5, seed=0, per_class={4: 0.5})
    with pytest.raises(InputError, match="one class"):
        corrupt_labels(balanced(10, 1), 0.5, seed=0, other=True)
    with pytest.raises(InputError, match="one label per example"):
        corrupt_labels(Data(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64), 1), 0.5, seed=0)
