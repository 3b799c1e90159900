"""Heat maps: the error of every module at every checkpoint, by the naive loop and by the engine."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import BATCHES, Naive, Options, Row, Seconds, agree, best_batch, first, now, row, say, timed
from benchmarks.setups import Case, table
from shaketable.engine import Engine, Variant, kernels
from shaketable.engine.engine import error_sums
from shaketable.evaluate import Sums, tally


@dataclass(frozen=True)
class Heatmap:
    """One heat map, with the floors of its ratio on processors without and with bfloat16 matrices."""

    network: str
    goal: float
    goal_amx: float
    about: str
    source: str = "cifar10"
    checkpoints: int = 8
    examples: int = 2000
    batches: tuple[int, ...] = BATCHES
    whole: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)


HEATMAPS = {
    "heatmap-resnet18": Heatmap(
        "resnet18-bn", 1.9, 8, "ResNet-18 on CIFAR-10, 21 modules x 8 checkpoints x 2,000 images"
    ),
    "heatmap-vgg16": Heatmap("vgg16", 1.9, 8, "VGG-16 on CIFAR-10, 16 modules x 8 checkpoints x 2,000 images"),
    "heatmap-resnet18-nobn": Heatmap("resnet18", 1.9, 5, "ResNet-18 without batch norm, the same table"),
    "heatmap-fcn": Heatmap(
        "fcn-3x256",
        2.2,
        7,
        "FCN 3x256 on MNIST, 4 layers x 20 checkpoints x 10,000 images",
        source="mnist",
        checkpoints=20,
        examples=10_000,
        batches=(*BATCHES, 500, 1000, 2000),
        whole=True,
    ),
}
PER_LAYER = 8
"""Checkpoints a module in a sampled table."""
CELLS, IMAGES = 4, 200
"""Cells of the naive loop in a sample, evenly over depth, and at least so many images of each."""


def measure(name: str, options: Options) -> Row:
    """The row of a heat map."""
    work = HEATMAPS[name]
    case = table(work.network, work.source, work.checkpoints, work.examples, options, **work.arguments)
    return compare(name, work, case, options)


def compare(name: str, work: Heatmap, case: Case, options: Options) -> Row:
    """The row of a heat map of a given network: both sides in turn, whole or sampled."""
    everything, whole = case.cells(), work.whole or options.full
    cells = everything if whole else case.cells(PER_LAYER)
    batch = best_batch(case.network, case.data, work.batches)
    size = min(engine_batch(case, options) * options.threads, len(case.data))
    say(f"{name}: naive batch {batch}, engine batch {size // options.threads}")
    variants = case.variants(cells)
    spread = range(len(cells)) if whole else evenly(len(cells), CELLS)
    chosen = [variants[i] for i in spread]
    part = case.data if whole else first(case.data, -(-IMAGES // batch) * batch)
    times, naive, answers, engine = [], [], [], fresh(case, options)
    for number in range(options.repeats):
        naive, slow = timed(lambda: Naive(case.network, batch).sums(chosen, part))
        slow = slow * (len(everything) / len(chosen)) * (len(case.data) / len(part))
        engine = fresh(case, options)
        if whole:
            answers, fast = timed(lambda engine=engine: engine.sums(variants, case.data, losses=options.losses))
        else:
            tables = len(everything) / len(cells)
            parts = slices(engine, variants, case, size, tables, options.losses)
            answers, fast = parts.answers, parts.whole(tables)
        times.append((slow, fast))
        say(f"{name} {number + 1}/{options.repeats}: naive {slow[0]:.1f} s, engine {fast[0]:.1f} s, {engine.choice}")
    if not whole:
        naive = Naive(case.network, batch).sums(chosen, first(case.data, answers[0].examples))
    exact, difference = logits_differ(engine, case, chosen[:8])
    how = (
        f"naive: {len(chosen)} of {len(everything)} cells on {len(part)} of {len(case.data):,} images; engine: all modules, "
        f"{PER_LAYER} of {len(case.checkpoints)} checkpoints each, two slices of {size} images, its checks "
        f"counted once; the rest multiplied. Answers compared on the naive loop's cells and one slice."
    )
    return row(
        name,
        times,
        goal=work.goal,
        goal_amx=work.goal_amx,
        identical=agree(naive, [(answers[i].errors, answers[i].loss) for i in spread]),
        network=case.name,
        data=case.source,
        examples=len(case.data),
        variants=len(everything),
        batch_naive=batch,
        batch_engine=size // options.threads,
        level=options.level,
        choice=engine.choice,
        sampled=not whole,
        sampled_how="" if whole else how,
        more={"losses": options.losses, "bit_identical": exact, "largest_logit_difference": difference},
    )


@dataclass(frozen=True)
class Slices:
    """Seconds of the engine on one slice of the data: the first time, again, and of the base pass in it."""

    cold: Seconds
    warm: Seconds
    base: Seconds
    answers: list[Sums]
    slices: float

    def whole(self, tables: float) -> Seconds:
        """Seconds for all slices and ``tables`` times as many variants; the checks and choices of the first time once."""
        return self.cold + (self.slices - 1) * self.warm + (tables - 1) * self.slices * (self.warm - self.base)


def slices(engine: Engine, variants: list[Any], case: Case, size: int, tables: float, losses: bool = False) -> Slices:
    """Run the engine on the first slice of the data and on the last, as a part of all data and ``tables`` times the variants."""
    total, ends = len(case.data), []

    def noted(logits: Tensor, labels: Tensor) -> Sums:
        ends.append(now())
        return tally(logits, labels) if losses else error_sums(logits, labels)

    def one(start: int) -> list[Sums]:
        order = torch.arange(start, start + size)
        found = engine.map([{}, *variants], case.data, noted, order, not losses, round(total * tables))
        return [reduce(add, sums) for sums in zip(*(sums for _, sums in found), strict=True)][1:]

    answers, cold = timed(lambda: one(0))
    ends.clear()
    started = now()
    _, warm = timed(lambda: one(total - size))
    # The base is the first variant. Where several threads take a batch each, all of the time is taken for the variants'.
    base = ends[0] - started if len(ends) == 1 + len(variants) else np.zeros(2)
    return Slices(cold, warm, base, answers, total / size)


def fresh(case: Case, options: Options) -> Engine:
    """An engine that has seen nothing yet, and timed no kernels."""
    getattr(kernels, "_chosen", {}).clear()
    return Engine(case.network, level=options.level, workers=options.threads)


def engine_batch(case: Case, options: Options) -> int:
    """The number of examples that the engine takes at a time for this network and so much data."""
    last: list[Variant] = list(case.variants(case.cells(1)[-1:]))
    batches = fresh(case, options).map(last, case.data, tally, decisions=not options.losses)
    return next(batches)[0]


def evenly(total: int, count: int) -> list[int]:
    """So many numbers below a total, evenly spread."""
    return [int((i + 0.5) * total / count) for i in range(min(count, total))]


def logits_differ(engine: Engine, case: Case, variants: list[Any], images: int = 16) -> tuple[bool, float]:
    """Whether logits are those of the naive loop bit for bit, and the largest difference relative to the largest logit."""
    inputs: Any = first(case.data, images).inputs
    naive = Naive(case.network, images)
    pairs = list(zip(engine.logits(variants, inputs), (naive.logits(v, inputs) for v in variants), strict=True))
    return all(torch.equal(a, b) for a, b in pairs), max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


BENCHMARKS: dict[str, tuple[str, Callable[[str, Options], list[Row]]]] = {
    name: (work.about, lambda name, options: [measure(name, options)]) for name, work in HEATMAPS.items()
}
