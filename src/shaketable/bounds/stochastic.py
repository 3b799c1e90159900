"""The honest bound, end to end: noise on every trained parameter, its error by fresh draws, and theorem 3.2 on top."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import polars as pl
import torch
from torch import Tensor

from shaketable.bounds.bound import Assumption, Bound, check_positive, check_probability, check_whole, rows
from shaketable.bounds.criticality import (
    GIVEN_ERROR,
    GIVEN_LAYERS,
    Form,
    check_form,
    check_layers,
    corollary_bound,
    criticality_bound,
)
from shaketable.bounds.mcallester import expected_error
from shaketable.data import Data
from shaketable.engine import Engine
from shaketable.errors import InputError
from shaketable.identity import generator_from
from shaketable.params import Grouping, Layer, layers
from shaketable.probes import joint_criticality
from shaketable.study import Study

AT_ONCE = 2**28
"""Bytes of drawn weights that are held at a time, with what their evaluation copies of them."""

SCALE_SCHEMA = {
    "scale": pl.Float64,
    "draws": pl.Int64,
    "train_error": pl.Float64,
    "train_error_stderr": pl.Float64,
    "test_error": pl.Float64,
    "test_error_stderr": pl.Float64,
    "divergence": pl.Float64,
    "estimate": pl.Float64,
    "status": pl.String,
    "reason": pl.String,
}


def study_bound(
    study: Study,
    alphas: float | Mapping[str, float],
    sigmas: float | Mapping[str, float],
    *,
    draws: int = 100,
    delta: float = 0.05,
    delta_draws: float | None = None,
    scales: Sequence[float] = (1.0,),
    search_draws: int = 10,
    by: Grouping = "module",
    form: Form = "inverse",
    seed: int = 0,
    advance: Callable[[int], object] = lambda draws: None,
) -> Bound:
    r"""The bound of theorem 3.2 on the error of a trained network with Gaussian noise on all its layers, from training data.

    .. math:: \theta_i = (1 - \alpha_i) \theta_i^0 + \alpha_i \theta_i^F + \sigma_i c \, z_i, \qquad z_i \sim \mathcal N(0, I)

    for every layer i at once, with ``alphas``, ``sigmas`` and the best c of ``scales``. Its expected training error is not
    known: its mean over ``draws`` is, and an upper confidence bound on that. The error on test data of the same draws stands
    beside it, as a term; it is no part of the bound.

    Not done: nothing is said about the trained network itself, whose test error is a term too. The bound is on the error of
    a network that is drawn anew for each example.

    Args:
        study: with init and training data; test data if there are some.
        alphas: one for all layers, or one for each by its name, in [0, 1].
        sigmas: as ``alphas``, standard deviations in (0, 1] times the scale; above 1 they are taken as 1.
        draws: networks drawn for the estimate.
        delta: the probability that the bound fails, over training sets and draws.
        delta_draws: the part of it for the draws; a fifth without.
        scales: factors on all sigmas. Where there are several, the best by ``search_draws`` draws is taken, and its error is
            then estimated by fresh ones; the theorem holds for all posteriors at once, so the search costs no delta.
        search_draws: draws for each scale.
        by: the grouping into layers, which share an alpha, a sigma and a prior. Every parameter that training moved should
            be in one: "module" has them all, biases and normalisations too.
        form: as for :func:`shaketable.bounds.criticality_bound`.
        seed: of the draws.
        advance: called with a number of draws that are done, from time to time.

    Returns: a :class:`Bound`. Where training moved something that is in no layer (running statistics; parameters that your
        grouping leaves out), an assumption fails and the statement says that this is no bound.

    Raises:
        InputError: no init, no training data, labels per token, a layer without an alpha or a sigma, a number out of range.

    Cost: ``draws + search_draws x len(scales)`` passes over training and test data.

    Deviates: the paper estimates by draws and says nothing of their error. Among equal logits the lowest class is the
        decision here, and the paper counts an error: the theorem holds for either. The draws are pseudo-random, rounded to
        the weights' precision.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> data = (torch.eye(2).repeat(500, 1), torch.tensor([0, 1]).repeat(500))
        >>> final, init = {"weight": 0.5 * torch.eye(2)}, {"weight": torch.zeros(2, 2)}
        >>> study = Study(network, final=final, init=init, train=data, test=data)
        >>> bound = study_bound(study, alphas=1.0, sigmas=0.1, draws=200)
        >>> round(bound.value, 2), bound.term("test error")
        (0.08, 0.0)

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep networks",
        2020, theorem 3.2. Dziugaite, Roy, "Computing nonvacuous generalization bounds for deep (stochastic) neural networks with
        many more parameters than training data", 2017, section 3.
    """
    check_whole(draws, "draws", 1)
    check_form(form)
    expected_error(0.0, delta, draws, delta_draws)  # what it refuses is said before anything is drawn
    posterior = _posterior(study, alphas, sigmas, by)
    table = None
    best = float(scales[0]) if len(scales) == 1 else math.nan
    if len(scales) != 1:
        table = bounds_by_scale(
            study, alphas, sigmas, scales, draws=search_draws, delta=delta, by=by, seed=seed, advance=advance
        )
        best = float(table.sort("estimate", "scale")["scale"][0])
    posterior = posterior.scaled(best)
    engine = Engine(study.network, study.final, precision="float32")
    train, test = drawn_errors(study, engine, posterior, draws, seed, "bound", advance)
    bound = criticality_bound(
        mean_of(train), *posterior.numbers, len(study.data("train")), delta, form=form, draws=draws,
        delta_draws=delta_draws,
    )  # fmt: skip
    terms = [*bound.terms.rows(), ("scale", best, "the factor on all sigmas")]
    terms.append(("error, stderr", stderr_of(train), "standard error of the mean training error over draws"))
    if study.test is not None:
        own = engine.sums([{}], study.data("test"), losses=False)[0].error
        terms += [
            ("test error", mean_of(test), "mean test error of the same draws; no part of the bound"),
            ("test error, stderr", stderr_of(test), "its standard error over draws"),
            ("test error, final", own, "test error of the trained network itself; no part of the bound"),
        ]
    assumptions = [
        assumption
        for assumption in bound.assumptions
        if assumption.status == "fails" or "that the caller gave" not in assumption.how
    ]
    assumptions += [
        Assumption(
            "the training error is the mean over independent draws from the posterior that served for nothing else",
            "holds",
            f"{draws} fresh pseudo-random draws, on all training examples",
        ),
        everything(study, posterior.layers),
    ]
    return replace(
        bound,
        subject="expected 0-1 error on new examples of the network with Gaussian noise on all its layers "
        f"({study.name}, drawn anew for each example)",
        assumptions=tuple(assumptions),
        terms=rows(terms),
        chance=1 - 1 / study.classes,
    )


def study_corollary_bound(
    study: Study,
    epsilon: float = 0.1,
    delta: float = 0.05,
    *,
    by: Grouping = "module",
    seed: int = 0,
    store: str | Path | None = None,
    command: str | None = None,
) -> Bound:
    r"""The bound of corollary 3.3 on the error of a trained network, at the joint criticality that a search finds.

    .. math:: L_D(f_\Theta) \le \epsilon + \sqrt{\frac{\frac14 \mu'_\epsilon + \dots}{m - 1}}

    with :math:`\mu'_\epsilon` of :func:`shaketable.probes.joint_criticality`, all parameters of each layer moving, and the rest as
    :func:`shaketable.bounds.corollary_bound` has it. Not done: the error of the search's own draws is left out, and said so; the
    conjecture is not looked at.

    Args:
        study: with init and training data.
        epsilon: the training error that the joint criticality allows, in [0, 1].
        delta: the probability that the bound fails.
        by: the grouping into layers.
        seed: of noise and order of examples.
        store, command: as for :func:`shaketable.probes.joint_criticality`.

    Returns: a :class:`Bound`. Where training moved something that is in no layer, an assumption fails.

    Raises:
        InputError: as :func:`shaketable.probes.joint_criticality`.

    Cost: that of the joint search.

    Deviates: the paper's minimum is over a joint feasible set; ours is a feasible point, whose value is at least that.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": 100 * torch.eye(2)}, init={"weight": 2 * torch.eye(2)},
        ...               train=(torch.eye(2).repeat(500, 1), torch.tensor([0, 1]).repeat(500)))
        >>> study_corollary_bound(study, 0.1).term("complexity")
        0.0

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep networks",
        2020, corollary 3.3.
    """
    found = joint_criticality(study, by, epsilon=epsilon, parameters="all", seed=seed, store=store, command=command)
    total = found.summary().row(0, named=True)
    sizes, sigmas = found.table["parameters"].to_list(), found.table["sigma"].to_list()
    bound = corollary_bound(total["joint_criticality"], epsilon, sizes, sigmas, len(study.data("train")), delta)
    searched = (
        f"found by a search: a mean of {total['error']:.4g} over {total['draws']} draws, whose own error is left out"
    )
    looked_at = {
        GIVEN_ERROR: replace(GIVEN_ERROR, how=searched),
        GIVEN_LAYERS: everything(study, layers(study.network, by, study.example_inputs())),
    }
    assumptions = tuple(looked_at.get(assumption, assumption) for assumption in bound.assumptions)
    return replace(bound, assumptions=assumptions, chance=1 - 1 / study.classes)


def bounds_by_scale(
    study: Study,
    alphas: float | Mapping[str, float],
    sigmas: float | Mapping[str, float],
    scales: Sequence[float],
    *,
    draws: int = 10,
    delta: float = 0.05,
    by: Grouping = "module",
    seed: int = 0,
    advance: Callable[[int], object] = lambda draws: None,
) -> pl.DataFrame:
    r"""A table of what the bound would be at each scale of the noise, if the mean error over few draws were the expected one.

    More noise: a larger training error and a smaller divergence; in between is the best bound of this family. The draws are
    the same at every scale.

    Not done: ``estimate`` is no bound, as the error of the draws is left out; :func:`study_bound` has one.

    Args: as for :func:`study_bound`; ``draws`` for each scale.

    Returns: a row a scale: ``scale``, ``draws``, ``train_error`` and ``test_error`` (means over draws, with
        ``_stderr``; null without test data), ``divergence`` (of the posterior from the prior of the grid, nats; null where
        no prior of the grid is wide enough), ``estimate`` (the form "inverse" of theorem 3.2 at the mean training error),
        ``status``, ``reason``.

    Raises:
        InputError: as :func:`study_bound`.

    Cost: ``draws x len(scales)`` passes over training and test data.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> data = (torch.eye(2).repeat(500, 1), torch.tensor([0, 1]).repeat(500))
        >>> final, init = {"weight": 0.5 * torch.eye(2)}, {"weight": torch.zeros(2, 2)}
        >>> study = Study(network, final=final, init=init, train=data)
        >>> table = bounds_by_scale(study, 1.0, 0.1, [0.1, 1.0, 10.0])
        >>> table["estimate"].arg_min(), table["test_error"][0]
        (1, None)
    """
    if not len(scales):
        raise InputError("scales is empty; give at least one factor, such as 1.")
    check_whole(draws, "draws", 1)
    check_probability(delta, "delta")
    posterior = _posterior(study, alphas, sigmas, by)
    engine = Engine(study.network, study.final, precision="float32")
    found = []
    every = [posterior.scaled(scale) for scale in scales]
    for scale, scaled in zip(scales, every, strict=True):
        train, test = drawn_errors(study, engine, scaled, draws, seed, "search", advance)
        bound = criticality_bound(mean_of(train), *scaled.numbers, len(study.data("train")), delta, form="inverse")
        divergence = bound.term("divergence")
        found.append(
            {
                "scale": float(scale),
                "draws": draws,
                "train_error": mean_of(train),
                "train_error_stderr": stderr_of(train),
                "test_error": mean_of(test) if test else None,
                "test_error_stderr": stderr_of(test) if test else None,
                "divergence": divergence if math.isfinite(divergence) else None,
                "estimate": bound.value,
                "status": "ok" if math.isfinite(divergence) else "vacuous",
                "reason": None if math.isfinite(divergence) else "no prior of the grid is wide enough",
            }
        )
    return pl.DataFrame(found, schema=SCALE_SCHEMA)


class Posterior(Protocol):
    """A distribution of networks: the layers that it draws, and a draw."""

    @property
    def layers(self) -> tuple[Layer, ...]: ...

    def draw(self, seed: int, purpose: str, draw: int) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class _Posterior:
    """Gaussians around the path, one a layer."""

    study: Study
    layers: tuple[Layer, ...]
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]

    @property
    def numbers(self) -> tuple[list[int], tuple[float, ...], tuple[float, ...], list[float]]:
        """What :func:`criticality_bound` needs: parameters, alphas, sigmas, squared distances."""
        final, init = self.study.final, self.study.init
        assert init is not None
        sizes = [sum(final[name].numel() for name in layer.params) for layer in self.layers]
        squares = [
            sum(float((final[name].double() - init[name].double()).square().sum()) for name in layer.params)
            for layer in self.layers
        ]
        return sizes, self.alphas, self.sigmas, squares

    def scaled(self, scale: float) -> "_Posterior":
        """With all sigmas times a factor, at most 1."""
        check_positive(scale, "scales")
        return replace(self, sigmas=tuple(min(1.0, scale * sigma) for sigma in self.sigmas))

    def draw(self, seed: int, purpose: str, draw: int) -> dict[str, Tensor]:
        """One network: the same noise for the same seed, purpose and number, whatever the sigmas."""
        final, init = self.study.final, self.study.init
        assert init is not None
        generator = generator_from(seed, purpose, draw)
        found = {}
        for layer, alpha, sigma in zip(self.layers, self.alphas, self.sigmas, strict=True):
            for name in layer.params:
                noise = torch.randn(final[name].shape, generator=generator).to(final[name])
                found[name] = torch.lerp(init[name], final[name], alpha).add_(noise, alpha=sigma)
        return found


def _posterior(
    study: Study, alphas: float | Mapping[str, float], sigmas: float | Mapping[str, float], by: Grouping
) -> _Posterior:
    """The layers with their numbers, checked."""
    if study.init is None:
        raise InputError(
            "the bound needs the initial weights; make the study with init=..., the weights before training."
        )
    study.data("train")
    if study.task != "classification":
        raise InputError(
            "the bound needs independent examples with one label each; a language model has a label per token."
        )
    found = layers(study.network, by, study.example_inputs())
    for layer in found:
        for name in layer.params:
            if not study.final[name].is_floating_point():
                raise InputError(f"layer {layer.name!r}: {name!r} is {study.final[name].dtype}; noise needs floats.")
    posterior = _Posterior(
        study, found, _one_each(alphas, found, "alphas"), tuple(min(1.0, s) for s in _one_each(sigmas, found, "sigmas"))
    )
    check_layers(*posterior.numbers)
    return posterior


def _one_each(given: float | Mapping[str, float], found: Sequence[Layer], what: str) -> tuple[float, ...]:
    """A number for each layer."""
    if not isinstance(given, Mapping):
        given = {layer.name: given for layer in found}
    names = [layer.name for layer in found]
    for name in names:
        if name not in given:
            raise InputError(f"{what} has no number for layer {name!r}; give one for each, or one number for all.")
    for name in given:
        if name not in names:
            raise InputError(f"{what} has {name!r}, which is no layer; the layers are {', '.join(names)}.")
    return tuple(check_positive(given[name], f"{what} of layer {name!r}", zero=what == "alphas") for name in names)


def drawn_errors(
    study: Study,
    engine: Engine,
    posterior: Posterior,
    draws: int,
    seed: int,
    purpose: str,
    advance: Callable[[int], object] = lambda draws: None,
) -> tuple[list[float], list[float]]:
    """Training and test error of each draw; the latter empty without test data."""
    size = sum(study.final[name].nbytes for layer in posterior.layers for name in layer.params)
    step = max(1, min(32, AT_ONCE // max(1, 2 * size)))
    splits: list[tuple[Data, list[float]]] = [(study.data("train"), [])]
    if study.test is not None:
        splits.append((study.test, []))
    for start in range(0, draws, step):
        variants = [posterior.draw(seed, purpose, draw) for draw in range(start, min(start + step, draws))]
        for data, errors in splits:
            errors += [sums.error for sums in engine.sums(variants, data, losses=False)]
        done = len(variants)
        del variants  # before the next are drawn
        advance(done)
    return splits[0][1], splits[1][1] if len(splits) > 1 else []


def everything(study: Study, found: Sequence[Layer]) -> Assumption:
    """Whether the layers hold all that training moved."""
    held = {name for layer in found for name in layer.params}
    init = study.init or {}
    moved = [
        name
        for name, tensor in study.final.items()
        if name not in held and tensor.is_floating_point() and not torch.equal(tensor, init[name])
    ]
    what = "every parameter and running statistic that training moved has noise"
    if not moved:
        return Assumption(what, "checked", "all that is outside of the layers is as it was at init")
    some = ", ".join(moved[:3]) + (f" and {len(moved) - 3} more" if len(moved) > 3 else "")
    return Assumption(what, "fails", f"outside of the layers training moved {some}")


def mean_of(values: Sequence[float]) -> float:
    """The mean of errors; NaN without any."""
    return min(1.0, math.fsum(values) / len(values)) if values else math.nan


def stderr_of(values: Sequence[float]) -> float:
    """Standard error of a mean; NaN for one value."""
    return (
        float(torch.tensor(values, dtype=torch.float64).std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    )
