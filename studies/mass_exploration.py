"""Tables 1 and 2 and figures 3 to 7, 10 and 11 of the NN-Mass paper: does the mass of a network tell its accuracy before training?

Networks of three cells over depths and densities; test accuracy against density, parameters and mass, lines fitted to their
logarithms, accuracies predicted for depths that the line has not seen, and zero-cost proxies of the same networks beside them.

The small setting has cells of 4 to 7 layers of 4, 8 and 16 channels, wider steps of density, 2,500 images of CIFAR-10 and 5 epochs in
bfloat16; the full one has the paper's networks of tables 1 and 2, widths 1, 2 and 3, CIFAR-100, and the depths of appendix H.2.
``--only train``, ``measure`` or ``report`` does one step, ``contributions`` the comparison of appendix B.1, ``page`` writes
``<out>.md``; each goes on where it was stopped.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from shaketable.files import write_text
from shaketable.topology import Cell, links_for_density
from shaketable.training import Recipe, named
from shaketable.zoo import Plan, Zoo, measure, run
from studies import mass_page
from studies.common import Options, markdown, options, versions, write_figure, write_table
from studies.mass_tables import (
    PREDICTORS,
    design_markdown,
    design_table,
    scatter,
    unseen_scatter,
    verdict_markdown,
    verdict_table,
)

SEEDS = (0, 1, 2)
PARTS = ("train", "measure", "report", "contributions", "page")
MEASURES = [name for name in PREDICTORS if name != "flops"]
# Depth of a cell -> links of its three cells, by density (0.1, 0.15, 0.2, 0.25, 0.3), as table 2 prints them (width multiplier 2).
TABLE_2 = {
    9: ((10, 35, 50), (20, 45, 75), (30, 50, 100), (40, 60, 120), (50, 70, 145)),
    12: ((20, 40, 70), (30, 50, 100), (40, 80, 125), (50, 105, 150), (60, 130, 170)),
    15: ((25, 50, 90), (35, 80, 125), (50, 105, 150), (70, 130, 170), (90, 150, 210)),
    20: ((30, 80, 117), (50, 110, 150), (70, 140, 200), (90, 175, 250), (110, 215, 300)),
}
DENSITIES = (0.1, 0.15, 0.2, 0.25, 0.3)
# Appendix H.2: depths 28, 43, 52 and 58 are cells of 8, 13, 16 and 18 layers; it prints densities and no links.
UNSEEN = dict.fromkeys((8, 13, 16, 18), (0.125, 0.175, 0.225, 0.275, 0.325))


@dataclass(frozen=True)
class Group:
    """Networks of one width and data set: those that a line is fitted to, and those that it is then asked about.

    Args:
        name: what it is called in tables.
        designs: cells of each network.
        base: the recipe of all.
        unseen: depths of cells that are held out together; without any, each depth is held out in turn.
    """

    name: str
    designs: tuple[tuple[Cell, ...], ...]
    base: Recipe
    unseen: tuple[int, ...] = ()


def cells(depth: int, widths: Sequence[int], density: float) -> tuple[Cell, ...]:
    """Cells of one depth with the links that come nearest to a density."""
    return tuple(Cell(depth, width, links_for_density(depth, width, density)) for width in widths)


def printed(width: int = 2) -> tuple[tuple[Cell, ...], ...]:
    """The networks of table 2; of other widths than 2, whose links it does not print, those of its densities."""
    widths = [16 * 2**c * width for c in range(3)]
    if width != 2:
        return tuple(cells(depth, widths, density) for depth in TABLE_2 for density in DENSITIES)
    return tuple(
        tuple(Cell(depth, w, t) for w, t in zip(widths, links, strict=True))
        for depth, rows in TABLE_2.items()
        for links in rows
    )


def name_of(design: Iterable[Cell]) -> str:
    """The name by which a design is built."""
    return "linked-" + "-".join(map(str, design))


FULL = named("nn-mass")
SMALL = FULL.changed(
    data_args={"train_examples": 2500, "test_examples": 3000},
    batch_size=64,
    epochs=5,
    evaluate_every=5,
    precision="bfloat16",
)
UNSEEN_DESIGNS = tuple(cells(depth, (32, 64, 128), one) for depth, found in UNSEEN.items() for one in found)
SETTINGS = {
    "small": (
        Group(
            "CIFAR-10 slice",
            tuple(cells(depth, (4, 8, 16), one) for depth in (4, 5, 6, 7) for one in (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)),
            SMALL,
        ),
    ),
    "full": (
        Group("CIFAR-10, width 2", printed() + UNSEEN_DESIGNS, FULL, tuple(UNSEEN)),
        Group("CIFAR-10, width 1", printed(1), FULL),
        Group("CIFAR-10, width 3", printed(3), FULL),
        Group("CIFAR-100, width 2", printed(), FULL.changed(data="cifar100")),
        Group(
            "CIFAR-10, table 1",
            tuple(tuple(mass_page.cells(depth, links)) for depth, *links in mass_page.TABLE_1),
            FULL.changed(epochs=600),
        ),
    ),
}
# Appendix B.1: one cell of three groups, by what is multiplied into its weights.
ONE_CELL = {"one_cell": True}
CONTRIBUTIONS = {
    "small": SMALL.changed(network="linked-5x4t20-5x8t20-5x16t20", network_args=ONE_CELL),
    "full": FULL.changed(network="linked-14x32t200-14x64t200-14x128t200", network_args=ONE_CELL, epochs=350),
}


def plan(group: Group) -> Plan:
    """The zoo of a group: each design with three seeds."""
    return Plan.grid(group.base, {"network": [name_of(design) for design in group.designs], "seed": SEEDS})


def slug(group: Group) -> str:
    """The name of a group as that of a folder."""
    return group.name.replace(",", "").replace(" ", "-").lower()


def zoo_of(group: Group, chosen: Options) -> Zoo:
    """The zoo of a group, trained; what is trained already is found, not trained again."""
    return run(plan(group), chosen.runs / "mass" / slug(group), data_root=chosen.data_root, device=chosen.device)


def write(group: Group, zoo: Zoo, chosen: Options) -> None:
    """Tables and figures of one group: what its trained networks say."""
    table = zoo.table()
    taken = table.filter(pl.col("status") == "ok", pl.col("measure").is_not_null())
    seconds = dict(taken.group_by("measure").agg(pl.col("seconds").mean()).rows())
    designs = design_table(table)
    unseen = [3 * depth + 4 for depth in group.unseen]
    verdict = verdict_table(designs, unseen, seconds)
    folder = chosen.out / slug(group)
    write_table(designs, folder / "designs.csv")
    write_table(verdict, folder / "predictors.csv")
    write_text(folder / "designs.md", design_markdown(designs))
    write_text(folder / "predictors.md", verdict_markdown(verdict, len(designs)))
    for name, title in (("density", "NN-Density"), ("parameters", "parameters"), ("nn_mass_exact", "NN-Mass")):
        key = name.removesuffix("_exact")
        write_figure(scatter(designs, name, title), folder, f"accuracy-{key}", svg=False)
        if name != "density":
            write_figure(scatter(designs, name, f"{title}, logarithmic", line=True), folder, f"fit-{key}", svg=False)
    write_figure(unseen_scatter(designs, unseen), folder, "unseen", svg=False)
    networks = table.unique("network").drop_nulls("training_seconds")
    facts = versions() | {
        "name": group.name,
        "command": chosen.command,
        "recipe": group.base.to_dict(),
        "designs": [name_of(design) for design in group.designs],
        "seeds": SEEDS,
        "unseen": unseen,
        "networks": len(networks),
        "training_seconds": round(float(networks["training_seconds"].sum())),
    }
    write_text(folder / "results.json", json.dumps(facts, indent=1) + "\n")


def contributions(chosen: Options) -> None:
    """Figure 7: accuracy with random, constant and no contributions (``ones``), written as a table."""
    axes = {"network_args.contributions": ["random", "constant", "ones"], "seed": SEEDS}
    compared = Plan.grid(CONTRIBUTIONS[chosen.setting], axes)
    zoo = run(
        compared,
        chosen.runs / "mass" / f"contributions-{chosen.setting}",
        data_root=chosen.data_root,
        device=chosen.device,
    )
    table = zoo.table().unique("network").filter(pl.col("test_error").is_not_null())
    grouped = table.group_by("hp_network_args.contributions").agg(
        *(
            one
            for split in ("train", "test")
            for one in (
                (1 - pl.col(f"{split}_error")).mean().alias(split),
                (1 - pl.col(f"{split}_error")).std().alias(f"{split}_std"),
            )
        ),
        pl.len().alias("seeds"),
    )
    found = grouped.sort("test", descending=True)
    rows = [
        [row["hp_network_args.contributions"], *(f"{100 * row[k]:.1f} ± {100 * (row[f'{k}_std'] or 0):.1f}" for k in ("train", "test"))]
        for row in found.to_dicts()
    ]  # fmt: skip
    write_table(found, chosen.out / "contributions.csv")
    write_text(
        chosen.out / "contributions.md", markdown(["contributions", "training accuracy, %", "test accuracy, %"], rows)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    chosen = options("mass_exploration", str(__doc__).partition("\n")[0], arguments, PARTS)
    parts = chosen.only or PARTS
    if "contributions" in parts:
        contributions(chosen)
    for group in SETTINGS[chosen.setting] if {"train", "measure", "report"} & set(parts) else ():
        zoo = zoo_of(group, chosen) if "train" in parts else Zoo.open(chosen.runs / "mass" / slug(group))
        if "measure" in parts:
            measure(zoo, MEASURES, data_root=chosen.data_root, device=chosen.device)
        if "report" in parts:
            write(group, zoo, chosen)
    if "page" in parts:
        slugs = [slug(group) for groups in SETTINGS.values() for group in groups]
        text = mass_page.page(chosen.out, TABLE_2, slugs)
        write_text(chosen.out.with_name(f"{chosen.out.name}.md"), text)


if __name__ == "__main__":
    main()
