"""The report: tables and figures of the results on one network in one HTML file that needs no network."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from shaketable import plots
from shaketable.bounds import Bound
from shaketable.defense import Attacks
from shaketable.errors import InputError, RunError
from shaketable.estimators import Estimate
from shaketable.files import write_text
from shaketable.probes import Ablation, JointRobustness, LayerSets, Paths, Prunability, Robustness, Sensitivity, Valley
from shaketable.probes.criticality import Criticality
from shaketable.report.ablation import ablation_part
from shaketable.report.criticality import bounds_part, criticality_part, measures_part, path_part, valley_part
from shaketable.report.estimate import estimate_part
from shaketable.report.linked import cells_part
from shaketable.report.pruning import pruning_part
from shaketable.report.results import Bounds, Cells, Measures
from shaketable.report.robustness import robustness_part
from shaketable.report.together import (
    attack_part,
    joint_part,
    layer_sets_part,
    recommendation_part,
    sensitivity_part,
)
from shaketable.report.zoo import zoo_part
from shaketable.zoo import Ranking

HERE = Path(__file__).parent
MOST_BYTES = 1_500_000
SIZES = (6000, 4000, 2500, 1500, 900, 500, 300)  # cells of a heat map and rows of a table that the report may have
LONG = 25  # numbers in a list, beyond which its ends are told
Reported = (
    Estimate
    | Robustness
    | JointRobustness
    | LayerSets
    | Sensitivity
    | Prunability
    | Ablation
    | Criticality
    | Paths
    | Valley
    | Cells
    | Measures
    | pl.DataFrame
    | Bounds
    | Bound
    | Attacks
    | Ranking
)
PARTS: dict[type, tuple[str, Callable[..., dict[str, Any]]]] = {
    Estimate: ("estimate", estimate_part),
    Robustness: ("robustness", robustness_part),
    JointRobustness: ("joint", joint_part),
    LayerSets: ("search", layer_sets_part),
    Sensitivity: ("sensitivity", sensitivity_part),
    Prunability: ("pruning", pruning_part),
    Ablation: ("ablation", ablation_part),
    Criticality: ("criticality", criticality_part),
    Paths: ("path", path_part),
    Valley: ("valley", valley_part),
    Cells: ("cells", cells_part),
    Measures: ("measures", measures_part),
    Bounds: ("bounds", bounds_part),
    Attacks: ("attack", attack_part),
    Ranking: ("zoo", zoo_part),
}
"""What a report can hold, in its order, by type."""


def write_report(results: Reported | Iterable[Reported], path: str | Path) -> Path:
    """Write one HTML file with the findings in plain words, the figures, the tables and where the numbers come from.

    The file asks nothing of a network, is at most 1.5 MB, and forbids itself by its content security policy to load
    anything. Where a table is too large for that, the figures show some of it only, or are left out, and the tables are
    cut; the report says so. Names from outside are escaped.

    Args:
        results: what :func:`shaketable.robustness`, ``joint_robustness``, ``largest_set``, ``sensitivity``, ``prunability``, ``ablation``,
            ``criticality``, ``path``, ``valley``, ``defense.attacked``, ``Estimator.estimate`` or ``zoo.rank`` returned, the table of
            ``measurements``, or bounds; one of these, or a list of them about one network, one of each kind (bounds: any number;
            ``largest_set``: one for each way).
        path: the HTML file; its folder is made if need be.

    Returns:
        The path.

    Raises:
        InputError: nothing to report, two results of a kind, or something that no report holds.
        RunError: names so long that no report of 1.5 MB can hold them.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of the HTML file to write.")
    found = _sorted(results)
    for size in SIZES:
        text = _html(found, size)
        if len(text.encode()) <= MOST_BYTES:
            write_text(path, text)
            return path
    raise RunError(f"{path}: the names of layers are too long for a report of {MOST_BYTES:,} bytes; shorten them.")


def part_name(result: Any) -> str:
    """The name of a result's part of the report: that of its kind, and for a search of the way in which layers go."""
    name = PARTS[type(result)][0]
    return f"{name}-{result.provenance['how']}" if isinstance(result, LayerSets) else name


