"""Valleys: error and loss around the straight line from a layer's initial to its final weights, under Gaussian noise.

The table has one row per layer, alpha, sigma, draw and side of the path: see :data:`SCHEMA`. :meth:`Valley.summary` has the
means over draws (figure 10), :meth:`Valley.surface` the picture of figure 1.
"""

import gc
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl
import torch

from shaketable.data import Data
from shaketable.engine import Engine, Level, Variant
from shaketable.errors import InputError
from shaketable.identity import generator_from
from shaketable.params import Grouping, Layer, Params
from shaketable.probes.cells import Cell, Cells
from shaketable.probes.moves import Move, Parameters, grid, move_of, moved_layers, stuck
from shaketable.probes.stored import (
    Result,
    check_whole,
    data_of,
    facts_of,
    identity_of,
    numbers_of,
    stored,
    sums_in_sections,
    time_taken,
)
from shaketable.progress import progress
from shaketable.study import Study

VERSION = 1
SIGMAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SCHEMA = {
    "layer": pl.String,
    "position": pl.Int64,  # in forward order, from 0
    "kind": pl.String,  # the class of the module
    "parameters": pl.Int64,  # k: how many move and get noise
    "distance": pl.Float64,  # ||theta^F - theta^0||
    "alpha": pl.Float64,  # 0: init, 1: final
    "sigma": pl.Float64,  # standard deviation of the noise u; 0: none, one row
    "draw": pl.Int64,  # which noise, from 0; null without noise
    "sign": pl.Int64,  # +1 or -1: of <u, theta^0>, the side of the path; null without noise
    "inner": pl.Float64,  # <u, theta^0>; <u, theta^F - theta^0> for a layer whose init is 0
    "norm": pl.Float64,  # ||u||
    "split": pl.String,
    "examples": pl.Int64,
    "errors": pl.Int64,
    "error": pl.Float64,  # errors / examples
    "loss": pl.Float64,  # mean cross-entropy in nats; null where logits are not finite
    "status": pl.String,  # "ok", "not finite", "unavailable"
    "reason": pl.String,
}
KEYS = ["layer", "position", "kind", "parameters", "distance", "alpha", "sigma", "split"]
"""What a row of the summary is about; then come draws, error, error_stderr, loss, loss_stderr, status, reason."""
SURFACE = ["layer", "position", "split", "distance", "alpha", "sigma", "sign", "y", "draws", "error", "loss", "status"]
"""The columns of the surface: x of the figure is alpha (or alpha x distance), y is ``y``, z is ``loss`` or ``error``."""


