"""Joint robustness: groups of layers reset or dropped together, nothing retrained."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import polars as pl
from torch import Tensor

from shaketable.data import Data
from shaketable.engine import Engine, Level, Variant
from shaketable.errors import InputError
from shaketable.identity import fingerprint, seed_from
from shaketable.params import Grouping, Layer, layers
from shaketable.perturb import Statistics, changed_tensors, fresh_params, reestimated_statistics, source_of
from shaketable.probes.cells import Cell, Cells
from shaketable.probes.result import FULL_MODEL
from shaketable.probes.robustness import NO_DISTRIBUTION, NO_INIT, check_statistics
from shaketable.probes.schemes import Groups, layer_groups
from shaketable.probes.stored import (
    COUNTED,
    EPOCHS,
    Result,
    check_whole,
    compared,
    data_of,
    facts_of,
    identity_of,
    in_memory,
    list_of,
    stored,
    sums_in_sections,
    time_taken,
)
from shaketable.progress import progress
from shaketable.removal import removals
from shaketable.study import Study

VERSION = 1
How = Literal["reinitialise", "rerandomise", "remove"]
HOWS = ("reinitialise", "rerandomise", "remove")
SCHEMA = {
    "group": pl.String,
    "position": pl.Int64,
    "layers": pl.Int64,
    "parameters": pl.Int64,
    "perturbation": pl.String,
    "checkpoint": pl.Int64,
    "draw": pl.Int64,
    **COUNTED,
    "distribution": pl.String,
    "status": pl.String,
    "reason": pl.String,
}


class JointRobustness(Result):
    """Errors of a trained network with groups of layers reset or dropped together.

    Attributes:
        table: one row per group, perturbation, checkpoint, draw and split, with the columns of
            :class:`shaketable.probes.Robustness`; ``group`` and ``layers``, the number of layers in it, take the place of ``layer``
            and ``kind``. ``perturbation`` is ``"reinitialise"``, ``"rerandomise"``, ``"remove"`` or, in the rows of the full model at a
            checkpoint (position -1), ``"none"``. A row that could not be computed has a ``status`` other than ``"ok"`` and a
            ``reason``.
        provenance: what, with which arguments, versions, seeds and hashes; ``groups``: the layers of each group, and
            ``layers``: all layers of the network, in forward order.
    """

    NAME: ClassVar[str] = "joint_robustness"

    def __repr__(self) -> str:
        return f"<JointRobustness of {self.provenance.get('name', 'a network')}: {len(self.groups)} groups, {len(self.table)} rows>"

    @property
    def groups(self) -> dict[str, list[str]]:
        """The layers of each group, in forward order."""
        return self.provenance["groups"]

    def with_rest(self) -> dict[str, list[str]]:
        """Each group by its name: itself and, where there is one, the group of all other layers; what one figure shows."""
        rests = {f"rest of {name}" for name in self.groups}
        own = [name for name in self.groups if name not in rests]
        return {name: [name, *(one for one in self.groups if one == f"rest of {name}")] for name in own}

    def summary(self) -> pl.DataFrame:
        """Mean and standard deviation over draws: one row per group, perturbation, checkpoint and split.

        Returns: ``error``, ``loss``, ``accuracy_drop`` are means, ``..._std`` standard deviations over draws (divisor draws -
            1; null for a single one). Where a draw has no number neither has the mean.
        """
        keys = ["group", "position", "layers", "parameters", "perturbation", "checkpoint", "split"]
        facts: list[pl.Expr] = [pl.col("error").count().alias("draws")]
        for name in ("error", "loss", "accuracy_drop"):
            whole = pl.when(pl.col(name).null_count() == 0)
            facts += [whole.then(pl.col(name).mean()).alias(name), whole.then(pl.col(name).std()).alias(f"{name}_std")]
        facts += [pl.col("distribution").first(), pl.col("status").sort_by(pl.col("status") == "ok").first()]
        facts += [pl.col("reason").drop_nulls().first()]
        return self.table.group_by(keys, maintain_order=True).agg(facts)

    def plot(self, **arguments: Any) -> Any:
        """The heat map of the paper's figures 6 and 11 to 13; see :func:`shaketable.plots.layer_sets.joint_heatmap`."""
        from shaketable.plots.layer_sets import joint_heatmap  # drawn only when asked for: nothing above depends on it

        return joint_heatmap(self.summary(), self.groups, self.provenance["layers"], **arguments)


