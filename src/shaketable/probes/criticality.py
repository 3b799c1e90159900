"""Module criticality: how near to its init, and in how wide a valley, each layer could stand with little error."""

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl

from shaketable.data import Data
from shaketable.engine import Engine, Found, Level, Precision
from shaketable.engine.decisions import check_failure
from shaketable.errors import InputError, RunError
from shaketable.params import Grouping
from shaketable.probes.cells import Cell, Cells
from shaketable.probes.moves import Parameters
from shaketable.probes.searches import Line, Searches, lines_of
from shaketable.probes.stored import Result, check_whole, facts_of, identity_of, stored, time_taken
from shaketable.study import Study

Threshold = Literal["absolute", "increase", "ratio"]
THRESHOLDS = ("absolute", "increase", "ratio")
ALPHAS = tuple(step / 20 for step in range(21))
"""0, 0.05, ... 1."""
SIGMAS = tuple(10.0 ** (step / 40 - 4) for step in range(161))
"""From 1e-4 to 1, 40 in each power of ten: neighbours differ by 5.9%, and their criticality by 12%."""
VERSION = 1
INFEASIBLE = (
    "its error exceeds the bound at every alpha, even with the smallest sigma; raise epsilon or add smaller sigmas"
)
STILL = "its init equals its final weights: it did not move"
SCHEMA = {
    "layer": pl.String,
    "position": pl.Int64,
    "kind": pl.String,
    "parameters": pl.Int64,
    "epsilon": pl.Float64,
    "bound": pl.Float64,
    "criticality": pl.Float64,
    "criticality_stderr": pl.Float64,
    "alpha": pl.Float64,
    "sigma": pl.Float64,
    "distance": pl.Float64,
    "error": pl.Float64,
    "error_stderr": pl.Float64,
    "pac_bayes": pl.Float64,
    "pac_bayes_stderr": pl.Float64,
    "pac_bayes_sigma": pl.Float64,
    "draws": pl.Int64,
    "examples": pl.Int64,
    "tests": pl.Int64,
    "outcomes": pl.Int64,
    "monotone": pl.Boolean,
    "status": pl.String,
    "reason": pl.String,
}


class Criticality(Result):
    """The table of module criticality, with what it rests on.

    Attributes:
        table: one row per layer and epsilon. ``criticality`` (>= 0, ``criticality_stderr``) was found at ``alpha`` and
            ``sigma``; ``distance`` is the Frobenius norm of final - init; ``bound`` what the error may be; ``error`` is the
            mean over draws there, on at most 512 examples, with its standard error over draws. ``pac_bayes`` is the same at
            alpha = 1. ``draws`` of the noise; ``examples``: the most that an answer used; ``tests``: how many points were
            tested; ``outcomes``: pairs of an example and a draw that were evaluated for them, without those of guesses.
            ``monotone`` is False where the error fell again behind a point at which it was too large. ``status`` is
            ``"ok"``, ``"infeasible"`` (the bound is exceeded at every alpha, even with the smallest sigma) or
            ``"unavailable"``, with a ``reason``.
        provenance: what, with which arguments, versions, seeds and hashes.
    """

    NAME: ClassVar[str] = "criticality"

    def summary(self) -> pl.DataFrame:
        """Network criticality and PAC-Bayes, the sums over layers: one row per epsilon.

        Returns: ``epsilon``, ``bound``, ``network_criticality`` and ``pac_bayes`` (null where a layer has none), each with
            ``_stderr`` (the root of the sum of squares; null where one is not known), ``layers``, ``without`` (how many layers
            have no number), ``most_critical`` (the layer with the largest criticality).

        References: Chatterji, Neyshabur, Sedghi, 2020, equation 2 and table 1.
        """
        missing = pl.col("criticality").null_count()
        columns = [pl.col("bound").first()]
        for value, name in (("criticality", "network_criticality"), ("pac_bayes", "pac_bayes")):
            known = pl.col(value).null_count() == 0
            error = pl.col(f"{value}_stderr").filter(pl.col(value) > 0)  # a value of 0 has none
            columns += [
                pl.when(known).then(pl.col(value).sum()).alias(name),
                pl.when(known & (error.null_count() == 0)).then(error.pow(2).sum().sqrt()).alias(f"{name}_stderr"),
            ]
        largest = pl.col("layer").sort_by("criticality", descending=True, nulls_last=True).first()
        columns += [pl.len().alias("layers"), missing.alias("without"), largest.alias("most_critical")]
        return self.table.group_by("epsilon", maintain_order=True).agg(columns)

    def splits(self) -> list[str]:
        """The split that was measured."""
        return [self.provenance["split"]]

    def plot(self, **arguments: Any) -> Any:
        """Bars of the criticality of each layer; see :func:`shaketable.plots.criticality_bars`."""
        from shaketable.plots import criticality_bars

        return criticality_bars(self.table, **arguments)


