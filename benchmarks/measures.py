"""Measures and the statistics that judge them: prunability, flatness, every measure of one network, rank statistics of a zoo."""

import math
import random
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from studies.criticality import SMALL_SEARCH
from tests.statistics import references

from benchmarks.common import Naive, Options, Row, Seconds, best_batch, machine, row, say, timed
from benchmarks.criticality import WORKS as SEARCHES
from shaketable.engine import Precision
from shaketable.identity import generator_from
from shaketable.measures import MEASURES
from shaketable.measures.derivatives import names_of
from shaketable.measures.flatness import SIGMAS, VARIANCES
from shaketable.measures.rows import measured_row
from shaketable.probes.prunability import prunability
from shaketable.pruning import ordered, prunable
from shaketable.statistics import conditional_mutual_information, granulated_tau, kendall_tau
from shaketable.study import Study
from shaketable.training import Recipe, train

EXAMPLES, STEPS, DRAWS, BISECTIONS = 10_000, 100, 10, 15
NIN = Recipe(
    network="nin-3x32-bn",
    data="cifar10",
    data_args={"train_examples": EXAMPLES, "test_examples": 2000},
    learning_rate=0.05,
    schedule="cosine",
    batch_size=64,
    epochs=12,
    checkpoints=(0,),
    evaluate_every=12,
)
RESNET = "criticality-resnet18-narrow"
SCREENS: dict[Precision, tuple[str, int]] = {"float32": ("", 18), "auto": ("-bfloat16", 60)}
"""How prunability decides, with what its row is called and its goal."""
NETWORKS, COLUMNS, LOOPED = 10_000, 40, 150
AXES = {"width": 4, "depth": 4, "dropout": 3, "decay": 3}


def study_of(recipe: Recipe, options: Options) -> Study:
    """A trained network with 10,000 training images, which are repeated where it was trained on fewer."""
    study = Study.from_run(train(recipe, out=options.runs, data_root=options.data_root).path, options.data_root)
    data = study.data("train")
    return with_train(study, torch.arange(EXAMPLES) % len(data)) if len(data) < EXAMPLES else study


def with_train(study: Study, indices: torch.Tensor) -> Study:
    """The same network with some of its training examples; nothing that was found of the other is known of it."""
    return Study(
        study.network, final=study.final, init=study.init, train=study.data("train").subset(indices), test=study.test
    )


def prune(name: str, options: Options) -> list[Row]:
    """Prunability against a scan of all hundred fractions by the naive loop, two of which are run: in float32, where every
    answer is certain, and with losses in bfloat16 first."""
    study = study_of(SEARCHES[RESNET].recipe, options)
    data = study.data("train")
    batch, right, found = best_batch(study.network, data), dict.fromkeys(SCREENS, True), {}
    times: dict[str, list[tuple[Seconds, Seconds]]] = {precision: [] for precision in SCREENS}
    for number in range(options.repeats):
        took = {}
        for precision in SCREENS:
            found[precision], took[precision] = timed(
                lambda precision=precision: prunability(study, steps=STEPS, sparsities=None, precision=precision)
            )
        kept, bound = found["float32"].summary()["prunability"][0], found["float32"].provenance["bound"]
        order = ordered(study.final, prunable(study.network, "global", "weight", study.example_inputs()))
        asked = [kept, kept - 1 / STEPS] if kept > 0 else [kept]
        variants = [order.at(1 - one) for one in asked]
        sums, slow = timed(lambda variants=variants: Naive(study.network, batch).sums(variants, data))
        same = [loss / len(data) <= bound for _, loss in sums] == [True, False][: len(asked)]
        for precision, result in found.items():
            right[precision] &= same and result.summary()["prunability"][0] == kept
            times[precision].append((slow * (STEPS + 1) / len(asked), took[precision]))
        seconds = ", ".join(f"{precision} {one[0]:.0f} s" for precision, one in took.items())
        say(f"{name} {number + 1}/{options.repeats}: naive {times['float32'][-1][0][0]:.0f} s, {seconds}, kept {kept}")
    how = f"naive: the fraction found and the next one, of {STEPS} and the whole network; the rest multiplied."
    return [
        row(
            f"{name}{suffix}", times[precision], goal=goal, identical=right[precision], network="resnet18-bn width=0.25",
            data=f"cifar10 train, {len(data):,} images", examples=len(data), variants=STEPS, batch_naive=batch,
            choice=found[precision].provenance["engine"], sampled=True, sampled_how=how,
            more={"prunability": found[precision].summary()["prunability"][0], "loss": found[precision].provenance["clean"],
                  "certain": f"{tests['error'].null_count()} of {len(tests)} answers",
                  "passes": round(float(tests["seen"].sum()) / len(data), 2),
                  "passes_in_float32": round(float(tests["in_float32"].sum()) / len(data), 2)},
        )
        for precision, (suffix, goal) in SCREENS.items()
        for tests in [found[precision].tests]
    ]  # fmt: skip