def joint_robustness(
    study: Study,
    groups: Groups = "all-but-first",
    by: Grouping = "block",
    *,
    rest: bool = False,
    checkpoints: Iterable[int] | None = None,
    draws: int = 5,
    remove: bool = True,
    splits: Sequence[str] | None = None,
    statistics: Statistics | Literal["reestimate"] = "keep",
    statistics_batches: int = 10,
    seed: int = 0,
    level: Level = "auto",
    memory: int | None = None,
    batch_size: int | None = None,
    store: str | Path | None = None,
    command: str | None = None,
) -> JointRobustness:
    r"""The error of a trained network when all layers of a group are reset, or dropped, at the same time; for each group.

    .. math:: f(\theta'), \qquad \theta'_d = \begin{cases} \theta_d^\tau \text{ or a fresh draw} & d \in G \\
              \theta_d^T & \text{otherwise} \end{cases}

    for a group :math:`G` and a checkpoint :math:`\tau`; or the network without the residual blocks of :math:`G`. Nothing is
    retrained. Reference rows hold the full model at each checkpoint.

    Args:
        study: the final weights :math:`\theta^T`, the checkpoints, the data.
        groups: a scheme by name (``"all-but-first"``, ``"two-in-three"``, ``"every-other"``, each for chosen stages with
            ``":stage1,stage4"`` behind it), several in a list, or a mapping from names of groups to a scheme or to layers; see
            :mod:`shaketable.probes.schemes`. Groups may share layers.
        by: the layers, as for :func:`shaketable.robustness`.
        rest: behind each group one of all other layers, as the paper divides them in two.
        checkpoints: epochs :math:`\tau`; all that there are, if left out; an empty list leaves re-initialisation out.
        draws: fresh draws per group; 0 leaves re-randomisation out. Draw r is the draw r of :func:`shaketable.robustness`.
        remove: also drop the group; see :func:`shaketable.removal.removals`.
        splits, statistics, statistics_batches, seed, level, memory, batch_size, store, command: as for :func:`shaketable.robustness`.

    Returns: a :class:`JointRobustness`. What cannot be computed (no initial weights, a layer whose distribution is unknown, a
        block that cannot be dropped) is a row with ``status="unavailable"`` and the reason.

    Raises:
        InputError: no data, an unknown scheme, stage or layer, an empty group, a layer twice in one group, a checkpoint that
            does not exist, negative draws, or nothing to be done with the groups.

    Cost: for each group (checkpoints + draws + 1) times the part of a pass behind its first layer, and one base pass.

    Deviates: the drop in accuracy is our addition, and so are loss and removal without retraining (table 1 of the paper
        trains anew without the blocks: :func:`shaketable.removal.without` gives that network). See
        :func:`shaketable.probes.schemes.scheme_group` for what the paper leaves open about the groups.

    Example:
        >>> import torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)).eval()
        >>> eye = torch.eye(2)
        >>> study = Study(network, final={"0.weight": eye, "1.weight": eye}, init={"0.weight": -eye, "1.weight": -eye},
        ...               test=(eye, [0, 1]))
        >>> result = joint_robustness(study, {"second": ["1"], "both": ["0", "1"]}, draws=0, remove=False)
        >>> result.table.filter(perturbation="reinitialise").select("group", "error").rows()
        [('second', 1.0), ('both', 0.0)]

    References: Zhang, Bengio, Singer, "Are All Layers Created Equal?", JMLR 2022, section 4, appendix B.
    """
    started = time.monotonic()
    check_whole(seed=seed)
    check_whole(0, draws=draws)
    check_statistics(study, statistics, statistics_batches)
    data = data_of(study, splits)
    found = layers(study.network, by, study.example_inputs())
    named = layer_groups(found, groups, rest)
    if FULL_MODEL in named:
        raise InputError(
            f"no group may be called {FULL_MODEL!r}: that is the name of the reference rows; rename yours."
        )
    asked = study.epochs if checkpoints is None else list_of(int, EPOCHS, checkpoints=checkpoints)
    epochs = tuple(sorted(set(asked)))
    for epoch in epochs:
        study.checkpoint(epoch)  # says which there are
    members = {name: [layer for layer in found if layer.name in group] for name, group in named.items()}
    engine = Engine(study.network, study.final, level=level, memory=memory, batch_size=batch_size)
    no_init = study.init is None and (checkpoints is None or bool(epochs))
    if not (epochs or no_init or draws or remove):
        raise InputError("nothing is asked of the groups; give checkpoints, draws above 0, or remove=True.")
    plan = _Plan(
        study, engine, data, found, members, epochs, no_init, draws, remove, statistics, statistics_batches, seed
    )
    facts = facts_of(
        study,
        data,
        layers_by=by if isinstance(by, str) else "your own",
        layers=[layer.name for layer in found],
        groups={name: list(group) for name, group in named.items()},
        checkpoints=list(epochs),
        draws=draws,
        statistics=statistics,
        **({"statistics_batches": statistics_batches} if statistics == "reestimate" else {}),
        seed=seed,
        command=command,
    )

    def measure(cells: Cells) -> JointRobustness:
        rows = [dict.fromkeys(SCHEMA) | row for row in plan.measure(cells)]
        order = ["position", "perturbation", "checkpoint", "draw"]
        table = pl.DataFrame(rows, schema=SCHEMA).sort(order, maintain_order=True)
        return JointRobustness(table, facts | {"engine": engine.choice} | time_taken(started))

    return stored(JointRobustness, store, plan.identity, measure, command)


