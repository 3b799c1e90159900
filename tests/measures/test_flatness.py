"""Flatness under noise against brute force, and measures of pruning and training by hand."""

import math

import polars as pl
import pytest
import torch
from tests.probes.test_prunability import study as digits
from torch import nn
from torch.distributions import Normal

from shaketable import measures as m
from shaketable.errors import InputError
from shaketable.evaluate import evaluate
from shaketable.measures.flatness import SIGMAS, VARIANCES
from shaketable.study import Study


def threshold(**given) -> Study:
    """One weight of a half that decides the sign of 1,000 equal examples: wrong where noise takes it below 0."""
    network = nn.Linear(1, 2, bias=False).eval()
    final = {"weight": torch.tensor([[0.5], [0.0]])}
    return Study(network, final=final, train=(torch.ones(50, 1), [0] * 50), **given)


def test_the_noise_that_is_borne_is_that_of_the_normal_distribution():
    # w0 + u0 < w1 + u1 with probability Phi(-0.5 / (sigma sqrt 2)): a tenth at this sigma
    sigma = 0.5 / (-math.sqrt(2) * Normal(0, 1).icdf(torch.tensor(0.1)).item())
    found = m.pac_bayes_flatness(threshold(), draws=1000)
    assert found.value == pytest.approx(
        1 / sigma**2, abs=3.5 * found.stderr + 0.12 / sigma**2
    )  # and a step of the grid
    assert found.draws == 1000


def test_noise_by_magnitude_is_borne_in_proportion_and_the_variants_are_not_one_another():
    # noise on the weight of a half alone: sigma |w| sqrt(w^2 is 1/4) against sigma sqrt |w|
    z = -Normal(0, 1).icdf(torch.tensor(0.1)).item()
    found = m.magnitude_flatness_jiang2020(threshold(), draws=1000)
    assert found.value == pytest.approx(z**2, abs=3.5 * found.stderr + 0.12 * z**2)  # 0.5 / (sigma 0.5) = z
    loss = m.magnitude_flatness_kuhn2021(threshold(), draws=50)
    assert loss.value != pytest.approx(found.value, rel=0.5)


def test_the_variances_are_those_that_are_printed():
    weight = torch.tensor([0.0, 2.0, -3.0])
    assert VARIANCES["plain"](weight, 0.5).tolist() == [0.25] * 3
    assert VARIANCES["magnitude squared"](weight, 0.5).tolist() == pytest.approx([1e-6, 1 + 1e-6, 2.25 + 1e-6])
    assert VARIANCES["magnitude"](weight, 0.5).tolist() == pytest.approx([1e-6, 0.5 + 1e-6, 0.75 + 1e-6])


@pytest.mark.parametrize("noise", ["plain", "magnitude squared", "magnitude"])
def test_the_search_finds_what_the_plain_loop_over_the_grid_finds(noise):
    grid = tuple(0.01 * 1.5**step for step in range(12))
    quantity = "loss" if noise == "magnitude" else "error"
    measure = {
        "plain": m.pac_bayes_flatness,
        "magnitude squared": m.magnitude_flatness_jiang2020,
        "magnitude": m.magnitude_flatness_kuhn2021,
    }[noise]
    found = measure(digits(), sigmas=grid, draws=4)
    from shaketable.identity import generator_from

    data, names = digits().data("train"), ["0.weight", "2.weight"]
    clean = evaluate(digits().network, digits().final, data)
    bound = clean.error + 0.1 if quantity == "error" else 1.1 * clean.mean_loss
    borne = []
    for sigma in grid:
        total = 0.0
        for draw in range(4):
            generator, changed = generator_from(0, "flatness", draw), {}
            for name in names:
                weight = digits().final[name]
                normal = torch.randn(weight.shape, generator=generator)
                changed[name] = weight + normal * VARIANCES[noise](weight, sigma).sqrt()
            sums = evaluate(digits().network, {**digits().final, **changed}, data)
            total += sums.error if quantity == "error" else sums.mean_loss
        borne.append(total / 4 <= bound)
    assert borne == sorted(borne, reverse=True)
    largest = max(sigma for sigma, holds in zip(grid, borne, strict=True) if holds)
    assert found.value == pytest.approx(1 / largest**2, rel=1e-9)


def test_measures_around_init_and_origin_share_sigma():
    init = {"weight": torch.tensor([[0.0], [1.0]])}
    study = threshold(init=init)
    sigma = 1 / math.sqrt(m.pac_bayes_flatness(study).value)
    assert m.pac_bayes_from_origin(study).value == pytest.approx(0.25 / (4 * sigma**2) + math.log(50 / sigma) + 10)
    assert m.pac_bayes_from_init(study).value == pytest.approx(1.25 / (4 * sigma**2) + math.log(50 / sigma) + 10)


