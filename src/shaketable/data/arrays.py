"""Arrays of the user's own in a `.npz` file."""

import zipfile
from pathlib import Path

import numpy as np
from torch import Tensor

from shaketable.data.convert import as_data
from shaketable.errors import InputError

KEYS = ("train_inputs", "train_labels", "test_inputs", "test_labels")

Split = tuple[Tensor, Tensor]


def read_npz(path: Path) -> tuple[Split, Split, int]:
    """The training and test split of a `.npz` file, and the number of classes (the largest label of both, plus one).

    Arrays are read without pickles and taken as :func:`shaketable.data.as_data` takes them: floating-point inputs as they
    are, bytes divided by 255.

    Raises:
        InputError: no such file, no arrays in it, an array that is missing, or arrays that are no data.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give a .npz file with {', '.join(KEYS)}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file]
            arrays = {key: file[key] for key in KEYS if key in file}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path}: cannot be read as a .npz file of plain arrays ({error}).") from error
    if missing:
        raise InputError(
            f"{path}: holds no {' and no '.join(missing)}; save it with numpy.savez and {', '.join(KEYS)}."
        )
    splits = []
    for split in ("train", "test"):
        try:
            splits.append(as_data((arrays[f"{split}_inputs"], arrays[f"{split}_labels"])))
        except InputError as error:
            raise InputError(f"{path}, {split}: {error}") from error
    (train, test), classes = [(data.inputs, data.labels) for data in splits], max(data.classes for data in splits)
    return train, test, classes
