"""Robustness of a 12-layer decoder of 112 million parameters: every sub-layer at four checkpoints, on 64 sequences.

``python -m benchmarks.decoder forward`` and ``... engine BUDGET`` measure memory, each in a process of its own.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import heatmaps
from benchmarks.common import Naive, Options, Row, agree, first, machine, row, say, timed
from benchmarks.footprint import resident
from benchmarks.setups import Case
from benchmarks.setups import Path as Line
from shaketable import networks
from shaketable.data import Data
from shaketable.engine import Engine
from shaketable.params import layers, state

NETWORK, VOCABULARY, TOKENS, SEQUENCES, CHECKPOINTS = "decoder-12x768", 30_000, 64, 64, 4
"""The network of Zhang et al., section 5.1; sequences of random tokens, checkpoints on the line between two draws."""
GOALS = {"float32": 1.7, "bfloat16": 4.0}
MEMORY = 1.5
LAYERS, CELLS, SLICE = 12, 3, 8
"""In a sample: layers of the engine and of the naive loop, evenly over depth, and sequences of either."""


def decoder_case(dtype: torch.dtype = torch.float32, name: str = NETWORK, vocabulary: int = VOCABULARY) -> Case:
    """The network with random weights, all of its sub-layers, and four checkpoints on the way to these weights."""
    network = networks.build(name, (TOKENS,), vocabulary, seed=1).to(dtype)
    init = state(networks.build(name, (TOKENS,), vocabulary, seed=0).to(dtype))
    generator = torch.Generator().manual_seed(0)
    row_of = torch.randint(vocabulary, (SEQUENCES, TOKENS + 1), generator=generator)
    data = Data(row_of[:, :-1], row_of[:, 1:], vocabulary)
    path: Any = Line(init, state(network), CHECKPOINTS)
    return Case(name, network, layers(network), path, data, f"{SEQUENCES} sequences of {TOKENS} random tokens")


def speed(name: str, options: Options) -> list[Row]:
    """The engine on the network in float32 and in bfloat16, both against the naive loop in float32."""
    single = decoder_case()
    everything = len(single.layers) * CHECKPOINTS
    picked = range(len(single.layers)) if options.full else heatmaps.evenly(len(single.layers), LAYERS)
    cells = [(layer, step % CHECKPOINTS) for step, layer in enumerate(picked)]
    few = heatmaps.evenly(len(cells), len(cells) if options.full else CELLS)
    size, tables = (SEQUENCES if options.full else SLICE), everything / len(cells)
    part = first(single.data, size)
    naive = Naive(single.network, size)
    chosen = some(single, cells, few)
    exact = naive.sums(chosen, part)  # the first pass finds memory; its seconds do not count
    slow = []
    for _ in turns(options):
        once, each = (timed(lambda variants=variants: naive.sums(variants, part))[1] for variants in ([], chosen))
        slow.append(once + (each - once) * (everything / len(few)) * (SEQUENCES / size))  # copies of weights: once
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        case = single if dtype == torch.float32 else decoder_case(dtype)
        expected = exact if case is single else Naive(case.network, size).sums(some(case, cells, few), part)
        times, answers, engine = [], [], heatmaps.fresh(case, options)
        for repeat in turns(options):
            engine = heatmaps.fresh(case, options)
            found = heatmaps.slices(engine, case.variants(cells), case, size, tables, losses=True)
            answers = found.answers
            times.append((slow[repeat], found.whole(tables)))
            say(f"{name} {dtype}: naive {slow[repeat][0]:.0f} s, engine {times[-1][1][0]:.0f} s, {engine.choice}")
        kind = str(dtype).removeprefix("torch.")
        how = (
            f"naive: {len(few)} of {everything} cells on {size} of {SEQUENCES} sequences; engine: {len(cells)} cells, two "
            f"slices of {size} sequences, its checks counted once; the rest multiplied."
        )
        rows.append(
            row(
                f"{name}-{kind}",
                times,
                goal=GOALS[kind] if kind == "float32" or machine()["bf16"] else None,
                goal_amx=GOALS[kind],
                identical=agree(expected, [(answers[i].errors, answers[i].loss) for i in few]),
                network=f"{NETWORK}, {VOCABULARY:,} tokens, {kind}",
                data=case.source,
                examples=SEQUENCES,
                variants=everything,
                batch_naive=size,
                batch_engine=size,
                level=options.level,
                choice=engine.choice,
                sampled=not options.full,
                sampled_how="" if options.full else how,
                more={"compared_with": f"naive loop: time in float32, answers in {kind}"},
            )
        )
    return rows


def memory(name: str, options: Options) -> list[Row]:
    """The growth of the engine's process over 1.5 forward passes and a copy of the weights; at most 1."""
    one = _measured("forward")
    budget = int(MEMORY * one["growth"])
    found = _measured("engine", budget)
    say(f"{name}: forward {one['growth'] / 2**20:.0f} MiB, engine {found['growth'] / 2**20:.0f} MiB")
    return [
        Row(
            f"{name}-memory",
            ratio=round(found["growth"] / (budget + found["weights"]), 3),
            goal=1.0,
            goal_amx=1.0,
            network=NETWORK,
            data=f"{SEQUENCES} sequences of {TOKENS} random tokens",
            examples=SEQUENCES,
            variants=found["variants"],
            level=options.level,
            choice=found["choice"],
            machine=machine(),
            more={
                "at_most": True,
                "forward_mib": round(one["growth"] / 2**20),
                "weights_mib": round(found["weights"] / 2**20),
                "engine_mib": round(found["growth"] / 2**20),
            },
        )
    ]


