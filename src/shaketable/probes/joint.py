"""Joint criticality: all layers on their way to init at once, with noise on all: the mu' of corollary 3.3."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import torch

from shaketable.data import Data
from shaketable.engine import Decision, Engine, Found, Level, Precision, Variant, minimum_value, run
from shaketable.engine.decisions import share
from shaketable.engine.search import Search
from shaketable.engine.variants import tensors_of_variant
from shaketable.errors import InputError, RunError
from shaketable.identity import seed_from
from shaketable.params import Grouping
from shaketable.probes.cells import Cell, Cells
from shaketable.probes.criticality import ALPHAS, SIGMAS, Criticality, Threshold, criticality
from shaketable.probes.moves import Parameters
from shaketable.probes.searches import Line, kept_answers, lines_of
from shaketable.probes.stored import Result, check_whole, facts_of, identity_of, stored, time_taken
from shaketable.progress import progress
from shaketable.study import Study

VERSION = 1
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
"""How far each alpha of the shared family lies from the layer's own one to 1."""
SCALES = tuple(10.0 ** (step / 40 - 3) for step in range(121))
"""By what all sigmas of the shared family are multiplied: 1e-3 to 1 in steps of 5.9%."""
GAIN = 0.05
"""The share of a layer's term that a change of its alpha and sigma must save to be taken."""
NARROWER = (1.0, 0.7, 0.5, 0.35)
"""Shares of a layer's sigma at which an alpha nearer to its init is tried."""
SCHEMA = {
    "layer": pl.String,
    "position": pl.Int64,
    "kind": pl.String,
    "parameters": pl.Int64,
    "alpha": pl.Float64,
    "sigma": pl.Float64,
    "distance": pl.Float64,
    "criticality": pl.Float64,
    "alone": pl.Float64,
    "status": pl.String,
    "reason": pl.String,
}
Setting = dict[str, tuple[float, float]]
"""Alpha and sigma of each layer."""


class JointCriticality(Result):
    """Alphas and sigmas of all layers at once, with what they come to.

    Attributes:
        table: one row per layer: ``alpha``, ``sigma``, ``distance`` (the Frobenius norm of final - init), ``criticality``: the
            layer's term alpha^2 distance^2 / sigma^2, and ``alone``: its module criticality.
        provenance: what, with which arguments, versions, seeds and hashes; ``found``: the row of :meth:`summary`.
    """

    NAME: ClassVar[str] = "joint"

    def summary(self) -> pl.DataFrame:
        """One row: ``joint_criticality`` (mu'), ``shared`` (its value after the first step of the search), ``error`` (mean
        over draws on all of the data) with ``error_stderr``, ``epsilon``, ``bound``, ``network_criticality`` (the sum of
        those of each layer alone), ``draws``, ``tests``, ``outcomes``."""
        return pl.DataFrame([self.provenance["found"]])

    def splits(self) -> list[str]:
        """The split that was measured."""
        return [self.provenance["split"]]


