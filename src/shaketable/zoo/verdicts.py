"""One measure of the networks of a zoo beside what it should predict, and what its statistics are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from shaketable.errors import InputError
from shaketable.measures import MEASURES
from shaketable.statistics import (
    conditional_mutual_information,
    cross_validated_r2,
    granulated_tau,
    kendall_tau,
    r2,
    tied_stderr,
)
from shaketable.zoo.store import PREFIX

SEED = "seed"
"""Networks that differ in it alone are no axis along which a measure should rank, but are told apart by it."""
DECADES = 3
"""A measure whose values span more powers of ten than this is fitted, and drawn, by its logarithm."""
SUMMARY = {
    "measure": pl.String,
    "direction": pl.String,
    "networks": pl.Int64,
    "missing": pl.Int64,
    "tau": pl.Float64,
    "tau_stderr": pl.Float64,
    "psi": pl.Float64,
    "psi_stderr": pl.Float64,
    "information": pl.Float64,
    "given": pl.String,
    "adjusted_r2": pl.Float64,
    "cross_validated_r2": pl.Float64,
    "logarithm": pl.Boolean,
    "status": pl.String,
    "reason": pl.String,
}
AXES = {
    "measure": pl.String,
    "axis": pl.String,
    "tau": pl.Float64,
    "stderr": pl.Float64,
    "pairs": pl.Int64,
    "tied": pl.Int64,
    "groups": pl.Int64,
}
RELATIONS = {
    "measure": pl.String,
    "other": pl.String,
    "networks": pl.Int64,
    "tau": pl.Float64,
    "information": pl.Float64,
}
POINTS = {
    "network": pl.String,
    "measure": pl.String,
    "value": pl.Float64,
    "target": pl.Float64,
    "rank": pl.Float64,
    "target_rank": pl.Float64,
}


@dataclass(frozen=True)
class Column:
    """One measure of the networks that have it, with their targets and hyper-parameters."""

    name: str
    sign: int
    networks: list[str]
    value: np.ndarray
    target: np.ndarray
    hyperparameters: dict[str, list[Any]]
    logarithm: bool
    missing: int
    why: str | None

    @classmethod
    def of(cls, table: pl.DataFrame, name: str, target: str, known: Sequence[str]) -> "Column":
        own = table.filter(pl.col("measure") == name)
        said = own["direction"].drop_nulls().to_list() if "direction" in own.columns else []
        direction = said[0] if said else MEASURES[name].direction if name in MEASURES else "lower"
        log10 = own["log10"] if "log10" in own.columns else own["value"].log10()
        value = own["value"].fill_nan(None)
        log10 = log10.fill_nan(None)
        ends = log10.filter(log10.is_finite()).to_numpy()
        beyond = (log10.is_not_null() & value.is_null()).any()
        wide = len(ends) == len(log10.drop_nulls()) > 0 and np.ptp(ends) > DECADES
        logarithm = bool((log10.is_not_null() | value.is_null()).all()) and (beyond or wide)
        found = own.with_columns(ranked=log10 if logarithm else value).drop_nulls("ranked")
        lacking = own.join(found.select("network"), on="network", how="anti")
        why = lacking["reason"].drop_nulls().mode().sort() if "reason" in lacking.columns and len(lacking) else []
        columns = {axis: _comparable(found[PREFIX + axis]) for axis in known}
        networks, missing = found["network"].to_list(), table["network"].n_unique() - len(found)
        return cls(
            name,
            -1 if direction == "higher" else 1,
            networks,
            found["ranked"].to_numpy(),
            found[target].to_numpy(),
            columns,
            logarithm,
            missing,
            why[0] if len(why) else None,
        )

    def points(self) -> pl.DataFrame:
        """What was ranked, with the ranks, 1 for the smallest."""
        made = pl.DataFrame(
            {"network": self.networks, "measure": [self.name] * len(self.networks), "value": self.value, "target": self.target},
            schema={key: POINTS[key] for key in ("network", "measure", "value", "target")},
        )  # fmt: skip
        return made.with_columns(rank=pl.col("value").rank(), target_rank=pl.col("target").rank())


def verdict(column: Column, axes: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of a measure, and its rows along the axes."""
    value, target = column.sign * column.value, column.target
    reasons: list[str] = []

    def tried(what: str, statistic: Callable[[], Any]) -> Any:
        """A statistic, or None where there is none, and why."""
        try:
            return statistic()
        except InputError as error:
            reasons.append(f"{what}: {str(error).rstrip('.')}")
            return None

    row = {"measure": column.name, "direction": "higher" if column.sign < 0 else "lower", "missing": column.missing}
    row |= {"networks": len(value), "logarithm": column.logarithm}
    if len(value) < 2:
        why = f"; of the others: {column.why}" if column.why else ""
        return row | {"status": "unavailable", "reason": f"{len(value)} networks have a value{why}"}, []
    row["tau"] = tried("tau", lambda: kendall_tau(value, target))
    row["tau_stderr"] = tried("tau", lambda: tied_stderr(value, target)) if row["tau"] is not None else None
    granulated = tried("granulated tau", lambda: granulated_tau(value, target, column.hyperparameters, axes))
    if granulated is not None:
        row |= {"psi": granulated.psi, "psi_stderr": granulated.psi_stderr}
    free = {name: values for name, values in column.hyperparameters.items() if name != SEED}
    known = tried("information", lambda: conditional_mutual_information(value, target, free))
    if known is not None:
        row |= {"information": known.value, "given": ", ".join(known.given)}
    if np.isfinite(value).all():
        row["adjusted_r2"] = tried("adjusted R2", lambda: r2(value, target, adjusted=True))
        fitted = tried("cross-validated R2", lambda: cross_validated_r2(value, target, min(10, len(value))))
        row["cross_validated_r2"] = None if fitted is None else fitted.value
    else:
        reasons.append("R2: some values, or their logarithms, are infinite, and no line fits that")
    if column.missing:
        why = f": {column.why}" if column.why else ""
        reasons.insert(0, f"{column.missing} networks have no value{why}")
    row |= {"status": "partial" if column.missing else "ok", "reason": "; ".join(reasons) or None}
    along = [
        {"measure": column.name, "axis": axis, "tau": tau}
        | {name: getattr(granulated, name)[axis] for name in ("stderr", "pairs", "tied", "groups")}
        for axis, tau in (granulated.axes if granulated is not None else {}).items()
    ]
    return row, along