def criticality(
    study: Study,
    by: Grouping = "module",
    *,
    epsilon: float | Sequence[float] = 0.1,
    threshold: Threshold = "absolute",
    quantity: Literal["error", "loss"] = "error",
    alphas: Sequence[float] = ALPHAS,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 10,
    parameters: Parameters = "weight",
    pac_bayes: bool = True,
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
) -> Criticality:
    r"""How near to its init, and in how wide a valley, each layer could stand with a training error of at most epsilon.

    .. math:: \mu_{i,\epsilon} = \min_{0 \le \alpha, \sigma \le 1} \Bigl\{ \frac{\alpha^2 \lVert\theta_i^F - \theta_i^0
              \rVert_F^2}{\sigma^2} : \mathbb E_{u \sim \mathcal N(0, \sigma^2 I)} \bigl[L_S\bigl(f_{(1 - \alpha) \theta_i^0
              + \alpha \theta_i^F + u,\, \Theta^F_{-i}}\bigr)\bigr] \le \epsilon \Bigr\}

    for layer i with init :math:`\theta_i^0` and final weights :math:`\theta_i^F`, all other parameters :math:`\Theta_{-i}^F` as
    trained; :math:`L_S` is the 0-1 error on the training data. The expectation is the mean over ``draws`` draws of u, the same
    ones at every point. Network criticality is the sum over layers. With alpha = 1 alone this is the paper's "PAC Bayes".
    Nothing is retrained; running statistics stay as trained; data are not augmented.

    Args:
        study: gives init, final weights, and training data.
        by: ``"module"``: each convolution or linear layer; or another grouping, see :func:`shaketable.params.layers`.
        epsilon: the bound on the error, in [0, 1]; several give a table for each (figure 5).
        threshold: what epsilon means: ``"absolute"``: error <= epsilon; ``"increase"``: error <= clean error + epsilon;
            ``"ratio"``: error <= (1 + epsilon) x clean error.
        quantity: ``"error"``, or ``"loss"``: the mean cross-entropy in nats instead, decided on exact sums.
        alphas: the grid for alpha, ascending, in [0, 1]; 0, 0.05, ... 1 by default.
        sigmas: the grid for sigma, ascending, in (0, 1]; 1e-4 to 1 in steps of 5.9% by default.
        draws: draws of the noise, at least 2 for a standard error.
        parameters: ``"weight"``: the weights of linear operators alone; ``"all"``: all parameters of a layer.
        pac_bayes: also search at alpha = 1.
        split: the data; ``"train"`` in the paper.
        failure: the probability that any of the answers on which a table rests is wrong, see :func:`shaketable.engine.decide`.
        exact: certain answers only.
        seed: of the noise and of the order of examples.
        level, precision, memory, batch_size: of the :class:`shaketable.engine.Engine`.
        store: a folder that keeps the answers as they come: interrupted work goes on from there, finished work is read.
        command: what the user typed, for the report.

    Returns: a :class:`Criticality`. Its numbers are at least 0; 0 where the layer may go back to its init (alpha = 0). A layer
        that exceeds the bound at every alpha, even with the smallest sigma, has status ``"infeasible"`` and no number; one that
        cannot be perturbed has ``"unavailable"`` and the reason.

    Raises:
        InputError: no init, a clean error above the bound, a grid out of range or not ascending.

    Warns: a layer whose init equals its final weights has criticality 0.

    Cost: one pass over the data for the clean error; for each layer a search by guesses, each from at most 500 pairs of an
        example and a draw, which says where to start; then about one test an alpha, of some hundred pairs, and near the bound
        of some ten thousand. ``draws`` copies of the weights in memory.

    Deviates: the grids are ours (the paper prints none). sigma = 0 is excluded, where the value is infinite. Biases and
        normalisations are not perturbed by default (the paper speaks of weight matrices). The standard error is ours: the
        spread of the error over draws divided by its slope in sigma, times the slope of the value. The one public code
        takes any objective within 1% of its final value (``quantity="loss", threshold="ratio", epsilon=0.01``).

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": 100 * torch.eye(2)}, init={"weight": -torch.eye(2)},
        ...               train=(torch.eye(2), [0, 1]))
        >>> row = criticality(study, draws=2).table.row(0, named=True)
        >>> row["alpha"], row["sigma"], round(row["criticality"], 3)
        (0.05, 1.0, 51.005)

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
    networks", 2020, definition 3.1, equation 2, table 1.
    """
    started = time.monotonic()
    epsilons, alphas, sigmas = _numbers(epsilon, "epsilon"), _numbers(alphas, "alphas"), _numbers(sigmas, "sigmas")
    _check(epsilons, threshold, quantity, alphas, sigmas)
    check_whole(seed=seed)
    check_whole(1, draws=draws)
    check_failure(failure)
    data = study.data(split)
    engine = Engine(study.network, study.final, level=level, precision=precision, memory=memory, batch_size=batch_size)
    lines, refused = lines_of(study, by, parameters, draws, seed)
    still = [line.layer.name for line in lines if not line.move.distance]
    if still:
        warnings.warn(f"init equals final in {', '.join(still)}: the criticality there is 0", stacklevel=2)
    arguments = {
        "layers_by": by if isinstance(by, str) else "your own",
        "epsilon": epsilons,
        "threshold": threshold,
        "quantity": quantity,
        "alphas": list(alphas),
        "sigmas": list(sigmas),
        "draws": draws,
        "parameters": parameters,
        "pac_bayes": pac_bayes,
        "split": split,
        "failure": failure,
        "exact": exact,
        "seed": seed,
    }

    def identity() -> dict[str, Any]:
        found = [[line.layer.name, line.layer.params] for line in (*lines, *refused)]
        return identity_of(study, "criticality", VERSION, {split: data}, layers=found, **arguments)

    def measured(cells: Cells) -> Criticality:
        clean = _clean(cells, engine, data, quantity)
        named = "training" if split == "train" else split
        bounds = [error_bound(clean, one, threshold, quantity, named) for one in epsilons]
        rows: list[Cell] = []
        each = failure / len(epsilons)
        for one, bound in zip(epsilons, bounds, strict=True):
            searches = Searches(engine, data, bound, quantity, alphas, sigmas, pac_bayes, each, exact, seed)
            rows += _rows(searches, one, lines, refused, cells)
        found = facts_of(study, {split: data}, **arguments, clean=clean, command=command, engine=engine.choice)
        table = pl.DataFrame([dict.fromkeys(SCHEMA) | row for row in rows], schema=SCHEMA)
        return Criticality(table.sort("epsilon", "position"), found | time_taken(started))

    return stored(Criticality, store, identity, measured, command)


