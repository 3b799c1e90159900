"""The command about layers together: joint robustness, and the search for the largest set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from shaketable.cli.criticality import Grouping, Level, Names, Split
from shaketable.cli.report import written
from shaketable.cli.source import Source, command_typed, opened
from shaketable.cli.terminal import Json, app, finish, percent, table, wrapped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shaketable.probes import JointRobustness, LayerSets

How = Literal["reinitialise", "rerandomise", "remove"]


@app.command(
    name="joint",
    help_epilogue="""Examples:
  shaketable joint runs/RUN
  shaketable joint runs/RUN --scheme every-other --scheme all-but-first:stage1,stage4
  shaketable joint runs/RUN --group upper=layer2,layer3 --how reinitialise
  shaketable joint runs/RUN --search --how reinitialise --how remove --tolerance 0.02""",
)
def joint_(
    run: Path | None = None,
    *,
    scheme: Names = None,
    group: Names = None,
    rest: bool = True,
    how: Annotated[list[How] | None, Parameter(negative=())] = None,
    checkpoint: Annotated[list[int] | None, Parameter(negative=())] = None,
    draws: int = 5,
    search: bool = False,
    tolerance: float = 0.05,
    size: Literal["count", "parameters"] = "count",
    beam: int | None = None,
    look_ahead: int = 1,
    candidate: Names = None,
    split: Split | None = None,
    by: Grouping = "block",
    statistics: Literal["keep", "rewind", "reestimate"] = "keep",
    statistics_batches: int = 10,
    seed: int = 0,
    level: Level = "auto",
    batch_size: int | None = None,
    source: Source | None = None,
    json: Json = False,
) -> None:
    """Reset or drop groups of layers together, or search the largest set that may go; writes tables and the report.

    Either RUN, or --network with --final and --data. Nothing is retrained. The set of a search is measured as a group too, on
    test and training data. Interrupted, the same command goes on.

    Parameters
    ----------
    run
        The folder of a run.
    scheme
        all-but-first, two-in-three or every-other block of each stage, or of some: every-other:stage1,stage4; may be
        repeated; default all-but-first, unless a group is given or a set searched.
    group
        Layers of your own as NAME=LAYER,LAYER (* is a wild card); may be repeated.
    rest
        Beside each group also the group of all other layers.
    how
        reinitialise (to checkpoints), rerandomise (fresh draws) or remove (residual blocks with identity shortcuts); may be
        repeated; default all three, of a search reinitialise, or rerandomise where there are no initial weights.
    checkpoint
        An epoch to re-initialise to; may be repeated; default all that there are. A search goes to the first of them.
    draws
        Fresh draws of each group.
    search
        Search the largest set of layers, once for each --how.
    tolerance
        The drop in accuracy that the set may cost.
    size
        Whether the set is to have the most layers, or the most parameters.
    beam
        Sets of each size that the search keeps; default every set of at most 8 candidates, else 3.
    look_ahead
        Layers that a step of the search looks ahead.
    candidate
        A layer that the set may have, or a scheme of them; may be repeated; default all that can go.
    split
        The data that the search looks at; default train where there is such data.
    by
        What goes at once: block, module, stage, or expert (of a mixture of experts).
    statistics
        Whether running statistics of normalisations stay as trained, are reset with their layer, or estimated anew.
    statistics_batches
        Batches of 128 training examples on which statistics are estimated anew.
    seed
        Of the fresh draws.
    level
        How variants are evaluated: see docs/engine.md.
    batch_size
        Examples in flight; by default as many as fit memory and cache.
    """
    from shaketable.errors import InputError
    from shaketable.params import layers
    from shaketable.probes import joint_robustness, largest_set
    from shaketable.probes.schemes import layer_groups, named_layers
    from shaketable.report.together_words import searched

    if candidate is not None and not search:
        raise InputError("--candidate is what a search may take; add --search.")
    study, folder = opened(run, source)
    found = layers(study.network, by, study.example_inputs())
    given = _groups(scheme, group) or ({} if search else {"all-but-first": "all-but-first"})
    named = layer_groups(found, given, rest) if given else {}
    engine: dict[str, Any] = {"level": level, "batch_size": batch_size, "command": command_typed()}
    engine |= {"statistics": statistics, "statistics_batches": statistics_batches, "seed": seed}
    first: How = "rerandomise" if study.init is None and not study.epochs else "reinitialise"
    every: list[How] = [first] if search else ["reinitialise", "rerandomise", "remove"]
    ways = list(dict.fromkeys(how or every))
    epochs = sorted(set(checkpoint or study.epochs)) if "reinitialise" in ways else []
    for epoch in epochs:
        study.checkpoint(epoch)
    searches = [
        largest_set(
            study,
            way,
            by,
            split=split or ("train" if study.train is not None else "test"),
            tolerance=tolerance,
            size=size,
            beam="auto" if beam is None else beam,
            look_ahead=look_ahead,
            candidates=None if candidate is None else named_layers(found, candidate),
            checkpoint=epochs[0] if epochs else 0,
            draws=draws if way == "rerandomise" else 1,
            store=folder / "layer_sets",
            **engine,
        )
        for way in (ways if search else ())
    ]
    for one in searches:
        if one.largest and tuple(one.largest) not in named.values():
            named[_free(f"largest set {searched(one)}", named)] = tuple(one.largest)
    joint = None
    if named:
        joint = joint_robustness(
            study,
            named,
            by,
            checkpoints=epochs or (None if "reinitialise" in ways else []),
            draws=draws if "rerandomise" in ways else 0,
            remove="remove" in ways,
            store=folder / "joint_robustness",
            **engine,
        )
    results = [*([joint] if joint else []), *searches]
    report = written(folder, *results)
    finish(_answer(joint, searches, report), _told(joint, searches, report), json)


def _groups(scheme: list[str] | None, group: list[str] | None) -> dict[str, str | list[str]]:
    """Schemes and groups by name."""
    from shaketable.errors import InputError
    from shaketable.probes.schemes import check_scheme

    named: dict[str, str | list[str]] = {}
    for one in scheme or []:
        check_scheme(one)
        named[one] = one
    for one in group or []:
        name, equals, members = one.partition("=")
        if not equals or not name or not members:
            raise InputError(f"--group {one}: write NAME=LAYER,LAYER, such as --group upper=layer2,layer3.")
        if name in named:
            raise InputError(f"--group {one}: there is a group {name!r} already; choose another name.")
        named[name] = members.split(",")
    return named


def _free(name: str, taken: "Mapping[str, Any]") -> str:
    """A name that no group has."""
    return name if name not in taken else _free(f"{name}, found", taken)


def _answer(joint: "JointRobustness | None", searches: "list[LayerSets]", report: Path) -> dict[str, Any]:
    """What a machine reads."""
    found: dict[str, Any] = {"report": str(report), "groups": [], "searches": []}
    if joint is not None:
        found["groups"] = [row | {"layers": joint.groups.get(row["group"])} for row in joint.summary().to_dicts()]
    columns = ["step", "set", "added", "layers", "parameters", "error", "accuracy_drop", "within", "kept", "status"]
    found["searches"] = [
        {
            name: one.provenance[name]
            for name in ("how", "split", "tolerance", "size", "complete", "largest", "left_out")
        }
        | {"curve": one.summary().select(columns).to_dicts(), "steps": one.table.select(columns).to_dicts()}
        for one in searches
    ]
    return found


def _told(joint: "JointRobustness | None", searches: "list[LayerSets]", report: Path) -> list[object]:
    """What a person reads."""
    from shaketable.report.together_words import (
        group_rows,
        joint_paragraphs,
        recommendations,
        search_paragraphs,
        searched,
    )

    told: list[object] = []
    for one in searches:
        facts = one.provenance
        told.append(f"\n  {facts['split']} error with the best sets of each size {searched(one)} together")
        rows = [
            (
                str(row["layers"]),
                f"{row['parameters']:,}",
                percent(row["error"]),
                "yes" if row["within"] else "no",
                row["set"],
            )
            for row in one.summary().to_dicts()
        ]
        told += [table(("layers", "parameters", "error", "within", "which"), rows), wrapped(search_paragraphs(one))]
    if joint is not None:
        splits = joint.splits()
        told.append("\n  error with all layers of a group changed together")
        rows = [
            (
                row["group"],
                str(row["layers"]),
                f"{row['parameters']:,}",
                row["how"],
                *(_error(row, split) for split in splits),
            )
            for row in group_rows(joint)
        ]
        told.append(table(("group", "layers", "parameters", "all of it", *splits), rows))
        reasons = joint.table["reason"].drop_nulls().unique(maintain_order=True).to_list()
        told.append(wrapped([*joint_paragraphs(joint, splits[0]), *(f"Not measured: {reason}." for reason in reasons)]))
    told += [wrapped(["", f"{one['heading']}: {one['text']}"]) for one in recommendations(searches, joint)]
    return [*told, "", f"report: {report}"]


def _error(row: dict[str, Any], split: str) -> str:
    """The error of a group on a split."""
    error = row["splits"].get(split, {}).get("error")
    return "not measured" if error is None else percent(error)
