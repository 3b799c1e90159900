"""Table 1 of Zhang, Bengio, Singer, "Are All Layers Created Equal?": layers frozen at init, and layers removed.

Each network is trained four times over: as it is; with all but the first residual block of each stage frozen at their initial
weights; and without these blocks. Beside that stands the first network's error with each of these blocks re-initialised by itself,
mean and standard deviation over blocks. Without its other blocks a ResNet-50 is a ResNet-101 and a ResNet-152: the paper prints
one number for the three, here they are three draws of initial weights.

The small setting has an eighth of the channels, the strided first layers of ImageNet networks, and a slice of the data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from shaketable.data import SOURCES
from shaketable.files import write_text
from shaketable.networks import construct
from shaketable.params import layers
from shaketable.probes import Robustness
from shaketable.probes.schemes import scheme_group
from shaketable.training import Recipe, Run
from studies.common import Options, Setting, markdown, options, probe, trained, write_facts, write_table
from studies.figure3_4_convolutional import recipe

SCHEME = "all-but-first"
NETWORKS = ("resnet50-v2", "resnet101-v2", "resnet152-v2")


@dataclass(frozen=True)
class Printed:
    """A row of the table, top half (CIFAR-10): test errors in per cent."""

    full: str
    individual: str
    frozen: str
    removed: str


PRINTED: Mapping[str, Printed] = {
    "resnet50-v2": Printed("8.40", "9.77 ± 1.38", "11.74", "9.23"),
    "resnet101-v2": Printed("8.53", "8.87 ± 0.50", "9.21", "9.23"),
    "resnet152-v2": Printed("8.54", "8.74 ± 0.39", "9.17", "9.23"),
}


def narrow(network: str, width: float = 0.125, **fields: Any) -> Recipe:
    """A deep network that two cores train in minutes: maps of 8 x 8 behind the first layers."""
    defaults = {
        "network_args": {"init": "xavier-uniform", "width": width, "stem": "imagenet"},
        "data_args": {"train_examples": 3000, "test_examples": 2000},
        "batch_size": 32,
        "epochs": 20,
        "milestones": (6, 12, 18),
        "checkpoints": (0, 1, 5, 10),
        "evaluate_every": 10,
    }
    return recipe(network, **defaults | fields)


SETTINGS = {
    "small": Setting([narrow(name) for name in NETWORKS], draws=3),
    "full": Setting([recipe(name) for name in NETWORKS]),
}


def group(one: Recipe) -> tuple[str, ...]:
    """The blocks that are frozen, or removed: all but the first of each stage."""
    source = SOURCES[one.data]
    return scheme_group(
        layers(construct(one.network, source.shape, source.classes, **one.network_args), "block"), SCHEME
    )


def error_table(results: Sequence[Robustness], frozen: Sequence[Run], removed: Sequence[Run]) -> pl.DataFrame:
    """Test errors in [0, 1], one row a network: the columns of the paper's table."""
    rows = []
    for result, *others in zip(results, frozen, removed, strict=True):
        one = Recipe.from_dict(result.provenance["recipe"])
        blocks = group(one)
        reset = (pl.col("perturbation") == "reinitialise") & (pl.col("checkpoint") == 0)
        alone = result.table.filter(reset, pl.col("layer").is_in(blocks))["error"]
        assert result.history is not None
        full, *joint = (history["test_error"][-1] for history in (result.history, *(run.history for run in others)))
        rows.append((one.network, len(blocks), full, alone.mean(), alone.std(), *joint))
    columns = ["network", "blocks", "full", "individual", "individual_std", "frozen", "removed"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def table_1(table: pl.DataFrame) -> str:
    """The table as the paper prints it, the paper's numbers behind ours: test errors in per cent."""
    lines = []
    for row in table.to_dicts():
        ours = {name: f"{100 * row[name]:.2f}" for name in ("full", "individual", "frozen", "removed")}
        ours["individual"] += f" ± {100 * row['individual_std']:.2f}"
        printed = PRINTED[row["network"]]
        lines.append(
            [
                row["network"],
                str(row["blocks"]),
                *(f"{value} ({getattr(printed, name)})" for name, value in ours.items()),
            ]
        )
    titles = ["full model", "each alone re-initialised", "frozen jointly", "removed jointly"]
    return markdown(["network", "blocks", *(f"{title} (paper)" for title in titles)], lines)


def study(setting: Setting, chosen: Options) -> None:
    """Train, probe, write ``table1.csv``, ``table1.md`` and ``results.json``."""
    results = probe(setting, chosen)
    frozen = trained([one.replace(frozen=group(one)) for one in setting.recipes], chosen)
    removed = trained([one.replace(removed=group(one)) for one in setting.recipes], chosen)
    table = error_table(results, frozen, removed)
    write_table(table, chosen.out / "table1.csv")
    write_text(chosen.out / "table1.md", table_1(table))
    write_facts([*results, *frozen, *removed], chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    chosen = options("table1_frozen", __doc__.partition("\n")[0], arguments)
    study(SETTINGS[chosen.setting], chosen)


if __name__ == "__main__":
    main()