def _sorted(results: Reported | Iterable[Reported]) -> dict[str, Any]:
    """The results by the name of their part, in the order of the report."""
    single = isinstance(results, (*PARTS, pl.DataFrame, Bound))
    given = [results] if single else list(cast(Iterable[Reported], results))
    found: dict[str, Any] = {}
    bounds = [one for one in given if isinstance(one, Bound)]
    for one in (*(one for one in given if not isinstance(one, Bound)), *([Bounds(tuple(bounds))] if bounds else [])):
        one = Measures(one) if isinstance(one, pl.DataFrame) else one
        if type(one) not in PARTS:
            raise InputError(f"a {type(one).__name__} is no result that a report can hold.")
        name = part_name(one)
        if name in found:
            raise InputError(f"there are two results of the kind {name}; give one of each.")
        found[name] = one
    if not found:
        raise InputError("there is no result to report; give at least one.")
    order = list(PARTS)
    return dict(sorted(found.items(), key=lambda item: order.index(type(item[1]))))


def _html(results: Mapping[str, Any], size: int) -> str:
    """The page with heat maps of at most ``size`` cells and tables of at most ``size`` rows."""
    parts = {name: PARTS[type(result)][1](result, size) for name, result in results.items()}
    lead = next(iter(parts.values()))
    searches = [result for result in results.values() if isinstance(result, LayerSets)]
    if searches:
        parts["recommendation"] = recommendation_part(searches, results.get("joint"))
    figures = {name: spec for part in parts.values() for name, spec in part["figures"].items()}
    surfaces = {name: surface for part in parts.values() for name, surface in part.get("surfaces", {}).items()}
    names = [result.provenance.get("name") for result in results.values()]
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}
    return environment.get_template("page.html").render(
        title=_title(parts, next(filter(None, names), "this network")),
        lead=lead,
        parts=parts,
        notes=[note for part in parts.values() for note in part["notes"]],
        figures=_packed(figures) | {"surfaces": surfaces},
        drawn=list(figures),
        missing=[row for part in parts.values() for row in part["missing"]],
        sources=_sources(results),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        library=Markup(plots.javascript() if figures else ""),
        script=Markup("".join((HERE / name).read_text(encoding="utf-8") for name in ("page.js", "surface.js"))),
    )


def _title(parts: Mapping[str, Any], name: str) -> str:
    """The question that the page answers."""
    if list(parts) == ["zoo"]:
        return f"Which measures predict how well {name} generalise?"
    if list(parts) == ["cells"]:
        return f"How are the channels of {name} linked?"
    if "estimate" in parts:
        return f"How far will {name} fall on new data?"
    return f"{'Which layers hold' if 'robustness' in parts else 'What holds'} {name} up?"


def _sources(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the numbers of each result come from; what was said of an earlier one is not said again."""
    found, said = [], {}
    for name, result in results.items():
        facts = {key.replace("_", " "): _plain(value) for key, value in result.provenance.items() if key != "command"}
        rows = [(key, value) for key, value in facts.items() if said.get(key) != value]
        found.append({"kind": name, "command": result.provenance.get("command"), "rows": rows})
        said |= {key: value for key, value in facts.items() if key not in said}
    return found


def _packed(figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Specs with their data taken out: a table that two figures share is stored once, by columns."""
    tables: dict[str, Any] = {}
    for spec in figures.values():
        for name, rows in spec["datasets"].items():
            tables[name] = {field: _column([_short(row[field]) for row in rows]) for field in rows[0]}
        spec["datasets"] = list(spec["datasets"])
    return {"specs": figures, "tables": tables}


def _column(values: list[Any]) -> list[Any] | dict[str, list[Any]]:
    """A column as it is, or its distinct values and where they stand, if these are few."""
    place = {value: index for index, value in enumerate(dict.fromkeys(values))}
    if 2 * len(place) > len(values):
        return values
    return {"values": list(place), "places": [place[value] for value in values]}


def _short(value: Any) -> Any:
    """Six significant digits are more than a figure shows."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _plain(value: Any) -> str:
    if isinstance(value, list) and len(value) > LONG and all(isinstance(one, int | float) for one in value):
        return f"{len(value)} numbers from {min(value):g} to {max(value):g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
