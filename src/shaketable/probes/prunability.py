"""Prunability: the smallest fraction of a network's weights that can be kept without hurting its training loss."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any, ClassVar, Literal

import polars as pl

from shaketable.engine import Engine, Level, Precision
from shaketable.errors import InputError
from shaketable.probes.cells import Cell, Cells
from shaketable.probes.moves import grid
from shaketable.probes.pruning_curve import SCHEMA, SPARSITIES, curve
from shaketable.probes.pruning_search import Losses, is_monotone, smallest_kept
from shaketable.probes.stored import (
    Result,
    check_whole,
    data_of,
    facts_of,
    identity_of,
    list_of,
    names_of,
    read_result,
    stored,
    time_taken,
    write_result,
)
from shaketable.progress import progress
from shaketable.pruning import METHODS, Method, Parameters, Pruning, Scope, ordered, prunable
from shaketable.study import Study

VERSION = 2
TESTS = {
    "method": pl.String,
    "draw": pl.Int64,  # of a random order, from 0; null for magnitudes
    "kept": pl.Float64,
    "removed": pl.Int64,  # entries set to zero
    "parameters": pl.Int64,  # entries that could be
    "bound": pl.Float64,  # nats
    "holds": pl.Boolean,  # whether the mean loss on the training data is at most the bound
    "seen": pl.Int64,  # examples that this rests on; all of them where it holds
    "in_float32": pl.Int64,  # how many of them ran in float32: all where the answer is certain
    "loss": pl.Float64,  # mean loss in nats where all were seen, or as estimated; else what was seen, over all examples
    "error": pl.Float64,  # of an estimated loss, as measured; null where the answer is certain
}
Search = Literal["bisection", "every"]
Tolerance = Literal["relative", "absolute"]


@dataclass(frozen=True, repr=False)
class Prunability(Result):
    """How much of a network can be pruned, with the curve of loss and error against sparsity.

    Attributes:
        table: the curve: a row per method, perturbation, draw, sparsity and split; columns of
            :data:`shaketable.probes.pruning_curve.SCHEMA`.
        tests: the search: a row per method, draw and fraction tested; columns of :data:`TESTS`.
        provenance: what, with which arguments, versions, seeds and hashes; ``clean`` is the loss of the whole network.
    """

    NAME: ClassVar[str] = "prune"
    tests: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TESTS))

    def __repr__(self) -> str:
        said = ", ".join(f"{row['method']} {row['prunability']:g}" for row in self.summary().to_dicts())
        return f"<Prunability of {self.provenance.get('name', 'a network')}: {said}>"

    def summary(self) -> pl.DataFrame:
        """The prunability by each method: the mean over draws of the smallest fraction kept.

        Returns: ``method``, ``prunability`` in [0, 1], ``stderr`` over draws (null for one), ``draws``, ``kept`` (entries,
            the mean), ``parameters`` that could go, ``bound`` in nats, ``tested`` (fractions, of all draws), ``seen`` (examples
            in all tests), ``monotone`` (False where it held at a fraction below one at which it failed).
        """
        found = []
        for (method,), tests in self.tests.group_by("method", maintain_order=True):
            ends = [_end(one) for _, one in tests.group_by("draw", maintain_order=True)]
            kept = [fraction for fraction, _, _ in ends]
            parameters = tests["parameters"][0]
            found.append(
                {
                    "method": method,
                    "prunability": mean(kept),
                    "stderr": stdev(kept) / math.sqrt(len(kept)) if len(kept) > 1 else None,
                    "draws": len(ends),
                    "kept": parameters - mean([float(removed) for _, removed, _ in ends]),
                    "parameters": parameters,
                    "bound": tests["bound"][0],
                    "tested": len(tests),
                    "seen": tests["seen"].sum(),
                    "monotone": all(monotone for _, _, monotone in ends),
                }
            )
        return pl.DataFrame(found)

    def save(self, folder: str | Path) -> Path:
        """Write the tables as Parquet and CSV, and ``provenance.json``, into a folder."""
        tables = {self.NAME: self.table, "tests": self.tests, "summary": self.summary()}
        return write_result(Path(folder), self.NAME, tables, {"provenance": self.provenance})

    @classmethod
    def load(cls, folder: str | Path) -> "Prunability":
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the folder holds no such result.
        """
        facts, tables = read_result(Path(folder), cls.NAME, [cls.NAME, "tests"])
        return cls(tables[cls.NAME], facts["provenance"], tables["tests"])

    def plot(self, **arguments: Any) -> Any:
        """Loss and error against sparsity; see :func:`shaketable.plots.pruning_curves`."""
        from shaketable.plots import pruning_curves

        return pruning_curves(self.table, self.summary(), **arguments)


