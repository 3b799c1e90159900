"""Figures 1 to 10 of Chatterji, Neyshabur, Sedghi (2020): what sets the critical modules of a ResNet-18 apart.

Rewinding (2, 6; with Fixup and with Adam: 7), spectra (3), paths (4), valleys (1, 10), network criticality over the error
threshold for true against corrupted labels (5a) and for four architectures (5b), operator norms of the way from init (8),
similarity of activations (9). "The critical module" is the convolution that costs most training error when it is rewound
to its init, "the other one" that which costs least, but something. Choose some with ``--only 2 5a``.

The small setting is that of ``criticality_tables``: an eighth of the channels, a slice of CIFAR-10.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from shaketable import plots
from shaketable.errors import RunError
from shaketable.files import write_text
from shaketable.params import linear_layers
from shaketable.probes import Robustness, operator_norms, path, robustness, similarity, spectra, valley
from shaketable.study import Study
from shaketable.training import Recipe, Run
from studies.common import Options, markdown, options, versions, write_figure, write_table
from studies.criticality import SMALL_SEARCH, Search, paper, searched, small, study_of, trained

CORRUPTED = {"label_corruption": 0.2, "weight_decay": 0.0, "augmentation": ()}
SIGMAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
TRUE, WRONG = "true labels", "20% corrupted labels"


@dataclass(frozen=True)
class Setting:
    """What is trained, and how it is probed.

    Args:
        network: the network of all figures but 5 and 7.
        others: by name, the same network trained in other ways (figure 7).
        corrupted: the same network on labels of which a fifth is redrawn (figure 5a).
        architectures: by name (figure 5b).
        search: of criticality.
        epsilons: error thresholds of figure 5; those below a network's training error are left out.
        draws: of the noise around paths.
        examples: of valleys and similarity; None for all.
    """

    network: Recipe
    others: Mapping[str, Recipe]
    corrupted: Recipe
    architectures: Mapping[str, Recipe]
    search: Search
    epsilons: tuple[float, ...] = (0.1, 0.15, 0.2, 0.25, 0.3)
    draws: int = 10
    examples: int | None = 5000


def setting(made: Callable[..., Recipe], connected: str, adam: Mapping[str, Any], **fields: Any) -> Setting:
    """The networks of the figures, made by the rule of a setting."""
    resnet18 = made("resnet18")
    fixup = resnet18.changed(network_args={"init": "fixup"})
    others = {"ResNet18": "resnet18", "ResNet34": "resnet34", "VGG16": "vgg16", "FCN (I)": connected}
    return Setting(
        resnet18,
        {"fixup": fixup, "adam": resnet18.replace(optimiser="adam", **adam)},
        resnet18.replace(**CORRUPTED),
        {name: made(network) for name, network in others.items()},
        **fields,
    )


FEW = {"epsilons": (0.1, 0.2, 0.3), "draws": 3, "examples": 500}
SETTINGS = {
    "small": setting(small, "fcn-625-125-bn", {"learning_rate": 1e-3}, search=SMALL_SEARCH, **FEW),
    "full": setting(paper, "fcn-5000-1000-bn", {"learning_rate": 1e-4}, search=Search()),
}


@dataclass(frozen=True)
class Subject:
    """The network of most figures, with its two modules."""

    study: Study
    run: Run
    setting: Setting
    chosen: Options
    critical: str
    other: str

    @property
    def pair(self) -> list[str]:
        """Both modules."""
        return [self.critical, self.other]


def rewound(run: Run, chosen: Options, by: str = "module") -> Robustness:
    """What is left of a run's network when one module, or block, is rewound to each checkpoint."""
    study = study_of(run, chosen)
    return robustness(study, by, draws=0, store=run.path / "robustness", command=chosen.command)


def extremes(result: Robustness, layers: Sequence[str]) -> tuple[str, str]:
    """Of some layers, the one that costs most training error when rewound to its init, and the one that costs least.

    One that costs nothing at all is passed over, if any other is there: its branch may be dead, and its valley a plain.
    """
    reset = (pl.col("perturbation") == "reinitialise") & (pl.col("checkpoint") == 0) & (pl.col("split") == "train")
    rows = result.table.filter(reset, pl.col("layer").is_in(layers)).sort("accuracy_drop", "position")
    felt = rows.filter(pl.col("accuracy_drop") > 0)
    return rows["layer"][-1], (felt if len(felt) > 1 else rows)["layer"][0]


