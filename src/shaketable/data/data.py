"""Examples as tensors: `Data` (inputs and labels), `Dataset` (train and test), and their normalisation."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shaketable.errors import InputError
from shaketable.forward import Inputs, map_inputs, tensors_of
from shaketable.identity import fingerprint

if TYPE_CHECKING:
    from shaketable.data.text import Tokenizer

IGNORED = -100  # the label of a position that a language model is not scored on, as in torch's cross_entropy
_PART = 256  # examples that are looked at together: their float64 copy fits a cache


@dataclass(frozen=True, eq=False)
class Data:
    """Examples with their labels, checked once, all on one device.

    Args:
        inputs: a tensor [N, ...], or a tuple or dict of such tensors (passed on as positional or keyword arguments).
        labels: integers in [0, classes) [N], or [N, T] for language models, where -100 marks what is not scored.
        classes: the number of classes.
        corrupted: sorted indices [K] of the examples whose label was redrawn, or None where nothing was done to labels.

    Raises:
        InputError: no examples, lengths or devices that differ, a label that is no class, inputs with NaN or infinity.

    Example:
        >>> data = Data(torch.eye(3), torch.tensor([0, 1, 1]), classes=2)
        >>> len(data), [labels.tolist() for _, labels in data.batches(2)]
        (3, [[0, 1], [1]])
    """

    inputs: Inputs
    labels: Tensor
    classes: int
    corrupted: Tensor | None = None

    def __post_init__(self) -> None:
        _check_inputs(self.inputs, self.labels)
        _check_labels(self.labels, self.classes)
        object.__setattr__(self, "labels", self.labels.long())
        if self.corrupted is not None:
            _check_indices(self.corrupted, len(self), "corrupted")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where the examples are."""
        return self.labels.device

    def to(self, device: torch.device | str) -> "Data":
        """The same examples on a device."""
        corrupted = None if self.corrupted is None else self.corrupted.to(device)
        inputs = map_inputs(lambda tensor: tensor.to(device), self.inputs)
        return Data(inputs, self.labels.to(device), self.classes, corrupted)

    def subset(self, indices: Tensor | Sequence[int]) -> "Data":
        """The examples at these indices [K] in [0, N), in this order; `corrupted` is renumbered to match."""
        chosen = torch.as_tensor(indices, device=self.device)
        _check_indices(chosen, len(self), "indices")
        inputs = map_inputs(lambda tensor: tensor.index_select(0, chosen), self.inputs)
        corrupted = None if self.corrupted is None else torch.isin(chosen, self.corrupted).nonzero().flatten()
        return Data(inputs, self.labels.index_select(0, chosen), self.classes, corrupted)

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        """Pairs (inputs, labels) of ``size`` examples, the last one smaller where N is not a multiple.

        Args:
            size: examples in a batch, at least 1.
            order: indices [K] of the examples to go through, in this order; without it all examples in their own
                order, as slices that share memory with the data.

        Raises:
            InputError: a size below 1, or an order that is empty or not int64.
        """
        if size < 1:
            raise InputError(f"the batch size must be at least 1, and {size} was given.")
        if order is None:
            return self._slices(size)
        if order.dtype != torch.int64 or order.ndim != 1 or not len(order):
            raise InputError(
                f"order must be an int64 tensor [K] of indices, K at least 1, not {order.dtype} {list(order.shape)}."
            )
        return self._selections(order.to(self.device).split(size))

    def _slices(self, size: int) -> Iterator[tuple[Inputs, Tensor]]:
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield map_inputs(lambda tensor, part=part: tensor[part], self.inputs), self.labels[part]

    def _selections(self, parts: Sequence[Tensor]) -> Iterator[tuple[Inputs, Tensor]]:
        for part in parts:
            inputs = map_inputs(lambda tensor, part=part: tensor.index_select(0, part), self.inputs)
            yield inputs, self.labels.index_select(0, part)

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that name inputs, labels and number of classes, whatever device they are on."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(tensors_of(self.inputs) | {"labels": self.labels, "classes": torch.tensor(self.classes)})


