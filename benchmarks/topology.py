"""Networks before training: the Pareto set of ten million designs, and the mass of a traced network of 200 layers."""

import resource
from collections.abc import Callable

import torch

from benchmarks.common import Options, Row, machine, say, timed
from shaketable.networks import build
from shaketable.topology import Cell, Limits, Space, designs, traced, traced_topology

GOALS = {"design-pareto": 10.0, "mass-traced": 1.0}
"""Seconds on the wall, at most."""
REFERENCE = [Cell(20, 32, 90), Cell(20, 64, 170), Cell(20, 128, 300)]
SPACE = Space(tuple(range(9, 20)), ((32, 64, 128),), 8)
LIMITS = Limits(parameters=6e6, flops=2e9)
LAYERS = 64
"""Of each of three cells, with a stem, a down-sampling and a classifier beside: 194 operators, and eight more in a fourth cell."""


def design_pareto(name: str, options: Options) -> list[Row]:
    """Every design of cells of 9 to 19 layers with links in steps of 8, within limits, of the mass of the paper's largest network."""
    seconds, most = [], 0
    for number in range(options.repeats):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found, taken = timed(lambda: designs(REFERENCE, SPACE, LIMITS))
        most = max(most, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        seconds.append(taken)
        say(f"{name} {number + 1}/{options.repeats}: {taken[1]:.2f} s")
    more = {"candidates": found.candidates, "matching": found.matching, "pareto_set": len(found.table)}
    return [_row(name, seconds, more | {"growth_of_memory_mb": round(most / 1024)}, found.candidates)]


def mass_traced(name: str, options: Options) -> list[Row]:
    """Mass and density from the graph of a linked network of 202 operators; the trace is counted apart."""
    sizes = "-".join(f"{LAYERS}x{width}t{3 * width}" for width in (4, 8, 16))
    network = build(f"linked-{sizes}-8x16t20", (3, 32, 32), 10)
    graph, tracing = timed(lambda: traced(network, torch.zeros(2, 3, 32, 32)))
    seconds = []
    for number in range(options.repeats):
        found, taken = timed(lambda: traced_topology(graph))
        seconds.append(taken)
        say(f"{name} {number + 1}/{options.repeats}: {taken[1]:.2f} s")
    more = {"layers": found.layers, "nn_mass": round(found.nn_mass, 3), "trace_seconds": round(float(tracing[1]), 2)}
    return [_row(name, seconds, more, 1)]


def _row(name: str, seconds: list, more: dict, variants: int) -> Row:
    """A row with the median of the seconds on the wall beside the goal, which is not to be passed."""
    wall = sorted(float(one[1]) for one in seconds)[len(seconds) // 2]
    processor = sorted(float(one[0]) for one in seconds)[len(seconds) // 2]
    return Row(
        name,
        ratio=round(wall, 3),
        goal=GOALS[name],
        network=BENCHMARKS[name][0],
        variants=variants,
        engine_seconds=round(processor, 3),
        engine_wall_seconds=round(wall, 3),
        machine=machine(),
        more=more | {"at_most": True},
    )


BENCHMARKS: dict[str, tuple[str, Callable[[str, Options], list[Row]]]] = {
    "design-pareto": ("ten million designs of equal mass to their Pareto set, seconds (at most 10)", design_pareto),
    "mass-traced": ("mass of a traced network of 200 layers, seconds after tracing (at most 1)", mass_traced),
}
