"""Network criticality by the engine's search against a grid of alphas, sigmas and draws by the naive loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import torch

from benchmarks.behaviour import line
from benchmarks.common import BATCHES, Naive, Options, Row, best_batch, first, machine, row, say, timed
from benchmarks.heatmaps import evenly
from benchmarks.setups import FCN, RESNET, described, small
from shaketable.data import Data, status
from shaketable.engine import kernels
from shaketable.engine.decisions import interval
from shaketable.engine.variants import tensors_of_variant
from shaketable.errors import InputError
from shaketable.probes.criticality import Criticality, criticality
from shaketable.probes.searches import Line, lines_of
from shaketable.study import Study
from shaketable.training import Recipe, train

DRAWS, EPSILON = 10, 0.1
ALPHAS = tuple(step / 19 for step in range(20))
SIGMAS = tuple(10.0 ** (3 * step / 19 - 3) for step in range(20))
"""20 alphas from 0 to 1, 20 sigmas from 1e-3 to 1."""


@dataclass(frozen=True)
class Work:
    """A network that is trained in minutes, how many training images count (repeated where there are fewer), how many
    of them a naive cell is run on, and how many modules are searched, evenly over the network and multiplied (all without it)."""

    recipe: Recipe
    examples: int
    images: int
    about: str
    goal: float | None = None
    seconds: float | None = None
    modules: int | None = None
    batches: tuple[int, ...] = BATCHES


NARROW = RESNET.replace(
    data_args={"train_examples": 6000, "test_examples": 1000},
    learning_rate=0.05,
    batch_size=64,
    epochs=20,
    checkpoints=(0,),
    evaluate_every=20,
    precision="float32",
)
WIDE = NARROW.replace(
    network_args={},
    data_args={"train_examples": 1500, "test_examples": 1000},
    learning_rate=0.02,
    batch_size=32,
    epochs=9,
    evaluate_every=9,
    precision="bfloat16",
)
"""Trained on a slice of CIFAR-10 until hardly an image of it is wrong: hours on all of it were not to be had."""


WORKS = {
    "criticality-fcn": Work(
        FCN,
        50_000,
        50_000,
        "network criticality of FCN 3x256 on MNIST: 4 modules, 20 alphas x 20 sigmas x 10 draws, 50,000 images",
        goal=200,
        batches=(*BATCHES, 500, 1000, 2000),
    ),
    "criticality-resnet18-narrow": Work(
        NARROW,
        6000,
        1000,
        "the same of ResNet-18 of width 16, 21 modules, 6,000 images: within 900 s of processor time",
        seconds=900,
    ),
    "criticality-resnet18": Work(
        WIDE,
        50_000,
        500,
        "the same of ResNet-18 of full width, 21 modules, 50,000 images; without --full five modules are searched",
        goal=500,
        modules=5,
    ),
}


def study_of(work: Work, options: Options) -> tuple[Study, str]:
    """The trained network with its training images, and a sentence about them."""
    recipe = work.recipe
    if status(recipe.data, options.data_root)[0] != "ready":
        recipe = small(recipe)
    run = train(recipe, out=options.runs, data_root=options.data_root)
    study = Study.from_run(run.path, options.data_root)
    whole = study.data("train")
    data = whole.subset(torch.arange(work.examples) % len(whole))
    note = f", {len(whole):,} images repeated" if len(data) > len(whole) else ""
    error = study.history.row(-1, named=True)["train_error"]
    about = f"{recipe.data} train, {len(data):,} images{note}; error {error:.4f} after {recipe.epochs} epochs"
    made = Study(study.network, final=study.final, init=study.init, train=data, name=study.name)
    return made, about


def measure(name: str, options: Options) -> list[Row]:
    """The row of a work: the search whole; of the naive grid some cells on some images, multiplied."""
    work = WORKS[name]
    study, about = study_of(work, options)
    data = study.data("train")
    study.network.load_state_dict(study.final)
    lines, _ = lines_of(study, "module", "weight", DRAWS, 0)
    cells_each, modules = len(ALPHAS) * len(SIGMAS) * DRAWS, len(lines)
    if work.modules is not None and not options.full:
        lines = [lines[i] for i in evenly(modules, work.modules)]
    batch = best_batch(study.network, data, work.batches)
    part = first(data, work.images)
    turns = evenly(len(lines), options.repeats)
    times, right = [], True
    found: Criticality | None = None
    for number in range(options.repeats):
        getattr(kernels, "_chosen", {}).clear()
        found, fast = timed(lambda: search(study, lines, options))
        at = lines[turns[number % len(turns)]]
        agrees, slow, cells = check(found, at, study, part, len(data), batch)
        if not cells:
            raise InputError(f"{at.layer.name} keeps no error of {EPSILON} on this grid; there is nothing to compare.")
        right &= agrees
        fast = fast * (modules / len(lines))
        times.append((slow * (modules * cells_each / cells) * (len(data) / len(part)), fast))
        say(f"{name} {number + 1}/{options.repeats}: naive {times[-1][0][0]:,.0f} s, search {fast[0]:,.1f} s")
    assert found is not None
    table, summary = found.table, found.summary().row(0, named=True)
    more = {
        "network_criticality": summary["network_criticality"] if len(lines) == modules else None,
        "modules": modules,
        "modules_searched": len(lines),
        "tests": int(table["tests"].sum()),
        "outcomes": int(table["outcomes"].sum()),
        "outcomes_of_the_grid": len(lines) * cells_each * len(data),
        "module_criticality": dict(zip(table["layer"], table["criticality"], strict=True)),
    }
    if work.seconds is not None:
        more["seconds_allowed"] = work.seconds
    part_searched = "whole" if len(lines) == modules else f"{len(lines)} of {modules} modules, multiplied"
    how = (
        f"naive: two points of one module with all {DRAWS} draws on {len(part):,} of {len(data):,} images, another module "
        "in each repeat, multiplied to the whole grid; search: "
        f"{part_searched}. Answers compared at the point found and at the next "
        "larger sigma, as far as these images tell."
    )
    return [
        row(
            name,
            times,
            goal=work.goal,
            goal_amx=work.goal,
            identical=right,
            network=described(work.recipe.network, work.recipe.network_args),
            data=about,
            examples=len(data),
            variants=modules * cells_each,
            batch_naive=batch,
            level=options.level,
            choice=found.provenance["engine"],
            sampled=True,
            sampled_how=how,
            more=more,
        )
    ]


def search(study: Study, lines: Sequence[Line], options: Options) -> Criticality:
    """The search of some modules on the grid that the naive loop would go through."""
    chosen = {at.layer.name: list(at.layer.params) for at in lines}
    same = {"epsilon": EPSILON, "alphas": ALPHAS, "sigmas": SIGMAS, "draws": DRAWS}
    return criticality(study, chosen, **same, pac_bayes=False, level=options.level)


def check(
    found: Criticality, at: Line, study: Study, part: Data, total: int, batch: int
) -> tuple[bool, np.ndarray, int]:
    """Whether the naive loop agrees at a module's point and the next larger sigma; its seconds; how many cells it ran."""
    line_found = found.table.filter(pl.col("layer") == at.layer.name).row(0, named=True)
    if line_found["alpha"] is None:
        return True, np.full(2, np.nan), 0
    alpha, sigma = line_found["alpha"], line_found["sigma"]
    above = min((other for other in SIGMAS if other > sigma * 1.0001), default=sigma)
    naive, agrees, slow = Naive(study.network, batch), True, np.zeros(2)
    for point in (sigma, above):
        tensors = [tensors_of_variant(variant) for variant in at.variants(alpha, point)]
        sums, taken = timed(partial(naive.sums, tensors, part))
        slow += taken
        wrong = sum(errors for errors, _ in sums) // DRAWS  # an example's draws are not independent: they count as one
        low, high = interval(wrong, len(part), total, 1e-6)
        settled = alpha == 0 or above == sigma  # then nothing was claimed about a larger sigma
        agrees &= low <= EPSILON if point == sigma else settled or high > EPSILON
    return agrees, slow, 2 * DRAWS


