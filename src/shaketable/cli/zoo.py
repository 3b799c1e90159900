"""The commands about a zoo: plan, run, measure, rank."""

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from shaketable.cli.criticality import Names, strict
from shaketable.cli.source import command_typed
from shaketable.cli.terminal import Device, Json, Only, Pairs, Root, app, finish, pairs, table, wrapped

if TYPE_CHECKING:
    from shaketable.zoo import Plan, Ranking, Zoo

SHOWN = 12
"""Networks of a plan that are listed."""

zoo_app = App(
    name="zoo",
    help="Train many networks, take every measure of each, and see which measures predict the gap.",
    help_format="plaintext",
    help_epilogue="""Examples:
  shaketable zoo plan plan.toml
  shaketable zoo run plan.toml --out zoos/first --executor loky --jobs 4
  shaketable zoo measure zoos/first --executor loky --jobs 4
  shaketable zoo rank zoos/first --figures figures""",
)
app.command(zoo_app)


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Where the work of a zoo is done."""

    executor: Literal["local", "loky", "ray", "dask", "slurm"] = "local"
    """In this process, in processes on this machine, or on a cluster of Ray, Dask or SLURM."""
    executor_arg: Pairs = None
    """An option of the cluster as NAME=VALUE, such as address=auto (Ray) or slurm_partition=gpu; may be repeated."""
    jobs: int = 1
    """Networks at a time."""
    cpus: int = 1
    """Threads of each, and the cores that Ray and SLURM keep for it."""
    gpus: float = 0
    """Devices that Ray, Dask and SLURM keep for each."""
    memory_gb: float | None = None
    """Memory that Ray and SLURM keep for each."""
    minutes: int | None = None
    """After which SLURM ends a network's job."""
    retries: int = 2
    """How often a network is tried again whose worker died."""
    data_root: Root = None
    device: Device = "cpu"

    def arguments(self) -> dict[str, Any]:
        """What the functions of the zoo take."""
        from shaketable.zoo import Resources

        return {
            "executor": self.executor,
            "jobs": self.jobs,
            "resources": Resources(self.cpus, self.gpus, self.memory_gb, self.minutes),
            "options": pairs(self.executor_arg, "--executor-arg"),
            "retries": self.retries,
            "data_root": self.data_root,
            "device": self.device,
        }


