"""What the studies of Chatterji, Neyshabur and Sedghi (2020) share: how they train, search, measure and rank."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from shaketable.errors import InputError, RunError
from shaketable.files import write_text
from shaketable.measures import MEASURES, measurements
from shaketable.probes.criticality import ALPHAS, SIGMAS, Criticality, criticality
from shaketable.statistics import kendall_tau, kendall_tau_stderr
from shaketable.study import Study
from shaketable.training import Recipe, Run, recipes, train
from studies.common import Options, markdown, versions, write_table
from studies.published import COLUMNS, Published

EPSILON = 0.1
"""The error threshold of the tables."""
CHECKPOINTS = (0, 1, 2, 5, 10, 20, 50, 100)
SEARCHED = ("pac_bayes", "network_criticality")
KNOWN = tuple(name for name in COLUMNS if name not in SEARCHED)
"""The measures of table 1 that need no search."""
MEASURED = {
    "network": pl.String,
    "measure": pl.String,
    "value": pl.Float64,
    "log10": pl.Float64,
    "stderr": pl.Float64,
    "status": pl.String,
    "reason": pl.String,
}
TRAINED = {
    "network": pl.String,
    "run": pl.String,
    "parameters": pl.Int64,
    "epochs": pl.Int64,
    "train_loss": pl.Float64,
    "train_error": pl.Float64,
    "test_error": pl.Float64,
    "converged": pl.Boolean,
    "training_seconds": pl.Float64,
    "criticality_seconds": pl.Float64,
    "reason": pl.String,
}


MODULES = ("layer", "position", "criticality", "criticality_stderr", "alpha", "sigma", "distance", "pac_bayes", "tests")


@dataclass(frozen=True)
class Search:
    """How criticality is searched: arguments of :func:`shaketable.probes.criticality`."""

    alphas: Sequence[float] = ALPHAS
    sigmas: Sequence[float] = SIGMAS
    draws: int = 10
    failure: float = 1e-4


SMALL_SEARCH = Search(
    alphas=tuple(step / 10 for step in range(11)),
    sigmas=tuple(10.0 ** (step / 10 - 3) for step in range(31)),
    draws=4,
    failure=0.01,
)
"""Coarser: eleven alphas, sigmas from 1e-3 to 1 in steps of 26% (their criticality of 58%), four draws."""


@dataclass(frozen=True)
class Family:
    """What a table compares: a name and a recipe for each network, and how it is searched."""

    networks: dict[str, Recipe]
    search: Search


def paper(network: str, width: float = 1.0, data: str = "cifar10", **changes: Any) -> Recipe:
    """The training of appendix C; without batch norm from an initial distribution with which it trains."""
    connected = network.startswith("fcn")
    arguments = {} if connected else {"width": width}
    losses = {"cifar10": 0.15, "cifar100": 0.25}
    name = "module-criticality-fcn" if connected else "module-criticality"
    fields = {"data": data, "stop_below": losses[data], "checkpoints": CHECKPOINTS, "network_args": arguments}
    return recipes.named(name, network=network, **fields | changes)


def small(network: str, width: float = 0.125, **changes: Any) -> Recipe:
    """An eighth of the channels, a slice of the data without augmentation, and smaller batches at a smaller rate.

    A VGG, which has no shortcuts, starts from Kaiming-normal and at a smaller rate still: from Xavier-uniform, which halves
    the variance at each ReLU, VGG-16 is at chance after 39 epochs.
    """
    fields = {
        "data_args": {"train_examples": 1000, "test_examples": 2000},
        "augmentation": (),
        "learning_rate": 0.05,
        "batch_size": 32,
        "epochs": 100,
        "evaluate_every": 3,
        "precision": "bfloat16",
    }
    made = paper(network, width, **fields | changes)
    plain = network.startswith("vgg")
    return made.changed(network_args={"init": "kaiming-normal"}, learning_rate=0.01) if plain else made


def trained(recipe: Recipe, chosen: Options) -> Run:
    """The finished run of a recipe; what is there is not trained again."""
    print(f"training {recipe.folder_name}", file=sys.stderr, flush=True)
    return train(recipe, out=chosen.runs, data_root=chosen.data_root, device=chosen.device)


def study_of(run: Run, chosen: Options) -> Study:
    """The study of a run."""
    return Study.from_run(run.path, chosen.data_root, chosen.device)


def searched(study: Study, run: Run, search: Search, chosen: Options, **more: Any) -> Criticality:
    """The criticality of each module of a run's network, kept in the run's folder."""
    how = {"epsilon": EPSILON, **vars(search), "store": run.path / "criticality", "command": chosen.command}
    return criticality(study, **how | more)


def family_tables(family: Family, chosen: Options) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Every measure of every network (:data:`MEASURED`), how each was trained (:data:`TRAINED`), and its modules.

    A network that diverges, or ends above the loss at which training should stop, says so in its row of the second
    table and has no measure in the first.
    """
    values: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    layers: list[pl.DataFrame] = []
    for name, recipe in family.networks.items():
        row = dict.fromkeys(TRAINED) | {"network": name, "run": recipe.folder_name, "converged": False}
        runs.append(row)
        try:
            run = trained(recipe, chosen)
        except RunError as error:
            row["reason"] = str(error).removeprefix(f"{chosen.runs / recipe.folder_name}: ")
            continue
        row |= _training(run)
        if not row["converged"]:
            row["reason"] = f"after {row['epochs']} epochs its training loss was not below {recipe.stop_below:g}"
            continue
        study = study_of(run, chosen)
        names = [column for column in MEASURED if column != "network"]
        values += [{"network": name, **one} for one in measurements(study, KNOWN).select(names).to_dicts()]
        try:
            found = searched(study, run, family.search, chosen)
        except InputError as error:  # its training error is above epsilon already
            values += [_searched_row(name, measure, None, None, str(error)) for measure in SEARCHED]
            continue
        row["criticality_seconds"] = found.provenance["seconds"]
        values += _sums(name, found)
        layers.append(found.table.select(pl.lit(name).alias("network"), *MODULES))
    modules = pl.concat(layers) if layers else pl.DataFrame()
    return pl.DataFrame(values, schema=MEASURED), pl.DataFrame(runs, schema=TRAINED), modules


