"""``docs/results/prunability.md``: what Kuhn et al. (2021) claim beside what the small studies measured.

``python -m studies.prunability_page`` assembles it from what ``studies.prunability_zoo`` and ``studies.double_descent`` wrote into
``docs/results/prunability``: every number on the page is read from there.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from shaketable.files import write_text
from studies.common import markdown
from studies.prunability_margins import BEST, FITTED
from studies.prunability_tables import COMPARED

FOLDER = Path("docs/results/prunability")
FLAT = "magnitude_flatness_kuhn2021"
NORMS = ("sum_of_frobenius_norms", "sum_of_squared_spectral_norms", "number_of_parameters")
PRUNED = ("sum_of_frobenius_norms_pruned", "sum_of_squared_spectral_norms_pruned", "number_of_parameters_pruned")
DROPOUT = "network_args.dropout"


def claims(folder: Path) -> list[list[str]]:
    """What the paper says, what came out here, and whether the two agree."""
    ranking = {row["measure"]: row for row in pl.read_csv(folder / "ranking.csv").to_dicts()}
    axes = {(row["measure"], row["axis"]): row["tau"] for row in pl.read_csv(folder / "axes.csv").to_dicts()}
    related = pl.read_csv(folder / "relations.csv").filter(pl.col("measure") == "prunability")
    shared = {row["other"]: row["information"] for row in related.to_dicts() if row["other"] in COMPARED}
    double = {row["measure"]: row for row in pl.read_csv(folder / "double-descent-cnn5-ranking.csv").to_dicts()}
    curve = pl.read_csv(folder / "pruning-cnn5.csv")
    names = list(COMPARED)

    def tau(*wanted: str) -> str:
        return ", ".join(f"{COMPARED[name]} {_number(ranking[name]['tau'])}" for name in wanted)

    def value(name: str, column: str = "tau") -> float:
        found = ranking[name][column]
        return float("nan") if found is None else found

    own, chance = value("prunability"), value("prunability", "tau_stderr")
    weaker = (FLAT, "training_loss", "sum_of_frobenius_norms")
    margins = (FITTED, BEST)
    others = [name for name in names if name not in (*margins, "prunability") and shared.get(name) is not None]
    informed = max(shared, key=lambda name: shared[name] or 0.0)
    rows: list[tuple[str, str, bool]] = [
        (
            "Prunability predicts the gap (table 1).",
            f"tau {own:.3f}, beyond chance is {2 * chance:.3f}",
            own > 2 * chance,
        ),
        (
            "It does so better than random perturbation robustness, the training loss and Frobenius norms (table 1).",
            tau("prunability", *weaker),
            all(own > value(name) for name in weaker),
        ),
        (
            "Magnitude pruning is better than random pruning, but not by much (table 1).",
            tau("prunability", "random_prunability"),
            own > value("random_prunability"),
        ),
        ("Normalised margins predict clearly better than prunability (table 1).", tau(FITTED), value(FITTED) > own),
        (
            "Sum of training losses and best margin variable do about as well as prunability (table 1).",
            tau("sum_of_training_losses", BEST) + f"; alike within 0.1 of {own:.3f}",
            all(abs(value(name) - own) <= 0.1 for name in ("sum_of_training_losses", BEST)),
        ),
        (
            "The margin measures have a much higher conditional mutual information with the gap than the others (table 1).",
            ", ".join(
                f"{COMPARED[name]} {_number(ranking[name]['information'])}" for name in (*margins, "prunability")
            ),
            min(value(name, "information") for name in margins)
            > max(value(name, "information") for name in (*others, "prunability")),
        ),
        (
            "Norms and numbers of parameters are weak, of the whole network and of the pruned one (table 2).",
            tau(*NORMS, *PRUNED),
            all(value(name) < own for name in (*NORMS, *PRUNED)),
        ),
        (
            "Frobenius norms are negatively correlated with the gap, mostly along dropout (table 2).",
            f"{tau('sum_of_frobenius_norms')}; along dropout {_number(axes.get(('sum_of_frobenius_norms', DROPOUT)))}",
            value("sum_of_frobenius_norms") < 0 and (axes.get(("sum_of_frobenius_norms", DROPOUT)) or 0.0) < 0,
        ),
        (
            "Of the baselines random perturbation robustness shares most information with prunability (table 3).",
            f"most: {COMPARED[informed]} {_number(shared[informed])}; random perturbation robustness {_number(shared.get(FLAT))}",
            informed == FLAT,
        ),
        (
            "In double descent prunability goes with the test loss, more than the baselines (figure 1; tau 0.3613 in the paper).",
            ", ".join(f"{name.replace('_', ' ')} {_number(row['tau'])}" for name, row in double.items()),
            all((double["prunability"]["tau"] or 0.0) >= (row["tau"] or -1.0) for row in double.values()),
        ),
        ("Pruning costs more training loss than noise of the same size (figures 2 and 5).", *_beside(curve, "train")),
        ("Pruning can lower the test loss; noise does not (figure 2).", *_lowers(curve)),
    ]
    return [[said, came, "yes" if agrees else "**no**"] for said, came, agrees in rows]


def _points(curve: pl.DataFrame, split: str) -> pl.DataFrame:
    """Mean losses of pruning and noise at each sparsity above 0."""
    means = curve.filter(pl.col("split") == split, pl.col("sparsity") > 0)
    return means.group_by("sparsity", "perturbation").agg(pl.col("loss").mean()).pivot("perturbation", index="sparsity")


def _beside(curve: pl.DataFrame, split: str) -> tuple[str, bool]:
    """At how many sparsities pruning costs more than noise."""
    points = _points(curve, split).drop_nulls()
    more = int((points["pruning"] > points["noise"]).sum())
    return f"at {more} of {len(points)} sparsities", more > len(points) / 2


def _lowers(curve: pl.DataFrame) -> tuple[str, bool]:
    """The lowest test loss on each side beside that of the whole network."""
    points = _points(curve, "test")
    whole = curve.filter(pl.col("split") == "test", pl.col("sparsity") == 0, pl.col("perturbation") == "pruning")[
        "loss"
    ][0]
    pruned, noisy = points["pruning"].min(), points["noise"].min()
    said = f"whole network {whole:.3f}, lowest pruned {pruned:.3f}, lowest with noise {noisy:.3f}"
    return said, pruned < whole <= noisy  # pyright: ignore[reportOperatorIssue]


def page(folder: Path) -> str:
    """The whole page."""
    zoo, double = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("zoo", "double-descent")
    )
    networks, cnn = pl.read_csv(folder / "networks.csv"), double["cnn5"]
    gaps = networks["gap"]
    text = {name: (folder / f"{name}.md").read_text(encoding="utf-8") for name in PARTS}
    seconds = pl.read_csv(folder / "seconds.csv").sort("seconds", descending=True).head(6)
    slow = ", ".join(f"{row['measure']} {row['seconds']:.0f} s" for row in seconds.to_dicts())
    arguments = ", ".join(
        f"`{name}` {', '.join(f'{key} = {one}' for key, one in given.items())}"
        for name, given in zoo["arguments"].items()
    )
    best = zoo["normalised_margins"]
    return TEMPLATE.format(
        claims=markdown(["the paper", "here", "agrees"], claims(folder)),
        **{name.replace("-", "_"): one.strip() for name, one in text.items()},
        networks=len(networks),
        axes=_axes(zoo["axes"]),
        recipe=_recipe(zoo["base"]),
        double_recipe=_recipe(cnn["base"]),
        widths=cnn["networks"],
        compared=cnn["compared"],
        low=f"{gaps.min():.2f}",
        high=f"{gaps.max():.2f}",
        train_low=f"{networks['train_error'].min():.1%}",
        train_high=f"{networks['train_error'].max():.1%}",
        measuring=round(zoo["measuring_seconds"] / 60),
        double_minutes=round(cnn["training_seconds"] / 60),
        double_measuring=round(cnn["measuring_seconds"] / 60),
        left_out=", ".join(zoo["left_out"]) or "none",
        arguments=arguments,
        slow=slow,
        best=best["best"],
        variables=best["variables"],
        fitted=best["networks"],
        torch=zoo["torch"],
        threads=zoo["threads"],
    )


PARTS = ("table1", "table2", "table3", "double-descent-cnn5", "pruning-cnn5")
TEMPLATE = """\
# Robustness to pruning predicts generalization

