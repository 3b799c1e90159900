"""Results that are no table of a probe: measures of a network, and bounds on its error; kept like one."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import polars as pl

from shaketable.bounds import Assumption, Bound
from shaketable.bounds.bound import SCHEMA as TERMS
from shaketable.probes.stored import read_result, write_result


@dataclass(frozen=True)
class Measures:
    """The table of :func:`shaketable.measurements`, with what it rests on."""

    table: pl.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Write the table as Parquet and CSV, and ``provenance.json``, into a folder."""
        return write_result(Path(folder), "measures", {"measures": self.table}, {"provenance": self.provenance})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the folder holds no such result.
        """
        facts, tables = read_result(Path(folder), "measures", ["measures"])
        return cls(tables["measures"], facts["provenance"])


@dataclass(frozen=True)
class Bounds:
    """Some bounds on one network, with what they rest on."""

    bounds: tuple[Bound, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Write the terms of all as Parquet and CSV, and ``provenance.json`` with the rest, into a folder."""
        terms = [bound.terms.with_columns(theorem=pl.lit(bound.theorem)) for bound in self.bounds]
        table = pl.concat([pl.DataFrame(schema={**TERMS, "theorem": pl.String}), *terms])
        facts = {"bounds": [plain(bound) for bound in self.bounds], "provenance": self.provenance}
        return write_result(Path(folder), "bounds", {"bounds": table}, facts)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the folder holds no such result.
        """
        facts, _ = read_result(Path(folder), "bounds", ["bounds"], ("bounds", "provenance"))
        return cls(tuple(map(bound_of, facts["bounds"])), facts["provenance"])


def plain(bound: Bound) -> dict[str, Any]:
    """A bound as plain values."""
    facts = {name: value for name, value in vars(bound).items() if name not in ("terms", "assumptions")}
    return facts | {"terms": bound.terms.rows(), "assumptions": [asdict(one) for one in bound.assumptions]}


def bound_of(values: dict[str, Any]) -> Bound:
    """What :func:`plain` made plain."""
    terms = pl.DataFrame(values["terms"], schema=TERMS, orient="row")
    return Bound(**values | {"terms": terms, "assumptions": tuple(Assumption(**one) for one in values["assumptions"])})
