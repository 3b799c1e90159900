"""Entropy, the KL term and what it bounds, and degrees of the channel graph."""

import math
from collections import Counter
from itertools import pairwise, product

import pytest
from scipy.stats import poisson

from shaketable.errors import InputError
from shaketable.networks import build
from shaketable.topology import (
    Cell,
    asymptotic_poisson_entropy,
    degrees,
    kl_term,
    mass_bound,
    mass_difference_bound,
    nn_mass,
    poisson_entropy,
)

MASSES = [0.01, 0.1, 0.3, 0.35, 1, 10, 622, 1126.55]


@pytest.mark.parametrize("mean", [0.01, 0.5, 1, 3.3, 50, 563])
def test_the_entropy_is_that_of_scipy(mean):
    assert poisson_entropy(mean) == pytest.approx(float(poisson(mean).entropy()), rel=1e-6)


def test_the_asymptotic_entropy_comes_near_the_exact_one_for_large_means_and_is_wrong_for_small_ones():
    errors = [asymptotic_poisson_entropy(mean) - poisson_entropy(mean) for mean in (5, 50, 500, 5000)]
    assert all(abs(later) < abs(earlier) / 20 for earlier, later in pairwise(errors))
    assert asymptotic_poisson_entropy(0.1) < 0 < poisson_entropy(0.1)


@pytest.mark.parametrize("mass", MASSES)
def test_the_kl_term_is_minus_the_entropy_over_two_sigma(mass):
    printed = (1 / (6 * mass) - math.log(math.pi * math.e * mass) / 2) / (2 * 12)
    assert kl_term(mass, 12) == pytest.approx(printed)
    assert kl_term(mass, 12, exact=True) == pytest.approx(-float(poisson(mass / 2).entropy()) / 24, rel=1e-6)


@pytest.mark.parametrize("mass", MASSES)
def test_theorem_2_bounds_nothing_for_any_mass_and_says_why(mass):
    found = mass_bound(mass, 300, 0.01, 50_000)
    assert found.value is None
    assert found.exact_kl <= 0
    assert found.reason is not None
    assert ("no divergence is negative" in found.reason) == (found.kl < 0) == (mass > 0.33)
    inner = found.kl + math.log(2 * math.sqrt(50_000) / 0.05)
    assert found.expression == pytest.approx(0.01 + math.sqrt(inner / 100_000))


def test_the_expression_of_corollary_1_is_as_printed_and_no_bound():
    found = mass_difference_bound(622, 856, 300, 0.002, 50_000, delta=0.1)
    bracket = (856 - 622) / (6 * 622 * 856) - math.log(622 / 856) / 2
    assert found.expression == pytest.approx(
        0.002 + math.sqrt((bracket / 600 + math.log(4 * 50_000 / 0.1**2)) / 100_000)
    )
    assert (found.value, found.kl > 0) == (None, True)
    with pytest.raises(InputError, match="exchange them"):
        mass_difference_bound(856, 622, 300, 0.0, 50_000)


def test_equal_masses_leave_only_the_confidence_term():
    found = mass_difference_bound(622, 622, 300, 0.0, 1000, delta=0.05)
    assert found.expression == pytest.approx(math.sqrt(math.log(4 * 1000 / 0.05**2) / 2000))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, 300, 0.1, 100), "mass=0"),
        ((622, 0, 0.1, 100), "sigma=0"),
        ((622, 300, -0.1, 100), "training_error=-0.1"),
        ((622, 300, 0.1, 0), "examples=0"),
        ((math.inf, 300, 0.1, 10), "mass=inf"),
        ((622, 300, 5.0, 100), "training_error=5.0: give a finite number from 0 to 1"),
        ((622, 300, 0.1, 100, 2), "delta=2: give a probability above 0, and at most 1"),
    ],
)
def test_a_number_out_of_its_range_is_one_clear_error(arguments, said):
    with pytest.raises(InputError, match=said):
        mass_bound(*arguments)


@pytest.mark.parametrize("difference", [math.nan, 1.5])
def test_a_difference_of_training_errors_that_is_none_is_one_clear_error(difference):
    with pytest.raises(InputError, match=f"training_difference={difference}: give a finite number from -1 to 1"):
        mass_difference_bound(622, 856, 300, difference, 100)


@pytest.mark.parametrize("cell", [Cell(9, 4, 6), Cell(20, 8, 30), Cell(5, 3, 99)])
def test_the_average_degree_of_the_sampled_graph_is_the_exact_one(cell):
    found = degrees(cell)
    assert found.sampled == pytest.approx(found.exact)
    assert found.limit == pytest.approx(cell.width + nn_mass([cell]) / 2)
    nodes = cell.depth * cell.width
    assert found.table["outgoing"].sum() == found.table["incoming"].sum() == nodes
    assert (found.table["degree"] * found.table["incoming"]).sum() == pytest.approx(found.mean * nodes)


def test_the_average_degree_tends_to_width_and_half_the_mass_for_deep_cells():
    misses = []
    for depth in (10, 40, 160):
        found = degrees(Cell(depth, 2, 3))
        misses.append(abs(found.exact / found.limit - 1))
    assert misses[0] > 2 * misses[1] > 4 * misses[2]


def test_degrees_of_a_network_are_those_of_its_own_links():
    network = build("linked-6x4t5", (1, 6, 6), 2, link_seed=3)
    found = degrees(Cell(6, 4, 5), network.cell1.links)
    leaving = Counter(4 * sum(one in links for links in network.cell1.links) for one in product(range(6), range(4)))
    assert dict(found.table.filter(found.table["outgoing"] > 0).select("degree", "outgoing").rows()) == leaving
    assert found.mean == pytest.approx(sum(map(len, network.cell1.links)) / 6)


def test_without_links_there_is_no_asymptotic_entropy():
    found = degrees(Cell(4, 3, 0))
    assert (found.mean, found.entropy, found.asymptotic_entropy) == (0.0, 0.0, None)