@dataclass(frozen=True, repr=False)
class Valley(Result):
    """The table of :func:`valley`, with what it rests on.

    Attributes:
        table: one row per layer, alpha, sigma, draw and sign: columns of :data:`SCHEMA`. ``error`` in [0, 1], ``loss`` in
            nats. A row that could not be computed has a ``status`` other than ``"ok"`` and a ``reason``.
        provenance: what, with which arguments, versions, seeds and hashes.
    """

    NAME: ClassVar[str] = "valley"

    def summary(self) -> pl.DataFrame:
        r"""Mean error and loss over draws: one row per layer, alpha, sigma and split (figure 10 of the paper).

        Returns: ``error`` and ``loss`` are means over draws, :math:`\mathbb E_u` estimated; ``error_stderr`` and
            ``loss_stderr`` are standard errors of these means (deviation over draws / sqrt(draws), a draw and its negative
            being one draw; null without noise and for a single draw); ``draws`` is how many (0 without noise). Where a draw
            has no number (a loss that is not finite) neither has the mean. At alpha 1 every layer without noise is the
            final network.
        """
        numbers = ["error", "loss"]
        # a draw and its negative are not independent: first their mean, and a null is never left out of it
        means = [pl.when(pl.col(name).null_count() == 0).then(pl.col(name).mean()) for name in numbers]
        told = [pl.col("status").sort_by(pl.col("status") == "ok").first(), pl.col("reason").drop_nulls().first()]
        pairs = self.table.group_by([*KEYS, "draw"], maintain_order=True).agg(*means, *told)
        errors = [
            pl.when(pl.col(name).null_count() == 0)
            .then(pl.col(name).std(ddof=1) / pl.col("draw").count().sqrt())
            .alias(f"{name}_stderr")
            for name in numbers
        ]
        columns = [pl.col("draw").count().cast(pl.Int64).alias("draws")]
        for mean, error in zip(means, errors, strict=True):
            columns += [mean, error]
        return pairs.group_by(KEYS, maintain_order=True).agg(*columns, *told)

    def surface(self, y: Literal["sigma", "norm"] = "sigma") -> pl.DataFrame:
        r"""The surface of the paper's figure 1: error and loss over alpha and the signed size of the noise.

        The x axis is the way from init (alpha 0) to final (alpha 1); the y axis stands for all other directions: the noise's
        size with the sign of :math:`\langle u, \theta^0 \rangle`. Each point is the mean over the draws of its sign.

        Args:
            y: the size of the noise: ``"sigma"``, its standard deviation, or ``"norm"``, the mean of its norms over the draws
                of that sign, which is on the scale of alpha x ``distance``: with both a ball in the figure is a ball.

        Returns: one row per layer, split, alpha and y, in this order, the columns of :data:`SURFACE`; y < 0 where the noise
            points away from init, 0 without noise (``sign`` 0). A sign that no draw has is not there: only
            ``antithetic=True`` gives every point both. ``draws`` is how many draws a point rests on.

        Raises:
            InputError: y is neither.
        """
        if y not in ("sigma", "norm"):
            raise InputError(f"y={y!r}: use 'sigma' or 'norm'.")
        means = [pl.when(pl.col(name).null_count() == 0).then(pl.col(name).mean()) for name in ("error", "loss")]
        size = pl.col("sigma").first() if y == "sigma" else pl.col("norm").mean()
        found = (
            self.table.with_columns(pl.col("sign").fill_null(0))
            .group_by([*KEYS, pl.col("sign")], maintain_order=True)
            .agg(
                (size * pl.col("sign").first()).fill_null(0.0).alias("y"),
                pl.col("draw").count().cast(pl.Int64).alias("draws"),
                *means,
                pl.col("status").sort_by(pl.col("status") == "ok").first(),
            )
        )
        return found.select(SURFACE).sort("position", "split", "alpha", "y", maintain_order=True)

    def plot(self, **arguments: Any) -> Any:
        """The loss over alpha and the signed noise, as in figure 1 from above; see :func:`shaketable.plots.valley_surface`."""
        from shaketable.plots import valley_surface

        return valley_surface(self.surface(), **arguments)


