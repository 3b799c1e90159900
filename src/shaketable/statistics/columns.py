"""Columns of numbers and of hyper-parameters, one entry a network, checked."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shaketable.errors import InputError

Values = Sequence[float] | np.ndarray
"""One number a network: a list, an array, a tensor on the CPU, a column of a data frame."""

HyperParameters = Mapping[str, Sequence[Any]]
"""By name, the value that each network was trained with: numbers, texts or truth values."""

CELLS = 1000
"""Combinations of values of two hyper-parameters beyond which hardly two networks share one."""


def numbers(values: Any, name: str) -> np.ndarray:
    """A column of two or more numbers in float64, none of them NaN."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} holds something that is not a number: {error}.") from error
    if found.ndim != 1 or len(found) < 2:
        raise InputError(f"{name} has shape {list(found.shape)}; give a column of two or more numbers.")
    if np.isnan(found).any():
        where = int(np.isnan(found).argmax())
        raise InputError(f"{name}[{where}] is missing or NaN and has no rank; leave that network out of both columns.")
    return found


def two_columns(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two columns of equal length."""
    one, other = numbers(x, "x"), numbers(y, "y")
    if len(one) != len(other):
        raise InputError(f"x has {len(one)} numbers and y has {len(other)}; give one of each per network.")
    return one, other


def finite(column: np.ndarray, name: str) -> np.ndarray:
    """A column without infinite numbers."""
    if not np.isfinite(column).all():
        where = int((~np.isfinite(column)).argmax())
        raise InputError(f"{name}[{where}] is infinite, and no line fits that; take logarithms or leave it out.")
    return column


def codes(hyperparameters: HyperParameters, networks: int) -> dict[str, np.ndarray]:
    """Each hyper-parameter as whole numbers from 0, in the order of its values."""
    if not isinstance(hyperparameters, Mapping) or not hyperparameters:
        raise InputError("hyperparameters: give at least one, as a mapping from names to columns.")
    found = {}
    for name, column in hyperparameters.items():
        values = np.asarray(column)
        if values.shape != (networks,):
            raise InputError(
                f"hyper-parameter {name!r} has shape {list(values.shape)}; give one value for each of {networks} networks."
            )
        try:
            found[name] = np.unique(values, return_inverse=True)[1]
        except TypeError as error:
            raise InputError(
                f"hyper-parameter {name!r} mixes values that have no order ({error}); give one kind."
            ) from error
    return found


def joined(columns: Sequence[np.ndarray], networks: int) -> np.ndarray:
    """One code for each combination of values that occurs, from 0; all 0 without columns."""
    found = np.zeros(networks, dtype=np.int64)
    for column in columns:
        found = np.unique(found * (int(column.max()) + 1) + column, return_inverse=True)[1]
    return found
