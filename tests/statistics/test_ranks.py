"""Rank correlation: closed forms, scipy, and what a paper printed."""

import math
from itertools import permutations

import numpy as np
import pytest
import scipy.stats
import torch
from studies.published import COLUMNS, chatterji2020

from shaketable.errors import InputError
from shaketable.statistics import kendall_tau, kendall_tau_stderr


def test_the_same_order_is_1_and_the_opposite_order_is_minus_1_exactly():
    values = [3.0, -1.0, 1e129, 7.0, 0.5]
    for ties in ("a", "b"):
        assert kendall_tau(values, np.argsort(np.argsort(values)), ties) == 1.0
        assert kendall_tau(values, [-v for v in values], ties) == -1.0


def test_a_published_measure_and_its_logarithm_have_the_same_tau():
    networks = chatterji2020(2).networks
    norms = networks["product_of_frobenius_norms"]
    error = networks["generalization_error"]
    assert kendall_tau(norms, error) == kendall_tau(norms.log(), error)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("values", [3, 20, 10**6], ids=["many ties", "some ties", "hardly a tie"])
def test_tau_b_is_that_of_scipy_whatever_the_ties(seed, values):
    random = np.random.default_rng(seed)
    x, y = random.integers(values, size=(2, 60))
    y = y + x * (seed - 2)  # from opposed to alike
    assert kendall_tau(x, y) == pytest.approx(scipy.stats.kendalltau(x, y).statistic, abs=1e-14)


def test_tau_a_leaves_tied_pairs_in_the_denominator():
    # of three pairs (1, 2) and (1, 3) agree with each other and one is tied in x
    assert kendall_tau([5, 5, 6], [1, 2, 3], ties="a") == 2 / 3
    assert kendall_tau([5, 5, 6], [1, 2, 3]) == pytest.approx(2 / math.sqrt(2 * 3))
    assert kendall_tau([5, 5], [1, 2], ties="a") == 0


def test_infinite_values_have_their_place_in_the_order():
    x = [-math.inf, 0.0, math.inf, math.inf]
    assert kendall_tau(x, [0, 1, 2, 2]) == 1.0
    assert kendall_tau(x, [0, 1, 2, 3]) == pytest.approx(scipy.stats.kendalltau([0, 1, 2, 2], [0, 1, 2, 3]).statistic)


def test_tensors_and_columns_of_a_data_frame_are_as_good_as_lists():
    networks = chatterji2020(4).networks
    assert kendall_tau(networks["pac_bayes"], torch.tensor([4, 3, 2, 1])) == -1.0


@pytest.mark.parametrize("table", [2, 3, 4, 5])
@pytest.mark.parametrize("column", COLUMNS[1:])
def test_tau_b_of_each_published_column_is_the_published_tau_cut_off_at_two_decimals(table, column):
    published = chatterji2020(table)
    tau = kendall_tau(published.networks[column], published.networks["generalization_error"])
    assert math.trunc(tau * 100) / 100 == published.taus[column]


def test_the_published_taus_are_neither_tau_a_nor_rounded():
    def agreeing(ties: str, printed) -> int:
        hits = 0
        for table in map(chatterji2020, (2, 3, 4, 5)):
            for column, tau in table.taus.items():
                hits += (
                    printed(kendall_tau(table.networks[column], table.networks["generalization_error"], ties)) == tau
                )
        return hits

    def cut(tau: float) -> float:
        return math.trunc(tau * 100) / 100

    assert agreeing("b", cut) == 28
    assert agreeing("a", cut) < 28
    assert agreeing("a", lambda tau: round(tau, 2)) < 28
    assert agreeing("b", lambda tau: round(tau, 2)) < 28


def test_the_standard_error_is_exact_over_all_orders_of_five():
    taus = np.array([kendall_tau(range(5), order) for order in permutations(range(5))])
    assert taus.mean() == pytest.approx(0, abs=1e-15)
    assert math.sqrt((taus**2).mean()) == pytest.approx(kendall_tau_stderr(5), rel=1e-12)


def test_the_standard_error_over_324_networks_is_the_published_0_037():
    assert round(kendall_tau_stderr(324), 3) == 0.037


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2, 3], [1, 2], "x has 3 numbers and y has 2"),
        ([1, math.nan, 3], [1, 2, 3], r"x\[1\] is missing or NaN"),
        ([1, 2, 3], [1, None, 3], r"y\[1\] is missing or NaN"),
        ([1, 2, 3], [7, 7, 7], "all 3 numbers of y are equal"),
        ([1], [1], "two or more numbers"),
        ([[1, 2], [3, 4]], [1, 2], r"x has shape \[2, 2\]"),
        (["high", "low"], [1, 2], "x holds something that is not a number"),
    ],
)
def test_what_has_no_rank_correlation_is_one_clear_error(x, y, message):
    with pytest.raises(InputError, match=message):
        kendall_tau(x, y)


def test_an_unknown_treatment_of_ties_and_a_single_network_are_refused():
    with pytest.raises(InputError, match="use 'b'"):
        kendall_tau([1, 2], [1, 2], ties="c")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="two networks are the fewest"):
        kendall_tau_stderr(1)
