"""Errors to a precision and yes-or-no questions, from part of the data, against the naive loop on all of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.common import BATCHES, Naive, Options, Row, Seconds, best_batch, first, row, say, timed
from benchmarks.heatmaps import engine_batch, evenly, fresh
from benchmarks.setups import Case, pretrained, trained
from shaketable.data import Data
from shaketable.engine import Combination, Decision, Engine, Estimate, Variant, decide, errors
from shaketable.engine.decisions import interval
from shaketable.engine.questions import FIRST, PLANNED

PRECISION, FAILURE, BOUND = 0.01, 1e-4, 0.1


@dataclass(frozen=True)
class Early:
    """One work: a trained network, how many examples there are, what is asked, and how a sample is drawn.

    ``alphas``: on so many points of the way from initial to final weights, is the error at most 0.1? Without, the error at
    each checkpoint to +-0.01. ``per_layer``: cells a module in a sample, None for no sample; ``images``: of the naive cell.
    """

    network: str
    split: str
    examples: int
    goal: float
    goal_amx: float
    about: str
    alphas: int = 0
    per_layer: int | None = None
    images: int = 0
    batches: tuple[int, ...] = BATCHES


WORKS = {
    "precision-fcn": Early(
        "fcn",
        "test",
        10_000,
        5,
        20,
        "FCN 3x256 on MNIST, 4 layers x 20 checkpoints x 10,000 images, each error to +-0.01 at 1e-4",
        batches=(*BATCHES, 500, 1000, 2000),
    ),
    "precision-resnet18": Early(
        "resnet18",
        "test",
        10_000,
        4,
        20,
        "ResNet-18 on CIFAR-10, 21 modules x 8 checkpoints x 10,000 images, each error to +-0.01 at 1e-4",
        per_layer=1,
        images=10_000,
    ),
    "precision-resnet20": Early(
        "resnet20",
        "test",
        10_000,
        4,
        20,
        "a pretrained ResNet-20 on CIFAR-10, 20 modules x 8 points x 10,000 images, each error to +-0.01 at 1e-4",
        per_layer=1,
        images=10_000,
    ),
    "decide-resnet18": Early(
        "resnet18",
        "train",
        50_000,
        25,
        100,
        "ResNet-18 on CIFAR-10, is the error of a rewound module <= 0.1? 21 modules x 20 alphas x 50,000 images",
        alphas=20,
        per_layer=2,
        images=10_000,
    ),
    "decide-resnet20": Early(
        "resnet20",
        "train",
        50_000,
        25,
        100,
        "a pretrained ResNet-20 on CIFAR-10, the same question: 20 modules x 20 alphas x 50,000 images",
        alphas=20,
        per_layer=2,
        images=10_000,
    ),
}


def ask(work: Early, engine: Engine, variants: Sequence[Variant], data: Data) -> list[Any]:
    """The engine's answers: a ``Decision`` or an ``Estimate`` for each variant. The one place that calls the engine."""
    if work.alphas:
        return decide(engine, [[variant] for variant in variants], data, BOUND, failure=FAILURE)
    return errors(engine, variants, data, precision=PRECISION, failure=FAILURE)


def holds(answer: Decision | Estimate, wrong: int, seen: int, total: int) -> bool:
    """Whether an answer agrees with what the naive loop counted; on part of the data, as far as that can tell."""
    low, high = (wrong / total, wrong / total) if seen == total else interval(wrong, seen, total, 1e-6)
    if isinstance(answer, Decision):
        return low <= BOUND if answer.holds else high > BOUND
    return answer.low <= high and answer.high >= low


def measure(name: str, options: Options) -> Row:
    """The row of a work."""
    work = WORKS[name]
    if work.network == "resnet20":
        case = pretrained(work.split, 8, work.examples, options)
    else:
        case = trained(work.network, work.split, work.examples, options)
    return compare(name, work, case, options)


