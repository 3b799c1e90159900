"""Figures 1 to 5 of Kuhn et al., "Robustness to pruning predicts generalization" (2021): double descent, and pruning beside noise.

Networks of growing width are trained on one data set; the test loss falls, rises and falls again, and the question is which measure
goes with it (section 5.4.2, appendix B.1). Of one network pruning is set beside random perturbation of the same size (5.4.3, B.2).
The full setting is the paper's: the five-layer CNN and the ResNet-18 at widths 2, 4, ... 64 on CIFAR-100, five seeds. The small one is
the CNN alone at ten widths from 1 to 20, one seed, on 500 images of CIFAR-10 of which a fifth have another label, without
augmentation, 120 epochs in batches of 32 at the rate 0.05.

``--only train``, ``measure`` or ``rank`` does one step; each goes on where it was stopped.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl

from shaketable.files import write_text
from shaketable.plots import pruning_curves
from shaketable.probes import prunability
from shaketable.study import Study
from shaketable.training import named
from shaketable.zoo import Plan, Zoo, measure, rank, run
from studies.common import Options, markdown, options, versions, write_figure, write_table

STEPS = ("train", "measure", "rank")
MEASURES = {
    "prunability": "prunability",
    "random_prunability": "random prunability",
    "effective_dimensionality": "effective dimensionality / parameters",
    "magnitude_flatness_kuhn2021": "random perturbation robustness (1 / sigma^2)",
    "normalised_margin": "normalised margin at the output (median)",
    "sum_of_training_losses": "sum of training losses",
    "training_loss": "training loss",
    "sum_of_frobenius_norms": "sum of Frobenius norms",
    "number_of_parameters": "number of parameters",
}
"""By name, what the figures call it."""
ARGUMENTS: dict[str, dict[str, Any]] = {"sum_of_training_losses": {"running": True}}
OUTPUT = {"cnn5": {"layer": "final_linear"}, "resnet18k": {"layer": "final_linear"}}


@dataclass(frozen=True)
class Setting:
    """The zoo of each architecture; arguments of measures; and the width at which pruning stands beside noise, with its draws."""

    plans: Mapping[str, Plan]
    arguments: Mapping[str, Mapping[str, Any]]
    compared: int
    draws: int


SMALL = named(
    "double-descent",
    network="cnn5-{width}-bn",
    data="cifar10",
    data_args={"train_examples": 500, "test_examples": 2000},
    label_corruption=0.2,
    augmentation=(),
    learning_rate=0.05,
    batch_size=32,
    epochs=120,
    milestones=(60, 108),
    checkpoints=(0, 120),
    evaluate_every=120,
)
WIDTHS = {"width": list(range(2, 65, 2)), "seed": list(range(5))}
SETTINGS = {
    "small": Setting(
        {"cnn5": Plan.grid(SMALL, {"width": [1, 2, 3, 4, 6, 8, 10, 12, 16, 20], "seed": [0]})},
        ARGUMENTS | {"effective_dimensionality": {"examples": 100, "count": 20}},
        16,
        3,
    ),
    "full": Setting(
        {
            "cnn5": Plan.grid(named("double-descent", network="cnn5-{width}-bn"), WIDTHS),
            "resnet18k": Plan.grid(named("double-descent-resnet", network="resnet18k-{width}"), WIDTHS),
        },
        ARGUMENTS,
        64,
        5,
    ),
}


def study(setting: Setting, chosen: Options) -> None:
    """Train, measure, rank, write, for each architecture."""
    where: dict[str, Any] = {"data_root": chosen.data_root, "device": chosen.device}
    steps, facts = chosen.only or STEPS, {}
    for name, plan in setting.plans.items():
        folder = chosen.runs / f"double-descent-{name}-{chosen.setting}"
        if "train" in steps:
            run(plan, folder, **where)
        if "measure" in steps:
            measure(folder, list(MEASURES), {**setting.arguments, "normalised_margin": OUTPUT[name]}, **where)
        if "rank" in steps:
            facts[name] = write(name, Zoo.open(folder), setting, chosen)
    if "rank" in steps:
        told = {"command": chosen.command, "arguments": setting.arguments, **facts, **versions()}
        write_text(chosen.out / "double-descent.json", json.dumps(told, indent=1) + "\n")


def write(name: str, zoo: Zoo, setting: Setting, chosen: Options) -> dict[str, Any]:
    """The tables and figures of one architecture; returns the facts of its training and measures."""
    table, end = zoo.table(), f"double-descent-{name}"
    widths = by_width(table)
    write_table(widths, chosen.out / f"{end}.csv")
    write_figure(width_curves(widths), chosen.out, end, svg=False)
    ranking = rank(table, target="test_loss", axes=[], command=chosen.command)
    write_table(ranking.table, chosen.out / f"{end}-ranking.csv")
    text = [widths_markdown(widths), ranking_markdown(ranking.table)]
    write_text(chosen.out / f"{end}.md", "\n".join(text))
    entry = next(one for one in zoo.plan.networks if one.hyperparameters["width"] == setting.compared)
    path = zoo.runs / entry.name
    found = prunability(
        Study.from_run(path, chosen.data_root, chosen.device),
        noise=setting.draws,
        store=path / "prune",
        command=chosen.command,
    )
    write_table(found.table, chosen.out / f"pruning-{name}.csv")
    write_figure(pruning_curves(found.table, found.summary()), chosen.out, f"pruning-{name}", svg=False)
    write_text(chosen.out / f"pruning-{name}.md", pruning_markdown(found.table))
    networks = table.unique("network", maintain_order=True)
    return {
        "networks": len(zoo.plan),
        "base": zoo.plan.networks[0].recipe.to_dict(),
        "compared": setting.compared,
        "training_seconds": round(networks["training_seconds"].sum()),
        "measuring_seconds": round(table["seconds"].sum()),
    }


def by_width(table: pl.DataFrame) -> pl.DataFrame:
    """A row a width and quantity: the mean over seeds, with its standard error where there are several."""
    names = ("train_loss", "train_error", "test_loss", "test_error")
    networks = table.unique("network", maintain_order=True).select("hp_width", *names)
    trained = networks.unpivot(on=names, index="hp_width", variable_name="quantity", value_name="value")
    measured = table.select("hp_width", pl.col("measure").alias("quantity"), "value")
    value = pl.col("value")
    error = pl.when(value.count() > 1).then(value.std() / value.count().sqrt())
    rows = pl.concat([trained, measured]).group_by("hp_width", "quantity", maintain_order=True)
    return rows.agg(value.mean(), error.alias("stderr"), value.count().alias("seeds")).rename({"hp_width": "width"})


def width_curves(widths: pl.DataFrame) -> alt.VConcatChart:
    """Test loss, and below it each measure, against width: means, with bands of one standard error."""
    panels = []
    for quantity, title in {"test_loss": "test loss (nats)", **MEASURES}.items():
        rows = widths.filter(pl.col("quantity") == quantity, pl.col("value").is_not_null())
        if rows.is_empty():
            continue
        base = alt.Chart({"values": rows.to_dicts()}).transform_calculate(
            low="datum.value - datum.stderr", high="datum.value + datum.stderr"
        )
        x = alt.X("width:Q", title="width", scale=alt.Scale(type="log", nice=False))
        line = base.mark_line(point=True).encode(x=x, y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)))
        band = base.mark_area(opacity=0.3).encode(x=x, y="low:Q", y2="high:Q")
        drawn = alt.layer(band, line) if rows["seeds"].max() != 1 else alt.layer(line)
        panels.append(drawn.properties(title=title, width=260, height=110))
    pairs = [alt.hconcat(*panels[start : start + 2]) for start in range(0, len(panels), 2)]
    return alt.vconcat(*pairs)


def widths_markdown(widths: pl.DataFrame) -> str:
    """A row a width: losses, errors, and the measures that the paper draws."""
    names = ["train_loss", "train_error", "test_loss", "test_error", "prunability", "random_prunability"]
    names += ["effective_dimensionality", "magnitude_flatness_kuhn2021"]
    cells = {(row["width"], row["quantity"]): row["value"] for row in widths.to_dicts()}
    lines = [
        [str(width), *("–" if cells.get((width, name)) is None else f"{cells[width, name]:.3g}" for name in names)]
        for width in widths["width"].unique(maintain_order=True)
    ]
    return markdown(["width", *(name.replace("_", " ") for name in names)], lines)


def ranking_markdown(table: pl.DataFrame) -> str:
    """Kendall's tau of each measure with the test loss."""
    lines = [
        [MEASURES[row["measure"]], *("–" if row[key] is None else f"{row[key]:.3f}" for key in ("tau", "tau_stderr"))]
        for row in table.to_dicts()
    ]
    return markdown(["measure", "Kendall's tau-b with the test loss", "± if by chance"], lines)


def pruning_markdown(table: pl.DataFrame) -> str:
    """Losses of the pruned network, and the mean over draws of those with noise of the same size, at some sparsities."""
    means = table.group_by("sparsity", "split", "perturbation", maintain_order=True).agg(pl.col("loss").mean())
    cells = {(row["sparsity"], row["split"], row["perturbation"]): row["loss"] for row in means.to_dicts()}
    columns = [(split, how) for split in ("train", "test") for how in ("pruning", "noise")]
    points = [point for point in means["sparsity"].unique().sort() if round(10 * point, 6) % 1 == 0]
    lines = [[f"{point:.0%}", *(_loss(cells.get((point, *column))) for column in columns)] for point in points]
    return markdown(["removed", *(f"{split} loss, {how}" for split, how in columns)], lines)


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    chosen = options("double_descent", __doc__.partition("\n")[0], arguments, parts=STEPS)
    study(SETTINGS[chosen.setting], chosen)


if __name__ == "__main__":
    main()