def valley(
    study: Study,
    layer: str | Iterable[str],
    alphas: int | Iterable[float] = 11,
    sigmas: Iterable[float] = SIGMAS,
    *,
    draws: int = 5,
    antithetic: bool = True,
    by: Grouping = "module",
    parameters: Parameters = "weight",
    split: str = "train",
    examples: int | None = None,
    seed: int = 0,
    level: Level = "auto",
    memory: int | None = None,
    batch_size: int | None = None,
    store: str | Path | None = None,
    command: str | None = None,
) -> Valley:
    r"""Error and loss of the network with Gaussian noise around each point of a layer's path from init to final.

    .. math:: L_S\bigl(f_{\theta_i^\alpha + u,\, \Theta_{-i}^F}\bigr), \qquad
              \theta_i^\alpha = (1 - \alpha)\, \theta_i^0 + \alpha\, \theta_i^F, \qquad u \sim \mathcal N(0, \sigma^2 I)

    for ``alphas`` :math:`\alpha` and ``sigmas`` :math:`\sigma`, a standard deviation. Draw r of the noise is one
    :math:`z_r \sim \mathcal N(0, I)`, the same at every point: :math:`u = \sigma z_r`. All other layers, biases, and
    running statistics stay as trained; nothing is retrained. No minimum is searched for: that is criticality.

    Args:
        study: a trained network with its initial weights, and data.
        layer: the name of a layer of the grouping, or several.
        alphas: how many points at equal steps from 0 to 1, or the points themselves, in [0, 1].
        sigmas: standard deviations, from 0; at 0 there is no noise, and one row. Definition 3.1 looks at (0, 1].
        draws: how many draws of the noise; more draws keep the earlier ones.
        antithetic: evaluate the negative of each draw as well: twice the cost, and every point of the surface has both signs.
            What is odd in the noise cancels exactly in the mean; where the loss is even in it, as near a minimum, the mean
            gains nothing, and both sides of the surface are the same.
        by: the grouping into layers; see :func:`shaketable.params.layers`.
        parameters: what of the layer moves and gets noise: the weights of linear operators alone, or ``"all"``.
        split: ``"train"`` or ``"test"``.
        examples: evaluate so many examples of the split, drawn from the seed, the same ones at every point; all, if left out.
        seed: of the noise and of the choice of examples.
        level, memory, batch_size: of the :class:`shaketable.engine.Engine`; they change speed and memory, not the result.
        store: a folder that keeps the sums as they come: interrupted work goes on from there, finished work is read.
        command: what the user typed, for the report.

    Returns: a :class:`Valley`; its table has the columns of :data:`SCHEMA`. A layer of integers is ``"unavailable"``; where
        logits were NaN or infinite the row says ``"not finite"``, these examples count as errors, and the loss is null.

    Raises:
        InputError: no init, no such data, an unknown layer, grouping or option, an alpha outside of [0, 1], a sigma below 0.

    Cost: for each layer alphas x sigmas x draws (x 2 if antithetic) parts of a pass over the data, that which lies behind the
        layer; a single linear operator itself runs draws + 2 times a batch (up to 30 draws). The noise of a layer is in memory.

    Deviates: the paper gives neither grids nor draws. The sign of the noise is that of its inner product with the initial
        weights, as in figure 1; for a layer whose initial weights are zero (a zero-initialised last layer) it is that with
        :math:`\theta^F - \theta^0`, and where that is zero too, + for a draw and - for its negative.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.eye(2)}, init={"weight": -torch.eye(2)},
        ...               train=(torch.eye(2), [0, 1]))
        >>> result = valley(study, "linear", alphas=[0, 1], sigmas=[0, 0.01], draws=3)
        >>> result.summary().select("alpha", "sigma", "draws", "error").rows()
        [(0.0, 0.0, 0, 1.0), (0.0, 0.01, 3, 1.0), (1.0, 0.0, 0, 0.0), (1.0, 0.01, 3, 0.0)]
        >>> result.surface().filter(pl.col("alpha") == 1)["y"].to_list()
        [-0.01, 0.0, 0.01]

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
    networks", 2020, figures 1 and 10, definition 3.1.
    """
    started = time.monotonic()
    alphas, sigmas = grid("alphas", alphas, 1.0), grid("sigmas", sigmas, math.inf)
    check_whole(1, draws=draws)
    check_whole(seed=seed)
    chosen = moved_layers(study, by, parameters, layer)
    data = whole = data_of(study, [split])[split]
    if examples is not None:
        check_whole(1, examples=examples)
        data = some_of(data, examples, split, seed)
    engine = Engine(study.network, study.final, level=level, memory=memory, batch_size=batch_size)
    plan = _Plan(study, engine, data, split, chosen, alphas, sigmas, draws, antithetic, seed)
    facts = facts_of(
        study,
        {split: whole},
        layers_by=by if isinstance(by, str) else "your own",
        parameters=parameters,
        alphas=list(alphas),
        sigmas=list(sigmas),
        draws=draws,
        antithetic=antithetic,
        examples=len(data),
        seed=seed,
        command=command,
    )

    def measure(cells: Cells) -> Valley:
        table = pl.DataFrame([dict.fromkeys(SCHEMA) | row for row in plan.rows(cells)], schema=SCHEMA)
        provenance = facts | {"engine": engine.choice} | time_taken(started)
        order = ["position", "alpha", "sigma", "draw", "sign"]
        return Valley(table.sort(order, maintain_order=True), provenance)

    return stored(Valley, store, plan.identity, measure, command)


