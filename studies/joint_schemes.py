"""Figures 6, 11, 12, 13 of Zhang, Bengio, Singer, "Are All Layers Created Equal?": layers reset together, by the paper's schemes.

FCN 5x256 on MNIST (figure 11), ResNets on CIFAR-10 (12, 13; ResNet-152 is figure 6). The figures mark the layers of a group, the
text that we have does not: what is read into "two in every three" and "every other" stands in `shaketable.probes.schemes`. Beside the
joint resets stand the mean over the same layers of the error with one of them reset, and the error without the blocks.

The small setting has the ResNets of `studies.table1_frozen` with a ResNet-18 and a ResNet-34 like them, and 20 epochs for the FCN.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from shaketable.files import write_text
from shaketable.plots.layer_sets import joint_heatmap
from shaketable.probes import Robustness
from shaketable.probes.joint_robustness import JointRobustness, joint_robustness
from shaketable.study import Study
from shaketable.training import Recipe
from studies import table1_frozen
from studies.common import Options, Setting, label, markdown, options, probe, write_facts, write_figure, write_table
from studies.figure3_4_convolutional import recipe

ALL, THIRDS, ALTERNATE, ENDS = "all-but-first", "two-in-three", "every-other", "all-but-first:stage1,stage4"
FIGURES: Mapping[str, Mapping[str, str]] = {
    "fcn-5x256": {ALL: "11a", THIRDS: "11b", ALTERNATE: "11c"},
    "resnet18-v2": {ALL: "12"},  # of two blocks a stage every other one is the same group
    "resnet34-v2": {ALL: "12"},
    "resnet50-v2": {ALL: "12", ENDS: "13", ALTERNATE: "13"},
    "resnet101-v2": {ALL: "12", ALTERNATE: "13"},
    "resnet152-v2": {ALL: "6a, 12", ALTERNATE: "6b, 13"},
}
"""The schemes of each network, and the paper's figure that each is in."""
FCN = Recipe(network="fcn-5x256", data="mnist", learning_rate=0.01, checkpoints=(0, 1, 2, 5, 10, 20, 50, 100))
SHORT = {"epochs": 20, "milestones": (6, 12, 18), "checkpoints": (0, 1, 2, 5, 10), "evaluate_every": 10}
SETTINGS = {
    "small": Setting(
        [
            FCN.replace(**SHORT, data_args={"test_examples": 2000}),
            table1_frozen.narrow("resnet18-v2"),
            table1_frozen.narrow("resnet34-v2"),
            *table1_frozen.SETTINGS["small"].recipes,
        ],
        draws=3,
    ),
    "full": Setting([FCN, *(recipe(name) for name in FIGURES if name != FCN.network)]),
}


def joint(alone: Robustness, setting: Setting, chosen: Options) -> JointRobustness:
    """The groups of one network reset together, re-randomised together, and dropped; each with the rest of the layers."""
    run = chosen.runs / alone.provenance["run"]
    return joint_robustness(
        Study.from_run(run, chosen.data_root, chosen.device),
        list(FIGURES[label(alone)]),
        rest=True,
        checkpoints=setting.checkpoints,
        draws=setting.draws,
        splits=["test"],
        store=run / "joint",
        command=chosen.command,
    )


def group_table(together: JointRobustness, alone: Robustness) -> pl.DataFrame:
    """One row a group: test errors in [0, 1] of the network as it is, with its layers reset one by one (mean), and together."""
    network = label(alone)
    full = together.table.filter(perturbation="none", checkpoint=together.provenance["final_checkpoint"])["error"][0]
    rows = []
    for scheme, figure in FIGURES[network].items():
        members = together.groups[scheme]
        sets = together.summary().filter(group=scheme)
        reset, drawn = sets.filter(perturbation="reinitialise", checkpoint=0), sets.filter(perturbation="rerandomise")
        one = alone.table.filter(pl.col("layer").is_in(members))
        alone_reset = one.filter(perturbation="reinitialise", checkpoint=0)["error"].mean()
        rows.append(
            {
                "network": network,
                "figure": figure,
                "group": scheme,
                "layers": len(members),
                "of": len(together.provenance["layers"]),
                "full": full,
                "alone_reinitialised": alone_reset,
                "reinitialised": reset["error"][0],
                "alone_rerandomised": one.filter(perturbation="rerandomise")["error"].mean(),
                "rerandomised": drawn["error"][0],
                "rerandomised_std": drawn["error_std"][0],
                "removed": sets.filter(perturbation="remove")["error"][0],
            }
        )
    return pl.DataFrame(rows)


def joint_markdown(table: pl.DataFrame) -> str:
    """The same in Markdown, in per cent."""
    errors = ["full", "alone_reinitialised", "reinitialised", "alone_rerandomised", "rerandomised", "removed"]
    lines = []
    for row in table.to_dicts():
        cells = {name: "-" if row[name] is None else f"{100 * row[name]:.1f}" for name in errors}
        if row["rerandomised_std"] is not None:
            cells["rerandomised"] += f" ± {100 * row['rerandomised_std']:.1f}"
        lines.append([row["network"], row["figure"], row["group"], f"{row['layers']} of {row['of']}", *cells.values()])
    titles = [
        "full model",
        "one re-initialised (mean)",
        "all re-initialised",
        "one re-randomised (mean)",
        "all re-randomised",
    ]
    return markdown(["network", "figure", "group", "layers", *titles, "all removed"], lines)


def study(setting: Setting, chosen: Options) -> None:
    """Train, reset alone and together, write: a heat map for each group, ``joint.csv``, ``joint.md`` and ``results.json``."""
    tables, results = [], probe(setting, chosen)
    for alone in results:
        together, network = joint(alone, setting, chosen), label(alone)
        tables.append(group_table(together, alone))
        write_table(together.summary(), chosen.out / f"joint-{network}.csv")
        for scheme in FIGURES[network]:
            chart = joint_heatmap(
                together.summary(),
                together.groups,
                together.provenance["layers"],
                [scheme, f"rest of {scheme}"],
                classes=alone.provenance["classes"],
            )
            name = scheme.replace(":", "-").replace(",", "-")
            write_figure(chart, chosen.out, f"joint-{network}-{name}", svg=False)
    table = pl.concat(tables, how="vertical_relaxed")
    write_table(table, chosen.out / "joint.csv")
    write_text(chosen.out / "joint.md", joint_markdown(table))
    write_facts(results, chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    chosen = options("joint_schemes", __doc__.partition("\n")[0], arguments)
    study(SETTINGS[chosen.setting], chosen)


if __name__ == "__main__":
    main()