def flatness(name: str, options: Options) -> list[Row]:
    """Magnitude-aware flatness against a bisection of fifteen steps, each of ten draws on all data, two of which are run."""
    study = study_of(NIN, options)
    data, weights = study.data("train"), names_of(study, "weight")
    batch, times, right, sigma = best_batch(study.network, data), [], True, math.nan

    def noisy(sigma: float) -> list[dict[str, torch.Tensor]]:
        found = []
        for draw in range(DRAWS):
            generator = generator_from(0, "flatness", draw)
            normal = {one: torch.randn(study.final[one].shape, generator=generator) for one in weights}
            scaled = {one: VARIANCES["magnitude squared"](study.final[one], sigma).sqrt() for one in weights}
            found.append({one: study.final[one] + normal[one] * scaled[one] for one in weights})
        return found

    for number in range(options.repeats):
        fresh = with_train(study, torch.arange(len(data)))
        measurement, fast = timed(
            lambda fresh=fresh: MEASURES["magnitude_flatness_jiang2020"](fresh, draws=DRAWS, batch_norm="keep")
        )
        assert measurement.value is not None
        place = int(np.abs(np.log(SIGMAS) + 0.5 * math.log(measurement.value)).argmin())
        sigma, above = SIGMAS[place], SIGMAS[place + 1]
        naive = Naive(study.network, batch)
        clean = naive.sums([{}], data)[0][0] / len(data)
        sums, slow = timed(lambda naive=naive, pair=(sigma, above): [naive.sums(noisy(one), data) for one in pair])
        low, high = (sum(errors for errors, _ in draws) / DRAWS / len(data) for draws in sums)
        right &= low <= clean + 0.1 < high
        times.append((slow * BISECTIONS / 2, fast))
        say(
            f"{name} {number + 1}/{options.repeats}: naive {times[-1][0][0]:.0f} s, ours {fast[0]:.0f} s, sigma {sigma:.4f}"
        )
    how = (
        f"naive: two of {BISECTIONS} steps, at the sigma found and the next one of the grid, with the same noise; the rest multiplied. "
        "The answer is the same where the first is borne and the second is not."
    )
    return [
        row(
            name, times, goal=10, identical=right, network=NIN.network, data=f"cifar10 train, {len(data):,} images",
            examples=len(data), variants=BISECTIONS * DRAWS, batch_naive=batch, sampled=True, sampled_how=how,
            more={"sigma": round(sigma, 5)},
        )
    ]  # fmt: skip


def every_measure(name: str, options: Options) -> list[Row]:
    """The seconds of each measure of one network, in their order; what several share is in the first.

    Criticality takes the coarser grid and four draws of the small studies; all else its defaults.
    """
    run, taken = train(NIN, out=options.runs, data_root=options.data_root), {}
    study = Study.from_run(run.path, options.data_root)
    search = {"threshold": "increase", **vars(SMALL_SEARCH)}
    given = {"sum_of_training_losses": {"running": True}, "network_criticality": search}
    given |= {"pac_bayes": {name: value for name, value in search.items() if name != "alphas"}}
    without = []
    for kind in MEASURES.values():
        if kind.installed:
            found, seconds = timed(lambda kind=kind: measured_row(study, kind.name, given.get(kind.name, {})))
            taken[kind.name] = round(float(seconds[0]), 2)
            without += [kind.name] if found["status"] != "ok" else []
            say(f"{name}: {kind.name} {taken[kind.name]} s {found['status']}")
    whole = sum(taken.values())
    longest = max(taken, key=taken.__getitem__)
    shares = {
        one: f"{seconds} s, {seconds / whole:.1%}" for one, seconds in sorted(taken.items(), key=lambda item: -item[1])
    }
    return [
        Row(
            name, ratio=round(taken[longest] / whole, 3), goal=0.6, engine_seconds=None, network=NIN.network,
            data=f"cifar10 train, {EXAMPLES:,} images", examples=EXAMPLES, variants=len(taken), machine=machine(),
            more={"at_most": True, "seconds": round(whole, 1), "longest": longest, "without": without, **shares},
        )
    ]  # fmt: skip


