"""Data, Dataset and Normalisation."""

import pytest
import torch

from shaketable.data import Data, Dataset, Normalisation
from shaketable.errors import InputError


def numbered(count: int = 7) -> Data:
    """Example i has the inputs (i, 10 i) and the label i mod 3."""
    index = torch.arange(count)
    return Data(torch.stack([index, 10 * index], 1).float(), index % 3, 3)


def test_batches_cover_all_examples_in_order_and_the_last_one_is_ragged():
    batches = list(numbered().batches(3))
    assert [len(labels) for _, labels in batches] == [3, 3, 1]
    assert torch.cat([inputs for inputs, _ in batches])[:, 0].tolist() == list(range(7))
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_batches_without_an_order_share_memory_with_the_data():
    data = numbered()
    inputs, labels = list(data.batches(3))[1]
    assert inputs.data_ptr() == data.inputs[3:].data_ptr()
    assert labels.data_ptr() == data.labels[3:].data_ptr()


def test_an_order_decides_which_examples_come_when():
    batches = list(numbered().batches(2, order=torch.tensor([6, 0, 6])))
    assert [inputs[:, 0].tolist() for inputs, _ in batches] == [[6, 0], [6]]
    assert [labels.tolist() for _, labels in batches] == [[0, 0], [0]]


@pytest.mark.parametrize(
    "inputs", [(torch.arange(4), torch.arange(4) * 2), {"a": torch.arange(4), "b": torch.arange(4) * 2}]
)
def test_inputs_of_several_tensors_stay_aligned(inputs):
    data = Data(inputs, torch.zeros(4, dtype=torch.int64), 1)
    for order in (None, torch.tensor([3, 1, 0, 2])):
        for batch, _ in data.batches(3, order):
            assert type(batch) is type(inputs)
            first, second = batch.values() if isinstance(batch, dict) else batch
            assert torch.equal(second, 2 * first)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_below_one_is_refused(size):
    with pytest.raises(InputError, match="at least 1"):
        numbered().batches(size)


@pytest.mark.parametrize(
    "order", [torch.tensor([True, False]), torch.tensor([[0]]), torch.tensor([], dtype=torch.int64)]
)
def test_an_order_that_is_no_row_of_indices_is_refused(order):
    with pytest.raises(InputError, match="int64 tensor"):
        numbered().batches(2, order)


def test_a_subset_keeps_the_given_order_and_renumbers_the_corrupted():
    data = Data(torch.arange(6.0), torch.arange(6), 6, corrupted=torch.tensor([1, 4]))
    part = data.subset([4, 0, 1])
    assert part.inputs.tolist() == [4, 0, 1]
    assert part.labels.tolist() == [4, 0, 1]
    assert part.corrupted.tolist() == [0, 2]


@pytest.mark.parametrize("indices", [[7], [-1], [], torch.ones(7, dtype=torch.bool), [0.5]])
def test_a_subset_of_what_is_not_there_is_refused(indices):
    with pytest.raises(InputError):
        numbered().subset(indices)


def test_the_first_bad_label_and_its_index_are_named():
    with pytest.raises(InputError, match=r"label 5 at index 2 .* 3"):
        Data(torch.zeros(4, 1), torch.tensor([0, 1, 5, 9]), 3)
    with pytest.raises(InputError, match="label -100 at index 1"):
        Data(torch.zeros(2, 1), torch.tensor([0, -100]), 3)


def test_positions_of_a_text_may_be_ignored_with_minus_100_and_with_nothing_else():
    labels = torch.tensor([[0, -100], [2, 1]])
    assert len(Data(torch.zeros(2, 2), labels, 3)) == 2
    with pytest.raises(InputError, match=r"label -1 at index \(0, 1\)"):
        Data(torch.zeros(2, 2), torch.tensor([[0, -1], [2, 1]]), 3)


@pytest.mark.parametrize("labels", [torch.tensor([0.0, 1.0]), torch.tensor([True, False])])
def test_labels_that_are_no_integers_are_refused(labels):
    with pytest.raises(InputError, match="integers"):
        Data(torch.zeros(2, 1), labels, 2)