Kuhn, Lyle, Gomez, Rothfuss, Gal, "Robustness to pruning predicts generalization in deep neural networks" (2021), by this code, in the
small settings of two studies. The tables of the paper are lost in the text that we have, so that its claims stand here in words. The
paper's networks are ten times as wide, trained on fifty times as many images for ten times as long: what does not come out here
need not be wrong there. Every number on this page is read from [prunability/](prunability) by

```sh
python -m studies.prunability_zoo --out docs/results/prunability        # 324 networks of the paper: --setting full --device cuda
python -m studies.double_descent --out docs/results/prunability         # the paper's widths: --setting full --device cuda
python -m studies.prunability_page
```

## The paper's claims

{claims}
"Agrees" is what the numbers beside it say by themselves. A tau within two standard errors of another is not told apart from it; the
standard error of chance is in `prunability/ranking.csv`.

## The zoo

{networks} networks: {axes}. Common to all: {recipe}. Gaps go from {low} to {high}, training errors from {train_low} to
{train_high}. The measures took {measuring} minutes on a core that others used too (torch {torch}, {threads} thread). Left out:
{left_out}. Taken with other arguments than the defaults: {arguments}. The slowest: {slow}.

Each measure is turned by its own direction, so that a tau above 0 always means that it predicts. Normalised margins is the
in-sample fit on {variables} statistics of {fitted} networks, as in the paper; best margin variable is {best}.

