"""Designs of a wanted mass: every combination of depth, width and links, and which of them are the smallest."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from shaketable.errors import InputError, RunError
from shaketable.files import write_text
from shaketable.forward import usable_device
from shaketable.networks import build
from shaketable.networks.cells import Cell
from shaketable.topology.mass import checked, flops, nn_density, nn_mass, parameters
from shaketable.topology.space import Block, Space, blocks, pareto
from shaketable.training import Recipe, named

MOST = 10**11
"""Designs that are tried at most: hours."""


@dataclass(frozen=True)
class Limits:
    """What a design may have at most; None: as much as it likes.

    Args:
        parameters, flops: of the network, for one example.
        latency: seconds of a forward pass of ``batch`` examples on ``device``, measured.
        batch, device: of that pass.

    Raises:
        InputError: a limit that is not above 0, or a batch that is no whole number.
    """

    parameters: float | None = None
    flops: float | None = None
    latency: float | None = None
    batch: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("parameters", "flops", "latency", "batch"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"the limit {name}={value!r} is not above 0; leave it out, or give a number above 0.")
        if not isinstance(self.batch, int):
            raise InputError(f"batch={self.batch!r}: give a whole number from 1.")


@dataclass(frozen=True)
class Designs:
    """The designs of a wanted mass of which none is both smaller and faster.

    Attributes:
        table: the fewest parameters first: ``cells``, ``depth``, ``nn_mass``, ``nn_density``, ``parameters``, ``flops``, and
            ``latency`` (seconds; null where it was not asked for).
        mass, tolerance: what was wanted.
        candidates: how many were tried.
        matching: how many have the mass and meet the limits on parameters and FLOPs.
        seconds: that it took.
    """

    table: pl.DataFrame
    mass: float
    tolerance: float
    candidates: int
    matching: int
    seconds: float

    def save(self, path: str | Path) -> Path:
        """Write all as one JSON file."""
        facts: dict[str, Any] = {key: getattr(self, key) for key in ("mass", "tolerance", "candidates", "matching")}
        write_text(Path(path), json.dumps(facts | {"designs": self.table.to_dicts()}, indent=1) + "\n")
        return Path(path)


def designs(
    mass: float | Sequence[Cell],
    space: Space,
    limits: Limits | None = None,
    *,
    tolerance: float = 0.05,
    input_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
) -> Designs:
    r"""All designs of a space whose mass is near a wanted one, reduced to those that no other beats in parameters and in FLOPs.

    .. math:: \{a : |m(a) / m - 1| \le \text{tolerance}, \; \nexists\, b: P(b) \le P(a), F(b) \le F(a), b \ne a\}

    the second step of appendix H.3, for every depth, width and number of links at once. What is not done: nothing is trained, and that
    networks of equal mass do equally well is the paper's claim for equal widths; latency is measured for the designs found alone.

    Args:
        mass: wanted, or the cells of a network whose mass is wanted.
        space: what is tried.
        limits: on parameters, FLOPs and latency.
        tolerance: relative, of the mass.
        input_shape: of one example.
        classes: number of outputs.

    Returns: a :class:`Designs`; designs that are equal in both numbers are one, the one of mass nearest to the wanted one.

    Raises:
        InputError: a mass or tolerance that is not above 0, a space of more than 10^11 designs, a shape or number of classes that no
            network is built for, or limits that no design meets: the sentence offers the nearest design.

    Cost: ten million designs take about a second, in chunks of a million (60 MB).

    Deviates: the paper searches by hand, over links alone, and takes masses between those of its two large networks. The fewest
        parameters are those of shallow cells with all links: give depths that you would train.

    Example:
        >>> found = designs([Cell(6, 4, 6), Cell(6, 8, 12)], Space((4, 5, 6), ((4, 8),)), input_shape=(3, 8, 8))
        >>> found.candidates, found.table["cells"][0]
        (1039, '4x4t8-4x8t9')

    References: "Towards unifying neural architecture space exploration and generalization" (NN-Mass), 2020, appendix H.3.
    """
    started = time.monotonic()
    limits = limits or Limits()
    wanted = nn_mass(mass) if isinstance(mass, Sequence) else float(mass)
    if not 0 < wanted < math.inf:
        raise InputError(
            f"a mass of {wanted:g} is wanted; without long-range links every network has mass 0: give one above 0."
        )
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance={tolerance!r}: give a share of the mass between 0 and 1.")
    if space.count > MOST:
        raise InputError(
            f"the space has {space.count:.3g} designs, too many to try each (at most {MOST:.0e}, some hours); give a larger step "
            "between numbers of links, or fewer cells or depths."
        )
    best, matching = _Front(), 0
    for block in blocks(space, input_shape, classes):
        near = np.flatnonzero(np.abs(block.mass - wanted) <= tolerance * wanted)
        kept = near[_within(block, near, limits)]
        matching += len(kept)
        best.add(block, kept, wanted)
    if not matching:
        raise InputError(_nearest(space, limits, wanted, tolerance, input_shape, classes))
    table = _table(best.rows, input_shape, classes)
    if limits.latency is not None:
        table = table.with_columns(
            pl.Series("latency", [latency(c, limits, input_shape, classes) for c in table["cells"]])
        )
        if not (table["latency"] <= limits.latency).any():
            fastest = table.sort("latency").row(0, named=True)
            raise RunError(
                f"none of {len(table)} designs takes at most {limits.latency:g} s; the fastest is {fastest['cells']} with "
                f"{fastest['latency']:.4g} s."
            )
        table = table.filter(pl.col("latency") <= limits.latency)
    return Designs(table, wanted, tolerance, space.count, matching, time.monotonic() - started)


def latency(cells: str, limits: Limits, input_shape: Sequence[int], classes: int, repeats: int = 7) -> float:
    """Seconds of a forward pass of the network of some cells: the least of some passes, after one that is not counted.

    Args:
        cells: as in a network's name.
        limits: whose ``batch`` and ``device`` count.
        input_shape, classes: of the network.
        repeats: passes.
    """
    place = usable_device(limits.device)
    network = build(f"linked-{cells}", input_shape, classes).to(place)
    inputs = torch.zeros(limits.batch, *input_shape, device=place)
    taken = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            began = time.perf_counter()
            network(inputs).sum().item()  # waits for the device
            taken.append(time.perf_counter() - began)
    return min(taken[1:])


def export(cells: Sequence[Cell], path: str | Path, **fields: Any) -> Recipe:
    """Write a design as a plain file: a recipe that :func:`shaketable.train` and ``shaketable train`` take.

    Args:
        cells: of the design.
        path: a ``.json`` file.
        fields: of :class:`shaketable.Recipe`, beside those of the named recipe ``nn-mass``: cosine schedule from 0.05, cutout, 200 epochs.

    Returns: the recipe; ``shaketable.build(recipe.network, (3, 32, 32), 10)`` is its network.

    Raises:
        InputError: no cell, or a field that a recipe has not.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     recipe = export([Cell(4, 2, 3)], Path(folder) / "design.json", epochs=1)
        ...     Recipe.from_file(Path(folder) / "design.json") == recipe, recipe.network
        (True, 'linked-4x2t3')
    """
    recipe = named("nn-mass", network="linked-" + "-".join(map(str, checked(cells))), **fields)
    write_text(Path(path), json.dumps(recipe.to_dict(), indent=1) + "\n")
    return recipe


def _within(block: Block, chosen: np.ndarray, limits: Limits) -> np.ndarray:
    """Which of some designs meet the limits on parameters and FLOPs."""
    meets = np.ones(len(chosen), bool)
    for limit, values in ((limits.parameters, block.parameters), (limits.flops, block.flops)):
        if limit is not None:
            meets &= values[chosen] <= limit
    return meets


class _Front:
    """The designs that none beats, so far: (parameters, FLOPs, distance of the mass) with the cells."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, float, list[Cell]]] = []

    def add(self, block: Block, chosen: np.ndarray, wanted: float) -> None:
        """Take up what a block has."""
        count, work = block.parameters[chosen], block.flops[chosen]
        distance = np.abs(block.mass[chosen] - wanted)
        rows = [
            (int(count[i]), int(work[i]), float(distance[i]), block.cells(int(chosen[i])))
            for i in pareto(count, work, distance)
        ]
        rows += self.rows
        values = [np.array([row[k] for row in rows]) for k in range(3)]
        self.rows = [rows[i] for i in pareto(*values)]