def test_labels_of_bytes_become_int64():
    assert Data(torch.zeros(2, 1), torch.tensor([0, 1], dtype=torch.uint8), 2).labels.dtype == torch.int64


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_are_refused_with_their_index(bad):
    inputs = torch.zeros(5000, 2)
    inputs[4321, 1] = bad
    with pytest.raises(InputError, match="example 4321"):
        Data(inputs, torch.zeros(5000, dtype=torch.int64), 1)


@pytest.mark.parametrize(
    ("inputs", "labels", "classes"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), 2),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), 2),
        ((torch.zeros(2), torch.zeros(3)), torch.zeros(2, dtype=torch.int64), 2),
        ([torch.zeros(2)], torch.zeros(2, dtype=torch.int64), 2),
        (torch.zeros(2), [0, 1], 2),
        (torch.zeros(2), torch.tensor(0), 2),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), 0),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), 2.0),
        (torch.zeros(2), torch.zeros(2, device="meta", dtype=torch.int64), 2),
    ],
)
def test_what_is_no_data_is_refused(inputs, labels, classes):
    with pytest.raises(InputError):
        Data(inputs, labels, classes)


def test_the_fingerprint_names_inputs_labels_and_classes():
    data = numbered()
    same = numbered()
    others = [
        Data(data.inputs + 1, data.labels, 3),
        Data(data.inputs, data.labels.flip(0).contiguous() % 2, 3),
        Data(data.inputs, data.labels, 4),
        data.subset([1, 0, 2, 3, 4, 5, 6]),
    ]
    assert data.fingerprint() == same.fingerprint()
    assert len({data.fingerprint(), *(other.fingerprint() for other in others)}) == 5


def test_the_fingerprint_is_taken_once(monkeypatch):
    data = numbered()
    first = data.fingerprint()
    monkeypatch.setattr("shaketable.data.data.fingerprint", lambda tensors: "taken again")
    assert data.fingerprint() == first


def test_moving_to_a_device_moves_everything():
    data = Data({"a": torch.zeros(2)}, torch.tensor([0, 1]), 2, corrupted=torch.tensor([1]))
    moved = data.to(torch.device("cpu"))
    assert moved.device == torch.device("cpu")
    assert moved.fingerprint() == data.fingerprint()
    assert moved.corrupted.tolist() == [1]


def test_normalised_images_have_mean_zero_and_deviation_one_per_channel():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5000, 2, 3, 3, generator=generator) * torch.tensor([1.0, 0.1]).reshape(1, 2, 1, 1)
    normal = Normalisation.fit(images).apply(images)
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-5, rtol=0)


def test_black_is_what_the_pixel_zero_becomes():
    normalisation = Normalisation((0.5, 0.25), (0.1, 0.5))
    torch.testing.assert_close(
        normalisation.apply(torch.zeros(1, 2, 1, 1)).flatten(), torch.tensor(normalisation.black)
    )


def test_a_constant_channel_cannot_be_normalised():
    images = torch.rand(4, 2, 3, 3)
    images[:, 1] = 0.1
    with pytest.raises(InputError, match="channel 1"):
        Normalisation.fit(images)
    with pytest.raises(InputError, match="N, C, H, W"):
        Normalisation.fit(images[0])


def test_a_dataset_tells_its_shape_and_refuses_parts_that_do_not_fit():
    data = Data(torch.zeros(2, 1, 8, 6), torch.tensor([0, 1]), 2)
    dataset = Dataset("toy", data, data.subset([0]), ("no", "yes")).to("cpu")
    assert (dataset.input_shape, dataset.classes, len(dataset.test)) == ((1, 8, 6), 2, 1)
    with pytest.raises(InputError, match="classes"):
        Dataset("toy", data, Data(data.inputs, data.labels, 3), ("no", "yes"))
    with pytest.raises(InputError, match="classes"):
        Dataset("toy", data, data, ("no",))
    several = Data((data.inputs, data.inputs), data.labels, 2)
    with pytest.raises(InputError, match="several tensors"):
        _ = Dataset("toy", several, several, ("no", "yes")).input_shape
