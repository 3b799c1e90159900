"""as_data and from_huggingface."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from shaketable.data import Data, as_data, from_huggingface, load
from shaketable.errors import InputError

datasets = pytest.importorskip("datasets")
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), dtype=np.uint8)


class Items(Dataset):
    """A torch data set over a list."""

    def __init__(self, items, classes=None):
        self.items = items
        if classes:
            self.classes = classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_data_is_given_back_as_it_is():
    data = Data(torch.zeros(2, 1), torch.tensor([0, 1]), 2)
    assert as_data(data) is data
    assert as_data(data, classes=5).classes == 5


def test_a_pair_of_tensors_keeps_types_and_finds_the_number_of_classes():
    inputs = torch.zeros(3, 2, dtype=torch.float64)
    data = as_data((inputs, torch.tensor([0, 4, 1])))
    assert data.inputs is inputs
    assert data.classes == 5


def test_bytes_become_pixels_between_0_and_1_and_numpy_doubles_become_float32():
    assert torch.equal(as_data((PIXELS, [0] * 5)).inputs, torch.from_numpy(PIXELS).float() / 255)
    assert as_data((np.full((5, 2), 0.1), np.zeros(5, np.int32))).inputs.dtype == torch.float32
    assert as_data((np.arange(5), np.zeros(5, np.int32))).inputs.dtype == torch.int64


def test_changing_an_array_afterwards_does_not_change_the_data():
    array = np.zeros((2, 2), np.float32)
    data = as_data((array, [0, 1]))
    array[:] = 1
    assert float(data.inputs.sum()) == 0


def test_a_dict_of_arrays_and_labels_per_position_are_data():
    data = as_data(
        ({"input_ids": np.arange(6).reshape(2, 3), "mask": np.ones((2, 3), bool)}, np.array([[1, 2, -100]] * 2))
    )
    assert data.inputs["mask"].dtype == torch.bool
    assert data.classes == 3


def test_a_torch_dataset_is_read_in_its_order():
    inputs, labels = torch.rand(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    data = as_data(TensorDataset(inputs, labels))
    assert torch.equal(data.inputs, inputs)
    assert torch.equal(data.labels, labels)
    assert data.classes == 3


def test_an_iterable_dataset_is_gone_through_once():
    class Stream(IterableDataset):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter([(torch.tensor([1.0]), 1), (torch.tensor([2.0]), 0)])

    stream = Stream()
    assert as_data(stream).inputs.flatten().tolist() == [1, 2]
    assert stream.passes == 1


def test_pil_images_become_channels_first_pixels_between_0_and_1():
    colour = as_data(Items([(Image.fromarray(pixels), 0) for pixels in PIXELS]))
    assert torch.equal(colour.inputs, torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255)
    grey = as_data(Items([(Image.fromarray(pixels[..., 0]), 0) for pixels in PIXELS]))
    assert torch.equal(grey.inputs, torch.from_numpy(PIXELS[:, None, :, :, 0]).float() / 255)
    assert as_data(Items([(Image.new("RGBA", (3, 4)), 0)])).inputs.shape == (1, 3, 4, 3)


@pytest.mark.parametrize("form", [lambda x: (x, 2 * x), lambda x: {"a": x, "b": 2 * x}])
def test_items_with_several_inputs_are_stacked_each(form):
    data = as_data(Items([(form(torch.tensor([float(i)])), i) for i in range(3)]))
    first, second = data.inputs.values() if isinstance(data.inputs, dict) else data.inputs
    assert first.tolist() == [[0], [1], [2]]
    assert torch.equal(second, 2 * first)


def test_the_classes_of_a_data_set_count_and_the_argument_counts_more():
    items = Items([(torch.zeros(1), 0)], classes=["a", "b", "c"])
    assert as_data(items).classes == 3
    assert as_data(items, classes=4).classes == 4


@pytest.mark.parametrize(
    ("obj", "problem"),
    [
        (3, "int cannot be read"),
        (Items([]), "no items"),
        (Items([torch.zeros(1)]), "item 0"),
        (Items([(torch.zeros(1), 0), (torch.zeros(2), 0)]), r"example 1 has the shape \[2\]"),
        (Items([(torch.zeros(1), [0, 1]), (torch.zeros(1), [0])]), "label of example 1"),
        (Items([(Image.new("I;16", (2, 2)), 0)]), "I;16"),
        (Items([("text", 0)]), "no numbers"),
        ((torch.zeros(2), ["a", "b"]), "no numbers"),
        ((torch.zeros(2), [0.0, 1.0]), "integers"),
        (([[1, 2], [3]], [0, 1]), "different lengths"),
        ((torch.zeros(2), [0]), "1 labels"),
    ],
)
def test_what_is_no_data_is_refused(obj, problem):
    with pytest.raises(InputError, match=problem):
        as_data(obj)


def test_a_dataset_of_ours_has_to_be_given_by_part():
    with pytest.raises(InputError, match=r"dataset\.train"):
        as_data(load("digits", train_examples=20, test_examples=20))


def hugging_face(**columns) -> "datasets.Dataset":
    return datasets.Dataset.from_dict(columns)


def test_a_hugging_face_data_set_of_images_is_read():
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    images = [Image.fromarray(pixels) for pixels in PIXELS]
    dataset = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0, 1, 0]}, features=features)
    data = as_data(dataset)
    assert torch.equal(data.inputs, torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255)
    assert data.labels.tolist() == [0, 1, 0, 1, 0]
    assert data.classes == 3


def test_hugging_face_columns_of_numbers_are_read_and_several_become_a_dict():
    dataset = hugging_face(x=[[0.5, 1.0], [1.5, 2.0]], ids=[[1, 2], [3, 4]], target=[1, 0])
    one = from_huggingface(dataset, input="x", label="target")
    assert one.inputs.tolist() == [[0.5, 1.0], [1.5, 2.0]]
    assert one.inputs.dtype == torch.float32
    both = from_huggingface(dataset, input=("x", "ids"), label="target", classes=4)
    assert both.inputs["ids"].tolist() == [[1, 2], [3, 4]]
    assert both.classes == 4


def test_a_hugging_face_data_set_that_does_not_fit_is_refused():
    dataset = hugging_face(x=[[1.0], [2.0, 3.0]], label=[0, 1])
    with pytest.raises(InputError, match="no column 'image'; the columns are x, label"):
        from_huggingface(dataset)
    with pytest.raises(InputError):
        from_huggingface(dataset, input="x")
    with pytest.raises(InputError, match="several splits"):
        as_data(datasets.DatasetDict({"train": dataset, "test": dataset}))
    with pytest.raises(InputError, match="without streaming"):
        as_data(dataset.to_iterable_dataset())


def test_without_the_extra_the_way_to_install_it_is_named(monkeypatch):
    dataset = hugging_face(x=[[1.0]], label=[0])
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'shaketable\[huggingface\]'"):
        as_data(dataset)