def _nearest(
    space: Space, limits: Limits, wanted: float, tolerance: float, input_shape: Sequence[int], classes: int
) -> str:
    """What is said where no design meets the limits: the design that misses them by the smallest factor."""
    best: tuple[float, list[Cell]] | None = None
    for block in blocks(space, input_shape, classes):
        miss = np.abs(block.mass / wanted - 1) / tolerance
        for limit, values in ((limits.parameters, block.parameters), (limits.flops, block.flops)):
            if limit is not None:
                miss = np.maximum(miss, values / limit)
        index = int(miss.argmin())
        if best is None or miss[index] < best[0]:
            best = float(miss[index]), block.cells(index)
    assert best is not None
    cells = best[1]
    asked = [
        f"{limit:g} {name}" for name, limit in (("parameters", limits.parameters), ("FLOPs", limits.flops)) if limit
    ]
    return (
        f"none of {space.count:,} designs has a mass within {tolerance:.0%} of {wanted:.4g}"
        + (f" and at most {' and '.join(asked)}" if asked else "")
        + f"; the nearest is {'-'.join(map(str, cells))} with mass {nn_mass(cells):.4g}, "
        f"{parameters(cells, input_shape, classes):,} parameters and {flops(cells, input_shape, classes):,} FLOPs: raise a limit or "
        "the tolerance, or try other depths and widths."
    )


def _table(
    rows: Sequence[tuple[int, int, float, list[Cell]]], input_shape: Sequence[int], classes: int
) -> pl.DataFrame:
    """Designs as a table, the fewest parameters first."""
    return pl.DataFrame(
        [
            {
                "cells": "-".join(map(str, cells)),
                "depth": cells[0].depth,
                "nn_mass": nn_mass(cells),
                "nn_density": nn_density(cells),
                "parameters": count,
                "flops": work,
            }
            for count, work, _, cells in rows
        ]
    ).with_columns(pl.lit(None, pl.Float64).alias("latency"))
