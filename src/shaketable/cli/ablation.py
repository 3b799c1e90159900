"""The command ablate: accuracy while the units of a layer are removed one by one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from shaketable.cli.criticality import Split
from shaketable.cli.report import written
from shaketable.cli.source import Source, command_typed, opened
from shaketable.cli.terminal import Json, app, finish, table, wrapped

if TYPE_CHECKING:
    from shaketable.probes import Ablation


@app.command(
    help_epilogue="""Examples:
  shaketable ablate runs/RUN
  shaketable ablate runs/RUN --layer conv12 --layer conv13 --over class --over all
  shaketable ablate --network vgg16-bn --final w.pt --data cifar100 --data-root ~/data"""
)
def ablate(
    run: Path | None = None,
    *,
    layer: Annotated[list[str] | None, Parameter(negative=())] = None,
    attribute: Literal["activation", "selectivity", "weight", "random"] = "activation",
    over: Annotated[list[Literal["class", "all"]] | None, Parameter(negative=())] = None,
    label: Annotated[list[int] | None, Parameter(name="--class", negative=())] = None,
    split: Split = "train",
    rule: Literal["paper", "code"] = "paper",
    ties: Literal["last", "first"] = "last",
    seed: int = 0,
    batch_size: int | None = None,
    source: Source | None = None,
    json: Json = False,
) -> None:
    """Accuracy while a layer's units are removed one by one, the most or the least active first: zeta and kappa.

    Either RUN, a folder that `shaketable train` wrote, or --network with --final and --data; initial weights are not needed.
    Interrupted, the same command goes on.

    Parameters
    ----------
    run
        The folder of a run.
    layer
        A convolution or linear layer; may be repeated; default the last convolution. Its units are removed behind the
        nonlinearity that follows.
    attribute
        What units are ordered by.
    over
        Each class by itself, or all data together; may be repeated; default class.
    label
        A class; may be repeated; default all of them.
    split
        The data.
    rule
        The formulas of the paper, or what its authors' program does where they leave room.
    ties
        Which maximum counts where there are several.
    seed
        Of random orders.
    batch_size
        Examples together; by default as many as fit memory and cache.
    """
    from shaketable.probes import ablation

    study, folder = opened(run, source)
    result = ablation(
        study,
        layer,
        attribute=attribute,
        over=over or "class",
        classes=label,
        split=split,
        rule=rule,
        ties=ties,
        seed=seed,
        batch_size=batch_size,
        store=folder / "ablate",
        command=command_typed(),
    )
    report = written(folder, result)
    answer = {"report": str(report), "summary": result.summary().to_dicts(), "missing": _missing(result)}
    finish(answer, _told(result, report), json)


def _missing(result: "Ablation") -> list[str]:
    """Why a class has no curve."""
    return result.table.filter(status="unavailable")["reason"].to_list()


def _told(result: "Ablation", report: Path) -> list[object]:
    """What a person reads: turning points of some classes, their means, and what they come to."""
    from shaketable.report.ablation import ablation_paragraphs
    from shaketable.report.words import percent

    rows: list[tuple[str, ...]] = []
    for row in result.summary().to_dicts():
        which: Any = "" if row["class"] is None else f" {row['class']}"
        numbers = f"{row['n_0']:.4g}", f"{row['n_0_r']:.4g}", f"{row['zeta']:.3f}", f"{row['kappa']:.3f}"
        rows.append((row["layer"], f"{row['over']}{which}", percent(row["accuracy"]), *numbers))
    if len(rows) > 40:
        rows = [row for row in rows if not row[1].startswith("class")]
    columns = ("layer", "over", "accuracy", "n0", "n0r", "zeta", "kappa")
    return [table(columns, rows), *_missing(result), wrapped(ablation_paragraphs(result)), "", f"report: {report}"]
