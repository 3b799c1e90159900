"""What an estimator says of one network: the estimated gap, its interval, and what speaks against relying on it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import polars as pl

from shaketable.errors import InputError
from shaketable.probes.stored import read_result, write_result

FEATURES = {
    "measure": pl.String,
    "logarithm": pl.Boolean,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "inside": pl.Boolean,
}
FACTS = ("value", "low", "high", "coverage", "warnings", "provenance")


@dataclass(frozen=True)
class Estimate:
    """The estimated gap of one network.

    Attributes:
        value: the estimate.
        low, high: its interval.
        coverage: the share of networks like those of the zoo of which the interval should hold the gap.
        features: what it rests on: each measure, its ``value``, and the range from ``low`` to ``high`` that it has in the zoo.
        warnings: sentences on where this network lies outside of what the zoo covered; none is the best.
        provenance: the network, and the estimator: model, networks, residuals.
    """

    value: float
    low: float
    high: float
    coverage: float
    features: pl.DataFrame
    warnings: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    def statement(self) -> str:
        """The estimate as one sentence, or why there is none of a network at chance.

        Example:
            >>> Estimate(0.2, 0.1, 0.3, 0.9, pl.DataFrame(), provenance={"target": "gap"}).statement()
            'The estimated gap is 0.200, between 0.100 and 0.300 for 90% of networks like those that it rests on.'
        """
        name = str(self.provenance.get("target", "gap")).replace("_", " ")
        if self.provenance.get("at_chance"):
            return f"No {name} can be told of this network, for it is at chance: {self.warnings[0]}"
        return (
            f"The estimated {name} is {self.value:.3f}, between {self.low:.3f} and {self.high:.3f} for "
            f"{100 * self.coverage:.6g}% of networks "
            "like those that it rests on."
        )

    def refuse_outside(self) -> Self:
        """Itself, where nothing speaks against it.

        Raises:
            InputError: the network lies outside of what the zoo covered.
        """
        if self.warnings:
            raise InputError(f"no estimate: {' '.join(self.warnings)}")
        return self

    def save(self, folder: str | Path) -> Path:
        """Write the measures as Parquet and CSV, and ``provenance.json`` with the rest, into a folder."""
        facts = {name: getattr(self, name) for name in FACTS}
        return write_result(Path(folder), "estimate", {"features": self.features}, facts)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the folder holds no such result.
        """
        facts, tables = read_result(Path(folder), "estimate", ["features"], FACTS)
        warnings = tuple(facts.pop("warnings"))
        return cls(
            features=tables["features"], warnings=warnings, **{name: facts[name] for name in FACTS if name in facts}
        )
