"""Loss and error against sparsity: pruned, and with random noise of the same size on the same entries."""

import math
from collections.abc import Iterator, Sequence

import polars as pl
import torch
from torch import Tensor

from shaketable.data import Data
from shaketable.engine import Engine
from shaketable.identity import generator_from
from shaketable.probes.cells import Cell, Cells
from shaketable.probes.stored import COUNTED, compared, in_memory, sums_in_sections
from shaketable.progress import progress
from shaketable.pruning import Pruning
from shaketable.study import Study

SPARSITIES = tuple(step / 20 for step in range(21))
"""0, 0.05, ... 1."""
SCHEMA = {
    "method": pl.String,
    "perturbation": pl.String,  # "pruning", or "noise" of the same size on the same entries
    "draw": pl.Int64,  # of a random order; null for magnitudes
    "noise_draw": pl.Int64,  # of the noise; null for pruning
    "sparsity": pl.Float64,  # fraction removed
    "size": pl.Float64,  # 2-norm of the change
    **COUNTED,
    "status": pl.String,
    "reason": pl.String,
}


def curve(
    cells: Cells,
    engine: Engine,
    data: dict[str, Data],
    order: Pruning,
    what: Cell,
    sparsities: Sequence[float],
    noise: int,
    seed: int,
    study: Study,
) -> Iterator[Cell]:
    """The rows of the curve of one order: pruned, and with noise of the same size on the same entries."""
    jobs = [(sparsity, None) for sparsity in sparsities]
    jobs += [(sparsity, draw) for sparsity in sparsities for draw in range(noise)]
    for split, one in data.items():
        with progress(f"pruning by {what['method']}, {split}", len(one)) as advance:
            key = ["curve", what["method"], what["draw"], split]
            clean = sums_in_sections(cells, ["clean", split], engine, [{}], one, lambda examples: None)[0]
            for part in in_memory(jobs, study):
                variants = [changed(order, sparsity, draw, seed, what["draw"]) for sparsity, draw in part]
                found = sums_in_sections(cells, [*key, part], engine, variants, one, advance)
                for (sparsity, draw), variant, sums in zip(part, variants, found, strict=True):
                    perturbation = {"perturbation": "pruning" if draw is None else "noise", "noise_draw": draw}
                    size = norm({name: tensor - order.params[name] for name, tensor in variant.items()})
                    yield (
                        what
                        | perturbation
                        | {"sparsity": sparsity, "size": size, "split": split}
                        | compared(sums, clean)
                    )


def changed(order: Pruning, sparsity: float, draw: int | None, seed: int, of: int | None) -> dict[str, Tensor]:
    """The tensors pruned; or, in a draw of the noise, with noise on what pruning removes, of the norm of that."""
    if draw is None:
        return order.at(sparsity)
    removed = order.removed(sparsity)
    generator = generator_from(seed, "noise of the size of pruning", of or 0, draw)
    drawn = {
        name: torch.randn(gone.shape, generator=generator).to(gone.device, order.params[name].dtype) * gone
        for name, gone in removed.items()
    }
    taken = norm({name: order.params[name] * gone for name, gone in removed.items()})
    scale = taken / length if (length := norm(drawn)) else 0.0
    return {name: order.params[name] + scale * tensor for name, tensor in drawn.items()}


def norm(tensors: dict[str, Tensor]) -> float:
    """The 2-norm of tensors as one vector."""
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors.values()))