@dataclass(frozen=True)
class Normalisation:
    """One mean and one standard deviation per channel.

    Example:
        >>> images = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
        >>> normalisation = Normalisation.fit(images)
        >>> normalisation.mean, normalisation.std, normalisation.apply(images).flatten().tolist(), normalisation.black
        ((0.5,), (0.5,), [-1.0, 1.0], (-1.0,))
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, images: Tensor) -> "Normalisation":
        """Mean and population standard deviation over all pixels of images [N, C, H, W], per channel.

        Summed in float64 and rounded to nine digits (float32 holds seven), so that the number of threads changes nothing.

        Raises:
            InputError: a channel has the same value everywhere, or the images are not [N, C, H, W].
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise InputError(f"images must be floating-point [N, C, H, W], not {images.dtype} {list(images.shape)}.")
        constant = images.amin((0, 2, 3)) == images.amax((0, 2, 3))
        if bool(constant.any()):
            channel = int(constant.nonzero()[0])
            raise InputError(
                f"channel {channel} is the same in every pixel and cannot be normalised; use normalise=False."
            )
        parts = images.split(_PART)
        pixels = images.numel() // images.shape[1]
        mean = torch.stack([part.double().sum((0, 2, 3)) for part in parts]).sum(0) / pixels
        centre = mean.reshape(1, -1, 1, 1)
        squares = torch.stack([(part.double() - centre).square().sum((0, 2, 3)) for part in parts]).sum(0)
        return cls(_rounded(mean), _rounded((squares / pixels).sqrt()))

    def apply(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] minus the mean, over the standard deviation."""
        mean, std = (images.new_tensor(value).reshape(1, -1, 1, 1) for value in (self.mean, self.std))
        return (images - mean).div_(std)

    @property
    def black(self) -> tuple[float, ...]:
        """What the raw pixel 0 becomes, per channel: what augmentation fills with."""
        return tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test examples of one task, with the normalisation that was applied to both (None where none was).

    A text has its tokenizer; its ``class_names`` are the pieces.
    """

    name: str
    train: Data
    test: Data
    class_names: tuple[str, ...]
    normalisation: Normalisation | None = None
    tokenizer: "Tokenizer | None" = None

    def __post_init__(self) -> None:
        counts = {self.train.classes, self.test.classes, len(self.class_names)}
        if len(counts) > 1:
            raise InputError(
                f"{self.name}: train has {self.train.classes} classes, test {self.test.classes}, "
                f"and {len(self.class_names)} names were given; make them equal."
            )

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.train.classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example, e.g. (3, 32, 32)."""
        if not isinstance(self.train.inputs, Tensor):
            raise InputError(f"{self.name}: an example is made of several tensors, so it has no single shape.")
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device | str) -> "Dataset":
        """The same examples on a device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def _rounded(values: Tensor) -> tuple[float, ...]:
    """Nine significant digits of each value."""
    return tuple(float(f"{value:.9g}") for value in values.tolist())


def _check_inputs(inputs: Inputs, labels: Tensor) -> None:
    """Tensors of one length on one device, with finite values."""
    if not isinstance(inputs, Tensor | tuple | Mapping):
        raise InputError(f"inputs must be a tensor, or a tuple or dict of tensors, not {type(inputs).__name__}.")
    if not isinstance(labels, Tensor):
        raise InputError(f"labels must be a tensor, not {type(labels).__name__}; as_data() takes arrays and lists.")
    tensors = tensors_of(inputs)
    if not tensors or labels.ndim == 0 or not len(labels):
        raise InputError("there are no examples; give at least one.")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise InputError(f"{name} must be a tensor, not {type(tensor).__name__}; as_data() takes arrays and lists.")
        if tensor.ndim == 0 or len(tensor) != len(labels):
            raise InputError(
                f"{name} has the shape {list(tensor.shape)} and there are {len(labels)} labels; give as many of both."
            )
        if tensor.device != labels.device:
            raise InputError(
                f"{name} is on {tensor.device} and the labels are on {labels.device}; move them to one device."
            )
        if tensor.is_floating_point():
            finite = torch.cat(
                [part.isfinite().reshape(len(part), math.prod(part.shape[1:])).all(1) for part in tensor.split(_PART)]
            )
            if not bool(finite.all()):
                raise InputError(
                    f"{name} of example {int((~finite).nonzero()[0])} holds NaN or infinity; clean the data first."
                )


def _check_labels(labels: Tensor, classes: int) -> None:
    """Integers in [0, classes), or -100 where there is a label per position."""
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"labels must be integers (class numbers from 0), not {labels.dtype}.")
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise InputError(f"the number of classes must be a whole number from 1, and {classes!r} was given.")
    labels = labels.long()  # unsigned bytes cannot be compared with -100
    bad = (labels < 0) | (labels >= classes)
    if labels.ndim > 1:
        bad &= labels != IGNORED
    if bool(bad.any()):
        where = bad.nonzero()[0].tolist()
        index = where[0] if len(where) == 1 else tuple(where)
        raise InputError(
            f"label {int(labels[tuple(where)])} at index {index} is no class: there are {classes}, numbered from 0."
        )


def _check_indices(indices: Tensor, length: int, name: str) -> None:
    """One row of integers in [0, length)."""
    if indices.dtype not in (torch.int64, torch.int32) or indices.ndim != 1:
        if indices.numel() == 0:
            raise InputError(f"{name} is empty; give at least one index.")
        raise InputError(f"{name} must be integers [K], not {indices.dtype} {list(indices.shape)}.")
    bad = (indices < 0) | (indices >= length)
    if bool(bad.any()):
        raise InputError(f"{name} holds {int(indices[bad][0])}, and there are {length} examples, numbered from 0.")
