"""The commands about estimators: fit one on a zoo, and estimate the gap of a network with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from shaketable.cli.report import written
from shaketable.cli.source import Source, command_typed, opened
from shaketable.cli.terminal import Device, Json, Only, Root, app, finish, table, wrapped
from shaketable.cli.zoo import zoo_app

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from shaketable.estimators import Estimator, Splits
    from shaketable.training import Recipe

VERSION = 2
"""Of the stored estimates."""
REPEATS = 100


@zoo_app.command(
    name="fit",
    help_epilogue="""Examples:
  shaketable zoo fit zoos/first --out gap.json
  shaketable zoo fit zoos/first --only zeta kappa path_norm --model ridge --coverage 0.8 --out gap.json
  shaketable zoo fit zoos/first --margins --out margins.json --figures figures""",
)
def fit_(
    zoo: Path,
    *,
    out: Path,
    only: Only = None,
    margins: Annotated[bool, Parameter(negative=())] = False,
    model: Literal["linear", "ridge", "boosting"] = "linear",
    target: Literal["gap", "test_error", "loss_gap", "test_loss"] = "gap",
    interval: Literal["jackknife+", "cv+", "split"] | None = None,
    coverage: float = 0.9,
    train_error: float = 1.0,
    repeats: int = REPEATS,
    seed: int = 0,
    figures: Path | None = None,
    data_root: Root = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Fit an estimator of the gap on the networks of a zoo, try it on networks held out, and keep it in a file.

    Parameters
    ----------
    zoo
        The folder of a zoo, or its table as Parquet (then the file does not know which architectures the zoo had).
    out
        The JSON file of the estimator, for `shaketable estimate`.
    only
        Names of the measures that it looks at; default zeta and kappa.
    margins
        The statistics of margins at four layers instead, or beside those of --only; they are taken now if need be.
    model
        Least squares, ridge regression, or gradient boosting.
    target
        What it estimates.
    interval
        Jackknife+ (default), CV+ (default for boosting), or split conformal.
    coverage
        Of the interval.
    train_error
        Leave out networks whose training error is larger: of one that has not learnt its data, no gap is told.
    repeats
        Splits into nine tenths and one tenth on which it is tried.
    seed
        Of the splits and folds.
    figures
        A folder for the figures as SVG and PNG.
    """
    from shaketable.estimators import fit, repeated_splits

    _refuse_places(out, figures)
    every, recipes = _zoo(zoo, margins, data_root, device)
    frame = _trained(every, train_error)
    measures = _measures(only, margins)
    arguments: dict[str, Any] = {"target": target, "interval": interval, "coverage": coverage, "seed": seed}
    found = fit(frame, measures, model, **arguments, recipes=recipes, command=command_typed())
    splits = repeated_splits(frame, measures, model, **arguments, repeats=repeats)
    path, summary = found.save(out), splits.summary()
    answer: dict[str, Any] = {
        "estimator": str(path),
        "networks": found.networks,
        "left_out": every["network"].n_unique() - found.networks,
        "error": found.regression.error,
        "splits": summary,
    }
    answer["figures"] = [str(file) for file in _write_figures(splits, target, figures)] if figures else []
    finish(
        answer,
        [
            *_told(found, answer["left_out"], summary),
            f"estimator: {path}",
            *(f"figure: {one}" for one in answer["figures"]),
        ],
        json,
    )


@app.command(
    name="estimate",
    help_epilogue="""Examples:
  shaketable estimate runs/RUN --with gap.json
  shaketable estimate runs/RUN --with gap.json --strict --json""",
)
def estimate_(
    run: Path | None = None,
    *,
    estimator: Annotated[Path, Parameter(name="--with")],
    strict: Annotated[bool, Parameter(negative=())] = False,
    source: Source | None = None,
    json: Json = False,
) -> None:
    """Estimate the gap of a network from its training data alone, with an interval; the report opens with it.

    Either RUN, or --network with --final and --data.

    Parameters
    ----------
    run
        The folder of a run.
    estimator
        The file that `shaketable zoo fit` wrote.
    strict
        Refuse a network that lies outside of what the zoo covered, instead of a warning.
    """
    from shaketable.estimators import Estimate, Estimator
    from shaketable.identity import digest
    from shaketable.probes.stored import identity_of, stored
    from shaketable.report.estimate import estimate_paragraphs

    model, text = Estimator.load(estimator), estimator.expanduser().read_text(encoding="utf-8")
    study, folder = opened(run, source)
    result = stored(
        Estimate,
        folder / "estimate",
        lambda: identity_of(study, "estimate", VERSION, {"train": study.data("train")}, estimator=digest(text)),
        lambda cells: model.estimate(study, command=command_typed()),
        command_typed(),
    )
    if strict:
        result.refuse_outside()
    report = written(folder, result)
    answer = {name: getattr(result, name) for name in ("value", "low", "high", "coverage")}
    answer |= {"warnings": list(result.warnings), "measures": result.features.to_dicts(), "report": str(report)}
    rows = [
        (
            row["measure"],
            f"{row['value']:.4g}",
            f"{row['low']:.4g} to {row['high']:.4g}",
            "yes" if row["inside"] else "no",
        )
        for row in answer["measures"]
    ]
    shown = table(("measure", "here", "in the zoo", "inside"), rows)
    finish(answer, [shown, wrapped(estimate_paragraphs(result)), "", f"report: {report}"], json)


