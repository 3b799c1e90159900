"""The estimator: regressions fitted on a zoo, with all that an interval needs, in one JSON file."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import polars as pl

from shaketable import __version__
from shaketable.errors import InputError
from shaketable.estimators.estimate import FEATURES, Estimate
from shaketable.estimators.features import (
    Feature,
    architecture,
    check_features,
    columns_of,
    covered,
    data_set,
    values_of,
)
from shaketable.estimators.models import Model, typed
from shaketable.estimators.regression import Interval, Regression, regression
from shaketable.evaluate import evaluate, guessing
from shaketable.files import write_text
from shaketable.probes.stored import facts_of
from shaketable.study import Study
from shaketable.training import Recipe
from shaketable.zoo import TARGETS

KIND, SCHEMA = "shaketable estimator", 1
"""Of the file."""


@dataclass(frozen=True)
class Estimator:
    """A model of the gap that was fitted on the networks of a zoo; made by :func:`fit`.

    Attributes:
        target: what it estimates: the gap, or another column of the zoo's table.
        features: the measures that it looks at.
        regression: of the target on them, with what an interval needs.
        coverage: of the interval, in (0, 1).
        networks: how many networks it rests on.
        covers: the ``architectures`` and ``data`` of the zoo as texts; empty where nobody said.
        provenance: when and by what it was fitted, and the range of the target.
    """

    target: str
    features: tuple[Feature, ...]
    regression: Regression
    coverage: float
    networks: int
    covers: dict[str, list[str]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Estimates and both ends of their intervals [n, 3] of measures [n, p], in the order of ``features``.

        Raises:
            InputError: another number of measures, or NaN among them.
        """
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != len(self.features):
            raise InputError(
                f"x has shape {list(x.shape)}; give the {len(self.features)} measures of each network, [n, p]."
            )
        if not np.isfinite(x).all():
            network, place = map(int, np.argwhere(~np.isfinite(x))[0])
            raise InputError(
                f"{self.features[place].measure} of network {network} is NaN or infinite; there is no estimate for it."
            )
        return self.regression.predict(x, self.coverage)

    def estimate(self, study: Study, strict: bool = False, command: str | None = None) -> Estimate:
        """The estimated gap of a network, from its training data alone.

        A network at chance (see :func:`shaketable.evaluate.guessing`) has learnt nothing that could be lost on new data: the first
        warning says so, and ``statement()`` says that in the place of the estimate.

        Args:
            study: with training data.
            strict: refuse a network at chance, or one that lies outside of what the zoo covered (architecture, data set, range of the
                measures), instead of a warning with the estimate.
            command: what the user typed.

        Raises:
            InputError: a measure that cannot be taken, or with ``strict`` a network outside.

        Cost: that of the measures, and a pass over the training data.
        """
        values = values_of(study, self.features)
        value, low, high = self.predict(values[None])[0].tolist()
        rows = [
            (one.measure, one.logarithm, here, one.low, one.high, one.low <= here <= one.high)
            for one, here in zip(self.features, values.tolist(), strict=True)
        ]
        table = pl.DataFrame(rows, schema=FEATURES, orient="row")
        data = {"train": study.data("train")}
        rests = {name: getattr(self, name) for name in ("target", "networks", "covers")}
        rests |= {name: getattr(self.regression, name) for name in ("model", "interval", "error")}
        rests |= {f"estimator_{name}": one for name, one in self.provenance.items() if name != "command"}
        chance = _at_chance(study)
        facts = facts_of(study, data, command=command) | rests | {"at_chance": bool(chance)}
        warnings = (*chance, *self._outside(study), *_out_of_range(table))
        found = Estimate(value, low, high, self.coverage, table, warnings, facts)
        return found.refuse_outside() if strict else found

    def _outside(self, study: Study) -> list[str]:
        """Sentences on an architecture or data set that the zoo did not have, or that nobody knows."""
        recipe = study.provenance.get("recipe")
        known = Recipe.from_dict(recipe) if recipe else None
        said = []
        for what, name, of in (("architecture", "architectures", architecture), ("data set", "data", data_set)):
            has = self.covers.get(name) or []
            if not has or known is None:
                said.append(f"Whether the zoo had this {what} is not known.")
            elif of(known) not in has:
                said.append(f"The zoo had no network of the {what} {of(known)}; it had {', '.join(has)}.")
        return said

    def _check(self) -> None:
        """Raise where numbers are of the right types and make no estimate, or none that a report can tell of."""
        self.predict(np.array([[one.low for one in self.features]]))
        if self.target not in TARGETS or not math.isfinite(self.regression.error):
            raise ValueError(f"the error of {self.target!r} is {self.regression.error}")
        if not all(isinstance(self.provenance.get(end), float) for end in ("lowest", "highest")):
            raise ValueError("the range of the target is not told")

    def save(self, path: str | Path) -> Path:
        """Write it as one JSON file."""
        path = Path(path).expanduser()
        text = json.dumps({"schema": SCHEMA, "kind": KIND, **asdict(self)}, allow_nan=False)
        write_text(path, text + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote; nothing in the file is executed.

        Raises:
            InputError: no such file, a damaged one, one of another version, or with measures that there are not here.
        """
        path = Path(path).expanduser()
        try:
            values = msgspec.json.decode(path.read_bytes())
            kind, schema = values.pop("kind"), values.pop("schema")
        except (OSError, msgspec.DecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{path}: this estimator cannot be read ({error}); make one with `shaketable zoo fit`."
            ) from error
        if kind != KIND or schema != SCHEMA:
            raise InputError(
                f"{path}: this is {kind!r} of schema {schema}, and this version reads an estimator of schema {SCHEMA}; fit it anew with "
                "`shaketable zoo fit`."
            )
        try:
            found = typed(cls, values, regression=Regression.of(values["regression"], len(values["features"])))
            found._check()
        except (
            InputError,
            msgspec.DecodeError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
        ) as error:
            raise InputError(
                f"{path}: this estimator is damaged ({error}); fit it anew with `shaketable zoo fit`."
            ) from error
        check_features(found.features, str(path))
        return found


def fit(
    table: pl.DataFrame,
    measures: Sequence[str] = ("zeta", "kappa"),
    model: Model = "linear",
    *,
    target: str = "gap",
    interval: Interval | None = None,
    coverage: float = 0.9,
    recipes: Mapping[str, Recipe] | None = None,
    seed: int = 0,
    command: str | None = None,
) -> Estimator:
    r"""An estimator of the gap from measures, fitted on the networks of a zoo.

    .. math:: \hat g = a \zeta + b \kappa + c

    with the measures :math:`\zeta` and :math:`\kappa` by default, and any others with ``measures``; a measure whose values span more than
    three powers of ten stands in by its logarithm. What is not done: measures are not chosen among those given, and the
    interval knows nothing of networks of another kind than the zoo's: it holds for networks that could as well have been drawn
    from the same plan.

    Args:
        table: of a zoo, as :func:`shaketable.zoo.read_table` gives it; with the statistics of margins, see :func:`with_margins`.
        measures: names; a network without one of them, or without the target, is left out.
        model: ``"linear"``, ``"ridge"`` or ``"boosting"``; see :func:`shaketable.estimators.fitted`.
        target: ``"gap"``, ``"test_error"``, ``"loss_gap"`` or ``"test_loss"``.
        interval: ``"jackknife+"`` (a regression without each network; the default, but for boosting), ``"cv+"`` (ten folds), or
            ``"split"`` (three tenths of the networks give the residuals, the rest the regression).
        coverage: of the interval: at least that share for ``"split"``, and about that for the two others, of which 2 x coverage - 1 is
            guaranteed (CV+: a little less).
        recipes: by network, so that the estimator knows which architectures and data sets the zoo had.
        seed: of the folds and of boosting.
        command: what the user typed.

    Raises:
        InputError: a measure that the zoo does not have, fewer networks than coefficients or than the interval needs, a single
            value of the target.

    Cost: that of as many regressions as there are networks (jackknife+), eleven (CV+), or one.

    Deviates: the paper gives no interval; it fits on nine tenths of its networks and tells the error on the rest, which is
        :func:`shaketable.estimators.repeated_splits`.

    Example:
        >>> rows = [{"network": str(n), "gap": n / 20, "measure": "zeta", "value": n + n % 2} for n in range(20)]
        >>> estimator = fit(pl.DataFrame(rows), ["zeta"])
        >>> estimator.predict(np.array([[10.0]])).round(2).tolist()
        [[0.47, 0.44, 0.51]]

    References: Zhao, Zhang, Hu, "Estimating the generalization in deep neural networks via sparsity", 2021, equation 7. For the
        intervals see :mod:`shaketable.estimators.intervals`.
    """
    if target not in TARGETS:
        raise InputError(f"target={target!r}: give one of {', '.join(TARGETS)}.")
    names, x, y, features = columns_of(table, list(measures), target)
    found = regression(model, x, y, interval, seed)
    facts = {
        "lowest": float(y.min()),
        "highest": float(y.max()),
        "left_out": table["network"].n_unique() - len(names),
        "command": command,
        "shaketable": __version__,
    }
    made = Estimator(target, tuple(features), found, coverage, len(names), covered(recipes or {}, names), facts)
    made.predict(x[:1])  # so that too few networks for the coverage are told now
    return made


def _at_chance(study: Study) -> list[str]:
    """A sentence on a network that has learnt nothing."""
    found = evaluate(study.network, study.final, study.data("train"))
    said = guessing(found.errors, found.examples, study.classes, "training")
    return [f"It {said}, so that it has learnt nothing that could be lost on new data; train it first."] if said else []


def _out_of_range(table: pl.DataFrame) -> list[str]:
    """Sentences on measures that are outside of their range in the zoo."""
    outside = table.filter(~pl.col("inside")).to_dicts()
    return [
        f"{'log10 of ' if one['logarithm'] else ''}{one['measure']} is {one['value']:.4g}, outside of the zoo's {one['low']:.4g} to "
        f"{one['high']:.4g}."
        for one in outside
    ]
