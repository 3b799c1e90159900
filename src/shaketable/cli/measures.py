"""The commands that give numbers about a whole network: measure, bounds."""

import inspect
import math
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shaketable.cli.criticality import Grouping, Numbers, needs_init, strict
from shaketable.cli.report import written
from shaketable.cli.source import Source, command_typed, opened
from shaketable.cli.terminal import Json, Only, app, finish, table, wrapped

if TYPE_CHECKING:
    from shaketable.bounds import Bound
    from shaketable.measures import Measure
    from shaketable.study import Study

VERSION = 2
"""Of the stored tables of measures and bounds."""


@app.command(
    name="measure",
    help_epilogue="""Examples:
  shaketable measure runs/RUN
  shaketable measure runs/RUN --only prunability path_norm
  shaketable measure runs/RUN --only network_criticality --epsilon 0.05 --json""",
)
def measure_(
    run: Path | None = None,
    *,
    only: Only = None,
    epsilon: float = 0.1,
    draws: int = 10,
    seed: int = 0,
    source: Source | None = None,
    json: Json = False,
) -> None:
    """Numbers that should rank networks by how well they generalise, with the direction that is good.

    `shaketable measures` lists them. Either RUN, or --network with --final and --data. Interrupted, the same command goes on.

    Parameters
    ----------
    run
        The folder of a run.
    only
        Names of measures; default all that the data allow: minutes, those of the Hessian most of them.
    epsilon
        The error threshold of those that have one.
    draws
        Of those that draw noise.
    seed
        Of those that draw.
    """
    from difflib import get_close_matches

    from shaketable.errors import InputError
    from shaketable.measures import MEASURES
    from shaketable.probes.stored import facts_of, identity_of, stored, time_taken
    from shaketable.progress import progress
    from shaketable.report import Measures

    started = time.monotonic()
    for name in only or []:
        if name not in MEASURES:
            near = get_close_matches(name, MEASURES, 1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(MEASURES)}."
            raise InputError(f"--only {name}: there is no such measure{meant}")
    _within("--epsilon", epsilon)
    study, folder = opened(run, source)
    chosen = [kind for kind in MEASURES.values() if study.test is not None or "test" not in kind.needs]
    chosen = [MEASURES[name] for name in dict.fromkeys(only)] if only else chosen
    arguments = {"epsilon": epsilon, "draws": draws, "seed": seed}
    data = {split: one for split, one in (("test", study.test), ("train", study.train)) if one is not None}

    def identity() -> dict[str, Any]:
        versions = {kind.name: kind.version for kind in chosen}
        return identity_of(study, "measures", VERSION, data, measures=versions, **arguments)

    def measured(cells: Any) -> Measures:
        import polars as pl

        from shaketable.measures.measure import SCHEMA

        searches = {**arguments, "store": folder / "measures" / "searches"}
        rows = []
        with progress("measures", len(chosen)) as advance:
            for kind in chosen:
                advance(0, kind.name)
                rows.append(cells.get(kind.name, lambda kind=kind: _strict(_row(study, kind, searches))))
                advance(1)
        facts = facts_of(study, data, **arguments, command=command_typed())
        return Measures(pl.DataFrame(rows, schema=SCHEMA), facts | time_taken(started))

    result = stored(Measures, folder / "measures", identity, measured, command_typed())
    report = written(folder, result)
    answer = {"report": str(report), "measures": result.table.to_dicts()}
    finish(answer, _told(result.table.to_dicts(), report), json)


def _strict(row: dict[str, Any]) -> dict[str, Any]:
    """A row as strict JSON has it."""
    return {name: strict(value) for name, value in row.items()}