def test_measures_by_magnitude_around_init_and_origin_are_the_printed_sums():
    study = threshold(init={"weight": torch.tensor([[0.0], [1.0]])})  # moved by 0.5 and -1
    sigma = 1 / math.sqrt(m.magnitude_flatness_jiang2020(study).value)
    rest = math.log(50 / sigma) + 10
    below = [1e-6 + sigma**2 * moved**2 for moved in (0.5, 1)]
    for measure, square in ((m.magnitude_from_init_jiang2020, 1.25), (m.magnitude_from_origin_jiang2020, 0.25)):
        above = 1e-6 + (sigma**2 + 1) * square / 2
        expected = sum(math.log(above / one) for one in below) / 4 + rest
        assert measure(study).value == pytest.approx(expected, rel=1e-6)


def test_the_ends_of_the_grid_are_told():
    all_of_it = m.pac_bayes_flatness(threshold(), sigmas=[1e-4, 1e-3])
    assert all_of_it.value == pytest.approx(1e6)
    assert all_of_it.reason == "all noise of the grid is borne; give larger sigmas"
    none = m.pac_bayes_flatness(threshold(), sigmas=[100.0, 200.0])
    assert (none.value, none.status) == (None, "infeasible")
    assert len(SIGMAS) == 201


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sigmas": [0.0, 0.1]}, "above 0"),
        ({"sigmas": []}, "above 0"),
        ({"sigmas": [0.2, 0.1]}, r"sigmas=\(0.2, 0.1\).* ascending"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"drop": math.nan}, "drop=nan"),
        ({"drop": -0.1}, "drop=-0.1"),
    ],
)
def test_numbers_out_of_their_range_are_refused(arguments, said):
    with pytest.raises(InputError, match=said):
        m.pac_bayes_flatness(threshold(), **arguments)


def test_measures_of_pruning_are_those_of_the_probe():
    from shaketable.probes import prunability

    row = prunability(digits(), sparsities=None).summary().row(0, named=True)
    assert m.prunability(digits()).value == row["prunability"]
    assert m.number_of_parameters_pruned(digits()).value == row["kept"] + 42
    params = dict(digits().final)
    for name in ("0.weight", "2.weight"):
        flat = torch.cat([digits().final[n].abs().flatten() for n in ("0.weight", "2.weight")]).sort().values
        params[name] = params[name] * (params[name].abs() > flat[round((1 - row["prunability"]) * len(flat)) - 1])
    pruned = Study(digits().network, final=params, train=digits().train)
    for measure, of_pruned in (
        (m.sum_of_frobenius_norms, m.sum_of_frobenius_norms_pruned),
        (m.sum_of_squared_spectral_norms, m.sum_of_squared_spectral_norms_pruned),
    ):
        assert of_pruned(digits()).value == pytest.approx(measure(pruned).value, rel=1e-9)


def test_the_losses_of_training_come_from_the_history_or_from_the_checkpoints():
    network, data = nn.Linear(1, 2, bias=False).eval(), (torch.ones(4, 1), [0, 0, 0, 1])
    weights = {epoch: {"weight": torch.tensor([[float(epoch)], [0.0]])} for epoch in range(4)}
    given = {"final": weights[3], "checkpoints": weights, "final_epoch": 3, "train": data}
    study = Study(network, **given)
    losses = [(3 * math.log(1 + math.exp(-e)) + math.log(1 + math.exp(e))) / 4 for e in (1, 2, 3)]
    assert m.sum_of_training_losses(study).value == pytest.approx(sum(losses), rel=1e-6)
    assert m.sum_of_training_losses(study, last=2).value == pytest.approx(sum(losses[1:]), rel=1e-6)
    assert m.last_training_loss(study).value == pytest.approx(m.training_loss(study).value, rel=1e-9)
    history = pl.DataFrame({"epoch": [0, 1, 2, 3], "train_loss": [9.0, 1.0, 2.0, 4.0]})
    assert m.sum_of_training_losses(Study(network, **given, history=history)).value == 7
    seen = Study(network, **given, history=history.with_columns(running_loss=pl.Series([None, 5.0, 6.0, 7.0])))
    assert m.sum_of_training_losses(seen, running=True).value == 18
    assert "no running loss of epoch 1" in str(
        m.sum_of_training_losses(Study(network, **given, history=history), running=True).reason
    )
    few = given | {"checkpoints": {0: weights[0], 3: weights[3]}}
    assert "epoch 1 has neither a training loss" in str(m.sum_of_training_losses(Study(network, **few)).reason)
    told = history.with_columns(train_loss=pl.when(pl.col("epoch") != 2).then("train_loss"))
    assert "epoch 2 has neither" in str(m.sum_of_training_losses(Study(network, **few, history=told)).reason)
    with pytest.raises(Exception, match="last=4: give a number of epochs from 1 to 3"):
        m.sum_of_training_losses(study, last=4)