def prunability(
    study: Study,
    methods: Method | Sequence[Method] = "magnitude",
    *,
    scope: Scope = "global",
    parameters: Parameters = "weight",
    beta: float = 0.1,
    tolerance: Tolerance = "relative",
    steps: int = 100,
    search: Search = "bisection",
    beyond: int = 3,
    draws: int = 5,
    split: str = "train",
    sparsities: Iterable[float] | None = SPARSITIES,
    noise: int = 0,
    splits: Sequence[str] | None = None,
    seed: int = 0,
    level: Level = "auto",
    precision: Precision = "float32",
    memory: int | None = None,
    batch_size: int | None = None,
    store: str | Path | None = None,
    command: str | None = None,
) -> Prunability:
    r"""The smallest fraction of the weights that can be kept while the training loss stays within a tolerance.

    .. math:: \mu_{\text{prunability}} = \min\{\alpha : L(\varphi(f_w, \alpha), S) \le (1 + \beta) L(f_w, S)\}

    where :math:`\varphi(f_w, \alpha)` sets the fraction :math:`1 - \alpha` of the weights of the trained network to zero, at
    once: those of smallest magnitude, or random ones; L is the mean cross-entropy on the training data S. Nothing is
    retrained; running statistics stay as trained; data are not augmented.

    Args:
        study: a trained network with training data; needs no initial weights.
        methods: ``"magnitude"``, ``"random"``, or both.
        scope: ``"global"``: one order over all weights; ``"layer"``: the same fraction of each layer.
        parameters: which count and can go: ``"weight"``: those of convolutions and linear layers; ``"all"``: biases and
            normalisations too.
        beta: the tolerance :math:`\beta`, from 0.
        tolerance: ``"relative"`` as above; ``"absolute"``: the loss may be :math:`L(f_w) + \beta` nats.
        steps: fractions are 0, 1/steps, 2/steps, ... 1; the last one is feasible by definition.
        search: ``"bisection"``, which finds the definition's minimum where the condition holds at each larger fraction; or
            ``"every"`` fraction is tested.
        beyond: how many smaller fractions a bisection tests behind the one found; it goes on from there where one holds.
        draws: of a random order; a search each.
        split: the data of the search; ``"train"`` in the paper.
        sparsities: fractions removed, in [0, 1], at which loss and error are measured for the curve; None or empty: no curve.
        noise: draws of Gaussian noise, at each sparsity, on the very entries that pruning removes, scaled to the 2-norm of
            what it removes: the paper's random perturbation of the same size. 0 leaves it out.
        splits: of the curve; those that the study has, if left out.
        seed: of random orders and of the noise.
        level, memory, batch_size: of the :class:`shaketable.engine.Engine`; they do not change the result.
        precision: ``"float32"``: every answer is certain. ``"auto"``: losses in bfloat16 first, where the network can be traced and
            this processor is measured to be at least twice as fast in it, and float32 where their measured error leaves a doubt:
            see :mod:`shaketable.probes.screening`. ``"bfloat16"``: the same whatever it takes.
        store: a folder that keeps the answers as they come: interrupted work goes on from there, finished work is read.
        command: what the user typed, for the report.

    Returns: a :class:`Prunability`. 1: no fraction of the grid can go; 0: the network is no better than one of zeros.

    Raises:
        InputError: no data, a number out of its range, a network without weights, or a clean loss that is not finite.

    Cost: a pass over the data for the clean loss; about ten tests for each search, of which those that hold take a pass and the
        others a part of one; one pass for each point of the curve, on each split. From 4,096 examples on, a bisection begins
        where 512 random ones end: about six tests. Seconds for tracing the network where the work is worth it. With
        ``precision="auto"`` tests take passes in bfloat16, and float32 on some hundred examples each.

    Deviates: the paper's pseudo-code is not in the text that we have: the steps of 1% are ours, and so is the mean over draws of
        random orders. Which parameters count is not said there. In float32 all answers are certain: none rests on a sample.
        With losses in bfloat16 those with an ``error`` in ``tests`` rest on four standard errors, measured on random examples.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.tensor([[9.0, 0.1], [0.2, 9.0]])}, train=(torch.eye(2), [0, 1]))
        >>> found = prunability(study, steps=4)
        >>> found.summary().select("prunability", "kept", "parameters").row(0), found.tests.select("kept", "holds").rows()
        ((0.5, 2.0, 4), [(0.5, True), (0.25, False), (0.0, False)])

    References: Kuhn, Lyle, Gomez, Rothfuss, Gal, "Robustness to pruning predicts generalization in deep neural networks", 2021,
        definition 1, section 5.4.3 and figure 2, appendices A.5 and A.6.1.
    """
    started = time.monotonic()
    chosen: tuple[Any, ...] = tuple(dict.fromkeys(names_of("'magnitude', 'random' or both", methods=methods)))
    given = list_of(float, "a list of fractions from 0 to 1", sparsities=() if sparsities is None else sparsities)
    points = grid("sparsities", given, 1.0) if given else ()
    _check(chosen, beta, tolerance, search)
    check_whole(1, steps=steps, draws=draws)
    check_whole(0, beyond=beyond, noise=noise)
    check_whole(seed=seed)
    data, curve_data = study.data(split), data_of(study, splits) if points else {}
    groups = prunable(study.network, scope, parameters, study.example_inputs())
    engine = Engine(study.network, study.final, level=level, precision=precision, memory=memory, batch_size=batch_size)
    arguments: dict[str, Any] = {"methods": list(chosen), "scope": scope, "parameters": parameters}
    arguments |= {"beta": beta, "tolerance": tolerance, "steps": steps, "search": search, "beyond": beyond}
    arguments |= {"draws": draws, "split": split, "sparsities": list(points), "noise": noise, "seed": seed}
    arguments |= {"precision": precision}

    def identity() -> dict[str, Any]:
        every = {split: data, **curve_data}
        return identity_of(study, "prune", VERSION, every, groups=[list(names) for names in groups], **arguments)

    @cache
    def losses() -> Losses:
        """Made when the first answer is not there from an earlier run."""
        halved = {name: study.final[name] / 2 for names in groups for name in names}
        return Losses(engine, data, halved, seed)

    def measured(cells: Cells) -> Prunability:
        clean = cells.get("clean", lambda: {"loss": losses().clean})["loss"]
        if not math.isfinite(clean):
            raise InputError(
                "the loss of the trained network is not finite, so no tolerance can be told; train it anew."
            )
        bound = clean * (1 + beta) if tolerance == "relative" else clean + beta
        rows, tests = [], []
        for method in chosen:
            for draw in [None] if method == "magnitude" else range(draws):
                order = ordered(study.final, groups, method, seed, draw or 0)
                what = {"method": method, "draw": draw}
                tests += _tests(cells, losses, order, what, bound, steps, search == "every", beyond)
                rows += curve(cells, engine, curve_data, order, what, points, noise, seed, study)
        facts = facts_of(study, {split: data, **curve_data}, **arguments, clean=clean, bound=bound, command=command)
        table = pl.DataFrame([dict.fromkeys(SCHEMA) | row for row in rows], schema=SCHEMA)
        told = facts | {"engine": engine.choice} | time_taken(started)
        return Prunability(table, told, pl.DataFrame(tests, schema=TESTS))

    return stored(Prunability, store, identity, measured, command)


