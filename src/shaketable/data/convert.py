"""Data from what people have: tensors, arrays, torch data sets, Hugging Face data sets."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from shaketable.data.data import Data, Dataset
from shaketable.errors import InputError
from shaketable.forward import Inputs, map_inputs
from shaketable.progress import progress


def as_data(obj: Any, classes: int | None = None) -> Data:
    """Examples with labels, from tensors or arrays, a torch data set, or a Hugging Face data set.

    Inputs of unsigned bytes are taken for pixels and become float32 in [0, 1]; NumPy arrays of float64 become float32;
    PIL images become [C, H, W]. Other tensors keep their type and form. Nothing is normalised.

    Args:
        obj: a `Data`; a pair (inputs, labels) of tensors or arrays, where inputs may be a tuple or dict of them; a
            ``torch.utils.data.Dataset`` with items (input, label), which is gone through once; a ``datasets.Dataset``
            with columns ``image`` and ``label`` (others: `from_huggingface`).
        classes: the number of classes; where it is left out, the length of the data set's ``classes``, or else the
            largest label plus 1.

    Returns:
        `Data` on the device of the tensors that were given (CPU for all else).

    Raises:
        InputError: another kind of object, no examples, examples of different shapes, or what `Data` refuses.

    Cost:
        One pass over a data set, and all of it in memory.

    Example:
        >>> import numpy as np
        >>> data = as_data((np.zeros((4, 1, 8, 8)), [0, 1, 2, 1]))
        >>> data.inputs.dtype, data.inputs.shape, data.classes
        (torch.float32, torch.Size([4, 1, 8, 8]), 3)
    """
    if isinstance(obj, Data):
        return obj if classes in (None, obj.classes) else replace(obj, classes=classes)
    if isinstance(obj, Dataset):
        raise InputError(f"{obj.name} is a Dataset with a train and a test part; give one of them, e.g. dataset.train.")
    if _from_module(obj, "datasets"):
        return from_huggingface(obj, classes=classes)
    if isinstance(obj, tuple) and len(obj) == 2:
        inputs, labels = obj
        return _data(map_inputs(_finished, _map(_tensor, inputs)), _labels(labels), classes)
    if isinstance(obj, IterableDataset):
        items, total = obj, 0
    elif hasattr(obj, "__getitem__") and hasattr(obj, "__len__"):
        items, total = (obj[index] for index in range(len(obj))), len(obj)
    else:
        raise InputError(
            f"a {type(obj).__name__} cannot be read as data; give a pair (inputs, labels) of tensors, a torch Dataset "
            "with items (input, label), or a Hugging Face data set."
        )
    names = getattr(obj, "classes", None)
    if classes is None and isinstance(names, Sequence):
        classes = len(names)
    return _data(*_collected(items, total), classes)


def from_huggingface(
    dataset: Any,
    input: str | Sequence[str] = "image",  # noqa: A002
    label: str = "label",
    classes: int | None = None,
) -> Data:
    """Examples with labels from one split of a Hugging Face data set (a ``datasets.Dataset``).

    Args:
        dataset: one split, e.g. ``datasets.load_dataset(name, split="train")``.
        input: the column with images or numbers, or several columns, which become a dict of inputs by these names.
        label: the column with the labels.
        classes: the number of classes; where it is left out, that of the column where it is a ``ClassLabel``, or
            else the largest label plus 1.

    Raises:
        InputError: the extra is not installed, several splits at once, a column that does not exist, or examples of
            different shapes.

    Cost:
        One pass, and all of it in memory.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError("Hugging Face data sets need an extra: pip install 'shaketable[huggingface]'.") from error
    if isinstance(dataset, dict):
        raise InputError(f"this holds several splits ({', '.join(dataset)}); give one of them, e.g. dataset['train'].")
    if not isinstance(dataset, datasets.Dataset):
        raise InputError(
            f"a datasets.Dataset is needed, not {type(dataset).__name__}; load it with a split and without streaming."
        )
    names = [input] if isinstance(input, str) else list(input)
    for name in (*names, label):
        if name not in dataset.column_names:
            raise InputError(f"there is no column {name!r}; the columns are {', '.join(dataset.column_names)}.")
    if classes is None and isinstance(dataset.features[label], datasets.ClassLabel):
        classes = dataset.features[label].num_classes
    columns = {name: _column(dataset, name) for name in names}
    inputs = columns[input] if isinstance(input, str) else columns
    return _data(inputs, _labels(dataset.with_format("numpy")[label][:]), classes)