def compare(name: str, work: Early, case: Case, options: Options) -> Row:
    """The row for a given network: both sides in turn, whole or sampled."""
    whole = options.full or work.per_layer is None
    points = [t / work.alphas for t in range(work.alphas)] or list(range(len(case.checkpoints)))
    total = len(case.layers) * len(points)
    cells = [
        (layer, points[(layer + step * len(points) // count) % len(points)] if not whole else points[step])
        for count in [len(points) if whole else work.per_layer or 1]
        for layer in range(len(case.layers))
        for step in range(count)
    ]
    variants = asked(work, case, cells)
    tensors = [v.tensors() if isinstance(v, Combination) else v for v in variants]
    batch = best_batch(case.network, case.data, work.batches)
    size = engine_batch(case, options)
    say(f"{name}: naive batch {batch}, engine batch {size}")
    turns = [list(range(len(cells)))] if whole else [[i] for i in evenly(len(cells), options.repeats)]
    part = case.data if whole else first(case.data, work.images)
    times, right, answers, engine = [], True, [], fresh(case, options)
    for number in range(options.repeats):
        turn = turns[number % len(turns)]
        counted, slow = timed(lambda turn=turn: Naive(case.network, batch).sums([tensors[i] for i in turn], part))
        slow = slow * (total / len(turn)) * (len(case.data) / len(part))
        engine = fresh(case, options)
        answers, fast = engine_side(work, engine, variants, case.data, total, size)
        right &= all(
            holds(answers[i], wrong, len(part), len(case.data)) for i, (wrong, _) in zip(turn, counted, strict=True)
        )
        times.append((slow, fast))
        say(f"{name} {number + 1}/{options.repeats}: naive {slow[0]:.1f} s, engine {fast[0]:.1f} s, {engine.choice}")
    how = (
        f"naive: one of {total} cells on {len(part):,} of {len(case.data):,} images, another in each repeat; engine: all "
        f"modules, {len(cells)} of {total} cells, on all images; its checks counted once and its base passes for all images; "
        f"the rest multiplied. Answers compared on the naive loop's cells, as far as its images tell."
    )
    share = [answer.examples / len(case.data) for answer in answers]
    return row(
        name,
        times,
        goal=work.goal,
        goal_amx=work.goal_amx,
        identical=right,
        network=case.name,
        data=case.source,
        examples=len(case.data),
        variants=total,
        batch_naive=batch,
        batch_engine=size,
        level=options.level,
        choice=engine.choice,
        sampled=not whole,
        sampled_how="" if whole else how,
        more={"examples_used": round(mean(share), 4), "answers": summary(answers)},
    )


def engine_side(
    work: Early, engine: Engine, variants: Sequence[Variant], data: Data, total: int, batch: int
) -> tuple[list[Any], Seconds]:
    """Answers, and the seconds for ``total`` cells of which ``variants`` are some."""
    if len(variants) == total:
        return timed(lambda: ask(work, engine, variants, data))
    planned = FIRST if work.alphas else len(data) // PLANNED  # as the questions say it themselves, for all cells
    size = min(batch, len(data))
    _, checks = timed(
        lambda: engine.sums(variants, data, losses=False, span=(0, size), planned=planned * total // len(variants))
    )
    answers, asking = timed(lambda: ask(work, engine, variants, data))
    passed, base = timed(lambda: engine.sums([{}], data, span=(0, min(512, len(data)))))
    base = base / passed[0].examples
    inside = base * max(answer.examples for answer in answers)
    return answers, checks + base * len(data) + (total / len(variants)) * np.maximum(asking - inside, 0)


def asked(work: Early, case: Case, cells: Sequence[tuple[int, Any]]) -> list[Variant]:
    """The variant of each cell: a layer at a checkpoint, or on the way from its initial to its final weights."""
    if not work.alphas:
        return list(case.variants(cells))
    final = dict(case.network.state_dict())
    ends = {
        number: tuple({name: weights[name] for name in layer.params} for weights in (case.checkpoints[0], final))
        for number, layer in enumerate(case.layers)
    }
    return [Combination(((1 - a, ends[layer][0]), (a, ends[layer][1]))) for layer, a in cells]


def summary(answers: Sequence[Any]) -> str:
    """What the answers were, in words."""
    if isinstance(answers[0], Decision):
        return f"{sum(a.holds for a in answers)} of {len(answers)} hold"
    low, high = min(a.error for a in answers), max(a.error for a in answers)
    return f"errors from {low:.3f} to {high:.3f}"


BENCHMARKS: dict[str, tuple[str, Callable[[str, Options], list[Row]]]] = {
    name: (work.about, lambda name, options: [measure(name, options)]) for name, work in WORKS.items()
}
