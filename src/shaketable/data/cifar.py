"""The files of CIFAR-10 and CIFAR-100: Python batches (pickles, read without running their code) and binary batches."""

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shaketable.errors import InputError

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


class _Bytes:
    """Stands in for a pickled array of unsigned bytes: keeps its shape and content, runs none of numpy's unpickling."""

    def __init__(self, *_: object) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _Type) or fortran or not isinstance(content, bytes):
            raise InputError("an array in it is not of unsigned bytes in C order")
        self.array = np.frombuffer(content, np.uint8).reshape(shape)


class _Type:
    """Stands in for the pickled type of an array, which must be unsigned bytes."""

    def __init__(self, name: object, *_: object) -> None:
        if name not in ("u1", b"u1", "uint8", b"uint8"):
            raise InputError(f"an array in it has the type {name!r}, not unsigned bytes")

    def __setstate__(self, state: object) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Gives out stand-ins for the four names that a pickled array needs, and refuses every other one."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return lambda *_: _Bytes()
        if (module, name) == ("numpy", "ndarray"):
            return None  # only ever the first argument of _reconstruct
        if (module, name) == ("numpy", "dtype"):
            return lambda *arguments: _Type(*arguments)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, _: text.encode("latin1")
        raise InputError(f"it asks for {module}.{name}, which no CIFAR file needs, and may be malicious")


def unpickle(content: bytes, name: str) -> dict[str, Any]:
    """The dict in a CIFAR batch: its keys as text, arrays as uint8, and no code of the file is run.

    Raises:
        InputError: the pickle names anything but arrays of bytes, or is cut short, or holds no dict.
    """
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(batch, dict):
            raise InputError("it holds no dict")
        decoded = {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in batch.items()}
        return {key: value.array if isinstance(value, _Bytes) else value for key, value in decoded.items()}
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{name}: refused as a CIFAR batch ({error}); delete it and fetch it again.") from error


def read_python(labels_key: str) -> Callable[[Sequence[tuple[str, bytes]]], tuple[Tensor, Tensor]]:
    """A reader of Python batches, whose labels are under ``labels_key``."""

    def read(files: Sequence[tuple[str, bytes]]) -> tuple[Tensor, Tensor]:
        images, labels = [], []
        for name, content in files:
            batch = unpickle(content, name)
            data, classes = batch.get("data"), batch.get(labels_key)
            if (
                not isinstance(data, np.ndarray)
                or not isinstance(classes, list)
                or data.shape != (len(classes), PIXELS)
            ):
                raise InputError(
                    f"{name}: does not hold `data` [N, {PIXELS}] and N `{labels_key}`; delete it and fetch it again."
                )
            if not all(isinstance(label, int) for label in classes):
                raise InputError(f"{name}: a label in `{labels_key}` is not an integer; delete it and fetch it again.")
            images.append(data.reshape(-1, *SHAPE))
            labels += classes
        return torch.from_numpy(np.concatenate(images)), torch.tensor(labels, dtype=torch.int64)

    return read


def read_binary(label_bytes: int) -> Callable[[Sequence[tuple[str, bytes]]], tuple[Tensor, Tensor]]:
    """A reader of binary batches: records of ``label_bytes`` labels, the last of which counts, and 3072 pixels."""

    def read(files: Sequence[tuple[str, bytes]]) -> tuple[Tensor, Tensor]:
        records = []
        for name, content in files:
            if not content or len(content) % (label_bytes + PIXELS):
                raise InputError(
                    f"{name}: has {len(content)} bytes, which is no multiple of the {label_bytes + PIXELS} of one "
                    "record; it is cut short or damaged: delete it and fetch it again."
                )
            records.append(np.frombuffer(content, np.uint8).reshape(-1, label_bytes + PIXELS))
        whole = np.concatenate(records)
        images = np.ascontiguousarray(whole[:, label_bytes:]).reshape(-1, *SHAPE)
        return torch.from_numpy(images), torch.from_numpy(whole[:, label_bytes - 1].astype(np.int64))

    return read
