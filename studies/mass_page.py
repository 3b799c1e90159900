"""The page of results of the NN-Mass paper: what needs no training beside the printed numbers, and what was measured."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shaketable.topology import Cell, kl_term, mass_bound, nn_density, topology
from studies.common import markdown

# Table 1: parameters in millions, FLOPs in billions, mass, accuracy in per cent, as printed, by depth of a cell and links.
TABLE_1: Mapping[tuple[int, ...], tuple[str, str, str, str]] = {
    (20, 90, 170, 300): ("11.89", "3.63", "1126", "97.02"),
    (20, 50, 100, 150): ("8.15", "2.54", "622", "96.99"),
    (12, 60, 130, 170): ("5.02", "1.59", "755", "97.00"),
    (11, 70, 140, 180): ("4.69", "1.51", "813", "96.93"),
    (9, 70, 140, 200): ("3.82", "1.2", "856", "96.82"),
}
WIDTHS = (32, 64, 128)
TEXT = """# NN-Mass: what can be said before training

"Towards unifying neural architecture space exploration and generalization" (NN-Mass, 2020) by this code, each part next to what the
paper prints. This page is written by the study (`python -m studies.mass_exploration`); every number was computed or measured by the
command that stands beside it. What the words mean, and what the theory does not say: [concepts](../concepts.md#before-training).

## Without training: tables 1 and 2

Of each network of table 1, from its depth, width and links alone; the paper's numbers (cut off, not rounded) in brackets:

{table_1}
Densities of the networks of table 2, which it labels 0.1, 0.15, 0.2, 0.25 and 0.3:

{table_2}
## The bound by mass

Theorem 2 puts a term in the place of a KL divergence. For every network of table 1 it is negative, with the asymptotic entropy that
the paper takes and with the exact one alike, and no divergence is negative: it bounds nothing (N = 50,000, sigma the links of the last
cell and its width).

{bounds}
"""
MEASURED = """## {name}

{about}

{predictors}
R2 is that of a line through the predictor (its logarithm, but for density and NASWOT) and the mean accuracy over seeds; tau is
Kendall's, of the same two columns; "unseen depths" is the R2 of predictions for {unseen} by the line through {rest}; seconds are those
that the measure took for one network. The paper prints R2 of 0.74 (width 1), 0.84 (width 2) and 0.90 (width 3) for log mass, 0.76 (width 2)
and 0.14 (width 3) for log parameters, and 0.79 for unseen depths, with 200 epochs on all of CIFAR-10.

| accuracy against | |
| --- | --- |
| density, figure 3a | ![density]({folder}/accuracy-density.png) |
| parameters, figures 3b and 10 | ![parameters]({folder}/fit-parameters.png) |
| mass, figures 3c and 5 | ![mass]({folder}/fit-nn_mass.png) |
| predicted for unseen depths, figure 11 | ![unseen]({folder}/unseen.png) |

<details><summary>Every design</summary>

{designs}
</details>

Command: `{command}`. {networks} networks, {seconds:,} s of training on the wall; torch {torch}, {threads} thread(s).
"""
FULL = "The full setting (`--setting full --device cuda`) was not run."


def cells(depth: int, links: Sequence[int]) -> list[Cell]:
    """Cells of the paper's width 2."""
    return [Cell(depth, width, t) for width, t in zip(WIDTHS, links, strict=True)]


def page(out: Path, table_2: Mapping[int, Sequence[Sequence[int]]], slugs: Sequence[str]) -> str:
    """The page, with a part for each group whose tables are in ``out``."""
    rows, bounds = [], []
    for (depth, *links), (parameters, flops, mass, accuracy) in TABLE_1.items():
        found = topology(cells(depth, links))
        rows.append(
            [
                f"{3 * depth + 4}",
                f"{links}",
                f"{found.parameters / 1e6:.3f} M ({parameters} M)",
                f"{found.flops / 1e9:.3f} G ({flops} G)",
                f"{found.nn_mass:.2f} ({mass})",
                f"({accuracy} %)",
            ]
        )
        sigma = WIDTHS[-1] + links[-1]
        bound = mass_bound(found.nn_mass, sigma, 0.0, 50_000)
        exact = kl_term(found.nn_mass, sigma, exact=True)
        bounds.append(
            [
                f"{found.nn_mass:.2f}",
                str(sigma),
                f"{bound.kl:.6f}",
                f"{exact:.6f}",
                "none" if bound.value is None else "a bound",
            ]
        )
    densities = [
        [str(3 * d + 4), *(f"{nn_density(cells(d, links)):.3f}" for links in found)] for d, found in table_2.items()
    ]
    text = TEXT.format(
        table_1=markdown(["layers", "links", "parameters", "FLOPs", "mass", "accuracy"], rows),
        table_2=markdown(["layers", "0.1", "0.15", "0.2", "0.25", "0.3"], densities),
        bounds=markdown(["mass", "sigma", "term", "with exact entropy", "bound"], bounds),
    )
    trained = [slug for slug in slugs if (out / slug / "results.json").is_file()]
    parts = [measured(out, slug) for slug in trained]
    if (out / "contributions.md").is_file():
        parts.append("## Contributions (figure 7)\n\n" + (out / "contributions.md").read_text(encoding="utf-8"))
    speeds = [speed(json.loads(file.read_text(encoding="utf-8"))[0]) for file in sorted(out.glob("*-*.json"))]
    if speeds:
        parts.append("## Speed\n\n" + "\n".join(speeds))
    none = "## Trained networks\n\nNone yet: `python -m studies.mass_exploration --setting small --out docs/results/nn-mass`.\n"
    return "\n".join([text, *([] if trained else [none]), *parts, FULL, ""])


def speed(row: Mapping[str, Any]) -> str:
    """What a benchmark measured, from the row that ``python -m benchmarks NAME --json`` printed into ``<out>/NAME.json``."""
    known = ("candidates", "pareto_set", "growth_of_memory_mb", "layers", "trace_seconds")
    more = ", ".join(f"{name.replace('_', ' ')} {row[name]:,}" for name in known if name in row)
    machine = row["machine"]
    return (
        f"- `python -m benchmarks {row['work']} --json`: {row['engine_wall_seconds']} s on the wall, {row['engine_seconds']} s of "
        f"processor time (at most {row['goal']:g} s wanted); {more}; {machine['cpu']}, {machine['threads']} thread(s).\n"
    )


def measured(out: Path, slug: str) -> str:
    """The part about one group, from the files that the study wrote."""
    folder = out / slug
    facts = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    recipe, unseen = facts["recipe"], facts["unseen"]
    told = " and ".join(f"{recipe['data_args'][name]:,} {kind}" for name, kind in
                        (("train_examples", "training"), ("test_examples", "test")) if name in recipe["data_args"])  # fmt: skip
    about = (
        f"{len(facts['designs'])} designs, {len(facts['seeds'])} seeds each; {recipe['data']}"
        + (f", {told} images" if told else "")
        + f", {recipe['epochs']} epochs, batches of {recipe['batch_size']}, cosine schedule from {recipe['learning_rate']:g}, "
        f"{', '.join(recipe['augmentation'])}, {recipe['precision']}."
    )
    return MEASURED.format(
        name=facts["name"],
        about=about,
        predictors=(folder / "predictors.md").read_text(encoding="utf-8"),
        designs=(folder / "designs.md").read_text(encoding="utf-8"),
        unseen=f"networks of {', '.join(map(str, unseen))} layers" if unseen else "each depth",
        rest="all others",
        folder=f"{out.name}/{slug}",
        command=facts["command"],
        networks=facts["networks"],
        seconds=math.ceil(facts["training_seconds"]),
        torch=facts["torch"],
        threads=facts["threads"],
    )