def _training(run: Run) -> dict[str, Any]:
    """How a training ended."""
    last, below = run.history.drop_nulls("train_loss").row(-1, named=True), run.recipe.stop_below
    facts = {key: last[key] for key in ("train_loss", "train_error", "test_error")}
    facts |= {"epochs": last["epoch"], "training_seconds": last["seconds"]}
    facts["parameters"] = sum(parameter.numel() for parameter in run.network().parameters())
    return facts | {"converged": below is not None and last["train_loss"] < below}


def _sums(network: str, found: Criticality) -> list[dict[str, Any]]:
    """The rows of the two measures that one search gives; where a module has no number the sum has none."""
    total = found.summary().row(0, named=True)
    missing = found.table.filter(pl.col("criticality").is_null())
    reason = f"{missing['layer'][0]}: {missing['reason'][0]}" if len(missing) else None
    return [_searched_row(network, name, total[name], total[f"{name}_stderr"], reason) for name in SEARCHED]


def _searched_row(
    network: str, name: str, value: float | None, stderr: float | None, reason: str | None
) -> dict[str, Any]:
    """A row of a measure that was searched."""
    row = {"network": network, "measure": name, "value": value, "stderr": stderr, "reason": reason}
    if value is None:
        return row | {"log10": None, "status": "unavailable"}
    return row | {"log10": math.log10(value) if value else -math.inf, "status": "ok"}


def tau_table(values: pl.DataFrame, printed: Published | None) -> pl.DataFrame:
    """Kendall's tau of each measure with the generalization error, beside the one that the paper prints.

    Returns: a row a measure: ``measure``, ``tau_b``, ``tau_a``, ``networks`` (that have both numbers), ``ties`` (pairs of
        them that are equal in either), ``stderr`` (of tau if the measure had nothing to do with the error),
        ``printed_tau``, ``printed_tau_here`` (tau-b of the printed columns over the networks of ``values``), ``reason``
        where there is no tau.
    """
    error = dict(values.filter(measure=COLUMNS[0]).select("network", "value").iter_rows())
    rows = []
    for name in COLUMNS[1:]:
        # The logarithm has the order of the value, and is there where the value is no float.
        found = values.filter(pl.col("measure") == name).select("network", "log10").drop_nulls()
        pairs = [(value, error[network]) for network, value in found.iter_rows() if error.get(network) is not None]
        row: dict[str, Any] = {"measure": name, **_tau(pairs), "printed_tau": None, "printed_tau_here": None}
        if printed:
            here = printed.networks.filter(pl.col("network").is_in(list(found["network"])))
            row["printed_tau"] = printed.taus[name]
            row["printed_tau_here"] = (
                _tau(list(here.select(name, COLUMNS[0]).iter_rows()))["tau_b"] if len(here) else None
            )
        rows.append(row)
    return pl.DataFrame(rows)