### Table 1: all measures, the paper's in bold

{table1}

### Table 2: along each hyper-parameter

{table2}

![Granulated tau of every measure along each hyper-parameter](prunability/granulated-tau.png)

### Table 3: what prunability shares with the others

{table3}

![Kendall's tau between the paper's measures](prunability/relations.png)

### Prunability against the gap

![Prunability against the gap](prunability/scatter-prunability.png)
![Rank by prunability against rank by gap](prunability/ranks-prunability.png)
![Random perturbation robustness against the gap](prunability/scatter-magnitude_flatness_kuhn2021.png)
![Normalised margins against the gap](prunability/scatter-normalised_margins_fitted.png)

## Double descent

{widths} networks, the five-layer CNN with batch norm. {double_recipe}. Training took {double_minutes} minutes, the measures
{double_measuring}, on a core that others used too.

{double_descent_cnn5}

![Test loss and measures against width](prunability/double-descent-cnn5.png)

## Pruning beside noise of the same size

The CNN of width {compared} (figures 2 and 5 of the paper).

{pruning_cnn5}

![Loss against sparsity, pruned and with noise](prunability/pruning-cnn5.png)
"""


def _axes(axes: dict[str, Sequence[str]]) -> str:
    return ", ".join(
        f"{name.removeprefix('network_args.').replace('_', ' ')} {' / '.join(values)}" for name, values in axes.items()
    )


def _recipe(base: dict[str, Any]) -> str:
    data, milestones = base["data_args"], " and ".join(map(str, base["milestones"]))
    facts = [
        f"{data['train_examples']:,} images of {base['data']} ({data['test_examples']:,} for the test)",
        f"{base['epochs']} epochs in batches of {base['batch_size']}",
        f"learning rate {base['learning_rate']:g}, {base['schedule']} {milestones} times {base['factor']:g}",
        f"momentum {base['momentum']:g}",
    ]
    if base["label_corruption"]:
        facts.append(f"{base['label_corruption']:.0%} of the training labels redrawn")
    return ", ".join(facts)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m studies.prunability_page", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where the two studies wrote (default {FOLDER})")
    folder = parser.parse_args(arguments).folder
    write_text(folder.parent / f"{folder.name}.md", page(folder))


if __name__ == "__main__":
    main()
