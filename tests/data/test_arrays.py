"""Arrays of the user's own in a .npz file, and normalisation by numbers that the user knows."""

import numpy as np
import pytest
import torch

from shaketable.data import load
from shaketable.errors import InputError


def saved(path, **changes):
    arrays = {"train_inputs": np.eye(4, dtype="float32"), "train_labels": np.arange(4)}
    arrays |= {"test_inputs": np.ones((2, 4)), "test_labels": np.array([3, 0])} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return str(path)


def test_arrays_of_ones_own_are_taken_as_they_are(tmp_path):
    dataset = load(saved(tmp_path / "mine.npz"))
    assert torch.equal(dataset.train.inputs, torch.eye(4))
    assert dataset.test.inputs.dtype == torch.float32
    assert (dataset.name, dataset.classes, dataset.normalisation) == ("mine", 4, None)


def test_images_of_ones_own_can_be_padded_normalised_and_cut_to_fewer(tmp_path):
    images = np.random.default_rng(0).normal(3, 2, (40, 2, 4, 4))
    path = saved(
        tmp_path / "i.npz",
        train_inputs=images,
        train_labels=np.arange(40) % 4,
        test_inputs=images[:8],
        test_labels=np.arange(8) % 4,
    )
    dataset = load(path, normalise=True, pad=1, train_examples=20)
    assert dataset.train.inputs.shape == (20, 2, 6, 6)
    assert dataset.train.inputs.mean((0, 2, 3)).abs().max() < 1e-5


def test_means_and_deviations_that_the_user_knows_are_used_as_they_are():
    plain, given = load(normalise=False), load(normalise=[[0.5], [0.25]])
    assert torch.allclose(given.test.inputs, (plain.test.inputs - 0.5) / 0.25)
    assert given.normalisation.black == (-2.0,)


@pytest.mark.parametrize(
    "normalise", [[[0.5]], [[0.5, 0.5], [1, 1]], [[0.5], [0]], "yes", 3, [["a"], [1]], [[float("nan")], [1]]]
)
def test_normalisation_that_does_not_fit_the_channels_is_one_clear_error(normalise):
    with pytest.raises(InputError, match="one per channel"):
        load(normalise=normalise)


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/shaketable-must-not-exist", "w"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "holds no test_labels"),
        ({"test_labels": np.array([3, -1])}, "test: .*-1"),
        ({"train_inputs": np.zeros((0, 4)), "train_labels": np.zeros(0, int)}, "train: there are no examples"),
        ({"train_inputs": np.full((4, 4), np.nan)}, "train: .*NaN"),
        ({"train_inputs": np.array([Evil()] * 4)}, "cannot be read as a .npz file of plain arrays"),
    ],
)
def test_a_file_that_is_no_data_is_one_clear_error(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        load(saved(tmp_path / "bad.npz", **changes))


def test_a_missing_or_damaged_file_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        load(str(tmp_path / "gone.npz"))
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match="cannot be read as a .npz file"):
        load(str(tmp_path / "text.npz"))
    with pytest.raises(InputError, match="pad=1 is for images"):
        load(saved(tmp_path / "flat.npz"), pad=1)