def _zoo(path: Path, margins: bool, data_root: Path | None, device: str) -> "tuple[pl.DataFrame, dict[str, Recipe]]":
    """The table of a zoo, with margins where they are asked for, and its recipes by network."""
    from shaketable.errors import InputError
    from shaketable.estimators import MARGINS, with_margins
    from shaketable.zoo import Zoo, read_table

    if not path.is_dir():
        frame = read_table(path)
        for column in ("network", "measure", "train_error"):
            if column not in frame.columns:
                raise InputError(
                    f"{path}: this table has no column {column!r}; give one that `shaketable zoo measure` wrote."
                )
        if margins and not set(MARGINS) <= set(frame["measure"].drop_nulls()):
            raise InputError(
                f"{path}: this table has no margins; give the folder of the zoo, so that they can be taken."
            )
        return frame, {}
    found = Zoo.open(path)
    frame = with_margins(found, data_root, device) if margins else found.table()
    return frame, {entry.name: entry.recipe for entry in found.plan.networks}


def _refuse_places(out: Path, figures: Path | None) -> None:
    """One error for what cannot be written, before anything is measured."""
    from shaketable.errors import InputError
    from shaketable.files import refuse_file

    if out.expanduser().is_dir():
        raise InputError(f"--out {out}: is a folder; give the name of the JSON file to write.")
    for folder in (out.expanduser().absolute().parent, *([figures.absolute()] if figures else [])):
        refuse_file(folder)


def _trained(frame: "pl.DataFrame", train_error: float) -> "pl.DataFrame":
    """The networks that learnt their training data well enough."""
    import polars as pl

    from shaketable.errors import InputError

    if not 0 <= train_error <= 1:
        raise InputError(f"--train-error {train_error:g}: give a share from 0 to 1, such as 0.05.")
    kept = frame.filter(pl.col("train_error") <= train_error)
    if kept.is_empty():
        raise InputError(
            f"no network of this zoo has a training error of at most {train_error:g}; allow more with --train-error."
        )
    return kept


def _measures(only: list[str] | None, margins: bool) -> list[str]:
    """The names of the measures that the options choose."""
    from shaketable.estimators import MARGINS

    return [*(only or ([] if margins else ["zeta", "kappa"])), *(MARGINS if margins else ())]


def _told(found: "Estimator", left_out: int, summary: "Mapping[str, float | None]") -> list[object]:
    """What a person reads about an estimator."""
    from shaketable.estimators.models import Linear
    from shaketable.report.words import percent

    whole, names = found.regression.whole, [feature.measure for feature in found.features]
    terms = []
    if isinstance(whole, Linear):
        rows = zip((*names, "constant"), (*whole.coefficients, whole.intercept), strict=True)
        terms = [table(("measure", "coefficient"), [(name, f"{value:.5g}") for name, value in rows])]
    pearson = "–" if summary["pearson"] is None else f"{summary['pearson']:.3f}"
    said = (
        f"Fitted on {found.networks} networks ({left_out} left out), {found.target.replace('_', ' ')} from "
        f"{found.provenance['lowest']:.3f} to {found.provenance['highest']:.3f}. On networks that it had not seen its error is "
        f"{found.regression.error:.4f} (root mean square). Tried on splits of 0.9 and 0.1: Pearson {pearson} on the networks of the "
        f"fit; the sum of squared residuals of the others is {summary['ssr']:.4f} on average and {summary['largest_ssr']:.4f} at most; "
        f"intervals of {percent(found.coverage)} held {summary['coverage']:.1%} of them."
    )
    return [*terms, wrapped([said]), ""]


def _write_figures(splits: "Splits", target: str, folder: Path) -> list[Path]:
    """Estimated against true gap on the first split, and the residuals of all."""
    import polars as pl

    from shaketable import plots

    charts = {
        "estimates": plots.estimate_scatter(splits.points.filter(pl.col("split") == 0), target),
        "ssr": plots.ssr_histogram(splits.table),
    }
    return [plots.save(chart, folder / f"{name}.{end}") for name, chart in charts.items() for end in ("svg", "png")]