def _column(dataset: Any, name: str) -> Tensor:
    """One column as a tensor: images one by one, numbers at once."""
    import datasets

    if isinstance(dataset.features[name], datasets.Image):
        rows = dataset.select_columns([name])
        with progress(f"reading {name}", len(rows)) as advance:
            images = []
            for row in rows:
                images.append(_tensor(row[name]))
                advance()
            return _finished(_stacked(images))
    return _finished(_tensor(dataset.with_format("numpy")[name][:]))


def _collected(items: Iterable[Any], total: int) -> tuple[Inputs, Tensor]:
    """Inputs and labels of all items, stacked."""
    inputs: list[Any] = []
    labels: list[Tensor] = []
    with progress("reading the data set", total) as advance:
        for index, item in enumerate(items):
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise InputError(f"item {index} of the data set is a {type(item).__name__}, not a pair (input, label).")
            inputs.append(_map(_tensor, item[0]))
            labels.append(_labels(item[1]))
            advance()
    if not inputs:
        raise InputError("the data set has no items; give at least one example.")
    first = inputs[0]
    if isinstance(first, dict):
        stacked: Inputs = {name: _stacked([example[name] for example in inputs]) for name in first}
    elif isinstance(first, tuple):
        stacked = tuple(_stacked([example[place] for example in inputs]) for place in range(len(first)))
    else:
        stacked = _stacked(inputs)
    return map_inputs(_finished, stacked), _stacked(labels, "the label of example")


def _data(inputs: Inputs, labels: Tensor, classes: int | None) -> Data:
    """Data, with the number of classes found in the labels where nobody gave it."""
    if classes is None:
        integers = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
        classes = max(1, int(labels.max()) + 1) if labels.numel() and integers else 1
    return Data(inputs, labels, classes)


def _map(function: Any, inputs: Any) -> Any:
    """Apply a function to one input, or to each of a tuple or dict of inputs."""
    return map_inputs(function, inputs) if isinstance(inputs, tuple | dict) else function(inputs)


def _tensor(value: Any) -> Tensor:
    """One input as a tensor; pixels stay bytes until they are stacked."""
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "getbands"):  # a PIL image, told without importing PIL
        if value.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            raise InputError(f"an image has the mode {value.mode!r}; convert the images to 'L' or 'RGB'.")
        grey = value.mode in ("1", "L", "LA")
        pixels = np.array(value.convert("L" if grey else "RGB"))
        return torch.from_numpy(pixels).unsqueeze(0) if grey else torch.from_numpy(pixels).permute(2, 0, 1)
    array = _array(value, "inputs")
    if array.dtype == np.float64:
        return torch.from_numpy(array.astype(np.float32))
    return torch.from_numpy(array.astype(np.int64) if array.dtype in (np.uint16, np.uint32, np.uint64) else array)


def _labels(value: Any) -> Tensor:
    """Labels as a tensor of the type that they have."""
    return value if isinstance(value, Tensor) else torch.from_numpy(_array(value, "labels"))


def _array(value: Any, what: str) -> np.ndarray:
    """A new array of numbers."""
    try:
        array = np.array(value)
    except ValueError as error:
        raise InputError(f"the {what} are of different lengths ({error}); pad them to one shape.") from error
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"{what} of type {type(value).__name__} ({array.dtype}) are no numbers; give tensors or arrays."
        )
    return array


def _finished(tensor: Tensor) -> Tensor:
    """Unsigned bytes as float32 in [0, 1]; anything else as it is."""
    return tensor.float().div_(255) if tensor.dtype == torch.uint8 else tensor


def _stacked(tensors: list[Tensor], what: str = "example") -> Tensor:
    """One tensor [N, ...] of N tensors of one shape."""
    for index, tensor in enumerate(tensors):
        if tensor.shape != tensors[0].shape:
            raise InputError(
                f"{what} {index} has the shape {list(tensor.shape)} and {what} 0 has {list(tensors[0].shape)}; "
                "make all of one shape, e.g. with a transform that resizes or pads."
            )
    return torch.stack(tensors)


def _from_module(obj: Any, package: str) -> bool:
    """Whether an object's class is defined in a package, which need not be installed."""
    return type(obj).__module__.partition(".")[0] == package
