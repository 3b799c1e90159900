"""Regressions from measures to the gap, each fitted to plain numbers that a file can hold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_type_hints

import msgspec
import numpy as np

from shaketable.errors import InputError

T = TypeVar("T")
Model = Literal["linear", "ridge", "boosting"]
PENALTIES = np.logspace(-4, 4, 33)
"""From which ridge regression chooses, on columns of variance 1."""
BOOSTING = {"n_estimators": 100, "max_depth": 2, "learning_rate": 0.1}
"""Of gradient boosting: the arguments of scikit-learn that are not its defaults, or are said for clarity."""


@dataclass(frozen=True)
class Linear:
    """A weighted sum of the columns and a constant."""

    coefficients: tuple[float, ...]
    intercept: float

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Of columns [n, p] the estimates [n]."""
        return np.asarray(x, dtype=np.float64) @ np.array(self.coefficients) + self.intercept


@dataclass(frozen=True)
class Tree:
    """One regression tree: of each node the column it asks for, the threshold, both children (-1: a leaf), and the value."""

    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Of columns [n, p] in float32, as scikit-learn compares them, the values of the leaves [n]."""
        feature, left, right = np.array(self.feature), np.array(self.left), np.array(self.right)
        threshold, node = np.array(self.threshold), np.zeros(len(x), dtype=np.int64)
        while (inner := left[node] >= 0).any():
            below = x[np.arange(len(x)), np.where(inner, feature[node], 0)] <= threshold[node]
            node = np.where(inner, np.where(below, left[node], right[node]), node)
        return np.array(self.value)[node]


@dataclass(frozen=True)
class Boosted:
    """A constant and a weighted sum of regression trees."""

    baseline: float
    rate: float
    trees: tuple[Tree, ...]

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Of columns [n, p] the estimates [n]."""
        single = np.asarray(x, dtype=np.float32)
        return self.baseline + self.rate * np.sum([tree.predict(single) for tree in self.trees], axis=0)


Fitted = Linear | Boosted


def fitted(model: Model, x: np.ndarray, y: np.ndarray, seed: int = 0) -> Fitted:
    """A regression of ``y`` on the columns of ``x``.

    Args:
        model: ``"linear"`` (least squares), ``"ridge"`` (least squares with a penalty on the squared coefficients of columns of
            variance 1; the penalty of least leave-one-out error of 33 from 1e-4 to 1e4), or ``"boosting"`` (gradient boosting of 100
            trees of depth 2, at a rate of 0.1).
        x: [n, p].
        y: [n].
        seed: of gradient boosting, which breaks ties between equal splits by drawing.

    Raises:
        InputError: an unknown model, NaN, one value of y alone, or not more networks than coefficients (trees: than columns).

    Example:
        >>> fitted("linear", np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0])).predict(np.array([[3.0]])).round(6)
        array([7.])
    """
    if model not in MODELS:
        raise InputError(f"model={model!r}: give one of {', '.join(MODELS)}.")
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise InputError("there is a NaN or an infinite number among the measures or gaps; leave that network out.")
    networks, columns = x.shape
    if networks <= columns + 1:
        raise InputError(
            f"{networks} networks are too few to fit {columns + 1} coefficients; train more networks, or take fewer measures."
        )
    if np.ptp(y) == 0:
        raise InputError(
            f"all {networks} networks have the same gap, {y[0]:g}: there is nothing to estimate; train networks with gaps that "
            "differ, for example with corrupted labels."
        )
    return MODELS[model](x, y, seed)


def _scaled(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns of mean 0 and variance 1 (0 where constant), the means, and the standard deviations (1 where constant)."""
    centre, spread = x.mean(0), x.std(0)
    spread = np.where(spread > 1e-12 * np.abs(x).max(0), spread, 1)
    return (x - centre) / spread, centre, spread


def _unscaled(weights: np.ndarray, centre: np.ndarray, spread: np.ndarray, y: np.ndarray) -> Linear:
    """The linear model of weights that were found on scaled columns and centred y."""
    slopes = weights / spread
    return Linear(tuple(map(float, slopes)), float(y.mean() - slopes @ centre))


def _least_squares(x: np.ndarray, y: np.ndarray, seed: int) -> Linear:
    """Least squares; of columns that depend on each other, the smallest coefficients."""
    scaled, centre, spread = _scaled(x)
    return _unscaled(np.linalg.lstsq(scaled, y - y.mean(), rcond=None)[0], centre, spread, y)


def _ridge(x: np.ndarray, y: np.ndarray, seed: int) -> Linear:
    """Ridge regression."""
    from sklearn.linear_model import RidgeCV

    scaled, centre, spread = _scaled(x)
    found = RidgeCV(alphas=PENALTIES).fit(scaled, y)  # leaves out of the mean what it leaves out
    return _unscaled(np.asarray(found.coef_), centre, spread, y)


def _boosting(x: np.ndarray, y: np.ndarray, seed: int) -> Boosted:
    """Gradient boosting, its trees as plain numbers."""
    from sklearn.ensemble import GradientBoostingRegressor

    found = GradientBoostingRegressor(**BOOSTING, random_state=seed % 2**32).fit(x, y)
    trees = [one.tree_ for one in found.estimators_[:, 0]]
    return Boosted(
        float(y.mean()),
        BOOSTING["learning_rate"],
        tuple(
            Tree(
                tuple(map(int, one.feature)),
                tuple(map(float, one.threshold)),
                tuple(map(int, one.children_left)),
                tuple(map(int, one.children_right)),
                tuple(map(float, one.value[:, 0, 0])),
            )
            for one in trees
        ),
    )


MODELS: dict[str, Callable[[np.ndarray, np.ndarray, int], Fitted]] = {
    "linear": _least_squares,
    "ridge": _ridge,
    "boosting": _boosting,
}


def typed(kind: type[T], values: Mapping[str, Any], **made: Any) -> T:
    """A dataclass from plain values, each strictly of the type of its field; ``made`` are fields that are there already."""
    hints = get_type_hints(kind)
    return kind(
        **{name: msgspec.convert(value, hints[name]) for name, value in values.items() if name not in made} | made
    )


def of_plain(values: Mapping[str, Any], columns: int) -> Fitted:
    """What ``dataclasses.asdict`` made of a model that was fitted on so many columns, from JSON."""
    if "coefficients" in values:
        found = typed(Linear, values)
        if len(found.coefficients) != columns:
            raise ValueError(f"{len(found.coefficients)} coefficients of {columns} measures")
        return found
    found = typed(Boosted, values)
    for tree in found.trees:
        for node, (feature, _, *children, _) in enumerate(zip(*vars(tree).values(), strict=True)):
            forward = feature >= 0 and all(node < child < len(tree.value) for child in children)
            if not -2 <= feature < columns or not (forward or children == [-1, -1]):
                raise ValueError("a tree leads nowhere")
    return found
