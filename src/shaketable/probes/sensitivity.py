"""Sensitivity of layers: noise of a stated size on one layer, or its smallest weights removed; needs no initial weights."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import torch
from torch import Tensor

from shaketable.data import Data
from shaketable.engine import Combination, Engine, Level, Variant
from shaketable.engine.memory import free_memory
from shaketable.errors import InputError
from shaketable.identity import generator_from
from shaketable.params import Grouping, Layer, layers
from shaketable.probes.cells import Cell, Cells
from shaketable.probes.result import FULL_MODEL
from shaketable.probes.stored import (
    COUNTED,
    Result,
    check_whole,
    compared,
    data_of,
    facts_of,
    identity_of,
    stored,
    sums_in_sections,
    time_taken,
)
from shaketable.progress import progress
from shaketable.pruning import ordered
from shaketable.study import Study

VERSION = 1
SCHEMA = {
    "layer": pl.String,
    "position": pl.Int64,
    "kind": pl.String,
    "parameters": pl.Int64,
    "perturbation": pl.String,
    "magnitude": pl.Float64,
    "draw": pl.Int64,
    **COUNTED,
    "normalised_l2": pl.Float64,
    "status": pl.String,
    "reason": pl.String,
}
NO_SCALE = "all its weights are zero, so noise relative to their size is none; perturb it by re-randomisation"
NO_MATRIX = "it has no weight of two or more dimensions; biases and scales are not pruned"


@dataclass(frozen=True, repr=False)
class Sensitivity(Result):
    """Error of a trained network under noise on one layer and with its smallest weights removed: one table.

    Attributes:
        table: one row per layer, perturbation, magnitude, draw and split. ``perturbation`` is ``"noise"`` (``magnitude`` is
            the relative standard deviation sigma), ``"prune"`` (``magnitude`` is the sparsity, the fraction removed), or
            ``"none"`` in the reference row of the full model. ``error`` and ``accuracy`` in [0, 1], ``loss`` in nats,
            ``accuracy_drop`` = accuracy of the network as it is - accuracy; ``normalised_l2``: how far the layer was moved,
            the 2-norm of the change over the square root of the number of its parameters. A row that could not be
            computed has a ``status`` other than ``"ok"`` and a ``reason``.
        provenance: what, with which arguments, versions, seeds and hashes.
    """

    NAME: ClassVar[str] = "sensitivity"

    def summary(self) -> pl.DataFrame:
        """Mean and standard deviation over draws: one row per layer, perturbation, magnitude and split.

        Returns: ``error``, ``loss``, ``accuracy_drop`` and ``normalised_l2`` are means, those with ``_std`` standard
            deviations over draws (divisor draws - 1; null for a single one). Where a draw has no number the mean has none.
        """
        keys = ["layer", "position", "kind", "parameters", "perturbation", "magnitude", "split"]
        names = ["error", "loss", "accuracy_drop", "normalised_l2"]
        whole = {name: pl.when(pl.col(name).null_count() == 0) for name in names}
        numbers = [whole[name].then(pl.col(name).mean()).alias(name) for name in names]
        numbers += [whole[name].then(pl.col(name).std(ddof=1)).alias(f"{name}_std") for name in names[:3]]
        facts = [pl.col("error").count().alias("draws"), *numbers]
        facts += [pl.col("status").sort_by(pl.col("status") == "ok").first(), pl.col("reason").drop_nulls().first()]
        return self.table.group_by(keys, maintain_order=True).agg(facts)

    def plot(self, **arguments: Any) -> Any:
        """The heat map; see :func:`shaketable.plots.sensitivity_heatmap`."""
        from shaketable.plots import sensitivity_heatmap  # drawn only when asked for: nothing above depends on it

        given: dict[str, Any] = {"classes": self.provenance.get("classes")} | arguments
        return sensitivity_heatmap(self.summary(), **given)

    def tolerated(self, perturbation: str, drop: float = 0.05, split: str = "test") -> pl.DataFrame:
        """The largest magnitude up to which each layer's mean accuracy drop stays within ``drop``, of those measured.

        Returns: ``layer``, ``position``, ``kind``, ``parameters``, ``tolerated``: 0 where the smallest one is too much;
            null where it could not be measured.

        Raises:
            InputError: nothing of this perturbation, or of this split, was measured.
        """
        rows = self.summary().filter(pl.col("perturbation") == perturbation, pl.col("split") == split)
        if not len(rows):
            raise InputError(
                f"there are no {perturbation!r} rows of {split!r}; ask for magnitudes and a split of both."
            )
        found = []
        for _, curve in rows.sort("position", "magnitude").group_by("position", maintain_order=True):
            facts = curve.select("layer", "position", "kind", "parameters").row(0, named=True)
            drops = curve["accuracy_drop"].to_list()
            reached = next((at for at, value in enumerate(drops) if value is None or value > drop), len(drops))
            best = 0.0 if not reached else curve["magnitude"][reached - 1]
            found.append(facts | {"tolerated": None if reached < len(drops) and drops[reached] is None else best})
        kinds = {
            name: SCHEMA.get(name, pl.Float64) for name in ("layer", "position", "kind", "parameters", "tolerated")
        }
        return pl.DataFrame(found, schema=kinds)


def sensitivity(
    study: Study,
    by: Grouping = "module",
    *,
    noise: Iterable[float] = (0.01, 0.1, 0.3, 1.0),
    pruning: Iterable[float] = (0.25, 0.5, 0.75, 0.9),
    draws: int = 3,
    splits: Sequence[str] | None = None,
    seed: int = 0,
    level: Level = "auto",
    memory: int | None = None,
    batch_size: int | None = None,
    store: str | Path | None = None,
    command: str | None = None,
) -> Sensitivity:
    r"""Error of a trained network under noise on one layer, and with the smallest weights of one layer removed.

    .. math:: \theta'_p = \theta_p + \sigma \, \frac{\lVert\theta_p\rVert_2}{\sqrt{\dim\theta_p}} \, u, \quad
              u \sim \mathcal N(0, I), \qquad \theta'_p = \theta_p \odot [\,|\theta_p| \text{ not among the } k
              \text{ smallest of its layer}\,], \quad k = \mathrm{round}(\text{sparsity} \cdot n_d)

    for each parameter tensor :math:`\theta_p` of one layer :math:`d`. Noise has the scale of each tensor of its own: a
    bias is not drowned by noise of the size of a kernel's weights. Pruned are the :math:`n_d` weights in tensors of two or more
    dimensions, by magnitude over the whole layer; of equal ones the first go. Nothing is retrained; running
    statistics stay as they are. No initial weights are needed.

    Args:
        study: the final weights :math:`\theta`, the data.
        by: the grouping into layers; see :func:`shaketable.params.layers`.
        noise: relative standard deviations :math:`\sigma` > 0; 1 is noise as large as the weights. Empty leaves it out.
        pruning: sparsities in (0, 1]: the fraction removed. Empty leaves it out.
        draws: of noise, at each layer; the same ones at every :math:`\sigma`.
        splits: ``"test"``, ``"train"``; those that the study has, if left out.
        seed: of the noise.
        level, memory, batch_size: of the :class:`shaketable.engine.Engine`; they change speed and memory, not the result.
            ``memory`` also limits the changed weights that are alive at a time.
        store: a folder that keeps the sums as they come: interrupted work goes on from there, finished work is read.
        command: what the user typed, for the provenance.

    Returns: a :class:`Sensitivity`. A layer of zeros cannot be given relative noise, and one without a matrix is not pruned:
        these have rows with ``status="unavailable"`` and the reason.

    Raises:
        InputError: no data, no magnitudes at all, or magnitudes out of range.

    Cost: for each layer (draws x len(noise) + len(pruning)) parts of a pass over the data. Layers are taken together as long
        as their changed weights fit into ``memory`` bytes (without it a quarter of what is free), and one by one in a network
        too large for that: then the copies of a single layer are alive at a time, and every layer costs a pass more.

    Deviates: the paper resets layers and adds no noise; this is for networks that came without initial weights.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.tensor([[2.0, 0.0], [0.0, 1.0]])}, test=(torch.eye(2), [0, 1]))
        >>> table = sensitivity(study, noise=(), pruning=(0.5, 0.75)).table
        >>> table.select("perturbation", "magnitude", "error").rows()
        [('none', None, 0.0), ('prune', 0.5, 0.0), ('prune', 0.75, 0.5)]

    References: Zhang, Bengio, Singer, "Are All Layers Created Equal?", JMLR 2022, section 6 (flatness as robustness to
        local perturbations). Han et al., "Learning both Weights and Connections for Efficient Neural Network", 2015.
    """
    started = time.monotonic()
    check_whole(0, seed=seed)
    check_whole(1, draws=draws)
    sigmas, sparsities = _magnitudes("noise", noise, math.inf), _magnitudes("pruning", pruning, 1.0)
    if not sigmas and not sparsities:
        raise InputError("noise and pruning are both empty; give at least one magnitude.")
    data = data_of(study, splits)
    found = layers(study.network, by, study.example_inputs())
    if any(layer.name == FULL_MODEL for layer in found):
        raise InputError(
            f"no layer may be called {FULL_MODEL!r}: that is the name of the reference rows; rename yours."
        )
    engine = Engine(study.network, study.final, level=level, memory=memory, batch_size=batch_size)
    plan = _Plan(study, engine, data, found, sigmas, sparsities, draws, seed, memory)
    arguments = {"noise": list(sigmas), "pruning": list(sparsities), "draws": draws, "seed": seed, "command": command}
    facts = facts_of(study, data, layers_by=by if isinstance(by, str) else "your own", **arguments)

    def measure(cells: Cells) -> Sensitivity:
        rows = plan.measure(cells)
        order = ["position", "perturbation", "magnitude", "draw"]
        frame = pl.DataFrame([dict.fromkeys(SCHEMA) | row for row in rows], schema=SCHEMA)
        return Sensitivity(
            frame.sort(order, maintain_order=True), facts | {"engine": engine.choice} | time_taken(started)
        )

    return stored(Sensitivity, store, plan.identity, measure, command)


@dataclass(frozen=True)
class _Plan:
    """What is measured: everything that decides a number, and the engine."""

    study: Study
    engine: Engine
    data: dict[str, Data]
    layers: tuple[Layer, ...]
    noise: tuple[float, ...]
    pruning: tuple[float, ...]
    draws: int
    seed: int
    memory: int | None

    def identity(self) -> dict[str, Any]:
        """What the numbers are the numbers of, as plain values."""
        what = {"noise": self.noise, "pruning": self.pruning, "draws": self.draws, "seed": self.seed}
        found = [[layer.name, layer.params, layer.buffers] for layer in self.layers]
        return identity_of(self.study, "sensitivity", VERSION, self.data, layers=found, **what)

    def measure(self, cells: Cells) -> list[Cell]:
        """All rows of the table."""
        rows: list[Cell] = []
        baselines: dict[str, Cell] = {}
        size = sum(parameter.numel() for parameter in self.study.network.parameters())
        full = {"layer": FULL_MODEL, "position": -1, "kind": type(self.study.network).__name__, "parameters": size}
        with progress("sensitivity", len(self.layers) * sum(map(len, self.data.values()))) as advance:
            for group in self._groups():
                jobs: list[tuple[Cell, Variant]] = []
                for layer in group:
                    jobs += self._jobs(layer, rows)
                if not baselines:
                    jobs.insert(0, (full | {"perturbation": "none", "status": "ok", "normalised_l2": 0.0}, {}))
                for split, data in self.data.items():
                    key = [split, [layer.name for layer in group]]
                    variants = [variant for _, variant in jobs]

                    def done(examples: int, together: int = len(group)) -> None:
                        advance(examples * together)

                    found = sums_in_sections(cells, key, self.engine, variants, data, done) if jobs else []
                    for (what, _), sums in zip(jobs, found, strict=True):
                        baseline = baselines.setdefault(split, sums)
                        rows.append(what | {"split": split} | compared(sums, baseline))
        return rows

    def _groups(self) -> Iterator[list[Layer]]:
        """Layers, in order, whose changed tensors fit together into the memory; at least one."""
        final, room = self.study.final, self.memory or free_memory(self.study.device) // 4
        copies = self.draws * bool(self.noise) + len(self.pruning)
        group: list[Layer] = []
        taken = 0
        for layer in self.layers:
            size = copies * sum(final[name].numel() * final[name].element_size() for name in layer.params)
            if group and taken + size > room:
                yield group
                group, taken = [], 0
            group.append(layer)
            taken += size
        yield group

    def _jobs(self, layer: Layer, rows: list[Cell]) -> Iterator[tuple[Cell, Variant]]:
        """The variants of a layer; rows that cannot be computed are added to ``rows``."""
        params = {name: self.study.final[name] for name in layer.params}
        size = sum(tensor.numel() for tensor in params.values())
        position = self.layers.index(layer)
        what = {"layer": layer.name, "position": position, "kind": layer.kind, "parameters": size, "status": "ok"}
        scaled = any(bool(tensor.any()) for tensor in params.values())
        for draw in range(self.draws if self.noise and scaled else 0):
            noise = {name: scaled_noise(tensor, self.seed, draw, name) for name, tensor in params.items()}
            length = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in noise.values()) / size)
            for sigma in self.noise:
                moved = {"perturbation": "noise", "magnitude": sigma, "draw": draw, "normalised_l2": sigma * length}
                yield what | moved, Combination(((1.0, params), (sigma, noise)))
        matrices = {name: tensor for name, tensor in params.items() if tensor.dim() > 1}
        order = ordered(matrices, [list(matrices)] if matrices else [])
        for sparsity in self.pruning if matrices else ():
            pruned = order.at(sparsity)
            change = sum(float((matrices[name] - pruned[name]).double().square().sum()) for name in pruned)
            moved = {"perturbation": "prune", "magnitude": sparsity, "normalised_l2": math.sqrt(change / size)}
            yield what | moved, pruned
        for perturbation, magnitudes, able, reason in (
            ("noise", self.noise, scaled, NO_SCALE),
            ("prune", self.pruning, bool(matrices), NO_MATRIX),
        ):
            for magnitude in () if able else magnitudes:
                missing = {"perturbation": perturbation, "magnitude": magnitude, "reason": reason}
                rows += [what | missing | {"split": split, "status": "unavailable"} for split in self.data]


def scaled_noise(tensor: Tensor, seed: int, draw: int, name: str) -> Tensor:
    """Gaussian noise with the root mean square of a tensor as its standard deviation; drawn on the CPU, by name."""
    scale = float(torch.linalg.vector_norm(tensor.double())) / math.sqrt(tensor.numel())
    normal = torch.randn(tensor.shape, generator=generator_from(seed, "noise", draw, name))
    return (normal * scale).to(tensor.device, tensor.dtype)


def _magnitudes(name: str, given: Iterable[float], highest: float) -> tuple[float, ...]:
    """Magnitudes as numbers, ascending, each once."""
    try:
        values = sorted({float(value) for value in given})
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}={given!r}: give a list of numbers, such as [0.1, 0.5].") from error
    for value in values:
        if not 0 < value <= highest or math.isinf(value):
            allowed = "above 0" if math.isinf(highest) else f"above 0 and at most {highest:g}"
            raise InputError(f"{name}={value:g}: magnitudes must be {allowed}.")
    return tuple(values)
