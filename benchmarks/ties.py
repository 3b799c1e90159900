"""Decisions that bfloat16 would get wrong, and examples that run again, at several factors of safety."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.common import Options, Row, first, machine, say
from benchmarks.setups import TRAINED, Case, table, trained
from shaketable.engine.compare import ROUNDING, SAFETY, Seen, margin_error
from shaketable.engine.fused import Fused
from shaketable.forward import map_inputs
from shaketable.params import state

FACTORS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
EXAMPLES, BATCH, CALIBRATED = 512, 64, 64


@dataclass
class Count:
    """What one factor of safety did: decisions, those still wrong at the end, and examples that ran again."""

    decisions: int = 0
    missed: int = 0
    again: int = 0
    seen: dict[int, Seen] = field(default_factory=dict)


def ties(case: Case, variants_per_layer: int, examples: int = EXAMPLES) -> dict[float, Count]:
    """The rule of :class:`shaketable.engine.compare.Seen` on every layer, against float32 on every example."""
    network, inputs = case.network.eval(), first(case.data, examples).inputs
    full = Fused(network, state(network), first(case.data, 2).inputs)
    low = full.rounded()
    counts = {factor: Count() for factor in FACTORS}
    cells = case.cells(variants_per_layer)
    floors: dict[int, float] = {}
    for start in range(0, examples, BATCH):
        part = map_inputs(lambda tensor, start=start: tensor[start : start + BATCH], inputs)
        full.base(part)
        low.base(part)
        for number, (cell, variant) in enumerate(zip(cells, case.variants(cells), strict=True)):
            exact, rough = full.logits(variant), low.logits(variant)
            floor = floors.setdefault(cell[0], margin_error(exact[:CALIBRATED], rough[:CALIBRATED]))
            for factor, count in counts.items():
                settle(exact, rough, max(ROUNDING, factor * floor), factor, number, count)
    return counts


def settle(exact: Tensor, rough: Tensor, floor: float, factor: float, number: int, count: Count) -> None:
    """One batch of one variant: run again what is near a tie until nothing new is, and count what is then wrong."""
    seen, done = count.seen.setdefault(number, Seen()), torch.zeros(len(rough), dtype=torch.bool)
    while (rows := (seen.near(rough, floor, factor) & ~done).nonzero().flatten()).numel():
        seen.add(exact[rows], rough[rows])
        done[rows] = True
    count.decisions += len(rough)
    count.again += int(done.sum())
    count.missed += int(((exact.argmax(-1) != rough.argmax(-1)) & ~done).sum())


def measure(name: str, options: Options) -> list[Row]:
    """A row for each network."""
    wide = [network.removeprefix("wide-") for network in TRAINED if network.startswith("wide-")]
    cases = [trained(network, "test", EXAMPLES, options) for network in ("fcn", "resnet18")]
    cases += [table(network, "cifar10", 8, EXAMPLES, options) for network in wide]
    return [row(name, case, ties(case, 2)) for case in cases]


def row(name: str, case: Case, counts: dict[float, Count]) -> Row:
    """What was counted for one network."""
    shares = {factor: round(count.again / count.decisions, 4) for factor, count in counts.items()}
    missed = {factor: count.missed for factor, count in counts.items()}
    say(f"{name}: {case.name}: missed {missed}, run again {shares}")
    return Row(
        f"{name}-{case.name}",
        network=case.name,
        data=case.source,
        examples=EXAMPLES,
        variants=len(next(iter(counts.values())).seen),
        machine=machine(),
        more={"safety": SAFETY, "decisions": counts[SAFETY].decisions, "missed": missed, "run_again": shares},
    )


BENCHMARKS: dict[str, tuple[str, Callable[[str, Options], Sequence[Row]]]] = {
    "ties": ("decisions that bfloat16 would miss, and examples that run again, at several factors of safety", measure),
}