def statistics(name: str, options: Options) -> list[Row]:
    """Tau, granulated tau and conditional mutual information of a zoo against loops over pairs of networks."""
    times, right = [], True
    for number in range(options.repeats):
        x, y, axes = zoo(LOOPED, number)
        looped, slow = timed(lambda x=x, y=y, axes=axes: loops(x, y, axes))
        right &= bool(np.allclose(looped, ours(x, y, axes), rtol=0, atol=1e-9))
        columns = [zoo(NETWORKS, column) for column in range(COLUMNS)]
        _, fast = timed(lambda columns=columns: [ours(*column) for column in columns])
        times.append((slow * COLUMNS * (NETWORKS / LOOPED) ** 2, fast))
        say(f"{name} {number + 1}/{options.repeats}: naive {times[-1][0][0]:,.0f} s, ours {fast[0]:.1f} s")
    how = (
        f"naive: one measure of {LOOPED} networks; multiplied by {COLUMNS} and by the square of {NETWORKS} / {LOOPED}."
    )
    return [
        row(
            name, times, goal=100, identical=right, network=f"{NETWORKS:,} networks x {COLUMNS} measures", data="random columns",
            examples=NETWORKS, variants=COLUMNS, sampled=True, sampled_how=how,
        )
    ]  # fmt: skip


def zoo(networks: int, seed: int) -> tuple[list[float], list[float], dict[str, list[int]]]:
    """A measure, a gap and hyper-parameters of networks."""
    generator = random.Random(seed)
    sizes = AXES | {"seed": max(1, networks // math.prod(AXES.values()))}
    axes = {axis: [generator.randrange(values) for _ in range(networks)] for axis, values in sizes.items()}
    gap = [generator.gauss(0, 1) + width for width in axes["width"]]
    return [one + generator.gauss(0, 1) for one in gap], gap, axes


def ours(x: Sequence[float], y: Sequence[float], axes: dict[str, list[int]]) -> list[float]:
    """The statistics of :func:`loops` by the package."""
    known = {axis: values for axis, values in axes.items() if axis != "seed"}
    information = conditional_mutual_information(x, y, known).value
    return [kendall_tau(x, y, ties="a"), granulated_tau(x, y, axes, list(known)).psi, information]


def loops(x: Sequence[float], y: Sequence[float], axes: dict[str, list[int]]) -> list[float]:
    """The formulas of the papers as loops over pairs: tau, mean granulated tau, conditional mutual information."""
    known = {axis: values for axis, values in axes.items() if axis != "seed"}
    signs = [references.sign(x[i] - x[j]) * references.sign(y[i] - y[j]) for i, j in combinations(range(len(x)), 2)]
    along = [references.granulated(x, y, axes, axis) for axis in known]
    return [sum(signs) / len(signs), sum(along) / len(along), references.conditional_information(x, y, known)]


BENCHMARKS: dict[str, tuple[str, Callable[[str, Options], Sequence[Row]]]] = {
    "prunability": ("prunability of a ResNet-18 on 10,000 images against a scan in steps of 1%", prune),
    "flatness": ("magnitude-aware flatness of a NiN against 15 bisection steps x 10 draws x 10,000 images", flatness),
    "measures-nin": ("seconds of each measure of a NiN on 10,000 images, and the share of the longest", every_measure),
    "statistics": ("statistics of 10,000 networks x 40 measures against loops over pairs", statistics),
}