def _rows(
    searches: Searches, epsilon: float, lines: Sequence[Line], refused: Mapping[Line, str], cells: Cells
) -> list[Cell]:
    """The rows of one bound."""
    moved = {line.layer.name: line for line in lines if line.move.distance}

    about = f"epsilon {epsilon} from a guess"
    valley, final = searches.found(list(moved.values()), cells, about)
    spread = {}
    for kind, found in (("valley", valley), ("final", final)):
        points = {name: (one.point[0], one.point[1]) for name, one in found.items() if one.point is not None}
        key = f"{about} spread {kind}"
        spread[kind] = cells.get(key, lambda points=points: {"spread": searches.spread(points, moved)})["spread"]
    rows = []
    for line in lines:
        facts = _facts(line, epsilon, searches.bound)
        if not line.move.distance:
            zero = {"criticality": 0.0, "alpha": 0.0, "distance": 0.0, "status": "ok", "reason": STILL}
            rows.append(facts | zero | ({"pac_bayes": 0.0} if searches.pac_bayes else {}))
            continue
        name = line.layer.name
        both = [valley[name], *([final[name]] if name in final else [])]
        decisions = [decision for one in both for decision in one.decisions]
        rows.append(
            facts
            | {"distance": line.move.distance, "draws": len(line.noise)}
            | _values(valley[name], spread["valley"].get(name), line.move.distance, "criticality")
            | (
                _values(final[name], spread["final"].get(name), line.move.distance, "pac_bayes")
                if name in final
                else {}
            )
            | {
                "examples": max(decision.examples for decision in decisions),
                "tests": len(decisions),
                "outcomes": sum(decision.outcomes for decision in decisions),
                "monotone": all(one.monotone for one in both),
            }
        )
    for line, reason in refused.items():
        rows.append(_facts(line, epsilon, searches.bound) | {"status": "unavailable", "reason": reason})
    return rows