@dataclass(frozen=True)
class _Plan:
    """What is measured: everything that decides a number, and the engine."""

    study: Study
    engine: Engine
    data: Data
    split: str
    layers: Mapping[int, Layer]
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    draws: int
    antithetic: bool
    seed: int

    def identity(self) -> dict[str, Any]:
        """What the numbers are the numbers of, as plain values."""
        what = {"alphas": self.alphas, "sigmas": self.sigmas, "draws": self.draws, "antithetic": self.antithetic}
        found = [[position, one.name, one.params] for position, one in self.layers.items()]
        data = {self.split: self.data}
        return identity_of(self.study, "valley", VERSION, data, layers=found, seed=self.seed, **what)

    def rows(self, cells: Cells) -> list[Cell]:
        """All rows of the table."""
        rows: list[Cell] = []
        reasons = {position: stuck(self.study, layer) for position, layer in self.layers.items()}
        with progress("valley", list(reasons.values()).count(None) * len(self.data)) as advance:
            for position, layer in self.layers.items():
                what = {"layer": layer.name, "position": position, "kind": layer.kind, "split": self.split}
                what["parameters"] = sum(self.study.final[name].numel() for name in layer.params)
                reason = reasons[position]
                if reason is None:
                    rows += self._measured(cells, layer, what, advance)
                    gc.collect()  # the engine's closures refer to each other, and to the noise
                else:
                    where = what | {"status": "unavailable", "reason": reason}
                    rows += [where | {"alpha": alpha, "sigma": sigma} for alpha in self.alphas for sigma in self.sigmas]
        return rows

    def _measured(self, cells: Cells, layer: Layer, what: Cell, advance: Callable[[int], object]) -> list[Cell]:
        """The rows of one layer, whose noise is gone when they are there."""
        jobs = self._jobs(layer, what)
        variants = [variant for _, variant in jobs]
        sums = sums_in_sections(cells, [self.split, layer.name], self.engine, variants, self.data, advance)
        return [facts | numbers_of(one) for (facts, _), one in zip(jobs, sums, strict=True)]

    def _jobs(self, layer: Layer, what: Cell) -> list[tuple[Cell, Variant]]:
        """A layer's variants, draw by draw (the engine keeps the outputs of a few terms), with what their rows say."""
        move = move_of(self.study, layer)
        what = what | {"distance": move.distance}
        jobs: list[tuple[Cell, Variant]] = []
        if 0.0 in self.sigmas:
            jobs = [(what | {"alpha": alpha, "sigma": 0.0, "norm": 0.0}, move.at(alpha)) for alpha in self.alphas]
        for draw in range(self.draws):
            noise = move.noise(self.seed, "valley", layer.name, draw)
            inner, norm = _inner(noise, move), _norm(noise, move)
            for side in (1, -1) if self.antithetic else (1,):
                sign = int(math.copysign(1, side * inner)) if inner else side
                for sigma in filter(None, self.sigmas):
                    facts = {"sigma": sigma, "draw": draw, "sign": sign}
                    facts |= {"inner": side * sigma * inner, "norm": sigma * norm}
                    jobs += [(what | facts | {"alpha": a}, move.at(a, side * sigma, noise)) for a in self.alphas]
        return jobs


def _inner(noise: Params, move: Move) -> float:
    """The inner product of noise with the initial weights; where these are zero, with the whole path. In float64."""
    to_init = any(bool(move.init[name].any()) for name in move.names)
    total = 0.0
    for name in move.names:
        along = move.init[name].double() if to_init else move.final[name].double() - move.init[name].double()
        total += float((noise[name].double() * along).sum())
    return total


def _norm(noise: Params, move: Move) -> float:
    """The norm of noise, in float64."""
    return math.sqrt(sum(float(noise[name].double().square().sum()) for name in move.names))


def some_of(data: Data, examples: int, split: str, seed: int) -> Data:
    """So many examples, drawn without replacement, in their own order."""
    if examples > len(data):
        raise InputError(f"examples={examples}: the {split} data have {len(data)}; give at most so many.")
    order = torch.randperm(len(data), generator=generator_from(seed, "valley", "examples"))
    return data.subset(order[:examples].sort().values)