class Change(NamedTuple):
    """What a perturbation makes of one layer: its changed tensors, or why there are none."""

    tensors: dict[str, Tensor] | None
    reason: str | None = None
    distribution: str | None = None


def changes(
    study: Study, found: Sequence[Layer], how: How, number: int = 0, statistics: Statistics = "keep", seed: int = 0
) -> dict[str, Change]:
    """What a perturbation makes of each layer, by its name.

    Args:
        study: the network with its weights.
        found: the layers.
        how: ``"reinitialise"`` to the checkpoint ``number``, ``"rerandomise"`` by the draw ``number`` of ``seed``, or ``"remove"``.
        number: of the checkpoint or the draw.
        statistics: whether running statistics stay as trained.
        seed: of the draws; they are those of :func:`shaketable.robustness`.
    """
    if how == "remove":
        modules = dict(study.network.named_modules(remove_duplicate=False))
        paths = [layer.name for layer in found if layer.name in modules]
        dropped = removals(study.network, paths, study.example_inputs(), study.final)
        alone = Change(None, "it is no module of the network, so that nothing can stand in its place")
        return {layer.name: Change(*dropped[layer.name]) if layer.name in dropped else alone for layer in found}
    if how == "reinitialise":
        if number == 0 and study.init is None:
            return {layer.name: Change(None, NO_INIT) for layer in found}
        weights = study.checkpoint(number)
        return {layer.name: Change(changed_tensors(layer, weights, statistics)) for layer in found}
    drawn = seed_from(seed, "draw", number)
    fresh, sources = fresh_params(study.network, drawn, study.init, study.initialise)
    made = {}
    for layer in found:
        source = source_of(layer, sources)
        tensors = None if source is None else changed_tensors(layer, fresh, statistics)
        made[layer.name] = Change(tensors, NO_DISTRIBUTION if source is None else None, source)
    return made


