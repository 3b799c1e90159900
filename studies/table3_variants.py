"""Table 3 and figures 14, 15 of Zhang, Bengio, Singer, "Are All Layers Created Equal?": batch norm x weight decay.

Four trainings of each network on CIFAR-10: as it is, with weight decay, with batch norm, with both. The paper prints neither
the weight decay nor the learning rates: 5e-4 is ours, and one learning rate for all four, so that they differ in nothing else.
For the networks with both there is a second heat map, of checkpoint 0 and fresh draws: with running statistics not as trained
but re-estimated on training data after every perturbation; the paper does not say which it has.

The small setting has VGG-11 and VGG-13 with a quarter of the channels and a slice of the data, and ResNet-18 to ResNet-101 as in
`studies.table1_frozen`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from shaketable.files import write_text
from shaketable.probes import Robustness
from shaketable.training import Recipe
from studies.common import Options, Setting, markdown, options, probe, write_robustness, write_table
from studies.figure3_4_convolutional import recipe, small
from studies.table1_frozen import narrow

WEIGHT_DECAY = 5e-4
VARIANTS = ("N/A", "+wd", "+bn", "+wd+bn")
# Test error in per cent, in the order of VARIANTS; nothing is printed for VGG-19 with weight decay.
PRINTED: Mapping[str, tuple[float | None, ...]] = {
    "resnet18-v2": (10.4, 7.5, 6.9, 5.5),
    "resnet34-v2": (10.2, 6.9, 6.6, 5.1),
    "resnet50-v2": (8.4, 9.9, 7.6, 5.0),
    "resnet101-v2": (8.5, 9.8, 6.9, 5.3),
    "resnet152-v2": (8.5, 9.7, 7.3, 4.7),
    "vgg11": (11.8, 10.7, 9.4, 8.2),
    "vgg13": (10.3, 8.8, 8.4, 6.7),
    "vgg16": (11.0, 11.4, 8.5, 6.7),
    "vgg19": (12.1, None, 8.6, 6.9),
}


def variants(one: Recipe) -> list[Recipe]:
    """The four trainings of a network, in the order of VARIANTS."""
    return [
        one.replace(network=one.network + ending, weight_decay=decay)
        for ending in ("", "-bn")
        for decay in (0.0, WEIGHT_DECAY)
    ]


def variant(one: Recipe) -> str:
    """Which of the four a recipe is."""
    return ("+wd" if one.weight_decay else "") + ("+bn" if one.network.endswith("-bn") else "") or "N/A"


SHORT: Mapping[str, Any] = {
    "epochs": 20,
    "milestones": (6, 12, 18),
    "checkpoints": (0, 1, 5, 10),
    "precision": "bfloat16",
}
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
SETTINGS = {
    "small": Setting(
        [
            *(one for name in ("vgg11", "vgg13") for one in variants(small(name, 2_500, **SHORT))),
            *(one for name in RESNETS for one in variants(narrow(f"{name}-v2"))),
        ],
        draws=3,
    ),
    "full": Setting([one for name in PRINTED for one in variants(recipe(name))]),
}


def error_table(results: Sequence[Robustness]) -> pl.DataFrame:
    """Test errors of the trained networks, one row per network and variant, in [0, 1], with the paper's."""
    rows = []
    for result in results:
        one = Recipe.from_dict(result.provenance["recipe"])
        network, which = one.network.removesuffix("-bn"), variant(one)
        assert result.history is not None
        error = result.history["test_error"][-1]
        printed = PRINTED[network][VARIANTS.index(which)]
        rows.append((network, which, error, None if printed is None else printed / 100))
    return pl.DataFrame(rows, schema=["network", "variant", "test_error", "printed"], orient="row")


def table_3(table: pl.DataFrame) -> str:
    """Table 3: test error in per cent, with the paper's in brackets."""
    cells = {(row["network"], row["variant"]): row for row in table.to_dicts()}
    rows = [
        [network, *(_percent(cells.get((network, which))) for which in VARIANTS)]
        for network in table["network"].unique(maintain_order=True)
    ]
    return markdown(["network", *VARIANTS], rows)


def _percent(row: Mapping[str, float | None] | None) -> str:
    if row is None or row["test_error"] is None:
        return ""
    printed = "-" if row["printed"] is None else f"{100 * row['printed']:.1f}"
    return f"{100 * row['test_error']:.1f} ({printed})"


def study(setting: Setting, chosen: Options) -> None:
    """Train, probe, write: files are named for network and variant; ``table3.md`` has the errors."""
    results = probe(setting, chosen)
    names = [name_of(one) for one in setting.recipes]
    errors = error_table(results)
    both = [one for one in setting.recipes if variant(one) == VARIANTS[-1]]
    results += probe(replace(setting, recipes=both, checkpoints=(0,)), chosen, statistics="reestimate")
    names += [f"{name_of(one)}-reestimated" for one in both]
    write_robustness(results, names, chosen)
    write_table(errors, chosen.out / "table3.csv")
    write_text(chosen.out / "table3.md", table_3(errors))


def name_of(one: Recipe) -> str:
    """A network and its variant, for files."""
    return one.network + ("-wd" if one.weight_decay else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    chosen = options("table3_variants", __doc__.partition("\n")[0], arguments)
    study(SETTINGS[chosen.setting], chosen)


if __name__ == "__main__":
    main()