def _tau(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Both taus of some pairs, how many pairs of networks are tied, or why there is no tau."""
    facts = {"tau_b": None, "tau_a": None, "networks": len(pairs), "ties": None, "stderr": None, "reason": None}
    try:
        ours, errors = [one for one, _ in pairs], [other for _, other in pairs]
        both = {f"tau_{kind}": kendall_tau(ours, errors, ties=kind) for kind in ("b", "a")}
    except InputError as error:
        return facts | {"reason": str(error)}
    ties = sum(a == c or b == d for index, (a, b) in enumerate(pairs) for c, d in pairs[index + 1 :])
    return facts | both | {"ties": ties, "stderr": kendall_tau_stderr(len(pairs))}


def measures_markdown(values: pl.DataFrame, runs: pl.DataFrame, printed: Published) -> str:
    """Ours above the paper's: a row a network, a column a measure."""
    ours = {(row["network"], row["measure"]): row for row in values.to_dicts()}
    theirs = {row["network"]: row for row in printed.networks.to_dicts()}
    lines = []
    for name in runs["network"]:
        lines.append([name, "ours", *(_number(ours.get((name, column)), column) for column in COLUMNS)])
        if name in theirs:
            lines.append(["", "paper", *(_plain(theirs[name][column], column) for column in COLUMNS)])
    return markdown(["network", "", "GE", *(MEASURES[name].symbol for name in COLUMNS[1:])], lines)


def tau_markdown(taus: pl.DataFrame) -> str:
    """Kendall's tau of each measure, ours and the printed one."""
    signed = {
        "tau_b": "tau-b",
        "tau_a": "tau-a",
        "stderr": "chance ±",
        "printed_tau": "printed",
        "printed_tau_here": "printed, these networks",
    }
    lines = [
        [
            MEASURES[row["measure"]].symbol,
            *("-" if row[key] is None else f"{row[key]:{'' if key == 'stderr' else '+'}.2f}" for key in signed),
            str(row["networks"]),
            "-" if row["ties"] is None else str(row["ties"]),
        ]
        for row in taus.to_dicts()
    ]
    return markdown(["measure", *signed.values(), "networks", "tied pairs"], lines)


def runs_markdown(runs: pl.DataFrame) -> str:
    """How each network was trained."""
    columns = ["network", "parameters", "epochs", "train loss", "train error", "test error", "seconds", "search"]
    rows = [
        [
            row["network"],
            "" if row["parameters"] is None else f"{row['parameters']:,}",
            *("" if row[key] is None else f"{row[key]:{how}}" for key, how in _FORMATS.items()),
            "" if row["reason"] is None else row["reason"].partition("; ")[0],
        ]
        for row in runs.to_dicts()
    ]
    return markdown([*columns, "remark"], rows)


_FORMATS = {
    "epochs": "",
    "train_loss": ".3f",
    "train_error": ".1%",
    "test_error": ".1%",
    "training_seconds": ".0f",
    "criticality_seconds": ".0f",
}


def _number(row: dict[str, Any] | None, column: str) -> str:
    """A measured number, in few digits."""
    if row is None or (row["log10"] is None and row["value"] is None):
        return "-"
    if row["value"] is not None:
        return _plain(row["value"], column)
    whole = math.floor(row["log10"])
    digit, _, carry = f"{10 ** (row['log10'] - whole):.0e}".partition("e")  # 9.7 is 1e+01
    return f"{digit}e{whole + int(carry)}"


def _plain(value: float, column: str) -> str:
    """A number as the paper prints it."""
    if column == COLUMNS[0]:
        return f"{value:.2%}"
    return f"{value:.1e}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def write_family(family: Family, printed: Published, name: str, chosen: Options) -> None:
    """The tables of a family: ``<name>.md``, and as CSV the measures, trainings, taus and criticality of each module.

    With ``--only`` some networks of the family; ``<name>.json`` names those that were left out.
    """
    left_out = [network for network in family.networks if chosen.only and network not in chosen.only]
    kept = {network: recipe for network, recipe in family.networks.items() if network not in left_out}
    family = Family(kept, family.search)
    values, runs, layers = family_tables(family, chosen)
    taus = tau_table(values, printed)
    parts = {"": values, "-runs": runs, "-tau": taus, "-modules": layers}
    for end, frame in parts.items():
        write_table(frame, chosen.out / f"{name}{end}.csv")
    text = [measures_markdown(values, runs, printed), tau_markdown(taus), runs_markdown(runs)]
    write_text(chosen.out / f"{name}.md", "\n".join(text))
    recipes = {network: recipe.to_dict() for network, recipe in family.networks.items()}
    facts = {
        "command": chosen.command,
        "left_out": left_out,
        "search": vars(family.search),
        "recipes": recipes,
        **versions(),
    }
    write_text(chosen.out / f"{name}.json", json.dumps(facts, indent=1) + "\n")
