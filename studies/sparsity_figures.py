"""Figures 1 to 6 of Zhao, Zhang, Hu (2021), and tables of Pearson and SSR beside the paper's, from our own zoo.

Needs the zoo of ``studies.sparsity_zoo``, with the same ``--setting`` and ``--runs``. Writes figures, tables and ``figures.json`` into
``--out``, and the page that shows them beside it (``--out docs/results/sparsity`` writes ``docs/results/sparsity.md``). Choose some
with ``--only 2 3``; what was not made is not on the page.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from shaketable import plots
from shaketable.errors import InputError, RunError
from shaketable.estimators import MARGINS, correlation, left_out, repeated_splits, whole_fit, with_margins
from shaketable.files import write_text
from shaketable.probes import ablation
from shaketable.study import Study
from shaketable.training import Recipe
from shaketable.zoo import Zoo
from studies.common import Options, markdown, options, versions, write_figure, write_table
from studies.sparsity_page import write_page
from studies.sparsity_zoo import CORRUPTION, RECIPES, models, series

PARTS = ("2", "3", "4", "5", "6", "tables")
LEARNT = 0.05
"""The paper's networks have "almost 1.0 accuracy on training set": here a training error of at most this."""
EXAMPLE = 0
"""The class of the example curves."""
SPARSITY = ("zeta", "kappa")
OTHERS = (
    *SPARSITY,
    "training_loss",
    "normalised_margin",
    "product_of_spectral_norms",
    "path_norm",
    "squared_distance_to_init",
)
ESTIMATORS: dict[str, tuple[Sequence[str], Any]] = {
    "zeta, kappa": (SPARSITY, "linear"),
    "margins": (MARGINS, "linear"),
    "margins, ridge": (MARGINS, "ridge"),
    "seven measures, ridge": (OTHERS, "ridge"),
    "seven measures, boosting": (OTHERS, "boosting"),
}
"""What the gap is estimated from, and by which model; the first two are the paper's."""
SPLITS, FEWER = 100, 10
"""Splits on which an estimator is tried, as many as in the paper; for boosting, which makes eleven fits of each, fewer."""
PRINTED = {
    ("vgg16", "zeta, kappa"): "0.979; 0.023 of 8, below 0.035 on 100 splits",
    ("vgg16", "margins"): "0.75; almost 0.5 of 8",
    ("mobilenet", "zeta, kappa"): "SSR of the fit 0.074",
    ("resnet34-bn", "zeta, kappa"): "SSR of the fit 0.122",
}
"""Pearson and SSR that the paper prints."""


def learnt(table: pl.DataFrame, recipes: Mapping[str, Recipe], network: str) -> pl.DataFrame:
    """The rows of the networks of an architecture that learnt their training data; VGG-16 with and without batch norm.

    The models A to E, which are on other data, stay out.
    """
    return table.filter(pl.col("network").is_in(_names(recipes, network)), pl.col("train_error") <= LEARNT)


def _names(recipes: Mapping[str, Recipe], network: str) -> list[str]:
    """The networks of an architecture without the models A to E."""
    small = next(iter(recipes.values())).network_args.get("width") is not None
    apart = {recipe.folder_name for recipe in models(small)}
    return [name for name, one in recipes.items() if one.network.startswith(network) and name not in apart]


def wide(table: pl.DataFrame) -> pl.DataFrame:
    """A row a network: gap, zeta and kappa."""
    chosen = table.filter(pl.col("measure").is_in(SPARSITY), pl.col("value").is_not_null())
    found = chosen.pivot("measure", index=["network", "gap"], values="value")
    return found.drop_nulls() if set(SPARSITY) <= set(found.columns) else found.clear()


def curves(zoo: Zoo, chosen: Options, networks: Mapping[str, Recipe], figure: str, label: str) -> pl.DataFrame:
    """Draw the curves of one class of some networks, and zeta against kappa of every class; zeta and kappa of each class.

    A network that there is not, or of which no curve can be taken, is left out, and said so.
    """
    rows = []
    for name, recipe in networks.items():
        try:
            study = Study.from_run(zoo.runs / recipe.folder_name, chosen.data_root, chosen.device)
            found = ablation(study, store=zoo.runs / recipe.folder_name / "ablation", command=chosen.command)
        except (InputError, RunError) as error:
            print(f"figure {figure}, {label} {name}: left out: {error}", file=sys.stderr, flush=True)
            continue
        write_figure(found.plot(group=EXAMPLE), chosen.out, f"figure{figure}a-{name}", svg=False)
        classes = found.summary().filter(over="class").select("class", "n_0", "n_0_r", *SPARSITY)
        rows.append(classes.select(pl.lit(name).alias(label), pl.all()))
    if not rows:
        return pl.DataFrame()
    whole = pl.concat(rows)
    write_table(whole, chosen.out / f"figure{figure}-classes.csv")
    return whole


