"""The command report, and what it gathers: the newest result of each kind below a folder."""

import json as json_
from pathlib import Path
from typing import Any

from shaketable.cli.terminal import Json, app, finish


@app.command(
    help_epilogue="""Examples:
  shaketable report runs/RUN
  shaketable report runs/RUN --out report.html --figures figures"""
)
def report(result: Path, *, out: Path | None = None, figures: Path | None = None, json: Json = False) -> None:
    """Write one report of all results of a run (robustness, layers together, criticality, measures, attacks, ...) anew.

    The newest result of each kind is in it, if it is about the same weights and data as the newest of all.

    Parameters
    ----------
    result
        The folder of a run, or of one result.
    out
        The HTML file; default report.html in that folder.
    figures
        A folder for the figures as SVG and PNG.
    """
    from shaketable.errors import InputError
    from shaketable.report import write_report

    found = [_result(result)] if (result / "provenance.json").is_file() else gathered(result)
    if not found:
        raise InputError(
            f"{result}: holds no robustness result, and no other; make one with `shaketable robustness {result}`."
        )
    path = write_report(found, out or result / "report.html")
    answer: dict[str, Any] = {"report": str(path)}
    if figures is not None:
        answer["figures"] = [str(file) for one in found for file in _write_figures(one, figures)]
    finish(answer, [f"report: {path}", *(f"figure: {file}" for file in answer.get("figures", []))], json)


def written(folder: Path, *results: Any) -> Path:
    """The report of these results, and of the newest ones of other kinds on the same weights and data in the folder."""
    from shaketable.report import write_report

    return write_report(gathered(folder, results), folder / "report.html")


def gathered(folder: Path, results: Any = ()) -> list[Any]:
    """Results, and the newest of each other kind below a folder that is about the same weights and data.

    What cannot be read is an error, unless it stands beside results that can be told without it.
    """
    from shaketable.errors import InputError
    from shaketable.probes import LayerSets
    from shaketable.report.page import part_name

    files = sorted(
        (file for kind in _kinds() for file in (folder / kind).glob("*/provenance.json")),
        key=lambda file: file.stat().st_mtime,
        reverse=True,
    )
    found = list(results)
    for file in files:
        kind = _kinds()[file.parent.parent.name]
        if kind is LayerSets or not any(isinstance(one, kind) for one in found):
            try:
                one = _result(file.parent)
            except InputError:
                if results:
                    continue
                raise
            if part_name(one) not in map(part_name, found) and all(
                _same(one.provenance, other.provenance) for other in found
            ):
                found.append(one)
    return found


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results are about the same weights, and about the same data in the splits that both have."""
    data, others = (dict(facts.get("data") or {}) for facts in (one, other))
    return one.get("weights") == other.get("weights") and all(
        data[split] == others[split] for split in data.keys() & others.keys()
    )


def _kinds() -> dict[str, Any]:
    """The kinds of results, by the name of their folder."""
    from shaketable import probes
    from shaketable.defense import Attacks
    from shaketable.estimators import Estimate
    from shaketable.probes.criticality import Criticality
    from shaketable.report import Bounds, Cells, Measures

    return {
        "estimate": Estimate,
        "robustness": probes.Robustness,
        "joint_robustness": probes.JointRobustness,
        "layer_sets": probes.LayerSets,
        "sensitivity": probes.Sensitivity,
        "prune": probes.Prunability,
        "ablate": probes.Ablation,
        "criticality": Criticality,
        "path": probes.Paths,
        "valley": probes.Valley,
        "mass": Cells,
        "measures": Measures,
        "bounds": Bounds,
        "attack": Attacks,
    }


def _result(folder: Path) -> Any:
    """The result in a folder, of whatever kind."""
    try:
        kind = json_.loads((folder / "provenance.json").read_text(encoding="utf-8"))["probe"]
    except (ValueError, KeyError, TypeError):
        kind = "robustness"  # whose reader says what is wrong
    return _kinds().get(kind, _kinds()["robustness"]).load(folder)


def _write_figures(result: Any, folder: Path) -> list[Path]:
    """Every figure of a result, as SVG and PNG."""
    from shaketable import plots

    charts = _figures(result)
    files = [folder / f"{name}.{suffix}" for name in charts for suffix in ("svg", "png")]
    for file in files:
        plots.save(charts[file.stem], file)
    return files


def _figures(result: Any) -> dict[str, Any]:
    """The figures of a result by their names."""
    from shaketable import plots, probes
    from shaketable.probes.criticality import Criticality
    from shaketable.report import Cells
    from shaketable.report.ablation import ablation_charts
    from shaketable.report.linked import cells_charts

    if isinstance(result, Cells):
        return cells_charts(result)[0]
    if isinstance(result, probes.JointRobustness):
        return {
            f"joint-{number}-{split}": result.plot(group=group, split=split, classes=result.provenance["classes"])
            for number, group in enumerate(result.with_rest().values())
            for split in result.splits()
        }
    if isinstance(result, probes.LayerSets):
        return {f"trade-off-{result.provenance['how']}": result.plot()}
    if isinstance(result, probes.Sensitivity):
        return {f"sensitivity-{split}": result.plot(split=split) for split in result.splits()}
    if isinstance(result, probes.Ablation):
        return ablation_charts(result)
    if isinstance(result, probes.Prunability):
        methods = result.table["method"].unique(maintain_order=True)
        return {
            f"pruning-{method}-{what}": result.plot(method=method, quantity=what)
            for method in methods
            for what in ("loss", "error")
        }
    if isinstance(result, Criticality):
        charts = {
            f"criticality-{epsilon:g}": plots.criticality_bars(result.table, epsilon)
            for epsilon in result.table["epsilon"].unique().sort()
        }
        return charts | {"network-criticality": plots.criticality_curve(result.summary())}
    if isinstance(result, probes.Paths):
        return {
            f"path-{split}-{what}": plots.path_curves(result.table, split, what)
            for split in result.splits()
            for what in ("error", "loss")
        }
    if isinstance(result, probes.Valley):
        return {
            "valley": plots.valley_surface(result.surface()),
            "valley-grid": plots.valley_grid(result.summary()),
        }
    if not isinstance(result, probes.Robustness):
        return {}
    summary, classes = result.summary(), result.provenance["classes"]
    charts: dict[str, Any] = {
        f"heatmap-{split}": plots.robustness_heatmap(summary, split, classes=classes) for split in result.splits()
    }
    last = result.provenance["final_checkpoint"]
    charts |= {f"curves-{split}": plots.robustness_curves(summary, split, final=last) for split in result.splits()}
    if len(result.distances):
        charts |= {
            f"distance-{norm}": plots.distance_heatmap(result.distances, norm) for norm in ("normalised_l2", "linf")
        }
    if result.history is not None and len(result.history) > 1:
        charts["history"] = plots.training_history(result.history)
    return charts