def joint_criticality(
    study: Study,
    by: Grouping = "module",
    *,
    epsilon: float = 0.1,
    threshold: Threshold = "absolute",
    alphas: Sequence[float] = ALPHAS,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 10,
    parameters: Parameters = "weight",
    sweeps: int = 1,
    split: str = "train",
    failure: float = 1e-4,
    exact: bool = False,
    seed: int = 0,
    level: Level = "auto",
    precision: Precision = "auto",
    memory: int | None = None,
    batch_size: int | None = None,
    store: str | Path | None = None,
    command: str | None = None,
) -> JointCriticality:
    r"""How near to init, and in how wide a valley, all layers could stand at once with a training error of at most epsilon.

    .. math:: \mu'_\epsilon = \min_{0 \le \alpha, \sigma \le 1} \Bigl\{ \sum_i \frac{\alpha_i^2 \lVert\theta_i^F - \theta_i^0
              \rVert_F^2}{\sigma_i^2} : \mathbb E_U\bigl[L_S(f_{\Theta^\alpha + U})\bigr] \le \epsilon \Bigr\}

    over an alpha and a sigma for each layer i. This is an optimum over a joint feasible set that nobody can search whole. The
    search here: (1) module criticality of each layer gives :math:`\alpha_i^*` and, at alpha = 1, :math:`\sigma_i^*`; (2) over a
    shared family, :math:`\alpha_i = \alpha_i^* + s (1 - \alpha_i^*)` and :math:`\sigma_i = c \, \sigma_i^*`, the smallest value at
    s in {0, 1/4, ... 1} and c in [1e-3, 1]; (3) layer by layer, largest term first, with the others as they are: more noise at its
    alpha, or a smaller alpha at its sigma or at 0.7, 0.5 or 0.35 of it. What is found is feasible, so
    its value is at least the minimum: as such it stands in corollary 3.3 of the paper.

    Args:
        study: gives init, final weights, and training data.
        by, epsilon, threshold, alphas, sigmas, draws, parameters, split, exact: as for :func:`criticality`.
        sweeps: how often step (3) goes through all layers; 0 leaves it out.
        failure: of all answers of steps 2 and 3 together, and once more of step 1.
        seed: of noise and order of examples.
        level, precision, memory, batch_size, store, command: as for :func:`criticality`.

    Returns: a :class:`JointCriticality`; at least 0, and 0 if all layers may go back to init together.

    Raises:
        InputError: as :func:`criticality`; or a layer that cannot be perturbed.
        RunError: no setting of the shared family is feasible.

    Cost: module criticality; then about twenty tests of whole networks for step 2, and for each sweep five to twenty
        for each layer. Twice ``draws`` copies of the weights in memory.

    Deviates: the paper prints "arg max" where the minimum of the value must be meant, and gives no search.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": 100 * torch.eye(2)}, init={"weight": 2 * torch.eye(2)},
        ...               train=(torch.eye(2), [0, 1]))
        >>> joint_criticality(study, draws=2).summary()["joint_criticality"].item()
        0.0

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
    networks", 2020, corollary 3.3.
    """
    started = time.monotonic()
    check_whole(0, sweeps=sweeps)
    if not isinstance(epsilon, int | float):
        raise InputError(f"epsilon={epsilon!r}: give one number; call this once for each.")
    same = {"threshold": threshold, "alphas": alphas, "sigmas": sigmas, "draws": draws, "parameters": parameters}
    same |= {"split": split, "failure": failure, "exact": exact, "seed": seed}
    how = {"level": level, "precision": precision, "memory": memory, "batch_size": batch_size}
    alone = criticality(study, by, epsilon=epsilon, **same, **how, store=store)  # pyright: ignore[reportArgumentType]
    without = alone.table.filter(pl.col("criticality").is_null() | pl.col("pac_bayes").is_null())
    if len(without):
        row = without.row(0, named=True)
        reason = row["reason"] or "it bears no noise of the grid at its final weights"
        raise InputError(f"layer {row['layer']!r} has no criticality: {reason}.")
    lines, _ = lines_of(study, by, parameters, draws, seed)
    data = study.data(split)
    grids = {"alphas": list(alphas), "sigmas": list(sigmas)}
    told = {"layers_by": alone.provenance["layers_by"], "epsilon": epsilon, "sweeps": sweeps} | same | grids

    def identity() -> dict[str, Any]:
        layers = [[line.layer.name, line.layer.params] for line in lines]
        return identity_of(study, "joint criticality", VERSION, {split: data}, layers=layers, **told)

    def measured(cells: Cells) -> JointCriticality:
        engine = Engine(study.network, study.final, **how)  # pyright: ignore[reportArgumentType]
        bound = alone.table["bound"][0]
        search = _Joint(engine, data, bound, lines, alone, alphas, sigmas, failure, exact, seed, cells)
        found, facts = search.found(sweeps)
        total = {"epsilon": epsilon, "bound": bound} | facts
        total["network_criticality"] = alone.summary()["network_criticality"][0]
        rows = [dict.fromkeys(SCHEMA) | row for row in search.rows(found)]
        facts = facts_of(study, {split: data}, **told, command=command, engine=engine.choice, found=total)
        return JointCriticality(pl.DataFrame(rows, schema=SCHEMA), facts | time_taken(started))

    return stored(JointCriticality, store, identity, measured, command)