def subject(setting: Setting, chosen: Options) -> Subject:
    """The trained network, and which of its modules the figures are about."""
    run = trained(setting.network, chosen)
    study = study_of(run, chosen)
    found = linear_layers(study.network)
    layers = [layer.name for layer in found if layer.kind.startswith("Conv")] or [layer.name for layer in found]
    return Subject(study, run, setting, chosen, *extremes(rewound(run, chosen), layers))


def figure_2_and_6(about: Subject) -> dict[str, Any]:
    """Rewinding of each module and of each block: train error, train loss, test error."""
    chosen, seconds = about.chosen, 0.0
    for by in ("module", "block"):
        result = rewound(about.run, chosen, by)
        seconds += result.provenance["seconds"]
        summary, classes = result.summary(), result.provenance["classes"]
        write_table(summary, chosen.out / f"figure6-{by}.csv")
        for split, quantity in (("train", "error"), ("train", "loss"), ("test", "error")):
            chart = plots.robustness_heatmap(summary, split, quantity, transpose=False, classes=classes)
            write_figure(chart, chosen.out, f"figure6-{by}-{split}-{quantity}", svg=False)
    return {"critical": about.critical, "other": about.other, "seconds_of_probe": round(seconds, 1)}


def figure_7(about: Subject) -> dict[str, Any]:
    """Rewinding of each module after training from Fixup, and with Adam."""
    found = {}
    for name, recipe in about.setting.others.items():
        try:
            run = trained(recipe, about.chosen)
        except RunError as error:
            found[name] = str(error)
            continue
        result = rewound(run, about.chosen)
        modules = [layer.name for layer in linear_layers(run.network())]  # Fixup's scalars have no row in the paper
        summary = result.summary().filter((pl.col("position") < 0) | pl.col("layer").is_in(modules))
        write_table(summary, about.chosen.out / f"figure7-{name}.csv")
        chart = plots.robustness_heatmap(summary, "train", transpose=False, classes=result.provenance["classes"])
        write_figure(chart, about.chosen.out, f"figure7-{name}", svg=False)
    return found


def figure_3(about: Subject) -> dict[str, Any]:
    """Singular values of the two modules over training."""
    table = spectra(about.study).filter(pl.col("layer").is_in(about.pair))
    write_table(table, about.chosen.out / "figure3.csv")
    write_figure(plots.spectrum_curves(table, about.pair), about.chosen.out, "figure3", svg=False)
    return {}


def figure_4(about: Subject) -> dict[str, Any]:
    """Train error, test error and train loss on the way from init: the two modules, and all together."""
    result = path(about.study, layers=about.pair, store=about.run.path / "path", command=about.chosen.command)
    write_table(result.table, about.chosen.out / "figure4.csv")
    write_table(result.summary(), about.chosen.out / "figure4-monotone.csv")
    for split, quantity in (("train", "error"), ("test", "error"), ("train", "loss")):
        chart = plots.path_curves(result.table, split, quantity)
        write_figure(chart, about.chosen.out, f"figure4-{split}-{quantity}", svg=False)
    return {"seconds_of_probe": result.provenance["seconds"]}


def figure_1_and_10(about: Subject) -> dict[str, Any]:
    """Loss and error around the paths of the two modules."""
    result = valley(
        about.study,
        about.pair,
        sigmas=SIGMAS,
        draws=about.setting.draws,
        examples=about.setting.examples,
        store=about.run.path / "valley",
        command=about.chosen.command,
    )
    write_table(result.summary(), about.chosen.out / "figure10.csv")
    write_figure(plots.valley_grid(result.summary()), about.chosen.out, "figure10", svg=False)
    write_table(result.surface(), about.chosen.out / "figure1.csv")
    write_figure(plots.valley_surface(result.surface()), about.chosen.out, "figure1", svg=False)
    facts = {"examples": result.provenance["examples"], "draws": about.setting.draws}
    return facts | {"seconds_of_probe": result.provenance["seconds"]}


