"""The commands about the way from initial to trained weights: criticality, path."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from shaketable.cli.report import written
from shaketable.cli.source import Source, command_typed, opened
from shaketable.cli.terminal import Json, app, finish, table, wrapped

if TYPE_CHECKING:
    from shaketable.probes import Paths, Valley
    from shaketable.probes.criticality import Criticality
    from shaketable.study import Study

Split = Literal["test", "train"]
Grouping = Literal["module", "block", "stage", "expert"]
Moved = Literal["weight", "all"]
Level = Literal["auto", "loop", "replay", "vmap", "fused"]
Numbers = Annotated[list[float] | None, Parameter(negative=())]
Names = Annotated[list[str] | None, Parameter(negative=())]


@app.command(
    name="criticality",
    help_epilogue="""Examples:
  shaketable criticality runs/RUN
  shaketable criticality runs/RUN --epsilon 0.01 --epsilon 0.05 --epsilon 0.1
  shaketable criticality --network resnet18 --final final.pt --init init.pt \\
      --data cifar10 --data-root ~/data""",
)
def criticality_(
    run: Path | None = None,
    *,
    epsilon: Numbers = None,
    threshold: Literal["absolute", "increase", "ratio"] = "absolute",
    quantity: Literal["error", "loss"] = "error",
    by: Grouping = "module",
    parameters: Moved = "weight",
    draws: int = 10,
    pac_bayes: bool = True,
    split: Split = "train",
    exact: bool = False,
    seed: int = 0,
    level: Level = "auto",
    batch_size: int | None = None,
    source: Source | None = None,
    json: Json = False,
) -> None:
    """How near to its initial weights, and in how wide a valley, each layer could stand; writes tables and the report.

    Either RUN, a folder that `shaketable train` wrote, or --network with --final, --init and --data. Interrupted, the same
    command goes on.

    Parameters
    ----------
    run
        The folder of a run.
    epsilon
        What the training error may be with noise on a layer; may be repeated; default 0.1.
    threshold
        What epsilon means: absolute: error <= epsilon; increase: <= clean error + epsilon; ratio: <= (1 + epsilon) x clean error.
    quantity
        error, or loss in nats in its place.
    by
        What moves at once: module, block, stage, or expert (of a mixture of experts).
    parameters
        Whether the weights of linear operators alone move, or all parameters of a layer.
    draws
        Draws of the noise.
    pac_bayes
        Also search at the trained weights.
    split
        The data.
    exact
        Certain answers only, from all examples.
    seed
        Of the noise and of the order of examples.
    level
        How variants are evaluated: see docs/engine.md.
    batch_size
        Examples in flight; by default as many as fit memory and cache.
    """
    from shaketable.probes.criticality import criticality

    study, folder = opened(run, source)
    needs_init(study)
    result = criticality(
        study,
        by,
        epsilon=epsilon or [0.1],
        threshold=threshold,
        quantity=quantity,
        draws=draws,
        parameters=parameters,
        pac_bayes=pac_bayes,
        split=split,
        exact=exact,
        seed=seed,
        level=level,
        batch_size=batch_size,
        store=folder / "criticality",
        command=command_typed(),
    )
    report = written(folder, result)
    finish(_answer(result, report), _told(result, report), json)


@app.command(
    name="path",
    help_epilogue="""Examples:
  shaketable path runs/RUN
  shaketable path runs/RUN --layer layer1 --layer layer2 --points 41 --split test
  shaketable path runs/RUN --valley layer1 --sigma 0 --sigma 0.1 --sigma 1""",
)
def path_(
    run: Path | None = None,
    *,
    layer: Names = None,
    points: int = 21,
    together: bool = True,
    by: Grouping = "module",
    parameters: Moved = "weight",
    statistics: Literal["keep", "interpolate"] = "keep",
    split: Annotated[list[Split] | None, Parameter(negative=())] = None,
    valley: Names = None,
    sigma: Numbers = None,
    draws: int = 5,
    examples: int | None = None,
    seed: int = 0,
    level: Level = "auto",
    batch_size: int | None = None,
    source: Source | None = None,
    json: Json = False,
) -> None:
    """Error and loss on the way of each layer from initial to trained weights, and the valley around it; writes the report.

    Either RUN, or --network with --final, --init and --data. Interrupted, the same command goes on.

    Parameters
    ----------
    run
        The folder of a run.
    layer
        A layer that moves; may be repeated; default all.
    points
        How many alphas at equal steps from 0 (initial) to 1 (trained).
    together
        Also move all layers at once.
    by
        What moves at once: module, block, stage, or expert (of a mixture of experts).
    parameters
        Whether the weights of linear operators alone move, or all parameters of a layer.
    statistics
        Whether running statistics of normalisations stay as trained or move with their layer.
    split
        test or train; may be repeated; default both.
    valley
        A layer around whose way noise is added too, on training data; may be repeated.
    sigma
        A standard deviation of that noise; may be repeated; default 0 to 1 in eight steps.
    draws
        Draws of that noise, each on both sides.
    examples
        So many of the training examples for the valley; default all.
    seed
        Of the noise and of the choice of examples.
    level
        How variants are evaluated: see docs/engine.md.
    batch_size
        Examples in flight; by default as many as fit memory and cache.
    """
    from shaketable.probes import path
    from shaketable.probes import valley as valley_of
    from shaketable.probes.moves import grid, moved_layers
    from shaketable.probes.stored import check_whole
    from shaketable.probes.valleys import SIGMAS, some_of

    study, folder = opened(run, source)
    needs_init(study)
    moved_layers(study, by, parameters, layer)
    if valley:
        moved_layers(study, by, parameters, valley)  # what is wrong is said before anything is measured
        grid("sigmas", sigma or SIGMAS, math.inf)
        check_whole(1, draws=draws, **({} if examples is None else {"examples": examples}))
        check_whole(seed=seed)
        if examples is not None:
            some_of(study.data("train"), examples, "train", seed)
    engine: dict[str, Any] = {"level": level, "batch_size": batch_size, "command": command_typed()}
    result = path(
        study,
        by,
        alphas=points,
        layers=layer,
        together=together,
        parameters=parameters,
        statistics=statistics,
        splits=split,
        store=folder / "path",
        **engine,
    )
    around = None
    if valley:
        around = valley_of(
            study,
            valley,
            sigmas=sigma or SIGMAS,
            draws=draws,
            by=by,
            parameters=parameters,
            examples=examples,
            seed=seed,
            store=folder / "valley",
            **engine,
        )
    report = written(folder, result, *([] if around is None else [around]))
    finish(_path_answer(result, around, report), _path_told(result, around, report), json)


def needs_init(study: "Study") -> None:
    """One error where the way has no beginning."""
    from shaketable.errors import InputError

    if study.init is None:
        raise InputError(
            "there are no initial weights, and the way from them to the trained ones is what is looked at; give the weights "
            "before training as --init FILE."
        )


def strict(value: Any) -> Any:
    """A number as JSON has it: no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _answer(result: "Criticality", report: Path) -> dict[str, Any]:
    """What a machine reads about criticality."""
    columns = ["layer", "epsilon", "bound", "criticality", "criticality_stderr", "alpha", "sigma", "distance"]
    columns += ["pac_bayes", "pac_bayes_stderr", "draws", "examples", "status", "reason"]
    networks, layers = result.summary().to_dicts(), result.table.select(columns).to_dicts()
    networks, layers = ([{k: strict(v) for k, v in row.items()} for row in rows] for rows in (networks, layers))
    return {"report": str(report), "clean": result.provenance["clean"], "networks": networks, "layers": layers}


