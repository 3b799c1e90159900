"""The command prune: how much of a network can be pruned without hurting its training loss."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from shaketable.cli.criticality import Level, Numbers, Split, strict
from shaketable.cli.report import written
from shaketable.cli.source import Source, command_typed, opened
from shaketable.cli.terminal import Json, app, finish, table, wrapped

if TYPE_CHECKING:
    from shaketable.probes import Prunability


@app.command(
    name="prune",
    help_epilogue="""Examples:
  shaketable prune runs/RUN
  shaketable prune runs/RUN --method magnitude --method random --noise 3
  shaketable prune --network resnet18-bn --final w.pt --data cifar10 --data-root ~/data""",
)
def prune_(
    run: Path | None = None,
    *,
    method: Annotated[list[Literal["magnitude", "random"]] | None, Parameter(negative=())] = None,
    beta: float = 0.1,
    tolerance: Literal["relative", "absolute"] = "relative",
    scope: Literal["global", "layer"] = "global",
    parameters: Literal["weight", "all"] = "weight",
    search: Literal["bisection", "every"] = "bisection",
    steps: int = 100,
    draws: int = 5,
    sparsity: Numbers = None,
    noise: int = 0,
    split: Split = "train",
    seed: int = 0,
    level: Level = "auto",
    precision: Literal["float32", "auto", "bfloat16"] = "float32",
    batch_size: int | None = None,
    source: Source | None = None,
    json: Json = False,
) -> None:
    """The smallest fraction of weights that can be kept without hurting the training loss, and loss against sparsity.

    Either RUN, a folder that `shaketable train` wrote, or --network with --final and --data; initial weights are not needed.
    Interrupted, the same command goes on.

    Parameters
    ----------
    run
        The folder of a run.
    method
        Which weights go first, the smallest or random ones; may be repeated; default magnitude.
    beta
        By how much the training loss may grow.
    tolerance
        What beta means: relative: loss <= (1 + beta) x its value; absolute: loss <= its value + beta nats.
    scope
        One order over all weights, or the same fraction of each layer.
    parameters
        Whether the weights of linear operators alone count, or biases and normalisations too.
    search
        Bisection, or every fraction.
    steps
        How fine fractions are: 100 are steps of one per cent.
    draws
        Of random orders.
    sparsity
        A fraction removed at which loss and error are measured; may be repeated; default 0 to 1 in steps of 0.05.
    noise
        Draws of random noise of the same size on the same weights, beside the curve.
    split
        The data of the search.
    seed
        Of random orders and noise.
    level
        How variants are evaluated: see docs/engine.md.
    precision
        float32: every answer is certain. auto: losses in bfloat16 first where that is faster, float32 where their measured error
        leaves a doubt. bfloat16: the same whatever it takes.
    batch_size
        Examples in flight; by default as many as fit memory and cache.
    """
    from shaketable.probes import prunability
    from shaketable.probes.pruning_curve import SPARSITIES

    study, folder = opened(run, source)
    result = prunability(
        study,
        method or "magnitude",
        beta=beta,
        tolerance=tolerance,
        scope=scope,
        parameters=parameters,
        search=search,
        steps=steps,
        draws=draws,
        sparsities=sparsity or SPARSITIES,
        noise=noise,
        split=split,
        seed=seed,
        level=level,
        precision=precision,
        batch_size=batch_size,
        store=folder / "prune",
        command=command_typed(),
    )
    report = written(folder, result)
    finish(_answer(result, report), _told(result, report), json)


def _answer(result: "Prunability", report: Path) -> dict[str, Any]:
    """What a machine reads."""
    columns = ["method", "perturbation", "draw", "noise_draw", "sparsity", "split", "error", "loss", "status", "reason"]
    tables = {"summary": result.summary(), "tests": result.tests, "curve": result.table.select(columns)}
    rows = {name: [{k: strict(v) for k, v in row.items()} for row in one.to_dicts()] for name, one in tables.items()}
    return {"report": str(report), "clean": result.provenance["clean"], **rows}


def _told(result: "Prunability", report: Path) -> list[object]:
    """What a person reads: the curve at some sparsities, and what it comes to."""
    import polars as pl

    from shaketable.report.pruning import prunability_paragraphs
    from shaketable.report.words import percent

    told: list[object] = []
    for method in result.table["method"].unique(maintain_order=True):
        own = result.table.filter(method=method, perturbation="pruning").group_by("sparsity", "split")
        curve = own.agg(pl.when(pl.col("loss").null_count() == 0).then(pl.col("loss").mean()), pl.col("error").mean())
        splits = [split for split in ("train", "test") if split in curve["split"]]
        rows = []
        for sparsity in curve["sparsity"].unique().sort():
            cells = [percent(sparsity)]
            for split in splits:
                row = curve.filter(sparsity=sparsity, split=split).row(0, named=True)
                cells += ["–" if row["loss"] is None else f"{row['loss']:.4g}", percent(row["error"])]
            rows.append(tuple(cells))
        columns = [f"{split} {what}" for split in splits for what in ("loss", "error")]
        told += [f"\n  pruned by {method}", table(("removed", *columns), rows)]
    return [*told, wrapped(prunability_paragraphs(result)), "", f"report: {report}"]
