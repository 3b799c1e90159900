"""The search for the largest set of layers that may be reset together, against the same search by the naive loop."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.common import BATCHES, Naive, Options, Row, best_batch, first, row, say, timed
from benchmarks.heatmaps import evenly
from benchmarks.setups import TRAINED, described, examples_of, finished
from shaketable import networks
from shaketable.engine import kernels
from shaketable.params import layers, snapshot
from shaketable.probes.joint_robustness import How, changes
from shaketable.probes.layer_sets import LayerSets, largest_set
from shaketable.probes.schemes import scheme_group
from shaketable.study import Study

SETS = 3
"""Sets that the naive loop counts in a sample, evenly over the search."""


@dataclass(frozen=True)
class Work:
    """One search over the identity blocks of a network, to the set of all of them.

    The network is that of ``python -m benchmarks train`` where it is there, else one of random weights.
    """

    network: str
    about: str
    how: How = "reinitialise"
    goal: float | None = None
    goal_amx: float | None = 10
    examples: int = 4000
    examples_full: int = 4000
    batches: tuple[int, ...] = BATCHES
    arguments: dict[str, Any] = field(default_factory=dict)


WORKS = {
    "joint-resnet50": Work(
        "resnet50-bn",
        "largest set of the 12 identity blocks of ResNet-50 that may go back to init: greedy, 79 sets, CIFAR-10",
        arguments={"width": 0.25},
    ),
    "joint-resnet50-removal": Work("resnet50-bn", "the same by removal", how="remove", arguments={"width": 0.25}),
}


def measure(name: str, options: Options) -> list[Row]:
    """The row of a search."""
    return [compare(name, WORKS[name], options)]


def compare(name: str, work: Work, options: Options) -> Row:
    """The search whole; of the naive one some sets, on all of the same images, multiplied (``--full``: all sets).

    A set that was given up has no count to compare: there the naive loop must find at least the errors that were seen.
    """
    count = work.examples_full if options.full else work.examples
    data, about = examples_of("cifar10", count, options)
    shape = tuple(data.inputs.shape[1:])  # pyright: ignore[reportAttributeAccessIssue]
    network = networks.build(work.network, shape, data.classes, seed=1, **work.arguments).eval()
    init = snapshot(networks.build(work.network, shape, data.classes, seed=0, **work.arguments))
    recipe = TRAINED.get(f"joint-{work.network}")
    run = finished(recipe, options) if recipe and recipe.network_args == work.arguments else None
    if run is not None:
        own = Study.from_run(run.path, options.data_root)
        init, error = own.checkpoint(0), own.history.row(-1, named=True)
        network.load_state_dict(own.final)
        data = first(own.data("train"), count)
        about = f"cifar10 train, {len(data):,} images; training error {error['train_error']:.3f}, test error {error['test_error']:.2f}"
    study = Study(network, init=init, test=data)
    found = layers(network, "block", study.example_inputs())
    names = scheme_group(found, "all-but-first")
    made = changes(study, [layer for layer in found if layer.name in names], work.how)
    batch = best_batch(network, data, work.batches)
    times, right = [], True
    result: LayerSets | None = None
    for number in range(options.repeats):
        getattr(kernels, "_chosen", {}).clear()
        result, fast = timed(lambda: search(study, names, work, options))
        rows = result.table.to_dicts()
        some = rows if options.full else [rows[i] for i in evenly(len(rows), SETS)]
        variants = [
            {k: t for block in one["set"].split(" + ") if block for k, t in (made[block].tensors or {}).items()}
            for one in some
        ]
        counted, slow = timed(lambda variants=variants: Naive(network, batch).sums(variants, data))
        for (errors, _), one in zip(counted, some, strict=True):
            right &= errors >= one["errors"] if one["status"] == "given up" else errors == one["errors"]
        times.append((slow * (len(rows) / len(some)), fast))
        say(f"{name} {number + 1}/{options.repeats}: naive {np.round(times[-1][0][0], 1)} s, search {fast[0]:.1f} s")
    assert result is not None
    how = f"naive: {SETS} of {len(result.table)} sets on all {len(data):,} images, multiplied; search: whole."
    return row(
        name,
        times,
        goal=work.goal,
        goal_amx=work.goal_amx,
        identical=right,
        network=described(work.network, work.arguments),
        data=about,
        examples=len(data),
        variants=len(result.table),
        batch_naive=batch,
        level=options.level,
        choice=result.provenance["engine"],
        sampled=not options.full,
        sampled_how="" if options.full else how,
        more={"candidates": len(names), "how": work.how, "given_up": result.table["status"].to_list().count("given up")}
        | {"examples_of_sets": round(float(result.table["examples"].sum()) / (len(result.table) * len(data)), 3)},
    )


def search(study: Study, names: tuple[str, ...], work: Work, options: Options) -> LayerSets:
    """The greedy search to the set of all candidates."""
    arguments = {"split": "test", "beam": 1, "beyond": None, "candidates": names, "level": options.level}
    return largest_set(study, work.how, **arguments)


BENCHMARKS: dict[str, tuple[str, Callable[[str, Options], list[Row]]]] = {
    name: (work.about, measure) for name, work in WORKS.items()
}