def thresholds(recipes: Mapping[str, Recipe], about: Subject, name: str) -> dict[str, Any]:
    """Network criticality of some networks at each error threshold that is above their training error."""
    summaries, facts = {}, {}
    for network, recipe in recipes.items():
        try:
            run = trained(recipe, about.chosen)
        except RunError as error:
            facts[network] = str(error)
            continue
        last = run.history.drop_nulls("train_loss").row(-1, named=True)
        facts[network] = {key: last[key] for key in ("epoch", "train_loss", "train_error", "test_error", "seconds")}
        study, search = study_of(run, about.chosen), about.setting.search
        found = [
            searched(study, run, search, about.chosen, epsilon=epsilon)  # one by one: that of the tables is there
            for epsilon in about.setting.epsilons
            if epsilon >= last["train_error"]
        ]
        if found:
            summaries[network] = pl.concat(one.summary() for one in found)
            facts[network]["search_seconds"] = sum(one.provenance["seconds"] for one in found)
    if not summaries:
        return facts
    table = pl.concat([one.select(pl.lit(network).alias("network"), pl.all()) for network, one in summaries.items()])
    write_table(table, about.chosen.out / f"{name}.csv")
    write_figure(plots.criticality_curve(summaries), about.chosen.out, name, svg=False)
    write_text(about.chosen.out / f"{name}.md", _thresholds_markdown(table))
    return facts


def _thresholds_markdown(table: pl.DataFrame) -> str:
    """A row a network, a column a threshold."""
    epsilons = table["epsilon"].unique().sort().to_list()
    rows = []
    for (network,), part in table.group_by("network", maintain_order=True):
        found = {row["epsilon"]: row["network_criticality"] for row in part.to_dicts()}
        cells = [f"{found[epsilon]:.3g}" if found.get(epsilon) is not None else "-" for epsilon in epsilons]
        rows.append([str(network), *cells])
    return markdown(["network criticality", *(f"ε = {epsilon:g}" for epsilon in epsilons)], rows)


def figure_5a(about: Subject) -> dict[str, Any]:
    """Network criticality over the threshold: true labels against corrupted ones."""
    return thresholds({TRUE: about.setting.network, WRONG: about.setting.corrupted}, about, "figure5a")


def figure_5b(about: Subject) -> dict[str, Any]:
    """Network criticality over the threshold: four architectures."""
    return thresholds(about.setting.architectures, about, "figure5b")


def figure_8(about: Subject) -> dict[str, Any]:
    """Operator norm of each module's way from its weights at each checkpoint to the trained ones."""
    table = operator_norms(about.study)
    write_table(table, about.chosen.out / "figure8.csv")
    write_figure(plots.operator_norm_heatmap(table, transpose=False), about.chosen.out, "figure8", svg=False)
    return {}


def figure_9(about: Subject) -> dict[str, Any]:
    """Similarity of each module's output in the trained network and in the one with a module rewound, by class."""
    table = similarity(about.study, about.pair, per_class=True, examples=about.setting.examples)
    write_table(table, about.chosen.out / "figure9.csv")
    for name, module in (("critical", about.critical), ("other", about.other)):
        chart = plots.similarity_heatmap(table, module, title=f"{module} rewound")
        write_figure(chart, about.chosen.out, f"figure9-{name}", svg=False)
    return {}


FIGURES: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "5a": figure_5a,
    "2": figure_2_and_6,
    "4": figure_4,
    "1": figure_1_and_10,
    "7": figure_7,
    "3": figure_3,
    "8": figure_8,
    "9": figure_9,
    "5b": figure_5b,
}
"""By the number of the (first) figure, in the order in which they are made."""


def study(setting: Setting, chosen: Options, only: Sequence[str] | None = None) -> None:
    """Train, probe, write; ``figures.json`` says what each figure rests on and how long it took."""
    about = subject(setting, chosen)
    told = chosen.out / "figures.json"
    for number in only or FIGURES:
        print(f"figure {number}", file=sys.stderr, flush=True)
        started = time.monotonic()
        found = FIGURES[number](about)
        seconds = round(time.monotonic() - started, 1)
        facts = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
        facts[number] = {"command": chosen.command, "seconds": seconds, **versions(), **found}
        write_text(told, json.dumps(facts, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    chosen = options("criticality_figures", __doc__.partition("\n")[0], arguments, parts=tuple(FIGURES))
    study(SETTINGS[chosen.setting], chosen, chosen.only)


if __name__ == "__main__":
    main()
