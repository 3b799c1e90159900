"""Rank correlation along hyper-parameters, and standard errors: closed forms, plain loops, the paper's numbers, scipy."""

import math
from itertools import permutations, product

import numpy as np
import pytest
from tests.statistics import references

from shaketable.errors import InputError
from shaketable.statistics import granulated_tau, kendall_tau, kendall_tau_stderr, tied_stderr

DEMOGEN = {"width": 3, "dropout": 3, "decay": 3, "depth": 3, "augmentation": 2, "seed": 2}
"""The 324 networks of the prunability paper: values of each hyper-parameter."""


def demogen() -> dict[str, list[int]]:
    grid = list(product(*(range(kinds) for kinds in DEMOGEN.values())))
    return {name: [row[k] for row in grid] for k, name in enumerate(DEMOGEN)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("values", [3, 10**6], ids=["ties", "no ties"])
def test_each_axis_is_that_of_plain_loops_over_cells(seed, values):
    random = np.random.default_rng(seed)
    hyper = {name: random.integers(kinds, size=80).tolist() for name, kinds in (("a", 2), ("b", 3), ("c", 4))}
    x, y = random.integers(values, size=(2, 80)).tolist()
    found = granulated_tau(x, y, hyper)
    for axis, tau in found.axes.items():
        assert tau == pytest.approx(references.granulated(x, y, hyper, axis), abs=1e-12)
    assert found.psi == pytest.approx(sum(found.axes.values()) / 3, abs=1e-12)


def test_a_measure_that_follows_one_axis_ranks_along_that_one_alone():
    hyper = demogen()
    gap = [10 * a + b for a, b in zip(hyper["width"], hyper["depth"])]
    found = granulated_tau(hyper["width"], gap, hyper, axes=["width", "depth", "decay"])
    assert found.axes == {"width": 1.0, "depth": 0.0, "decay": 0.0}
    assert found.tied == {"width": 0, "depth": 324, "decay": 324}
    assert granulated_tau([-value for value in hyper["width"]], gap, hyper, axes=["width"]).psi == -1


def test_the_standard_errors_of_the_prunability_paper_before_it_divides_them_twice():
    random = np.random.default_rng(0)
    x, y = random.random((2, 324))
    found = granulated_tau(x, y, demogen(), axes=["width", "dropout", "decay", "depth", "augmentation"])
    assert found.groups == {"width": 108, "dropout": 108, "decay": 108, "depth": 108, "augmentation": 162}
    assert [round(value, 4) for value in found.stderr.values()] == [0.0614] * 4 + [0.0786]
    assert round(found.psi_stderr, 4) == 0.0292
    # as printed: 0.00056, 0.000484 and 0.00011
    assert pytest.approx(0.00056, abs=1e-5) == 0.0614 / 108
    assert pytest.approx(0.000484, abs=2e-6) == 0.0786 / 162


def test_the_standard_error_with_seeds_that_are_not_told_apart_is_the_spread_over_random_columns():
    hyper = {"width": [0, 0, 0, 1, 1, 2, 2, 2], "depth": [0] * 8}
    random = np.random.default_rng(3)
    taus = [granulated_tau(*random.random((2, 8)), hyper).axes["width"] for _ in range(4000)]
    error = granulated_tau(range(8), range(8), hyper).stderr["width"]
    assert np.std(taus) == pytest.approx(error, rel=3 / math.sqrt(2 * 4000))


def test_an_axis_that_nothing_varies_along_is_named_and_not_in_the_mean():
    found = granulated_tau([1, 2, 3], [1, 2, 3], {"width": [1, 2, 3], "depth": [7, 7, 7]})
    assert found.left_out == ("depth",)
    assert found.psi == found.axes["width"] == 1
    with pytest.raises(InputError, match="no two networks differ in one of depth alone"):
        granulated_tau([1, 2], [1, 2], {"depth": [7, 7]})
    with pytest.raises(InputError, match="axis 'heads' is no hyper-parameter; there are depth"):
        granulated_tau([1, 2], [1, 2], {"depth": [1, 2]}, axes=["heads"])


def test_infinite_measures_are_ranked():
    infinite = [math.inf, math.inf, -math.inf, 1.0]
    assert granulated_tau(infinite, [4, 3, 1, 2], {"width": [1, 2, 3, 4]}).psi == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    "columns", [([1, 1, 2, 3, 3], [4, 5, 4, 4, 6]), ([1, 2, 3, 4, 5], [1, 1, 2, 2, 2]), ([1, 1, 2], [5, 6, 7])]
)
@pytest.mark.parametrize("ties", ["a", "b"])
def test_the_standard_error_with_ties_is_exact_over_all_orders(columns, ties):
    x, y = columns
    taus = np.array([kendall_tau(x, order, ties) for order in permutations(y)])
    assert taus.mean() == pytest.approx(0, abs=1e-15)
    assert math.sqrt((taus**2).mean()) == pytest.approx(tied_stderr(x, y, ties), rel=1e-12)


def test_the_standard_error_without_ties_is_the_short_formula():
    x, y = np.random.default_rng(0).random((2, 50))
    assert tied_stderr(x, y) == pytest.approx(kendall_tau_stderr(50), rel=1e-12)


def test_a_constant_column_has_tau_a_of_0_for_certain_and_no_tau_b():
    assert tied_stderr([1, 1, 1], [1, 2, 3], "a") == 0
    with pytest.raises(InputError, match="all 3 numbers of x are equal"):
        tied_stderr([1, 1, 1], [1, 2, 3])
