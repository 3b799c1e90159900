"""Conditional mutual information: the competition's published scores, plain loops, closed forms."""

import json
import math
import time

import numpy as np
import polars as pl
import pytest
from tests.statistics import references

from shaketable.errors import InputError
from shaketable.statistics import conditional_mutual_information, granulated_tau, kendall_tau, r2


def zoo(seed: int, networks: int = 60, values: int = 10**6):
    """Random columns with ties, and three hyper-parameters that the gap depends on a little."""
    random = np.random.default_rng(seed)
    hyper = {name: random.integers(kinds, size=networks).tolist() for name, kinds in (("a", 2), ("b", 3), ("c", 2))}
    y = random.integers(values, size=networks) + values // 3 * np.array(hyper["b"])
    x = random.integers(values, size=networks) + y // 2 + values // 2 * np.array(hyper["a"])
    return x.tolist(), y.tolist(), hyper


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("values", [4, 10**6], ids=["ties", "no ties"])
@pytest.mark.parametrize("variant", ["paper", "competition"])
def test_it_is_that_of_plain_loops_over_all_pairs(seed, values, variant):
    x, y, hyper = zoo(seed, values=values)
    found = conditional_mutual_information(x, y, hyper, variant)
    competition = variant == "competition"
    assert found.value == pytest.approx(references.conditional_information(x, y, hyper, competition), abs=1e-12)
    assert found.by_set[found.given] == found.value
    for given, value in found.by_set.items():
        assert value == pytest.approx(references.information(x, y, hyper, given, competition), abs=1e-12)


def test_the_scores_and_correlations_of_the_competition_are_the_published_ones(oracles):
    networks = pl.read_csv(oracles / "pgdl_task1.csv")
    scores = json.loads((oracles / "pgdl_task1_scores.json").read_text())
    hyper = {name: networks[name] for name in networks.columns if name.startswith("hp.")}
    assert len(scores) == 13
    for name, published in scores.items():
        measure = networks[f"m.{name}"]
        found = conditional_mutual_information(measure, networks["gen_gap"], hyper, "competition")
        assert found.value == pytest.approx(published["cmi"], abs=1e-9)
        if published["abs_pearson"] is not None:
            assert math.sqrt(r2(measure, networks["gen_gap"])) == pytest.approx(published["abs_pearson"], abs=1e-9)
        else:
            assert r2(measure, networks["gen_gap"]) == 0  # a constant column


def test_a_measure_and_its_negative_say_the_same():
    x, y, hyper = zoo(1)
    negative = conditional_mutual_information([-value for value in x], y, hyper)
    assert negative.value == pytest.approx(conditional_mutual_information(x, y, hyper).value, abs=1e-12)


def test_what_decides_the_sign_has_one_and_what_the_hyperparameters_decide_has_nothing():
    random = np.random.default_rng(0)
    depth, gap = random.integers(3, size=200), random.random(200)
    assert conditional_mutual_information(gap, gap, {"depth": depth}).value == 1
    # given depth, a function of depth has no sign left to tell of
    found = conditional_mutual_information(depth, gap + depth / 2, {"depth": depth})
    assert found.by_set[("depth",)] == pytest.approx(0, abs=1e-12)
    assert found.given == ("depth",)
    assert found.by_set[()] > 0.1


def test_a_constant_measure_says_nothing_to_the_competition_and_has_no_pairs_for_the_paper():
    _, y, hyper = zoo(0)
    constant = [1.0] * len(y)
    assert conditional_mutual_information(constant, y, hyper, "competition").value == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match="has no entropy"):
        conditional_mutual_information(constant, y, hyper)


@pytest.mark.parametrize(
    ("hyper", "variant", "message"),
    [
        ({}, "paper", "give at least one"),
        ({"a": [1, 2]}, "paper", "hyper-parameter 'a' has shape"),
        ({"a": [1, 2, 3]}, "competition", "two hyper-parameters or more"),
        ({"a": [1, 2, 3]}, "jiang", "use 'paper' or 'competition'"),
        ({"a": np.array([1, "x", None], dtype=object)}, "paper", "mixes values that have no order"),
    ],
)
def test_what_cannot_be_conditioned_on_is_one_clear_error(hyper, variant, message):
    with pytest.raises(InputError, match=message):
        conditional_mutual_information([1, 2, 3], [3, 1, 2], hyper, variant)


def test_hyperparameters_with_too_many_values_are_refused_before_memory_runs_out():
    random = np.random.default_rng(0)
    x, y, rate = random.random((3, 1500))
    with pytest.raises(InputError, match=r"rate have 1500 combinations of values"):
        conditional_mutual_information(x, y, {"rate": rate})


@pytest.mark.slow
def test_ten_thousand_networks_by_forty_measures_take_seconds():
    random = np.random.default_rng(0)
    shape = {"width": 3, "depth": 3, "dropout": 3, "decay": 3, "augmentation": 2, "seed": 5}
    hyper = {name: random.integers(kinds, size=10_000) for name, kinds in shape.items()}
    gap = random.random(10_000)
    measures = random.random((40, 10_000)) + gap
    began = time.process_time()
    for measure in measures:
        kendall_tau(measure, gap)
        granulated_tau(measure, gap, hyper)
        conditional_mutual_information(measure, gap, hyper)
    seconds = time.process_time() - began
    print(f"\n10,000 networks x 40 measures: {seconds:.1f} s of processor time")
    assert seconds < 60
