"""The command about noise on one layer, and pruning of one: sensitivity."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from shaketable.cli.criticality import Grouping, Level, Numbers, Split
from shaketable.cli.report import written
from shaketable.cli.source import Source, command_typed, opened
from shaketable.cli.terminal import Json, app, finish, table, wrapped

if TYPE_CHECKING:
    from shaketable.probes import Sensitivity

WORDS = {"noise": "noise, relative", "prune": "share removed"}


@app.command(
    name="sensitivity",
    help_epilogue="""Examples:
  shaketable sensitivity runs/RUN
  shaketable sensitivity runs/RUN --noise 0.1 --pruning 0.5 --pruning 0.9 --split test
  shaketable sensitivity --network my_models:build --final w.pt --data arrays.npz""",
)
def sensitivity_(
    run: Path | None = None,
    *,
    noise: Numbers = None,
    pruning: Numbers = None,
    draws: int = 3,
    split: Annotated[list[Split] | None, Parameter(negative=())] = None,
    by: Grouping = "module",
    seed: int = 0,
    level: Level = "auto",
    batch_size: int | None = None,
    source: Source | None = None,
    json: Json = False,
) -> None:
    """Put noise on each layer, and remove its smallest weights; writes tables and the report. Needs no initial weights.

    Either RUN, or --network with --final and --data. Interrupted, the same command goes on.

    Parameters
    ----------
    run
        The folder of a run.
    noise
        A standard deviation relative to the layer's weights; may be repeated; default 0.01, 0.1, 0.3 and 1.
    pruning
        A fraction of the layer's weights that is removed; may be repeated; default 0.25, 0.5, 0.75 and 0.9.
    draws
        Draws of the noise.
    split
        test or train; may be repeated; default both.
    by
        What is changed at once: module, block, stage, or expert (of a mixture of experts).
    seed
        Of the noise.
    level
        How variants are evaluated: see docs/engine.md.
    batch_size
        Examples in flight; by default as many as fit memory and cache.
    """
    from shaketable.probes import sensitivity

    study, folder = opened(run, source)
    chosen: dict[str, Any] = {"noise": noise, "pruning": pruning}
    if noise or pruning:  # one of them alone leaves the other out
        chosen = {name: given or () for name, given in chosen.items()}
    result = sensitivity(
        study,
        by,
        draws=draws,
        splits=split,
        seed=seed,
        level=level,
        batch_size=batch_size,
        store=folder / "sensitivity",
        command=command_typed(),
        **{name: given for name, given in chosen.items() if given is not None},
    )
    report = written(folder, result)
    columns = [
        "layer",
        "perturbation",
        "magnitude",
        "split",
        "error",
        "loss",
        "accuracy_drop",
        "draws",
        "status",
        "reason",
    ]
    answer = {"report": str(report), "layers": result.summary().select(columns).to_dicts()}
    finish(answer, _told(result, report), json)


def _told(result: "Sensitivity", report: Path) -> list[object]:
    """What a person reads: how much each layer bears, and what it comes to."""
    from shaketable.report.together_words import DROP, sensitivity_paragraphs
    from shaketable.report.words import points

    split = result.splits()[0]
    asked = [one for one in WORDS if len(result.table.filter(perturbation=one))]
    borne = [result.tolerated(one, DROP, split).to_dicts() for one in asked]
    rows = [
        (
            one[0]["layer"],
            f"{one[0]['parameters']:,}",
            *("not measured" if b["tolerated"] is None else f"{b['tolerated']:g}" for b in one),
        )
        for one in zip(*borne, strict=True)
    ]
    told = [
        f"\n  the most that one layer bears of what was tried, at a loss of at most {points(DROP)} of {split} accuracy"
    ]
    columns = ("layer", "parameters", *(WORDS[one] for one in asked))
    return [*told, table(columns, rows), wrapped(sensitivity_paragraphs(result, split)), "", f"report: {report}"]
