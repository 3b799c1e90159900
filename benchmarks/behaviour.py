"""How the engine behaves: time against variants and depth, memory against its budget, and its share of the machine's peak."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import heatmaps
from benchmarks.common import Options, Row, first, machine, say, timed
from benchmarks.setups import straight, table
from shaketable.data import Data
from shaketable.engine import Engine, Variant
from shaketable.engine.compare import bfloat16_gain
from shaketable.params import Layer

PEAK_GOALS = {torch.float32: 0.8, torch.bfloat16: 0.45}
BUDGETS = tuple(2**exponent for exponent in (26, 27, 28, 29))
VARIANTS = (1, 2, 4, 8, 16, 32)
DEPTH = 16


def line(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """The straight line through points by least squares: slope, intercept, and R2."""
    slope, intercept = np.polyfit(x, y, 1)
    rest = np.asarray(y) - (slope * np.asarray(x) + intercept)
    return {
        "slope_seconds": float(slope),
        "intercept_seconds": float(intercept),
        "r2": round(float(1 - (rest**2).sum() / ((np.asarray(y) - np.mean(y)) ** 2).sum()), 5),
    }


def scaling(name: str, options: Options) -> list[Row]:
    """Time against the number of variants of one module, and against the number of layers that have to run."""
    resnet = straight("resnet18-bn", "cifar10", max(VARIANTS), 128, options, width=0.5)
    middle = len(resnet.layers) // 2
    many = [resnet.variants([(middle, t) for t in range(count)]) for count in VARIANTS]
    fcn = straight(f"fcn-{DEPTH}x512", "mnist", 8, 2000, options)
    each = [fcn.variants([(layer, t) for t in range(8)]) for layer in range(len(fcn.layers))]
    behind = [len(fcn.layers) - layer for layer in range(len(fcn.layers))]
    rows = []
    for what, case, jobs, x in (("variants", resnet, many, VARIANTS), ("depth", fcn, each, behind)):
        engine = heatmaps.fresh(case, options)
        for job in jobs:
            engine.sums(job, case.data)  # checks and choices, once
        seconds = [median(times) for times in zip(*(turn(engine, jobs, case.data) for _ in range(options.repeats)))]
        rows.append(
            Row(
                f"{name}-{what}",
                network=case.name,
                data=case.source,
                examples=len(case.data),
                variants=sum(map(len, jobs)),
                level=options.level,
                choice=engine.choice,
                machine=machine(),
                more={"x": list(x), "seconds": [round(s, 4) for s in seconds], **line(x, seconds)},
            )
        )
    return rows


def turn(engine: Engine, jobs: Sequence[Sequence[Variant]], data: Data) -> list[float]:
    """Processor time of each job, one after the other."""
    return [float(timed(partial(engine.sums, job, data))[1][0]) for job in jobs]


def memory(name: str, options: Options) -> list[Row]:
    """The growth of the process's peak memory against the engine's budget, each in a process of its own."""
    grown = []
    for budget in BUDGETS:
        command = [sys.executable, "-m", "benchmarks.footprint", str(budget), str(options.threads), str(options.level)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        grown.append(json.loads(done.stdout))
        say(f"{name}: budget {budget / 2**20:.0f} MiB, growth {grown[-1]['growth'] / 2**20:.0f} MiB")
    parts = ("budget", "growth", "code")
    worst = max(found["growth"] / found["budget"] for found in grown)
    return [
        Row(
            name,
            ratio=round(worst, 3),
            goal=1.0,
            goal_amx=1.0,
            network=grown[0]["network"],
            data="synthetic images",
            examples=grown[0]["examples"],
            variants=grown[0]["variants"],
            level=options.level,
            choice=grown[0]["choice"],
            machine=machine(),
            more={"at_most": True, **{f"{key}_mib": [round(f[key] / 2**20) for f in grown] for key in parts}},
        )
    ]


def peak(name: str, options: Options) -> list[Row]:
    """The operations that have to run over the processor time of the engine, as a share of the best matrix product.

    In float32, and where the engine takes it for decisions in bfloat16, near ties included, each of the best in its precision.
    """
    dtypes = (torch.float32, torch.bfloat16) if bfloat16_gain() > 1.5 else (torch.float32,)
    return [share(name, network, dtype, options) for network in ("resnet18-bn", "vgg16") for dtype in dtypes]


def share(name: str, network: str, dtype: torch.dtype, options: Options) -> Row:
    """The row of one network in one precision."""
    half, best = dtype == torch.bfloat16, matrix_peak(dtype)
    case = table(network, "cifar10", 8, 2000, options)
    cells = case.cells(1)
    size = heatmaps.engine_batch(case, replace(options, losses=not half)) * options.threads
    inputs: Any = first(case.data, 2).inputs
    base, behind = necessary(case.network, inputs, case.layers)
    work = size * (base + sum(behind[layer] for layer, _ in cells)) / 2
    engine, tables = heatmaps.fresh(case, options), len(case.checkpoints)
    runs = [heatmaps.slices(engine, case.variants(cells), case, size, tables, not half) for _ in range(options.repeats)]
    best = max(best, matrix_peak(dtype))
    seconds = float(median(run.warm[0] for run in runs))
    say(f"{name}: {network} {dtype} {work / seconds / 1e9:.1f} of {best / 1e9:.1f} GFLOP/s")
    return Row(
        f"{name}-{network}{'-bfloat16' if half else ''}",
        ratio=round(work / seconds / best, 3),
        goal=PEAK_GOALS[dtype],
        goal_amx=PEAK_GOALS[dtype],
        engine_seconds=round(seconds, 3),
        network=case.name,
        data=case.source,
        examples=size,
        variants=len(cells),
        batch_engine=size,
        level=options.level,
        choice=engine.choice,
        machine=machine(),
        sampled=True,
        sampled_how="one checkpoint a module on one slice of images; its checks are not counted.",
        more={
            "gflop_per_second": round(work / seconds / 1e9, 1),
            "peak_gflop_per_second": round(best / 1e9, 1),
            "suffix_share": round(sum(behind) / len(behind) / base, 4),
        },
    )


def matrix_peak(
    dtype: torch.dtype = torch.float32, sizes: Sequence[int] = (512, 1024, 2048), repeats: int = 5
) -> float:
    """The highest number of operations a second that a matrix product reaches here."""
    found = []
    for size in sizes:
        a, b = torch.randn(2, size, size).to(dtype)
        out = a @ b
        found += [2 * size**3 / timed(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))[1][0] for _ in range(repeats)]
    return max(found)


def necessary(network: nn.Module, inputs: Tensor, layers: Sequence[Layer]) -> tuple[int, list[int]]:
    """Operations of a pass over the inputs, and for each layer those of the modules whose output depends on it.

    Which these are, autograd tells: only the layer's parameters require a gradient, and an output that depends on them does.
    """
    network = copy.deepcopy(network).eval()
    leaves = {path: module for path, module in network.named_modules() if not list(module.children())}
    root = type(network).__name__
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(inputs)
    counts: Any = counter.get_flop_counts()
    flops = {path: sum(counts.get(f"{root}.{path}", {}).values()) for path in leaves}
    reached: set[str] = set()
    for path, module in leaves.items():
        module.register_forward_hook(
            lambda _, __, output, path=path: reached.add(path) if output.requires_grad else None
        )
    behind = []
    for layer in layers:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in layer.params)
        reached.clear()
        network(inputs)
        behind.append(sum(flops[path] for path in reached))
    return counter.get_total_flops(), behind


BENCHMARKS: dict[str, tuple[str, Callable[[str, Options], list[Row]]]] = {
    "scaling": ("time against the number of variants and against depth: slope and R2 of a straight line", scaling),
    "memory": ("growth of peak memory against the engine's budget; ratio is growth over budget, at most 1", memory),
    "peak": (
        "necessary operations a second over the machine's best matrix product; goals 0.8 and, in bfloat16, 0.45",
        peak,
    ),
}
