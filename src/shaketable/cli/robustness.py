"""The commands about layer robustness: demo, robustness."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from shaketable.cli.criticality import Grouping
from shaketable.cli.report import written
from shaketable.cli.source import Source, command_typed, opened
from shaketable.cli.terminal import Json, app, finish, percent, table, wrapped

if TYPE_CHECKING:
    from shaketable.probes import Robustness
    from shaketable.study import Study


@app.command(
    help_epilogue="""Examples:
  shaketable demo
  shaketable demo --out /tmp/demo --seed 1 --json"""
)
def demo(*, out: Path = Path("demo"), seed: int = 0, json: Json = False) -> None:
    """Train FCN 3x256 on real digits, reset each layer, and write the report; under two minutes on two cores.

    The digits come with scikit-learn: no network and no files are needed. Interrupted, the same command goes on.

    Parameters
    ----------
    out
        Folder for the run and the report.
    seed
        Of initial weights, order of examples, and fresh draws.
    """
    from shaketable.study import Study
    from shaketable.training import train
    from shaketable.training.recipes import named

    started = time.monotonic()
    run = train(named("demo", seed=seed), out=out)
    study = Study.from_run(run.path)
    result = _robustness(study, run.path, seed=seed)
    report = written(run.path, result)
    answer = _answer(result, report) | {"run": str(run.path), "seconds": round(time.monotonic() - started, 1)}
    finish(answer, _told(result, report), json)


@app.command(
    name="robustness",
    help_epilogue="""Examples:
  shaketable robustness runs/RUN
  shaketable robustness runs/RUN --by module --checkpoint 0 --split test
  shaketable robustness --network resnet18-bn --final final.pt \\
      --init init.pt --data cifar10 --data-root ~/data
  shaketable robustness --network my_models:build --final weights.safetensors \\
      --data arrays.npz""",
)
def robustness_(
    run: Path | None = None,
    *,
    source: Source | None = None,
    by: Grouping = "block",
    checkpoint: Annotated[list[int] | None, Parameter(negative=())] = None,
    draws: int = 5,
    split: Annotated[list[Literal["test", "train"]] | None, Parameter(negative=())] = None,
    statistics: Literal["keep", "rewind", "reestimate"] = "keep",
    statistics_batches: int = 10,
    robust: float = 0.05,
    critical: float = 0.25,
    seed: int = 0,
    precision: float | None = None,
    level: Literal["auto", "loop", "replay", "vmap", "fused"] = "auto",
    batch_size: int | None = None,
    json: Json = False,
) -> None:
    """Reset each layer of a trained network and measure what still works; writes tables and the report.

    Either RUN, a folder that `shaketable train` wrote, or --network with --final (weights from anywhere: safetensors, or
    a PyTorch file, read without running code in it) and --data. Interrupted, the same command goes on.

    Parameters
    ----------
    run
        The folder of a run.
    by
        What is reset at once: block, module, stage, or expert (of a mixture of experts).
    checkpoint
        An epoch to re-initialise to; may be repeated; default all that there are.
    draws
        Fresh draws per layer for re-randomisation.
    split
        test or train; may be repeated; default both.
    statistics
        Whether running statistics of normalisations stay as trained, are reset with their layer, or those of all batch norms
        are estimated anew on training data.
    statistics_batches
        Batches of 128 training examples on which statistics are estimated anew.
    robust
        A layer is robust if the accuracy drops by at most this.
    critical
        A layer is critical if the accuracy drops by at least this.
    seed
        Of the fresh draws.
    precision
        Each error to this precision only (0.01: plus or minus one point, wrong with probability 1e-4), from fewer examples.
    level
        How variants are evaluated: auto, replay or loop; see docs/engine.md.
    batch_size
        Examples in flight; by default as many as fit memory and cache.
    """
    study, folder = opened(run, source)
    result = _robustness(
        study,
        folder,
        by=by,
        checkpoints=checkpoint,
        draws=draws,
        splits=split,
        statistics=statistics,
        statistics_batches=statistics_batches,
        robust=robust,
        critical=critical,
        seed=seed,
        precision=precision,
        level=level,
        batch_size=batch_size,
    )
    report = written(folder, result)
    finish(_answer(result, report), _told(result, report), json)


def _robustness(study: "Study", folder: Path, **arguments: Any) -> "Robustness":
    """The probe, with its rows kept below a folder."""
    from shaketable.probes import robustness

    return robustness(study, store=folder / "robustness", command=command_typed(), **arguments)


def _answer(result: "Robustness", report: Path) -> dict[str, Any]:
    """What a machine reads about a robustness result."""
    from shaketable.report.words import clean_row

    split = result.splits()[0]
    verdicts = result.verdicts(split)
    measured = [name for name in ("reinitialise", "rerandomise") if verdicts[name].is_not_null().any()]
    found: dict[str, Any] = {"report": str(report), "split": split, "error": clean_row(result, split)["error"]}
    if measured:  # a network without initial weights is judged by re-randomisation
        found["perturbation"] = measured[0]
        for verdict in ("critical", "robust"):
            found[f"{verdict}_layers"] = result.layers_that_are(verdict, measured[0], split)
    columns = ("layer", "reinitialise", "reinitialise_drop", "rerandomise", "rerandomise_drop")
    return found | {"layers": verdicts.select(columns).to_dicts()}


def _told(result: "Robustness", report: Path) -> list[object]:
    """What a person reads about a robustness result: the drops in accuracy, the finding, where the report is."""
    from shaketable.report.words import paragraphs

    split = result.splits()[0]
    rows = [
        (row["layer"], f"{row['parameters']:,}", *(_verdict(row, name) for name in ("reinitialise", "rerandomise")))
        for row in result.verdicts(split).to_dicts()
    ]
    drops = table(("layer", "parameters", "re-initialised", "re-randomised"), rows)
    return [
        f"\n  drop in {split} accuracy when one layer is reset",
        drops,
        wrapped(paragraphs(result, split)),
        "",
        f"report: {report}",
    ]


def _verdict(row: dict[str, Any], perturbation: str) -> str:
    drop = row[f"{perturbation}_drop"]
    return "not measured" if drop is None else f"{percent(drop)}  {row[perturbation]}"