def modules(name: str, options: Options) -> list[Row]:
    """Processor time of the search against the number of modules of one network."""
    recipe = small(FCN).replace(network="fcn-12x128", epochs=30)
    run = train(recipe, out=options.runs, data_root=options.data_root)
    study = Study.from_run(run.path, options.data_root)
    layers = [at.layer for at in lines_of(study, "module", "weight", 1, 0)[0]]
    counts, seconds = (1, 2, 4, 6, 8, 12), []
    for count in counts:
        chosen = {layers[i].name: list(layers[i].params) for i in evenly(len(layers), count)}
        _, taken = timed(
            lambda chosen=chosen: criticality(
                study, chosen, epsilon=EPSILON, alphas=ALPHAS, sigmas=SIGMAS, draws=4, pac_bayes=False
            )
        )
        seconds.append(float(taken[0]))
        say(f"{name}: {count} modules, {taken[0]:.1f} s")
    return [
        Row(
            name,
            network=recipe.network,
            data=f"digits train, {len(study.data('train')):,} images",
            examples=len(study.data("train")),
            level=options.level,
            machine=machine(),
            more={"x": list(counts), "seconds": [round(s, 2) for s in seconds], **line(counts, seconds)},
        )
    ]


BENCHMARKS: dict[str, tuple[str, Callable[[str, Options], list[Row]]]] = {
    **{name: (work.about, measure) for name, work in WORKS.items()},
    "criticality-modules": (
        "time of the search against the number of modules: slope and R2 of a straight line",
        modules,
    ),
}