def some(case: Case, cells: list[tuple[int, int]], few: list[int]) -> list[Any]:
    """The changed tensors of a few of the cells."""
    return case.variants([cells[i] for i in few])


def turns(options: Options) -> range:
    """Numbers of the repeats."""
    return range(options.repeats)


def _measured(*arguments: object) -> dict[str, Any]:
    """What a process of its own measures."""
    command = [sys.executable, "-m", "benchmarks.decoder", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return json.loads(done.stdout)


def forward_growth(network: nn.Module, data: Data) -> dict[str, Any]:
    """How much the process grows in one forward pass over all sequences."""
    with torch.no_grad():
        network(data.inputs[:1, :2])  # pyright: ignore  # what torch loads when it is first used
        before = resident()
        network(data.inputs)
    return {"growth": _highest() - before}


def engine_growth(case: Case, budget: int) -> dict[str, Any]:
    """How much the process grows in a table of one checkpoint with this budget, the checkpoint's weights included."""
    toy = Data(torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, 2, dtype=torch.int64), 3)
    small = networks.build("decoder-1x4", (2,), 3)
    Engine(small, workers=1).sums([{"prediction.bias": torch.ones(3)}], toy)
    before = resident()
    everything = case.variants([(layer, 1) for layer in range(len(case.layers))])
    variants = [everything[i] for i in heatmaps.evenly(len(everything), CELLS)]
    engine = Engine(case.network, memory=budget, workers=1)
    engine.sums(variants, case.data)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in state(case.network).values())
    return {
        "growth": _highest() - before,
        "weights": weights,
        "variants": len(variants),
        "choice": engine.choice,
    }


def _highest() -> int:
    """The most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def both(name: str, options: Options) -> list[Row]:
    """Speed and memory."""
    return [*speed(name, options), *memory(name, options)]


BENCHMARKS: dict[str, tuple[str, Callable[[str, Options], list[Row]]]] = {
    "robustness-decoder": (
        "a decoder of 112 million parameters, 99 sub-layers x 4 checkpoints x 64 sequences, both precisions; memory",
        both,
    )
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    case = decoder_case()
    asked = sys.argv[1] == "forward"
    print(json.dumps(forward_growth(case.network, case.data) if asked else engine_growth(case, int(sys.argv[2]))))
