"""Layer robustness: reset one layer of a trained network, retrain nothing, and see what still works."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
from torch import Tensor

from shaketable.data import Data
from shaketable.engine import Engine, Level, Variant, errors
from shaketable.engine.questions import check_precision
from shaketable.errors import InputError
from shaketable.identity import fingerprint, seed_from
from shaketable.params import Grouping, Layer, Params, layers
from shaketable.perturb import Statistics, changed_tensors, fresh_params, reestimated_statistics, source_of
from shaketable.probes.cells import Cell, Cells
from shaketable.probes.distances import distance_rows
from shaketable.probes.distances import table as distance_table
from shaketable.probes.result import FULL_MODEL, SCHEMA, Robustness
from shaketable.probes.stored import (
    EPOCHS,
    compared,
    data_of,
    facts_of,
    identity_of,
    in_memory,
    list_of,
    status_of,
    stored,
    sums_in_sections,
    time_taken,
)
from shaketable.progress import progress
from shaketable.study import Study

VERSION = 2
NO_INIT = "the study has no initial weights; make it with init"
NO_DISTRIBUTION = (
    "a module of it has no reset_parameters and there are no initial weights; make the study with init or initialise"
)


def robustness(
    study: Study,
    by: Grouping = "block",
    *,
    checkpoints: Iterable[int] | None = None,
    draws: int = 5,
    splits: Sequence[str] | None = None,
    statistics: Statistics | Literal["reestimate"] = "keep",
    statistics_batches: int = 10,
    robust: float = 0.05,
    critical: float = 0.25,
    seed: int = 0,
    precision: float | None = None,
    level: Level = "auto",
    memory: int | None = None,
    batch_size: int | None = None,
    store: str | Path | None = None,
    command: str | None = None,
) -> Robustness:
    r"""How much accuracy a trained network loses when one layer is reset, for each layer.

    .. math:: f\bigl(\theta_1^T, \dots, \theta_{d-1}^T, \theta'_d, \theta_{d+1}^T, \dots, \theta_D^T\bigr)

    with :math:`\theta'_d = \theta_d^\tau`, the layer's own values at checkpoint :math:`\tau` (re-initialisation; in
    other papers rewinding), or :math:`\theta'_d \sim \mathcal P_d`, a fresh draw from the distribution of its initial
    values (re-randomisation). Nothing is retrained. Reference rows hold the full model at each checkpoint.

    Args:
        study: the final weights :math:`\theta^T`, the checkpoints, the data.
        by: ``"block"`` (a residual block; elsewhere an operator with its normalisations), ``"module"``, ``"stage"``, or
            your own groups; see :func:`shaketable.params.layers`.
        checkpoints: epochs :math:`\tau`; all that there are, if left out.
        draws: fresh draws per layer; 0 leaves re-randomisation out.
        splits: ``"test"``, ``"train"``; those that the study has, if left out.
        statistics: whether a layer's running statistics stay as trained (``"keep"``) or are taken with its parameters
            (``"rewind"``), or those of all batch norms are estimated anew with the reset layer in place
            (``"reestimate"``, see :func:`shaketable.perturb.reestimated_statistics`). Reference rows keep their own.
        statistics_batches: batches of 128 training examples, without augmentation, for ``"reestimate"``.
        robust, critical: thresholds of the verdict, on the accuracy drop, in [0, 1].
        seed: of the fresh draws. Draw r is one draw of the whole network, from which each layer takes its part.
        precision: each error to this precision (half the width of an interval that misses it with probability 1e-4), from as
            many examples as that takes, in random order; without it every example, and the loss.
        level, memory, batch_size: of the :class:`shaketable.engine.Engine`; they change speed and memory, not the result.
        store: a folder that keeps the sums as they come: interrupted work goes on from there, finished work is read.
        command: what the user typed, for the report.

    Returns: a :class:`Robustness`. Without initial weights, or for a layer whose distribution is unknown, there is a row
        with ``status="unavailable"`` and the reason; where logits were NaN or infinite the row says ``"not finite"``,
        these examples count as errors, and the loss is null.

    Raises:
        InputError: no data, a checkpoint that does not exist, thresholds out of order, negative draws.

    Cost: for each variant (layers x (checkpoints + draws)) the part of a pass over the data that its layer reaches, on
        average half of one; the weights of as many checkpoints as fit into a quarter of the free memory, at least one.
        With ``"reestimate"`` a pass over ``statistics_batches`` batches more, and all of the network behind its first norm.

    Deviates: the unit that is reset is a layer or a residual block, as in the paper; what happens to running statistics
        of batch norm is not said there. The accuracy drop is our addition; the paper shows test error.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.eye(2)}, init={"weight": -torch.eye(2)},
        ...               test=(torch.eye(2), [0, 1]))
        >>> result = robustness(study, by={"only": "weight"}, draws=0)
        >>> result.verdicts().select("layer", "reinitialise_drop", "reinitialise").row(0)
        ('only', 1.0, 'critical')

    References: Zhang, Bengio, Singer, "Are All Layers Created Equal?", JMLR 2022, sections 2 and 3.
    """
    started = time.monotonic()
    _check_numbers(draws=draws, seed=seed, robust=robust, critical=critical)
    if not 0 <= robust < critical <= 1:
        raise InputError(f"thresholds robust={robust} and critical={critical}: need 0 <= robust < critical <= 1.")
    if draws < 0:
        raise InputError(f"draws={draws}: draws must be at least 0.")
    check_statistics(study, statistics, statistics_batches)
    data = data_of(study, splits)
    if precision is not None:
        for one in data.values():
            check_precision(precision, one)
    found = layers(study.network, by, study.example_inputs())
    if any(layer.name == FULL_MODEL for layer in found):
        raise InputError(
            f"no layer may be called {FULL_MODEL!r}: that is the name of the reference rows; rename yours."
        )
    epochs = _epochs(study, checkpoints)
    engine = Engine(study.network, study.final, level=level, memory=memory, batch_size=batch_size)
    plan = _Plan(study, engine, data, found, epochs, draws, statistics, statistics_batches, seed, precision)
    facts = facts_of(
        study,
        data,
        layers_by=by if isinstance(by, str) else "your own",
        checkpoints=list(epochs),
        draws=draws,
        statistics=statistics,
        **({"statistics_batches": statistics_batches} if statistics == "reestimate" else {}),
        precision=precision,
        seed=seed,
        command=command,
    )

    def measure(cells: Cells) -> Robustness:
        rows, distance = plan.measure(cells)
        provenance = facts | {"engine": engine.choice} | time_taken(started)
        return _result(rows, distance, robust, critical, provenance, study.history)

    return stored(Robustness, store, plan.identity, measure, command, robust=robust, critical=critical)


def check_statistics(study: Study, statistics: str, batches: int) -> None:
    """One error for a choice that there is not, or for statistics that cannot be estimated anew."""
    if statistics not in ("keep", "rewind", "reestimate"):
        raise InputError(f"unknown statistics={statistics!r}; use 'keep' or 'rewind', or 'reestimate'.")
    if statistics == "reestimate":
        reestimated_statistics(study.network, study.final, study.data("train"), batches=batches)


@dataclass(frozen=True)
class _Plan:
    """What is measured: everything that decides a number, and the engine."""

    study: Study
    engine: Engine
    data: dict[str, Data]
    layers: tuple[Layer, ...]
    epochs: tuple[int, ...]
    draws: int
    statistics: Statistics | Literal["reestimate"]
    statistics_batches: int
    seed: int
    precision: float | None

    def identity(self) -> dict[str, Any]:
        """What the numbers are the numbers of, as plain values."""
        study, reestimates = self.study, {}
        if self.statistics == "reestimate":
            reestimates = {"reestimate": [self.statistics_batches, study.data("train").fingerprint()]}
        what = reestimates | {
            "checkpoints": {epoch: fingerprint(study.checkpoint(epoch)) for epoch in self.epochs},
            "final_epoch": study.final_epoch,
            "layers": [[layer.name, layer.params, layer.buffers] for layer in self.layers],
            "draws": self.draws,
            "first_draw": fingerprint(self.fresh(0)[0]) if self.draws else None,
            "statistics": self.statistics,
            "precision": self.precision,
            "seed": self.seed,
        }
        return identity_of(study, "robustness", VERSION, self.data, **what)

    def fresh(self, draw: int) -> tuple[dict[str, Tensor], dict[str, str]]:
        """One fresh draw of the whole network; more draws keep the earlier ones."""
        study = self.study
        return fresh_params(study.network, seed_from(self.seed, "draw", draw), study.init, study.initialise)

    def measure(self, cells: Cells) -> tuple[list[Cell], list[dict[str, Any]]]:
        """All rows of the table, and all rows of distances."""
        study, rows, distance = self.study, [], []
        sources = [("checkpoint", epoch) for epoch in self.epochs] + [("draw", draw) for draw in range(self.draws)]
        groups = in_memory(sources, study)
        final = self._row(None, "none", study.final_epoch)
        baselines: dict[str, Cell] = {}
        examples = sum(map(len, self.data.values()))
        with progress("robustness", len(groups) * examples) as advance:
            for group in groups:
                jobs: list[tuple[Cell, Variant]] = []
                if not baselines and study.final_epoch not in self.epochs:
                    jobs.append((final, {}))
                for kind, number in group:
                    made, far, missing = self._jobs(kind, number)
                    jobs, distance, rows = jobs + made, distance + far, rows + missing
                for split, data in self.data.items():
                    found = self._sums(cells, split, data, group, [{}, *(variant for _, variant in jobs)], advance)
                    baseline = baselines.setdefault(split, found[0])
                    for (what, _), sums in zip(jobs, found[1:], strict=True):
                        rows.append(what | {"split": split} | _numbers(sums, baseline))
        if study.init is None:
            for layer in self.layers:
                rows += self._unavailable(self._row(layer, "reinitialise", 0), NO_INIT)
        return rows, distance

    def _jobs(self, kind: str, number: int) -> tuple[list[tuple[Cell, Variant]], list[dict[str, Any]], list[Cell]]:
        """The variants of a checkpoint or of a draw, their distances, and rows that cannot be computed."""
        final, jobs, missing = self.study.final, [], []
        if kind == "checkpoint":
            weights = self.study.checkpoint(number)
            is_final = number == self.study.final_epoch
            jobs.append((self._row(None, "none", number), {} if is_final else weights))
            for layer in self.layers:
                change = {} if is_final else self._change(layer, weights)
                jobs.append((self._row(layer, "reinitialise", number), change))
            return jobs, distance_rows(final, weights, self.layers, checkpoint=number), []
        fresh, sources = self.fresh(number)
        for layer in self.layers:
            source = source_of(layer, sources)
            what = self._row(layer, "rerandomise", draw=number) | {"distribution": source}
            if source is None:
                missing += self._unavailable(what, NO_DISTRIBUTION)
            else:
                jobs.append((what, self._change(layer, fresh)))
        return jobs, distance_rows(final, fresh, self.layers, draw=number), missing

    def _change(self, layer: Layer, source: Params) -> dict[str, Tensor]:
        """The tensors that differ where a layer comes from other weights, with the running statistics that go along."""
        if self.statistics != "reestimate":
            return changed_tensors(layer, source, self.statistics)
        change = changed_tensors(layer, source)
        weights, train = {**self.study.final, **change}, self.study.data("train")
        return change | reestimated_statistics(self.study.network, weights, train, batches=self.statistics_batches)

    def _sums(
        self,
        cells: Cells,
        split: str,
        data: Data,
        group: list[tuple[str, int]],
        variants: list[Variant],
        advance: Callable[..., None],
    ) -> list[Cell]:
        """The sums of each variant on a split: those kept, and the rest computed now, a section of the data at a time."""

        def done(examples: int) -> None:
            advance(examples, f"{len(variants)} variants, {split}")

        if self.precision is not None:
            key = json.dumps([split, group, "precision"])
            return cells.get(key, lambda: {"estimates": self._estimates(variants, data, done)})["estimates"]
        return sums_in_sections(cells, [split, group], self.engine, variants, data, done)

    def _estimates(self, variants: list[Variant], data: Data, done: Callable[[int], None]) -> list[Cell]:
        """The errors of all variants to the precision asked for."""
        assert self.precision is not None
        found = errors(self.engine, variants, data, precision=self.precision, seed=self.seed)
        done(len(data))
        return [vars(estimate) for estimate in found]

    def _row(
        self, layer: Layer | None, perturbation: str, checkpoint: int | None = None, draw: int | None = None
    ) -> Cell:
        """What a row says before anything is measured."""
        network, final = self.study.network, self.study.final
        if layer is None:
            size = sum(parameter.numel() for parameter in network.parameters())
            facts = {"layer": FULL_MODEL, "position": -1, "kind": type(network).__name__, "parameters": size}
        else:
            size = sum(final[name].numel() for name in layer.params)
            facts = {"layer": layer.name, "position": self.layers.index(layer), "kind": layer.kind, "parameters": size}
        return facts | {"perturbation": perturbation, "checkpoint": checkpoint, "draw": draw, "status": "ok"}

    def _unavailable(self, what: Cell, reason: str) -> list[Cell]:
        """Rows that could not be computed, one a split."""
        return [what | {"split": split, "status": "unavailable", "reason": reason} for split in self.data]


def _epochs(study: Study, checkpoints: Iterable[int] | None) -> tuple[int, ...]:
    """The checkpoints to re-initialise to, ascending."""
    if checkpoints is None:
        return study.epochs
    epochs = set(list_of(int, EPOCHS, checkpoints=checkpoints))
    for epoch in epochs - set(study.epochs):
        study.checkpoint(epoch)  # says which there are
    return tuple(sorted(epochs))


def _check_numbers(**numbers: Any) -> None:
    """An error for an argument that is no number, or no whole one where it must be."""
    for name, value in numbers.items():
        whole = name in ("draws", "batch_size", "seed")
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise InputError(f"{name}={value!r}: give a {'whole ' if whole else ''}number.")


def _result(
    rows: list[Cell],
    distance: list[dict[str, Any]],
    robust: float,
    critical: float,
    provenance: dict[str, Any],
    history: pl.DataFrame | None,
) -> Robustness:
    """Rows as tables: layers in forward order, the full model first."""
    order = ["position", "perturbation", "checkpoint", "draw"]
    frame = pl.DataFrame([dict.fromkeys(SCHEMA) | row for row in rows], schema=SCHEMA).sort(order, maintain_order=True)
    return Robustness(frame, distance_table(distance), robust, critical, provenance, history)


def _numbers(sums: Cell, baseline: Cell) -> Cell:
    """The numbers of a row from the sums (or the estimate) of a variant and of the final network."""
    if "low" in sums:
        ends = {"error": sums["error"], "error_low": sums["low"], "error_high": sums["high"]}
        drop = sums["error"] - baseline["error"]
        accuracy = {"accuracy": 1 - sums["error"], "accuracy_drop": drop}
        return {"examples": sums["examples"], **ends, **accuracy} | status_of(sums)
    numbers = compared(sums, baseline)
    return numbers | {"error_low": numbers["error"], "error_high": numbers["error"]}
