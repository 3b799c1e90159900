"""Tables 1 to 3 of Kuhn et al., "Robustness to pruning predicts generalization" (2021): which measures predict the gap of a zoo.

The networks are Network-in-Networks on CIFAR-10, over the hyper-parameters of the extended DEMOGEN set (appendix A.3): depth,
width, dropout, weight decay, augmentation, two seeds. The full setting has its 324 networks. The small one has 96: channels divided by
twelve, two values of most hyper-parameters, 1,000 images, 40 epochs in batches of 32 at the rate 0.05, and flips for the
augmentation; of a measure that is slow it takes part of the data (:data:`ARGUMENTS`), and it leaves out :data:`TOO_SLOW`.

``--only train``, ``measure`` or ``rank`` does one step; each goes on where it was stopped.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from shaketable.estimators.features import with_margins
from shaketable.files import write_text
from shaketable.measures import MEASURES
from shaketable.plots import measure_scatter, rank_plot, tau_heatmap
from shaketable.training import named
from shaketable.zoo import Plan, Zoo, measure, rank, run
from studies.common import Options, options, versions, write_figure
from studies.prunability_margins import fitted_margins
from studies.prunability_tables import COMPARED, write_tables

STEPS = ("train", "measure", "rank")
FULL = named("demogen", network="nin-{blocks}x{channels}-bn")
SMALL = FULL.changed(
    data_args={"train_examples": 1000, "test_examples": 2000},
    batch_size=32,
    learning_rate=0.05,
    epochs=40,
    milestones=(20, 30),
    checkpoints=(0, 40),
    evaluate_every=40,
)
TOO_SLOW = ("network_criticality", "pac_bayes")
"""The searches of criticality: they need a training error below 0.1, which many of the small networks do not have."""
RUNNING = {"sum_of_training_losses": {"running": True}}
NOISY = (
    *("pac_bayes_flatness", "pac_bayes_from_init", "pac_bayes_from_origin", "magnitude_flatness_kuhn2021"),
    *("magnitude_flatness_jiang2020", "magnitude_from_init_jiang2020", "magnitude_from_origin_jiang2020"),
)
ARGUMENTS = {
    **RUNNING,
    **{name: {"draws": 3} for name in NOISY},
    "random_prunability": {"draws": 2},
    "hessian_largest_eigenvalue": {"examples": 50},
    "hessian_trace": {"examples": 50, "draws": 10},
    "effective_dimensionality": {"examples": 50, "count": 10},
    "sharpness_keskar2017": {"examples": 200},
}


@dataclass(frozen=True)
class Setting:
    """Which networks, which measures of them with which arguments, and how many networks of one shape train at once."""

    plan: Plan
    measures: tuple[str, ...]
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _axes(
    blocks: Sequence[int], channels: Sequence[int], decays: Sequence[float], augmented: Sequence[str]
) -> dict[str, Sequence[Any]]:
    """The hyper-parameters of appendix A.3."""
    return {
        "blocks": blocks,
        "channels": channels,
        "network_args.dropout": [0.0, 0.2, 0.5],
        "weight_decay": decays,
        "augmentation": [[], list(augmented)],
        "seed": [0, 1],
    }


def _every(left_out: Sequence[str] = ()) -> tuple[str, ...]:
    """All measures but some, and those whose package is not here."""
    return tuple(name for name, kind in MEASURES.items() if kind.installed and name not in left_out)


SETTINGS = {
    "small": Setting(Plan.grid(SMALL, _axes([2, 3], [16, 32], [0.0, 0.005], ["flip"])), _every(TOO_SLOW), ARGUMENTS),
    "full": Setting(
        Plan.grid(FULL, _axes([2, 3, 4], [192, 288, 384], [0.0, 0.001, 0.005], ["pad-crop:4", "flip"])),
        _every(),
        RUNNING,
    ),
}


def study(setting: Setting, chosen: Options) -> None:
    """Train, measure, rank, write: tables as CSV and Markdown, figures, ``zoo.json``."""
    folder, steps = chosen.runs / f"prunability-{chosen.setting}", chosen.only or STEPS
    where: dict[str, Any] = {"data_root": chosen.data_root, "device": chosen.device}
    if "train" in steps:
        run(setting.plan, folder, **where)
    if "measure" in steps:
        with_margins(measure(folder, setting.measures, setting.arguments, **where), **where)
    if "rank" in steps:
        write(Zoo.open(folder), setting, chosen)


def write(zoo: Zoo, setting: Setting, chosen: Options) -> None:
    """What came out of a zoo that is trained and measured."""
    table, fit = fitted_margins(with_margins(zoo, chosen.data_root, chosen.device))
    ranking = rank(table, information=True, command=chosen.command)
    write_tables(ranking, table, fit, chosen)
    target = ranking.provenance["target"]
    write_figure(tau_heatmap(ranking.axes), chosen.out, "granulated-tau", svg=False)
    shown = ranking.relations.filter(pl.col("measure").is_in(COMPARED), pl.col("other").is_in(COMPARED))
    write_figure(tau_heatmap(shown, across="other"), chosen.out, "relations", svg=False)
    for name, logarithm in ranking.table.select("measure", "logarithm").rows():
        if name in COMPARED:
            write_figure(
                measure_scatter(ranking.points, name, target, logarithm), chosen.out, f"scatter-{name}", svg=False
            )
            write_figure(rank_plot(ranking.points, name, target), chosen.out, f"ranks-{name}", svg=False)
    facts = {
        "command": chosen.command,
        "networks": len(setting.plan),
        "base": (SMALL if chosen.setting == "small" else FULL).to_dict(),
        "axes": {
            name: sorted({str(e.hyperparameters[name]) for e in setting.plan.networks}) for name in setting.plan.axes
        },
        "arguments": setting.arguments,
        "left_out": [name for name in MEASURES if name not in setting.measures],
        "normalised_margins": fit,
        "measuring_seconds": round(table["seconds"].sum()),
        **versions(),
    }
    write_text(chosen.out / "zoo.json", json.dumps(facts, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    chosen = options("prunability_zoo", __doc__.partition("\n")[0], arguments, parts=STEPS)
    study(SETTINGS[chosen.setting], chosen)


if __name__ == "__main__":
    main()