@dataclass(frozen=True)
class _Plan:
    """What is measured: everything that decides a number, and the engine."""

    study: Study
    engine: Engine
    data: dict[str, Data]
    layers: tuple[Layer, ...]
    groups: dict[str, list[Layer]]
    epochs: tuple[int, ...]
    no_init: bool  # re-initialisation was asked for, and there is nothing to go back to
    draws: int
    remove: bool
    statistics: Statistics | Literal["reestimate"]
    statistics_batches: int
    seed: int

    def identity(self) -> dict[str, Any]:
        """What the numbers are the numbers of, as plain values."""
        study = self.study
        first = fresh_params(study.network, seed_from(self.seed, "draw", 0), study.init, study.initialise)[0]
        reestimates = {}
        if self.statistics == "reestimate":
            reestimates = {"reestimate": [self.statistics_batches, study.data("train").fingerprint()]}
        unasked = {"no_init": False} if self.study.init is None and not self.no_init else {}
        what = (
            reestimates
            | unasked
            | {
                "checkpoints": {epoch: fingerprint(study.checkpoint(epoch)) for epoch in self.epochs},
                "final_epoch": study.final_epoch,
                "layers": [[layer.name, layer.params, layer.buffers] for layer in self.layers],
                "groups": {name: [layer.name for layer in group] for name, group in self.groups.items()},
                "draws": self.draws,
                "first_draw": fingerprint(first) if self.draws else None,
                "remove": self.remove,
                "statistics": self.statistics,
                "seed": self.seed,
            }
        )
        return identity_of(study, "joint robustness", VERSION, self.data, **what)

    def measure(self, cells: Cells) -> list[Cell]:
        """All rows of the table."""
        sources: list[tuple[How, int]] = [("reinitialise", epoch) for epoch in self.epochs]
        sources.extend(("rerandomise", draw) for draw in range(self.draws))
        sources.extend([("remove", 0)] if self.remove else [])
        parts, rows, baselines = in_memory(sources, self.study), [], {}
        if self.no_init:
            missing = Change(None, NO_INIT)
            for name in self.groups:
                rows += [self._row(name, "reinitialise", 0) | _unavailable(split, missing) for split in self.data]
        with progress("joint robustness", len(parts) * sum(map(len, self.data.values()))) as advance:
            for part in parts:
                jobs: list[tuple[Cell, Variant]] = []
                if part is parts[0] and self.study.final_epoch not in self.epochs:
                    jobs.append((self._row(None, "none", self.study.final_epoch), {}))
                for how, number in part:
                    made, missing = self._jobs(how, number)
                    jobs, rows = jobs + made, rows + missing
                for split, data in self.data.items():
                    variants = [{}, *(variant for _, variant in jobs)]
                    found = sums_in_sections(cells, [split, part], self.engine, variants, data, advance)
                    baseline = baselines.setdefault(split, found[0])
                    for (what, _), sums in zip(jobs, found[1:], strict=True):
                        rows.append(what | {"split": split} | compared(sums, baseline))
        return rows

    def _jobs(self, how: How, number: int) -> tuple[list[tuple[Cell, Variant]], list[Cell]]:
        """The variants of a checkpoint, of a draw, or of removal, and rows that cannot be computed."""
        jobs: list[tuple[Cell, Variant]] = []
        missing: list[Cell] = []
        is_final = how == "reinitialise" and number == self.study.final_epoch
        if how == "reinitialise":
            jobs.append((self._row(None, "none", number), {} if is_final else self.study.checkpoint(number)))
        with_layer: Statistics = "rewind" if self.statistics == "rewind" else "keep"
        made = changes(self.study, self.layers, how, number, with_layer, self.seed)
        for name, group in self.groups.items():
            checkpoint, draw = number if how == "reinitialise" else None, number if how == "rerandomise" else None
            what, parts = self._row(name, how, checkpoint, draw), [made[layer.name] for layer in group]
            reason = next(
                (f"{layer.name}: {made[layer.name].reason}" for layer in group if made[layer.name].reason), None
            )
            if reason:
                missing += [what | _unavailable(split, Change(None, reason)) for split in self.data]
                continue
            whole = {key: tensor for part in parts for key, tensor in (part.tensors or {}).items()}
            what["distribution"] = " + ".join(dict.fromkeys(p.distribution for p in parts if p.distribution)) or None
            if self.statistics == "reestimate" and not is_final:
                weights, train = {**self.study.final, **whole}, self.study.data("train")
                whole |= reestimated_statistics(self.study.network, weights, train, batches=self.statistics_batches)
            jobs.append((what, {} if is_final else whole))
        return jobs, missing

    def _row(
        self, group: str | None, perturbation: str, checkpoint: int | None = None, draw: int | None = None
    ) -> Cell:
        """What a row says before anything is measured."""
        members = self.layers if group is None else self.groups[group]
        size = sum(parameter.numel() for parameter in self.study.network.parameters())
        if group is not None:
            size = sum(self.study.final[name].numel() for layer in members for name in layer.params)
        position = -1 if group is None else list(self.groups).index(group)
        facts = {"group": group or FULL_MODEL, "position": position, "layers": len(members), "parameters": size}
        return facts | {"perturbation": perturbation, "checkpoint": checkpoint, "draw": draw, "status": "ok"}


def _unavailable(split: str, change: Change) -> Cell:
    """What a row says that could not be computed."""
    return {"split": split, "status": "unavailable", "reason": change.reason}