def relations(columns: dict[str, Column], information: bool) -> list[dict[str, Any]]:
    """Any two measures on the networks that have both."""
    rows = []
    for one in columns.values():
        place = {network: index for index, network in enumerate(one.networks)}
        for other in columns.values():
            if one is other:
                continue
            both = [(place[network], index) for index, network in enumerate(other.networks) if network in place]
            row: dict[str, Any] = {"measure": one.name, "other": other.name, "networks": len(both)}
            if len(both) > 1:
                mine, theirs = map(list, zip(*both, strict=True))
                x, y = one.sign * one.value[mine], other.sign * other.value[theirs]
                row["tau"] = _or_none(lambda x=x, y=y: kendall_tau(x, y))
                if information:
                    free = {
                        name: [values[index] for index in mine]
                        for name, values in one.hyperparameters.items()
                        if name != SEED
                    }
                    row["information"] = _or_none(
                        lambda x=x, y=y, free=free: conditional_mutual_information(x, y, free).value
                    )
            rows.append(row)
    return rows


def _or_none(statistic: Callable[[], float]) -> float | None:
    """A statistic, or None where there is none: a column that ranks nothing says so in its own row."""
    try:
        return statistic()
    except InputError:
        return None


def _comparable(column: pl.Series) -> list[Any]:
    """Values that can be put in order: as text, where some are missing."""
    return column.to_list() if not column.null_count() else [str(value) for value in column]