@app.command(
    name="bounds",
    help_epilogue="""Examples:
  shaketable bounds runs/RUN
  shaketable bounds runs/RUN --alpha 0.5 --sigma 0.05 --draws 1000 --delta 0.01
  shaketable bounds runs/RUN --margin 1 --epsilon 0.1""",
)
def bounds_(
    run: Path | None = None,
    *,
    alpha: float = 1.0,
    sigma: Numbers = None,
    draws: int = 100,
    search_draws: int = 10,
    delta: float = 0.05,
    form: Literal["inverse", "derived", "printed"] = "inverse",
    margin: float | None = None,
    epsilon: float | None = None,
    by: Grouping = "module",
    seed: int = 0,
    source: Source | None = None,
    json: Json = False,
) -> None:
    """Upper bounds on the error on new examples, from training data alone, with all their terms and what they rest on.

    The bound of theorem 3.2 of Chatterji et al. is on the network with Gaussian noise on all its layers. With --margin also that
    of theorem B.2, on the network itself; with --epsilon that of corollary 3.3, which rests on a conjecture and takes a search
    of some minutes. Either RUN, or --network with --final, --init and --data. Interrupted, the same command goes on.

    Parameters
    ----------
    run
        The folder of a run.
    alpha
        Where the layers stand between initial (0) and trained weights (1).
    sigma
        Standard deviation of the noise; may be repeated: the best of them is searched; default 0.01 to 0.2.
    draws
        Networks drawn for the training error with noise.
    search_draws
        Networks drawn for each sigma in the search.
    delta
        The probability that the bound fails.
    form
        inverse: the proof without its relaxations; derived: with its constants; printed: as in the paper.
    margin
        In logits, fixed before training: also the bound of theorem B.2.
    epsilon
        Also search the criticality of all layers together at this training error: the bound of corollary 3.3.
    by
        Which parameters share a prior: module, block, stage, or expert (of a mixture of experts).
    seed
        Of the noise.
    """
    from shaketable.bounds import study_bound, study_corollary_bound, study_deterministic_bound
    from shaketable.bounds.bound import check_probability
    from shaketable.errors import InputError
    from shaketable.probes.stored import facts_of, identity_of, stored, time_taken
    from shaketable.progress import progress
    from shaketable.report import Bounds
    from shaketable.report.results import bound_of, plain

    started = time.monotonic()
    study, folder = opened(run, source)
    needs_init(study)
    scales = sigma or [0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2]
    if not all(0 < one <= 1 for one in scales):
        raise InputError(
            f"--sigma {' '.join(f'{one:g}' for one in scales)}: give standard deviations above 0, up to 1."
        )
    check_probability(delta, "--delta")
    _within("--alpha", alpha)
    if epsilon is not None:
        _within("--epsilon", epsilon)
    if margin is not None and not 0 < margin < math.inf:
        raise InputError(f"--margin {margin:g}: give a number of logits above 0.")
    arguments = {"alpha": alpha, "sigma": scales, "draws": draws, "search_draws": search_draws, "delta": delta}
    arguments |= {"form": form, "margin": margin, "epsilon": epsilon, "by": by, "seed": seed}
    data = {"train": study.data("train")} | ({"test": study.test} if study.test is not None else {})

    def stochastic() -> dict[str, Any]:
        steps = draws + (search_draws * len(scales) if len(scales) > 1 else 0)
        with progress("bounds", steps) as advance:
            return plain(
                study_bound(
                    study, alpha, 1.0, draws=draws, delta=delta, scales=scales, search_draws=search_draws, by=by,
                    form=form, seed=seed, advance=advance,
                )
            )  # fmt: skip

    def measured(cells: Any) -> Bounds:
        found = [cells.get("theorem 3.2", stochastic)]
        if margin is not None:
            second = partial(study_deterministic_bound, study, margin, alpha, delta)
            found.append(cells.get("theorem B.2", lambda: plain(second())))
        if epsilon is not None:
            where = {"store": folder / "bounds" / "searches", "command": command_typed()}
            third = partial(study_corollary_bound, study, epsilon, delta, by=by, seed=seed, **where)
            found.append(cells.get("corollary 3.3", lambda: plain(third())))
        facts = facts_of(study, data, **arguments, command=command_typed())
        return Bounds(tuple(map(bound_of, found)), facts | time_taken(started))

    result = stored(
        Bounds,
        folder / "bounds",
        lambda: identity_of(study, "bounds", VERSION, data, **arguments),
        measured,
        command_typed(),
    )
    report = written(folder, result)
    found = [
        {name: strict(value) for name, value in plain(bound).items() if name != "terms"}
        | {"vacuous": bound.vacuous, "statement": bound.statement(), "terms": _terms(bound)}
        for bound in result.bounds
    ]
    told: list[object] = []
    for bound in result.bounds:
        rows = [(name, "no value" if value is None else f"{value:.5g}") for name, value in _terms(bound).items()]
        told += [table(("term", "value"), rows), wrapped([bound.statement()]), ""]
    finish({"report": str(report), "bounds": found}, [*told, f"report: {report}"], json)


def _within(option: str, value: float) -> None:
    """One error for a number outside of [0, 1]."""
    from shaketable.errors import InputError

    if not 0 <= value <= 1:
        raise InputError(f"{option} {value:g}: give a number from 0 to 1.")


def _row(study: "Study", kind: "Measure", arguments: dict[str, Any]) -> dict[str, Any]:
    """The row of one measure, with those of the arguments that it has."""
    from shaketable.measures.rows import measured_row

    accepted = inspect.signature(kind.function).parameters
    return measured_row(study, kind.name, {name: value for name, value in arguments.items() if name in accepted})


def _terms(bound: "Bound") -> dict[str, float | None]:
    """The terms of a bound by their names."""
    return {name: strict(value) for name, value, _ in bound.terms.rows()}


def _told(rows: list[dict[str, Any]], report: Path) -> list[object]:
    """What a person reads about measures."""
    from shaketable.report.criticality_words import measure_value

    lines = [(row["measure"], measure_value(row), row["direction"], row["about"]) for row in rows]
    reasons = [f"{row['measure']}: {row['status']}: {row['reason']}." for row in rows if row["reason"]]
    return [
        table(("measure", "value", "better", "what it is"), lines),
        wrapped(
            [
                "Of two networks trained on the same data, the one that is better by a measure should generalise better.",
                *reasons,
            ]
        ),
        "",
        f"report: {report}",
    ]