@dataclass
class _Joint:
    """The search over settings of all layers."""

    engine: Engine
    data: Data
    bound: float
    lines: Sequence[Line]
    alone: Criticality
    alphas: Sequence[float]
    sigmas: Sequence[float]
    failure: float
    exact: bool
    seed: int
    cells: Cells
    decisions: list[Decision] = field(default_factory=list)
    searched: int = 0

    def __post_init__(self) -> None:
        rows = {row["layer"]: row for row in self.alone.table.to_dicts()}
        self._own = {name: (row["alpha"], row["pac_bayes_sigma"] or self.sigmas[0]) for name, row in rows.items()}
        self._distance = {line.layer.name: line.move.distance for line in self.lines}
        self._layer = {line.layer.name: line for line in self.lines}

    def found(self, sweeps: int) -> tuple[Setting, Cell]:
        """The setting found, and what it comes to."""
        names = [line.layer.name for line in self.lines]
        with progress("joint criticality", 1 + sweeps * len(names)) as advance:
            ways = [[(share, scale) for scale in SCALES] for share in SHARES]
            first = self._run("shared", minimum_value(ways, lambda p: self.value(self._shared(*p))), self._shared)
            advance()
            if first.point is None:
                raise RunError(
                    f"no joint setting keeps the error at {self.bound:.3g}, not even a thousandth of the noise that each "
                    "layer bears alone; raise epsilon."
                )
            setting = self._shared(*first.point)
            shared = self.value(setting)
            for sweep in range(sweeps):
                for name in sorted(names, key=lambda name: -self._term(name, *setting[name])):
                    setting = self._improved(setting, name, sweep)
                    advance()
        errors = self._errors(setting)
        spread = float(errors.std()) / math.sqrt(len(errors)) if len(errors) > 1 else None
        facts = {"joint_criticality": self.value(setting), "shared": shared, "error": float(errors.mean())}
        outcomes = sum(decision.outcomes for decision in self.decisions)
        counts = {"draws": len(errors), "tests": len(self.decisions), "outcomes": outcomes}
        return setting, facts | {"error_stderr": spread} | counts

    def value(self, setting: Setting) -> float:
        """The sum over layers of alpha^2 distance^2 / sigma^2."""
        return sum(self._term(name, *at) for name, at in setting.items())

    def rows(self, setting: Setting) -> list[Cell]:
        """The table's rows."""
        found = []
        for row in self.alone.table.to_dicts():
            alpha, sigma = setting[row["layer"]]
            term = self._term(row["layer"], alpha, sigma)
            kept = {name: row[name] for name in ("layer", "position", "kind", "parameters", "distance")}
            numbers = {"alpha": alpha, "sigma": sigma, "criticality": term, "alone": row["criticality"]}
            found.append(kept | numbers | {"status": "ok"})
        return found

    def _improved(self, setting: Setting, name: str, sweep: int) -> Setting:
        """The setting with a better alpha and sigma of one layer, if there is a better one."""
        alpha, sigma = setting[name]
        term = self._term(name, alpha, sigma)
        if not term:
            return setting
        nearer = sorted((a for a in {*self.alphas, alpha} if a <= alpha), reverse=True)
        ways = [[(alpha, s) for s in sorted({*self.sigmas, sigma}) if s >= sigma]]
        ways += [[(a, narrow * sigma) for a in nearer] for narrow in NARROWER]
        search = minimum_value(ways, lambda p: self._term(name, *p), below=(1 - GAIN) * term)
        found = self._run(f"sweep {sweep} {name}", search, lambda a, s: setting | {name: (a, s)})
        return setting if found.point is None else setting | {name: (found.point[0], found.point[1])}

    def _run(self, key: str, search: Search, at: Callable[[float, float], Setting]) -> Found:
        """One search over settings."""
        self.searched += 1
        searches = {key: (search, lambda point: self._variants(at(point[0], point[1])))}
        found = run(
            self.engine,
            searches,
            self.data,
            self.bound,
            failure=share(self.failure, self.searched),
            exact=self.exact,
            seed=seed_from(self.seed, key),
            remember=kept_answers(self.cells, key),
        )[key]
        self.decisions += found.decisions
        return found

    def _shared(self, share: float, scale: float) -> Setting:
        """The setting of the shared family."""
        return {
            name: (alpha + share * (1 - alpha), min(1.0, scale * sigma)) for name, (alpha, sigma) in self._own.items()
        }

    def _term(self, name: str, alpha: float, sigma: float) -> float:
        return (alpha * self._distance[name] / sigma) ** 2

    def _variants(self, setting: Mapping[str, tuple[float, float]]) -> list[Variant]:
        """One variant of the whole network a draw."""
        found: list[Variant] = []
        for draw in range(len(self.lines[0].noise)):
            tensors: dict[str, torch.Tensor] = {}
            for name, (alpha, sigma) in setting.items():
                line = self._layer[name]
                tensors |= tensors_of_variant(line.move.at(alpha, sigma, line.noise[draw]))
            found.append(tensors)
        return found

    def _errors(self, setting: Setting) -> torch.Tensor:
        """The error of each draw on all of the data."""
        key = "errors " + " ".join(f"{alpha:g} {sigma:g}" for alpha, sigma in setting.values())

        def measure() -> Cell:
            sums = self.engine.sums(self._variants(setting), self.data, losses=False)
            return {"errors": [one.error for one in sums]}

        return torch.tensor(self.cells.get(key, measure)["errors"], dtype=torch.float64)
