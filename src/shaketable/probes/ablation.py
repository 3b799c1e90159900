"""Cumulative unit ablation: accuracy while the units of a layer are removed one by one, and what sparsity that shows."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import torch
from torch import Tensor

from shaketable.data import Data
from shaketable.engine.removals import Recorded, Removals, Rounding
from shaketable.errors import InputError, RunError
from shaketable.forward import Inputs, count_of, evaluation_mode, forward, map_inputs
from shaketable.intervene import Site, recorded, site_of
from shaketable.probes.cells import Cell, Cells
from shaketable.probes.stored import (
    LAYERS,
    Result,
    check_whole,
    facts_of,
    identity_of,
    list_of,
    names_of,
    stored,
    time_taken,
)
from shaketable.probes.turning_points import Rule, Ties, key_quantities
from shaketable.probes.unit_order import Attribute, class_sums, unit_order
from shaketable.progress import progress
from shaketable.study import Study

VERSION = 1
ORDERS = ("most first", "least first")
OVER = ("class", "all")
SCHEMA = {
    "layer": pl.String,
    "position": pl.Int64,  # among the layers asked for, from 0
    "activation": pl.String,  # the module whose output is ablated
    "split": pl.String,
    "class": pl.Int64,  # by label; null for all data
    "order": pl.String,  # "most first" is E, "least first" is E_r
    "removed": pl.Int64,  # units, 0..M
    "unit": pl.Int64,  # the last one removed; null at 0
    "examples": pl.Int64,
    "right": pl.Int64,
    "accuracy": pl.Float64,
    "status": pl.String,
    "reason": pl.String,
}
SUMMARY = {
    "layer": pl.String,
    "position": pl.Int64,
    "activation": pl.String,
    "over": pl.String,  # "class", "mean of classes", "all"
    "class": pl.Int64,
    "units": pl.Int64,
    "examples": pl.Int64,
    "accuracy": pl.Float64,  # nothing removed
    "n_0": pl.Float64,
    "n_0_r": pl.Float64,
    "reached": pl.Float64,  # share of the classes whose E falls to chance
    "zeta": pl.Float64,
    "kappa": pl.Float64,
}


@dataclass(frozen=True, repr=False)
class Ablation(Result):
    """Curves of accuracy against units removed, in both orders.

    Attributes:
        table: a row per layer, class, order and number removed; columns of :data:`SCHEMA`. A class without examples is a row
            with its reason.
        provenance: what, with which arguments, versions, seeds and hashes.
    """

    NAME: ClassVar[str] = "ablate"

    def __repr__(self) -> str:
        means = self.summary().filter(pl.col("over") != "class")
        said = ", ".join(
            f"{row['layer']} ({row['over']}) zeta {row['zeta']:.3f} kappa {row['kappa']:.3f}"
            for row in means.to_dicts()
        )
        return f"<Ablation of {self.provenance.get('name', 'a network')}: {said}>"

    def summary(self, rule: Rule | None = None, ties: Ties | None = None) -> pl.DataFrame:
        """Turning points, zeta and kappa of each class, their means over classes (equation 6), and those over all data.

        Args:
            rule, ties: of :func:`shaketable.probes.turning_points.key_quantities`; those that the result was made with.

        Returns: columns of :data:`SUMMARY`; ``reached`` is 1 or 0 for a class, a share for the mean.
        """
        chosen: tuple[Rule, Ties] = (rule or self.provenance["rule"], ties or self.provenance["ties"])
        chance = 1 / self.provenance["classes"]
        rows: list[dict[str, Any]] = []
        good = self.table.filter(status="ok").sort("removed", maintain_order=True)
        for _, layer in good.group_by("layer", maintain_order=True):
            found = []
            for (one,), curves in layer.group_by("class", maintain_order=True):
                most, least = (curves.filter(order=order)["accuracy"].to_list() for order in ORDERS)
                what = {key: curves[key][0] for key in ("layer", "position", "activation", "examples")}
                what |= {"class": one, "over": "all" if one is None else "class", "units": len(most) - 1}
                found.append(what | {"accuracy": most[0]} | key_quantities(most, least, chance, *chosen))
            classes = [row for row in found if row["over"] == "class"]
            rows += found
            if classes:
                mean = {key: sum(row[key] for row in classes) / len(classes) for key in list(SUMMARY)[7:]}
                same = {key: classes[0][key] for key in ("layer", "position", "activation", "units")}
                examples = sum(row["examples"] for row in classes)
                rows.append(same | mean | {"over": "mean of classes", "class": None, "examples": examples})
        return pl.DataFrame(
            [
                {key: float(row[key]) if kind == pl.Float64 else row[key] for key, kind in SUMMARY.items()}
                for row in rows
            ],
            schema=SUMMARY,
        )

    def plot(self, **arguments: Any) -> Any:
        """Both curves with their turning points; see :func:`shaketable.plots.ablation_curves`."""
        from shaketable.plots import ablation_curves

        return ablation_curves(self.table, self.summary(), chance=1 / self.provenance["classes"], **arguments)


def ablation(
    study: Study,
    layers: str | Sequence[str] | None = None,
    *,
    attribute: Attribute = "activation",
    over: str | Sequence[str] = "class",
    classes: Sequence[int] | None = None,
    split: str = "train",
    rule: Rule = "paper",
    ties: Ties = "last",
    seed: int = 0,
    way: str = "auto",
    precision: Rounding = "auto",
    memory: int | None = None,
    batch_size: int | None = None,
    store: str | Path | None = None,
    command: str | None = None,
) -> Ablation:
    r"""Accuracy while the units of a layer are removed one by one, those first that are most, or least, active.

    .. math:: E(n, D_j), \; E_r(n, D_j), \quad n = 0, \dots, M

    are the accuracies on the examples :math:`D_j` of class j with the n units of largest (:math:`E`) or smallest (:math:`E_r`)
    L1 norm of activation on :math:`D_j` at zero; M is the number of units, channels of a convolution or outputs of a linear
    layer. What is ablated is the output of the nonlinearity that follows the layer, through batch norm and through the sum of
    a residual block: :func:`shaketable.intervene.sites` says where exactly, and the table's ``activation`` names the module.
    Classes go by the labels of the data as they are, corrupted ones too. Nothing is retrained; data are not augmented.

    Args:
        study: a trained classifier with data; needs no initial weights.
        layers: convolutions or linear layers by name; the last convolution if left out (the last hidden linear layer where there
            is none).
        attribute: what units are ordered by: ``"activation"``, ``"selectivity"``, ``"weight"`` or ``"random"``; see
            :func:`shaketable.probes.unit_order.unit_order`.
        over: ``"class"``: curves for each class, units ordered and accuracy taken on its examples; ``"all"``: one curve, of all data.
        classes: some classes only.
        split: ``"train"`` in the paper.
        rule, ties: of the turning points; see :func:`shaketable.probes.turning_points.key_quantities`.
        seed: of random orders.
        way: ``"auto"``, or ``"sum"``, ``"suffix"``, ``"network"``: see :class:`shaketable.engine.removals.Removals`.
        precision: ``"float32"``: no decision in bfloat16. ``"auto"`` takes it where it is faster, with what its measured error could
            decide otherwise again in float32.
        memory: bytes for activations; half of what is free if left out.
        batch_size: examples together; as many as fit if left out. Neither changes the result.
        store: a folder that keeps the answers as they come: interrupted work goes on from there, finished work is read.
        command: what the user typed, for the report.

    Returns: an :class:`Ablation`; ``summary()`` has the turning points, :math:`\zeta` and :math:`\kappa`.

    Raises:
        InputError: a layer that has no units or one, or whose activation has no row for each example, a class without examples,
            data that are no classification.
        RunError: the network is no better than chance on these data (not asked where some classes are chosen).

    Cost: a pass over the data up to the layer (two, where its activations do not fit the memory), and for each example, order
        and unit that it activates the part of a pass behind the next linear operator.

    Deviates: section 3.1 of the paper calls E the ascending order and section 3.2 the descending one; as there and in the authors'
        code, E removes the most active units first. L1 norms are of absolute values: the authors take the mean, which is the
        same order behind a ReLU. Units of equal norm go by number, and one order is the other reversed.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)).eval()
        >>> same = {"weight": torch.eye(2), "bias": torch.zeros(2)}
        >>> final = {f"{layer}.{name}": tensor for layer in (0, 2) for name, tensor in same.items()}
        >>> study = Study(network, final=final, train=(torch.eye(2), [0, 1]))
        >>> found = ablation(study)
        >>> found.table.filter(pl.col("class") == 1)["accuracy"].to_list(), found.summary()["zeta"].to_list()
        ([1.0, 0.0, 0.0, 1.0, 1.0, 0.0], [0.5, 0.5, 0.5])

    References: Zhao, Zhang, Hu, "Estimating the generalization in deep neural networks via sparsity", sections 3.1 to 3.3.
    """
    started = time.monotonic()
    groups_of = tuple(dict.fromkeys(names_of("'class', 'all' or both", over=over)))
    if not groups_of or not set(groups_of) <= set(OVER):
        raise InputError(f"over={over!r}: give 'class', 'all' or both.")
    check_whole(seed=seed)
    if precision not in ("auto", "float32"):
        raise InputError(f"precision={precision!r}: use 'auto' or 'float32'.")
    if batch_size is not None:
        check_whole(1, batch_size=batch_size)
    key_quantities([1, 0], [1, 0], 0.5, rule, ties)
    if study.task != "classification":
        raise InputError("unit ablation counts the right answers of a classifier; this study is of a language model.")
    data = study.data(split)
    chosen = _classes(classes, data, study.classes)
    asked: list[str | None] = [None] if layers is None else [*names_of(LAYERS, layers=layers)]
    if not asked:
        raise InputError("layers=[]: name at least one layer, or leave it out.")
    some = map_inputs(lambda tensor: tensor[:4], data.inputs)
    sites = [site_of(study.network, layer, some) for layer in dict.fromkeys(asked)]
    for site in sites:
        _refuse_rows(study, site, some)
    arguments: dict[str, Any] = {"layers": [site.layer for site in sites], "attribute": attribute}
    arguments |= {"over": list(groups_of), "split": split, "rule": rule, "ties": ties, "seed": seed}
    if classes is not None:
        arguments["chosen_classes"] = chosen

    def identity() -> dict[str, Any]:
        return identity_of(study, "ablate", VERSION, {split: data}, sites=[vars(site) for site in sites], **arguments)

    def measured(cells: Cells) -> Ablation:
        ways: dict[str, str] = {}
        parts = []
        for position, site in enumerate(sites):

            def compute(site: Site = site) -> Cell:
                removals = Removals(study.network, study.final, site, some, memory, way, precision)
                return _curves(study, data, removals, attribute, groups_of, chosen, seed, batch_size) | {
                    "way": removals.way
                }

            cell = cells.get(site.layer, compute)
            ways[site.layer] = cell["way"]
            if classes is None:
                _refuse_chance(cell, study.classes, split)
            parts.append(_rows(cell, site, position, split))
        facts = facts_of(study, {split: data}, **arguments, ways=ways, command=command)
        return Ablation(pl.concat(parts), facts | time_taken(started))

    return stored(Ablation, store, identity, measured, command)


def _curves(
    study: Study,
    data: Data,
    removals: Removals,
    attribute: Attribute,
    over: Sequence[str],
    chosen: Sequence[int],
    seed: int,
    batch_size: int | None,
) -> Cell:
    """The numbers of right examples of each group [orders, units + 1], as plain values."""
    count, device = study.classes, data.device
    examples = torch.bincount(data.labels, minlength=count)
    used = torch.isin(data.labels, torch.tensor(chosen, device=device))
    wanted = data if attribute == "selectivity" or bool(used.all()) else data.subset(used.nonzero().flatten())
    passes = _Passes(removals, wanted, batch_size or removals.examples())
    sums = torch.zeros(count, removals.site.units, dtype=torch.float64, device=device)
    if attribute in ("activation", "selectivity"):
        for base, labels in passes:
            sums += class_sums(base.activation, labels, removals.site, count)
    there = [one for one in chosen if examples[one]]
    groups: list[int | None] = [*(there if "class" in over else []), *([None] if "all" in over else [])]
    order = unit_order(attribute, groups, removals.site, sums, examples, study.network, study.final, seed)
    right = torch.zeros(len(groups), 2, removals.site.units + 1, dtype=torch.int64, device=device)
    place = torch.full((count,), -1, device=device)
    place[there] = torch.arange(len(there), device=device)
    with progress(f"ablating {removals.site.layer}", len(wanted)) as advance:
        for base, labels in passes:
            mine = place[labels]
            for of in [mine] * ("class" in over) + [torch.where(mine < 0, mine, len(groups) - 1)] * ("all" in over):
                rows = (of >= 0).nonzero().flatten()
                part = base if len(rows) == len(of) else base.of(rows)
                orders = [one[of[rows]] for one in (order.flip(1), order)]  # the units that stay longest come first
                for number, found in enumerate(removals.right(part, labels[rows], orders)):
                    right[:, number].index_add_(0, of[rows], found.flip(1).long())
            advance(len(labels))
    return {
        "groups": groups,
        "missing": [one for one in chosen if not examples[one]] if "class" in over else [],
        "examples": [int(examples[there].sum() if group is None else examples[group]) for group in groups],
        "order": order.tolist(),
        "right": right.tolist(),
    }


class _Passes:
    """Recorded examples with their labels, batch by batch; kept from the first time on where they fit a quarter of the memory."""

    def __init__(self, removals: Removals, data: Data, size: int) -> None:
        self._removals, self._data, self._size = removals, data, size
        self._kept: list[tuple[Recorded, Tensor]] | None = None

    def __iter__(self) -> Iterator[tuple[Recorded, Tensor]]:
        if self._kept is not None:
            yield from self._kept
            return
        kept, held = [], 0
        for inputs, labels in self._data.batches(self._size):
            found = self._removals.record(inputs), labels
            held += found[0].bytes
            kept = [*kept, found] if held * 4 <= self._removals.memory else []
            yield found
        self._kept = kept if held * 4 <= self._removals.memory else None


def _rows(cell: Cell, site: Site, position: int, split: str) -> pl.DataFrame:
    """The table of one layer."""
    what = {"layer": site.layer, "position": position, "activation": site.module, "split": split}
    units = site.units
    parts = []
    for group, examples, order, curves in zip(
        cell["groups"], cell["examples"], cell["order"], cell["right"], strict=True
    ):
        for name, right, taken in zip(ORDERS, curves, (order, order[::-1]), strict=True):
            columns = {key: [value] * (units + 1) for key, value in {**what, "class": group, "order": name}.items()}
            columns |= {"removed": list(range(units + 1)), "unit": [None, *taken], "right": right}
            columns |= {"examples": [examples] * (units + 1), "accuracy": [number / examples for number in right]}
            columns |= {"status": ["ok"] * (units + 1), "reason": [None] * (units + 1)}
            parts.append(pl.DataFrame(columns, schema=SCHEMA))
    for group in cell["missing"]:
        row = dict.fromkeys(SCHEMA) | what | {"class": group, "examples": 0, "status": "unavailable"}
        parts.append(pl.DataFrame([row | {"reason": f"class {group} has no {split} examples"}], schema=SCHEMA))
    return pl.concat(parts)


def _classes(classes: Sequence[int] | None, data: Data, count: int) -> list[int]:
    """The classes asked for; all without a choice."""
    if classes is None:
        return list(range(count))
    chosen = list(dict.fromkeys(list_of(int, "a list of classes, such as [0, 3]", classes=classes)))
    present = set(data.labels.tolist())
    for one in chosen:
        if not 0 <= one < count:
            raise InputError(f"class {one!r} is not there: the network has {count} classes, from 0 to {count - 1}.")
        if one not in present:
            raise InputError(f"class {one} has no examples in these data; choose others, or leave classes out.")
    if not chosen:
        raise InputError("classes=[]: name at least one class, or leave it out.")
    return chosen


def _refuse_rows(study: Study, site: Site, some: Inputs) -> None:
    """One error for an activation of which nothing says what belongs to which example."""
    count = count_of(some)
    for number in (count, max(1, count - 1)):
        few = map_inputs(lambda tensor, number=number: tensor[:number].clone(), some)
        with (
            recorded(study.network, site) as seen,
            evaluation_mode(study.network),
            torch.no_grad(),
            torch.random.fork_rng(devices=[]),
        ):
            forward(study.network, few, study.final)
        if len(seen[0]) != number:
            raise InputError(
                f"layer {site.layer!r}: its activation {list(seen[0].shape)} of {number} examples has no row for each of them, so that "
                "classes cannot be told apart; choose another layer, or let the network keep examples in the first dimension."
            )


def _refuse_chance(cell: Cell, classes: int, split: str) -> None:
    """One error for a network that has nothing to lose."""
    groups = [n for n, group in enumerate(cell["groups"]) if group is not None] or range(len(cell["groups"]))
    right = sum(cell["right"][n][0][0] for n in groups)
    total = sum(cell["examples"][n] for n in groups)
    if right / total <= 1 / classes:
        raise RunError(
            f"the network gets {right} of {total} {split} examples right, no more than guessing among {classes} classes would: "
            "there is nothing that removing units could show; train it first."
        )
