"""Results that are no table of a probe: measures of a network, its cells, and bounds on its error; kept like one."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import polars as pl
from torch import nn

from shaketable import __version__
from shaketable.bounds import Assumption, Bound
from shaketable.bounds.bound import SCHEMA as TERMS
from shaketable.networks.linked import LinkedCell
from shaketable.probes.stored import read_result, write_result
from shaketable.topology.mass import span


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
class Cells:
    """The cells of a linked network, with the links that were drawn.

    Attributes:
        table: a row a layer: ``cell`` and ``layer``, its ``channels``, and how many earlier channels it is linked to (``linked``).
        links: a row a link: ``cell``, ``layer``, and the ``source_layer`` and ``source_channel`` that it comes from.
        provenance: ``name``, mass and density, and for each cell its density, ``layers``, ``channels`` and ``linked`` channels.
    """

    table: pl.DataFrame
    links: pl.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, network: nn.Module, name: str, command: str | None = None, **facts: Any) -> Self | None:
        """The cells of a linked network; None of another one."""
        rows, links, found = [], [], []
        for number, cell in enumerate((one for one in network.modules() if isinstance(one, LinkedCell)), start=1):
            drawn = cell.links
            for layer, (sources, width) in enumerate(zip(drawn, cell.widths, strict=True)):
                rows.append((number, layer, width, len(sources)))
                links += [(number, layer, *source) for source in sources]
            counts = [len(sources) for sources in drawn]
            _, density, mass = span(cell.widths, [w * n for w, n in zip(cell.widths, counts, strict=True)])
            found.append((density, mass, len(counts), sum(cell.widths), sum(counts)))
        if not rows:
            return None
        density, mass, layers, channels, linked = map(list, zip(*found, strict=True))
        provenance = {
            "name": name,
            "nn_mass": sum(mass),
            "nn_density": sum(density) / len(density),
            "cell_density": density,
            "layers": layers,
            "channels": channels,
            "linked": linked,
            "command": command,
            "shaketable": __version__,
        }
        return cls(
            pl.DataFrame(rows, ["cell", "layer", "channels", "linked"], orient="row"),
            pl.DataFrame(
                links, dict.fromkeys(["cell", "layer", "source_layer", "source_channel"], pl.Int64), orient="row"
            ),
            provenance | facts,
        )

    def save(self, folder: str | Path) -> Path:
        """Write the tables as Parquet and CSV, and ``provenance.json``, into a folder."""
        return write_result(
            Path(folder), "mass", {"cells": self.table, "links": self.links}, {"provenance": self.provenance}
        )

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the folder holds no such result.
        """
        facts, tables = read_result(Path(folder), "mass", ["cells", "links"])
        return cls(tables["cells"], tables["links"], facts["provenance"])


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