def _tests(
    cells: Cells,
    losses: Callable[[], Losses],
    order: Pruning,
    what: Cell,
    bound: float,
    steps: int,
    every: bool,
    beyond: int,
) -> list[Cell]:
    """The tests of one search, in the order in which they were made."""
    found: list[Cell] = []

    def holds(kept: float) -> bool:
        key = f"test {what['method']} {what['draw']} {kept!r}"
        answer = cells.get(key, lambda: losses().answer(order.at(1 - kept), bound))
        removed = sum(int(gone.sum()) for gone in order.removed(1 - kept).values())
        size = {"kept": kept, "removed": removed, "parameters": order.parameters, "bound": bound}
        seen = {name: answer[name] for name in ("holds", "seen", "in_float32", "loss", "error")}
        found.append(what | size | seen)
        return answer["holds"]

    def guess() -> Cell:
        return {"kept": losses().guess(lambda kept: order.at(1 - kept), bound, steps)}

    start = None if every else cells.get(f"guess {what['method']} {what['draw']}", guess)["kept"]
    expected = steps if every else steps.bit_length() + beyond
    with progress(f"pruning by {what['method']}", expected) as advance:
        smallest_kept(steps, every, beyond, holds, advance, start)
    return found


def _end(tests: pl.DataFrame) -> tuple[float, int, bool]:
    """Of one search: the smallest fraction kept, how many entries are gone there, and whether the tests contradict each other."""
    held = tests.filter("holds").sort("kept")
    fraction, removed = held.select("kept", "removed").row(0) if len(held) else (1.0, 0)
    return fraction, removed, is_monotone(tests.select("kept", "holds").rows())


def _check(methods: Sequence[str], beta: float, tolerance: str, search: str) -> None:
    """One error for an argument that is none of those that there are."""
    if not methods or not set(methods) <= set(METHODS):
        raise InputError(f"methods={list(methods)}: give 'magnitude', 'random' or both.")
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta < math.inf:
        raise InputError(f"beta={beta!r}: give a tolerance from 0.")
    if tolerance not in ("relative", "absolute"):
        raise InputError(f"tolerance={tolerance!r}: use 'relative' (to the clean loss) or 'absolute' (in nats).")
    if search not in ("bisection", "every"):
        raise InputError(f"search={search!r}: use 'bisection' or 'every'.")