def _told(result: "Criticality", report: Path) -> list[object]:
    """What a person reads about criticality."""
    from shaketable.report.criticality_words import condition, criticality_paragraphs, quantity

    told: list[object] = []
    for bounded in result.table.partition_by("epsilon", maintain_order=True):
        rows = [
            (
                row["layer"],
                f"{row['parameters']:,}",
                row["status"]
                if row["criticality"] is None
                else quantity(row["criticality"], row["criticality_stderr"]),
                "–" if row["alpha"] is None else f"{row['alpha']:.2f}",
                "any" if row["alpha"] == 0 else "–" if row["sigma"] is None else f"{row['sigma']:.3g}",
                quantity(row["pac_bayes"], row["pac_bayes_stderr"]),
            )
            for row in bounded.to_dicts()
        ]
        columns = ("layer", "parameters", "criticality", "alpha", "sigma", "PAC-Bayes")
        told += [f"\n  criticality, while {condition(result, bounded['bound'][0])}", table(columns, rows)]
    largest = max(result.table["epsilon"])
    reasons = result.table.filter(epsilon=largest)["reason"].drop_nulls().unique(maintain_order=True).to_list()
    notes = [f"Without a number, or to be known: {reason}." for reason in reasons]
    return [*told, wrapped([*criticality_paragraphs(result, largest), *notes]), "", f"report: {report}"]


def _path_answer(result: "Paths", around: "Valley | None", report: Path) -> dict[str, Any]:
    """What a machine reads about paths and valleys."""
    found: dict[str, Any] = {"report": str(report), "curves": result.summary().to_dicts()}
    columns = ["layer", "alpha", "split", "error", "loss", "status", "reason"]
    found["points"] = result.table.select(columns).to_dicts()
    if around is not None:
        columns = ["layer", "alpha", "sigma", "draws", "error", "error_stderr", "loss", "loss_stderr", "status"]
        found["valley"] = around.summary().select(columns).to_dicts()
    return found


def _path_told(result: "Paths", around: "Valley | None", report: Path) -> list[object]:
    """What a person reads about paths and valleys: error at some alphas, and what it comes to."""
    from shaketable.report.criticality_words import path_paragraphs, valley_paragraphs
    from shaketable.report.words import percent

    split = "test" if "test" in result.splits() else "train"
    curves = result.table.filter(split=split)
    alphas = curves["alpha"].unique().sort().to_list()
    shown = [alphas[round(place * (len(alphas) - 1) / 4)] for place in range(5)] if len(alphas) > 5 else alphas
    rows = []
    for one in curves.partition_by("position", maintain_order=True):
        errors = dict(one.select("alpha", "error").iter_rows())
        rows.append((one["layer"][0], *("–" if errors[a] is None else percent(errors[a]) for a in shown)))
    told = [f"\n  {split} error at alpha (0: initial weights, 1: trained)"]
    said = [*path_paragraphs(result, split), *(valley_paragraphs(around) if around is not None else [])]
    return [*told, table(("layer", *(f"{a:g}" for a in shown)), rows), wrapped(said), "", f"report: {report}"]