def figure2(zoo: Zoo, table: pl.DataFrame, recipes: Mapping[str, Recipe], chosen: Options) -> dict[str, Any]:
    """Curves and quantities of networks that differ in the corruption of labels alone; figure 1 is the first and last of them."""
    found = curves(zoo, chosen, _series("vgg16", chosen), "2", "corruption")
    if found.is_empty():
        return {}
    write_figure(plots.plane(found, colour="corruption"), chosen.out, "figure2b", svg=False)
    means = found.group_by("corruption", maintain_order=True).agg(pl.col(*SPARSITY).mean())
    write_table(means, chosen.out / "figure2-means.csv")
    return {"means": means.to_dicts()}


def figure3(zoo: Zoo, table: pl.DataFrame, recipes: Mapping[str, Recipe], chosen: Options) -> dict[str, Any]:
    """All VGG-16: the quantities, the gap against each, estimates by them and by margins, and SSR over a hundred splits."""
    own = learnt(table, recipes, "vgg16")
    points = wide(own)
    write_table(points, chosen.out / "figure3-networks.csv")
    write_figure(plots.plane(points), chosen.out, "figure3a", svg=False)
    for name in SPARSITY:
        write_figure(plots.plane(points, "gap", name, colour=None), chosen.out, f"figure3b-{name}", svg=False)
    for letter, name in (("c", "zeta, kappa"), ("e", "margins")):
        measures, model = ESTIMATORS[name]
        splits = repeated_splits(own, measures, model, repeats=SPLITS)
        first = splits.points.filter(split=0)
        write_figure(plots.estimate_scatter(first), chosen.out, f"figure3{letter}", svg=False)
        if letter == "c":
            write_figure(plots.ssr_histogram(splits.table), chosen.out, "figure3d", svg=False)
    return {"networks": len(points), **{name: _correlation(points, name) for name in SPARSITY}}


def figure4(zoo: Zoo, table: pl.DataFrame, recipes: Mapping[str, Recipe], chosen: Options) -> dict[str, Any]:
    """The five models A to E: curves, quantities of each class, and estimates of the gap of the very networks of the fit."""
    named = dict(zip("ABCDE", models(chosen.setting == "small"), strict=True))
    found = curves(zoo, chosen, named, "4", "model")
    own = table.filter(pl.col("network").is_in([recipe.folder_name for recipe in named.values()]))
    if found.is_empty() or wide(own).is_empty():
        return {}
    write_figure(plots.plane(found, colour="model"), chosen.out, "figure4b", svg=False)
    errors = dict(own.select("network", "train_error").unique().iter_rows())
    trained = {name: errors[recipe.folder_name] for name, recipe in named.items() if recipe.folder_name in errors}
    return _estimates(own, "4", chosen) | {"train_errors": trained}


def figure5(zoo: Zoo, table: pl.DataFrame, recipes: Mapping[str, Recipe], chosen: Options) -> dict[str, Any]:
    """MobileNet."""
    return _architecture("mobilenet", "5", zoo, table, recipes, chosen)


def figure6(zoo: Zoo, table: pl.DataFrame, recipes: Mapping[str, Recipe], chosen: Options) -> dict[str, Any]:
    """ResNet-34."""
    return _architecture("resnet34-bn", "6", zoo, table, recipes, chosen)


def _architecture(
    network: str, figure: str, zoo: Zoo, table: pl.DataFrame, recipes: Mapping[str, Recipe], chosen: Options
) -> dict[str, Any]:
    """Curves of the series of an architecture, its quantities, and estimates of the gap of the very networks of the fit."""
    curves(zoo, chosen, _series(network, chosen), figure, "corruption")
    own = learnt(table, recipes, network)
    return {} if wide(own).is_empty() else _estimates(own, figure, chosen)


def _estimates(own: pl.DataFrame, figure: str, chosen: Options) -> dict[str, Any]:
    """The quantities of some networks, and their estimated gaps by a fit on all of them."""
    points = wide(own)
    write_figure(plots.plane(points), chosen.out, f"figure{figure}-networks", svg=False)
    facts = {"networks": len(points), **{name: _correlation(points, name) for name in SPARSITY}}
    try:
        estimates = whole_fit(own)
    except InputError as error:
        return facts | {"reason": str(error)}
    write_table(estimates.join(points.drop("gap"), on="network"), chosen.out / f"figure{figure}-networks.csv")
    write_figure(plots.estimate_scatter(estimates), chosen.out, f"figure{figure}c", svg=False)
    return facts | {"ssr": float(((estimates["estimate"] - estimates["gap"]) ** 2).sum())}


