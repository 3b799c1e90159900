"""``python -m benchmarks.footprint BYTES THREADS LEVEL``: how much a process grows when the engine has this budget."""

import json
import resource
import sys
from pathlib import Path

import torch

from benchmarks.setups import Path as Line
from benchmarks.setups import operators
from shaketable import networks
from shaketable.data import Data
from shaketable.engine import Engine
from shaketable.params import snapshot

EXAMPLES = 128


def resident() -> int:
    """Bytes that this process holds now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def main(budget: int, threads: int, level: str) -> None:
    """Run a table with a budget, and print the growth of the highest memory over what was held before.

    ``code`` is the part of it that is there after the first use of the engine on a toy: modules that torch loads.
    """
    torch.set_num_threads(threads)
    network = networks.build("resnet18-bn", (3, 32, 32), 10, seed=1)
    init = snapshot(networks.build("resnet18-bn", (3, 32, 32), 10, seed=0))
    data = Data(torch.randn(EXAMPLES, 3, 32, 32), torch.zeros(EXAMPLES, dtype=torch.int64), 10)
    weights = Line(init, snapshot(network), 2)[1]
    layers = operators(network)[::5]
    variants = [{name: weights[name] for name in layer.params} for layer in layers]
    with torch.no_grad():
        network(data.inputs[:1])  # pyright: ignore[reportArgumentType, reportCallIssue, reportIndexIssue]
    before = resident()
    toy = Data(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64), 2)
    linear = torch.nn.Sequential(torch.nn.Linear(4, 2)).eval()
    Engine(linear, workers=1, level=level).sums([{"0.bias": torch.ones(2)}], toy)  # pyright: ignore[reportArgumentType]
    code = resident()
    engine = Engine(network, memory=budget, workers=threads, level=level)  # pyright: ignore[reportArgumentType]
    engine.sums(variants, data)
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    grown = {"growth": highest - before, "code": code - before}
    found = {"budget": budget, **grown, "choice": engine.choice, "network": "resnet18-bn"}
    print(json.dumps({**found, "examples": EXAMPLES, "variants": len(variants)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