@zoo_app.command(
    name="plan",
    help_epilogue="""Example:
  shaketable zoo plan plan.toml

A plan is a TOML file:
  recipe = "demogen"                       # a paper's recipe; may be left out
  [base]                                   # fields that all networks have in common
  network = "nin-{blocks}x{channels}-bn"
  [axes]                                   # every combination of these; or [[networks]], a list
  blocks = [2, 3]
  channels = [48, 96]
  network_args.dropout = [0, 0.2]
  weight_decay = [0, 0.001]
  seed = [0, 1, 2]""",
)
def plan_(plan: Path, *, json: Json = False) -> None:
    """Check a plan and list its networks; nothing is trained.

    Parameters
    ----------
    plan
        A TOML file.
    """
    from shaketable.zoo import Plan

    found = Plan.from_file(plan)
    rows = [(*map(str, entry.hyperparameters.values()), entry.name) for entry in found.networks]
    more = [f"  and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
    sizes = [f"{axis} ({len({repr(entry.hyperparameters[axis]) for entry in found.networks})})" for axis in found.axes]
    told = [
        table((*found.axes, "network"), rows[:SHOWN]),
        *more,
        f"{len(found)} networks; hyper-parameters: {', '.join(sizes)}",
    ]
    networks = [{"network": entry.name, "hyperparameters": entry.hyperparameters} for entry in found.networks]
    finish({"axes": list(found.axes), "networks": networks}, told, json)


@zoo_app.command(
    name="run",
    help_epilogue="""Examples:
  shaketable zoo run plan.toml --out zoos/first
  shaketable zoo run plan.toml --out zoos/first --executor loky --jobs 8
  shaketable zoo run plan.toml --out zoos/first --executor slurm --jobs 50 --gpus 1 --executor-arg slurm_partition=gpu""",
)
def run_(
    plan: Path, *, out: Path | None = None, together: int = 1, where: Where | None = None, json: Json = False
) -> None:
    """Train every network of a plan; interrupted, the same command goes on, and tries again what failed.

    Parameters
    ----------
    plan
        A TOML file.
    out
        The folder of the zoo; default a folder below zoos with the name of the plan.
    together
        Small networks of one shape that are trained at once, in one task; the weights are the same but for rounding.
    """
    from shaketable.zoo import Plan, run

    found = run(
        Plan.from_file(plan), out or Path("zoos") / plan.stem, together=together, **(where or Where()).arguments()
    )
    _finish(found, found.plan, f"next: shaketable zoo measure {shlex.quote(str(found.path))}", json)


@zoo_app.command(
    name="measure",
    help_epilogue="""Examples:
  shaketable zoo measure zoos/first
  shaketable zoo measure zoos/first --only prunability path_norm --executor loky --jobs 8
  shaketable zoo measure zoos/first --only network_criticality --arg network_criticality.epsilon=0.05""",
)
def measure_(
    zoo: Path,
    *,
    only: Only = None,
    arg: Pairs = None,
    where: Where | None = None,
    json: Json = False,
) -> None:
    """Take measures of every trained network of a zoo; what is there already is not measured again.

    With other arguments a measure takes the place of the one that is there. Where it gives no number with them, the number that
    is there stays, and that is told.

    Parameters
    ----------
    zoo
        The folder of a zoo.
    only
        Names of measures; default all.
    arg
        An argument of a measure as MEASURE.NAME=VALUE; may be repeated.
    """
    from shaketable.errors import InputError
    from shaketable.zoo import measure as measured

    arguments: dict[str, dict[str, Any]] = {}
    for key, value in (pairs(arg, "--arg") or {}).items():
        name, _, argument = key.partition(".")
        if not argument:
            raise InputError(f"--arg {key}: write MEASURE.NAME=VALUE, such as --arg network_criticality.epsilon=0.05.")
        arguments.setdefault(name, {})[argument] = value
    found = measured(zoo, only, arguments, **(where or Where()).arguments())
    _finish(found, found.plan, f"next: shaketable zoo rank {shlex.quote(str(zoo))}", json)


@zoo_app.command(
    name="rank",
    help_epilogue="""Examples:
  shaketable zoo rank zoos/first
  shaketable zoo rank zoos/first --axis weight_decay --axis blocks --information --figures figures
  shaketable zoo rank zoo.parquet --target test_loss --out ranking""",
)
def rank_(
    zoo: Path,
    *,
    only: Only = None,
    target: Literal["gap", "test_error", "loss_gap", "test_loss"] = "gap",
    axis: Names = None,
    information: Annotated[bool, Parameter(negative=())] = False,
    out: Path | None = None,
    figures: Path | None = None,
    json: Json = False,
) -> None:
    """Which measures predict the gap, on which hyper-parameters they fail, and how they relate to each other.

    Parameters
    ----------
    zoo
        The folder of a zoo, or its table as Parquet.
    only
        Names of measures; default all that the zoo has.
    target
        What they should predict.
    axis
        A hyper-parameter of the granulated tau; may be repeated; default all but the seed.
    information
        Also the conditional mutual information between any two measures.
    out
        A folder for report and tables; default ZOO/ranking, or the folder ranking beside the Parquet file.
    figures
        A folder for the figures as SVG and PNG.
    """
    from shaketable.report import write_report
    from shaketable.zoo import rank, read_table

    result = rank(read_table(zoo), only, target=target, axes=axis, information=information, command=command_typed())
    folder = out or (zoo if zoo.is_dir() else zoo.parent) / "ranking"
    result.save(folder)
    report = write_report(result, folder / "report.html")
    answer: dict[str, Any] = {"report": str(report)}
    frames = {"measures": result.table, "axes": result.axes, "relations": result.relations}
    for name, frame in frames.items():
        answer[name] = [{key: strict(value) for key, value in row.items()} for row in frame.to_dicts()]
    answer["left_out"] = result.provenance["left_out"]
    if figures is not None:
        answer["figures"] = [str(file) for file in _write_figures(result, figures)]
    finish(answer, [*_told(result), f"report: {report}"], json)


def _finish(zoo: "Zoo", plan: "Plan", after: str, json: bool) -> None:
    """What run and measure say: how many networks and numbers there are, and what failed."""
    from shaketable.errors import RunError

    records = {entry.name: zoo.record(entry.name) for entry in plan.networks}
    trained = {name: record for name, record in records.items() if record and record["status"] == "ok"}
    failed = {name: record["reason"] for name, record in records.items() if record and record["status"] != "ok"}
    if failed and not trained:
        name, reason = next(iter(failed.items()))
        raise RunError(f"none of the {len(plan)} networks could be trained; the first, {name}: {reason}")
    rows = [(name, row) for record in trained.values() for name, row in record["measures"].items()]
    well = sum(row["status"] == "ok" for _, row in rows)
    lacking: dict[str, Counter[str]] = {}
    refused: dict[str, Counter[str]] = {}
    for name, row in rows:
        if row["status"] != "ok":
            lacking.setdefault(name, Counter())[str(row["reason"])] += 1
        elif "refused" in row:
            tried = row["refused"]
            why = f"with {tried['arguments']} there is no number ({tried['reason']}); that of {row['arguments']} stays"
            refused.setdefault(name, Counter())[why] += 1
    answer = {
        "zoo": str(zoo.path),
        "table": str(zoo.table_path),
        "networks": len(plan),
        "trained": len(trained),
        "failed": failed,
        "measured": well,
        "not_measured": len(rows) - well,
        "lacking": lacking,
        "refused": refused,
    }
    measured = f", {well:,} numbers measured, {len(rows) - well:,} not" if rows else ""
    told: list[object] = [f"{zoo.path}: {len(trained)} of {len(plan)} networks trained{measured}"]
    told += [f"failed: {name}: {reason}" for name, reason in failed.items()]
    for what, found in (("not measured", lacking), ("not replaced", refused)):
        told += [f"{what}: {name}, {c.total()} times: {c.most_common(1)[0][0]}" for name, c in found.items()]
    finish(answer, [*told, f"table: {zoo.table_path}", after], json)


def _told(result: "Ranking") -> list[object]:
    """What a person reads about a ranking."""
    from shaketable.report.zoo import zoo_paragraphs

    axes = result.axes["axis"].unique(maintain_order=True).to_list()
    along = {(row["measure"], row["axis"]): row["tau"] for row in result.axes.to_dicts()}
    rows = [
        (
            row["measure"],
            str(row["networks"]),
            *map(_number, (row["tau"], row["psi"], row["information"], row["adjusted_r2"])),
        )
        for row in result.table.to_dicts()
    ]
    names = result.axes["measure"].unique(maintain_order=True).to_list()
    lines = [(name, *(_number(along.get((name, axis))) for axis in axes)) for name in names]
    granulated = ["\n  tau along each hyper-parameter", table(("measure", *axes), lines)] if axes else []
    reasons = [f"{row['measure']}: {row['reason']}." for row in result.table.to_dicts() if row["reason"]]
    columns = ("measure", "networks", "tau", "psi", "K", "adj. R2")
    return [table(columns, rows), *granulated, wrapped([*zoo_paragraphs(result), *reasons]), ""]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _write_figures(result: "Ranking", folder: Path) -> list[Path]:
    """The heat maps, and each measure against the target, as SVG and PNG."""
    import polars as pl

    from shaketable import plots

    target = result.provenance["target"]
    charts: dict[str, Any] = {}
    if len(result.axes):
        charts["axes"] = plots.tau_heatmap(result.axes)
    if len(result.relations):
        charts["relations"] = plots.tau_heatmap(result.relations, across="other")
    for name, logarithm in result.table.filter(pl.col("networks") > 1).select("measure", "logarithm").rows():
        charts[f"scatter-{name}"] = plots.measure_scatter(result.points, name, target, logarithm)
        charts[f"ranks-{name}"] = plots.rank_plot(result.points, name, target)
    return [
        plots.save(chart, folder / f"{name}.{suffix}") for name, chart in charts.items() for suffix in ("svg", "png")
    ]