def tables(zoo: Zoo, table: pl.DataFrame, recipes: Mapping[str, Recipe], chosen: Options) -> dict[str, Any]:
    """Pearson, SSR, error and coverage of every estimator on every architecture: ``estimates.csv`` and ``estimates.md``."""
    rows = []
    for network in RECIPES:
        own = learnt(table, recipes, network)
        for name, (measures, model) in ESTIMATORS.items():
            row = {"architecture": network, "networks": own["network"].n_unique(), "estimator": name}
            row |= dict.fromkeys(
                ("splits", "pearson", "ssr", "largest_ssr", "error", "coverage", "inside", "fit_ssr", "reason")
            )
            try:
                repeats = FEWER if model == "boosting" else SPLITS
                row |= {"splits": repeats} | repeated_splits(own, measures, model, repeats=repeats).summary()
                whole = whole_fit(own, measures, model)
                if model != "boosting":
                    row["inside"] = int(left_out(own, measures, model)["inside"].sum())
                row["fit_ssr"] = float(((whole["estimate"] - whole["gap"]) ** 2).sum())
            except InputError as error:
                row["reason"] = str(error)
            rows.append(row | {"paper": PRINTED.get((network, name))})
    found = pl.DataFrame(rows, infer_schema_length=None)
    write_table(found, chosen.out / "estimates.csv")
    columns = ("pearson", "ssr", "largest_ssr", "fit_ssr", "error", "coverage")
    lines = [
        [
            row["architecture"],
            str(row["networks"]),
            row["estimator"],
            str(row["splits"] or "–"),
            *(
                "–" if row[name] is None else f"{row[name]:.1%}" if name == "coverage" else f"{row[name]:.3f}"
                for name in columns
            ),
            "–" if row["inside"] is None else f"{row['inside']} of {row['networks']}",
            row["paper"] or "",
            row["reason"] or "",
        ]
        for row in rows
    ]
    titles = [
        "network",
        "networks",
        "estimated from",
        "splits",
        "Pearson of the fit",
        "SSR of a tenth, mean",
        "largest",
        "SSR of a fit on all",
    ]
    titles += ["error", "90% intervals that hold", "the paper: Pearson; SSR", "remark"]
    write_text(chosen.out / "estimates.md", markdown(titles, lines))
    counts = {network: _counts(table, recipes, network) for network in RECIPES}
    kept = ("architecture", "estimator", "error", "pearson")
    return {"counts": counts, "estimators": [{name: row[name] for name in kept} for row in rows]}


def _counts(table: pl.DataFrame, recipes: Mapping[str, Recipe], network: str) -> dict[str, Any]:
    """How many networks of an architecture there are, how many learnt their data, and how far their gaps reach."""
    own = learnt(table, recipes, network).unique("network")
    trained = table.filter(pl.col("network").is_in(_names(recipes, network)), pl.col("train_error").is_not_null())[
        "network"
    ].n_unique()
    ends = own["gap"].to_list()
    return {
        "trained": trained,
        "learnt": len(own),
        "lowest": min(ends, default=None),
        "highest": max(ends, default=None),
        "error_of_the_mean": error_of_the_mean(ends),
    }


def error_of_the_mean(gaps: Sequence[float]) -> float | None:
    """The root mean square by which the mean gap of the other networks misses that of each: an estimate from no measure at all."""
    if len(gaps) < 2:
        return None
    return float(np.std(gaps)) * len(gaps) / (len(gaps) - 1)


def _series(network: str, chosen: Options) -> dict[str, Recipe]:
    """The networks of an architecture that differ in corruption alone, by it."""
    return dict(zip(map(str, CORRUPTION), series(network, chosen.setting == "small"), strict=True))


def _correlation(points: pl.DataFrame, name: str) -> float | None:
    """Pearson's correlation of a quantity with the gap."""
    return correlation(points[name].to_numpy(), points["gap"].to_numpy())


MADE = {"2": figure2, "3": figure3, "4": figure4, "5": figure5, "6": figure6, "tables": tables}


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = options("sparsity_figures", __doc__ or "", arguments, PARTS)
    zoo = Zoo.open(chosen.runs / f"sparsity-zoo-{chosen.setting}")
    table = with_margins(zoo, chosen.data_root, chosen.device)
    recipes = {entry.name: entry.recipe for entry in zoo.plan.networks}
    path = chosen.out / "figures.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for part in chosen.only or PARTS:
        facts[part] = MADE[part](zoo, table, recipes, chosen) | {"command": chosen.command}
        facts |= {"setting": chosen.setting, **versions()}
        write_text(path, json.dumps(facts, indent=1) + "\n")
    write_page(chosen.out)
    print(chosen.out)


if __name__ == "__main__":
    main()