def _facts(line: Line, epsilon: float, bound: float) -> Cell:
    """What a row says before anything is measured."""
    layer, size = line.layer, sum(line.move.final[name].numel() for name in line.move.names)
    named = {"layer": layer.name, "position": line.position, "kind": layer.kind, "parameters": size}
    return named | {"epsilon": epsilon, "bound": bound, "status": "ok"}


def _values(found: Found, spread: Sequence[float | None] | None, distance: float, what: str) -> Cell:
    """The numbers of a search: the value with its standard error, and where it was found."""
    prefix = "" if what == "criticality" else f"{what}_"
    if found.point is None:
        if what == "pac_bayes":
            return {}
        return {"status": "infeasible", "reason": INFEASIBLE}
    alpha, sigma = found.point
    value = (alpha * distance / sigma) ** 2
    numbers: Cell = {what: value, f"{prefix}sigma": sigma}
    if what == "criticality":
        numbers["alpha"] = alpha
    if spread is None:
        return numbers
    mean, deviation, slope = spread
    assert slope is not None
    if what == "criticality":
        numbers |= {"error": mean, "error_stderr": deviation}
    if deviation and slope > 0:  # no spread over draws, or none of it felt: nothing is known of the error
        numbers[f"{what}_stderr"] = 2 * value / sigma * deviation / slope
    return numbers


def _clean(cells: Cells, engine: Engine, data: Data, quantity: str) -> float:
    """The error (or loss) of the trained network."""

    def measure() -> Cell:
        sums = engine.sums([{}], data)[0]
        if sums.not_finite:
            raise RunError(f"{sums.not_finite} training examples have NaN or infinite logits with the final weights.")
        return {"error": sums.error, "loss": sums.mean_loss}

    return cells.get("clean", measure)[quantity]


def _numbers(given: Any, name: str) -> list[float]:
    """One number, or several, as a list of floats."""
    try:
        values = given if hasattr(given, "__len__") else [given]
        numbers = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}={given!r}: give numbers, one or a list.") from error
    if isinstance(given, bool | str) or any(math.isnan(number) for number in numbers):
        raise InputError(f"{name}={given!r}: give numbers, one or a list.")
    return numbers


def _check(
    epsilons: Sequence[float], threshold: str, quantity: str, alphas: Sequence[float], sigmas: Sequence[float]
) -> None:
    """One error for an argument that is out of range."""
    if threshold not in THRESHOLDS:
        raise InputError(f"threshold={threshold!r}: use one of {', '.join(THRESHOLDS)}.")
    if quantity not in ("error", "loss"):
        raise InputError(f"quantity={quantity!r}: use 'error' or 'loss'.")
    top = 1.0 if quantity == "error" and threshold != "ratio" else math.inf
    if not epsilons or not all(0 <= one <= top and one < math.inf for one in epsilons):
        raise InputError(f"epsilon={epsilons!r}: give a number from 0{' to 1' if top == 1 else ''}, or a list of such.")
    if len(set(epsilons)) < len(epsilons):
        raise InputError(f"epsilon={epsilons!r}: give each number once.")
    ranges = (
        ("alphas", alphas, lambda one: 0 <= one <= 1, "[0, 1]"),
        ("sigmas", sigmas, lambda one: 0 < one <= 1, "(0, 1] (at sigma = 0 the criticality is infinite)"),
    )
    for name, grid, fits, kind in ranges:
        if not grid or not all(map(fits, grid)) or list(grid) != sorted(set(grid)):
            raise InputError(f"{name}={list(grid)[:5]}: give a grid in {kind}, ascending.")


class TooManyErrors(InputError):
    """The network's own error is above the bound."""


def error_bound(
    clean: float, epsilon: float, threshold: Threshold, what: str = "error", split: str = "training"
) -> float:
    """The bound that epsilon means.

    Raises:
        TooManyErrors: the clean error (or loss) is above it already.
    """
    bound = {"absolute": epsilon, "increase": clean + epsilon, "ratio": clean * (1 + epsilon)}[threshold]
    if clean > bound:
        raise TooManyErrors(
            f"the clean {split} {what} is {clean:.4g}, above the bound {bound:.4g} (epsilon={epsilon:g}, "
            f"threshold={threshold!r}): no perturbation is needed to exceed it; raise epsilon above {clean:.4g}, use "
            "threshold='increase', or train further."
        )
    return bound
