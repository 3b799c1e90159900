"""Intervals: the published formulas by hand, and their coverage by simulation."""

import math

import numpy as np
import pytest

from shaketable.errors import InputError
from shaketable.estimators import plus_interval, split_interval
from shaketable.estimators.intervals import fewest
from shaketable.estimators.regression import regression

NETWORKS, TRIALS = 40, 500


def test_the_split_interval_takes_the_rank_of_the_formula():
    residuals = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 8.0, 7.0, 6.0, 10.0, 11.0])
    rank = math.ceil(0.8 * 12)
    assert split_interval(100.0, residuals, 0.8) == (100 - rank, 100 + rank)


def test_the_jackknife_plus_interval_takes_the_ranks_of_the_formula():
    estimates, residuals = np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.1, 0.2, 0.3, 1.0])
    lows, highs = sorted(estimates - residuals), sorted(estimates + residuals)
    alpha = 0.4  # of n + 1 = 6 the 2nd from below, and the 4th
    assert plus_interval(estimates, residuals, 1 - alpha) == (
        lows[math.floor(alpha * 6) - 1],
        highs[math.ceil(0.6 * 6) - 1],
    )


@pytest.mark.parametrize(("coverage", "count"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19)])
def test_fewer_residuals_than_an_interval_needs_are_refused(coverage, count):
    assert fewest(coverage) == count
    for interval in (
        lambda left: split_interval(0.0, left, coverage),
        lambda left: plus_interval(left, left, coverage),
    ):
        assert interval(np.ones(count))[1] >= 1
        with pytest.raises(InputError, match=f"too few for an interval of coverage {coverage:g}, which needs {count}"):
            interval(np.ones(count - 1))


@pytest.mark.parametrize("coverage", [0, 1, 1.5])
def test_a_coverage_that_is_no_share_is_refused(coverage):
    with pytest.raises(InputError, match="give a share between 0 and 1"):
        split_interval(0.0, np.ones(5), coverage)


def covered(interval: str, seed: int) -> float:
    """The share of simulated zoos whose interval holds the gap of one more network: noise that grows, and a line that bends."""
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(TRIALS):
        x = generator.uniform(size=(NETWORKS + 1, 2))
        y = x[:, 0] - 2 * x[:, 1] ** 2 + (0.1 + x[:, 0]) * generator.standard_t(4, NETWORKS + 1)
        found = regression("linear", x[:-1], y[:-1], interval, seed=0)
        _, low, high = found.predict(x[-1:], 0.9)[0]
        hits += low <= y[-1] <= high
    return hits / TRIALS


def test_the_split_interval_covers_as_often_as_its_theorem_says():
    held = 12  # of 40 networks: the interval is the 12th of 12 residuals, and covers 12 of 13
    exact = math.ceil(0.9 * (held + 1)) / (held + 1)
    assert covered("split", seed=1) == pytest.approx(exact, abs=3 * math.sqrt(exact * (1 - exact) / TRIALS))


@pytest.mark.parametrize("interval", ["jackknife+", "cv+"])
def test_jackknife_plus_and_cv_plus_cover_as_much_as_was_asked_for_within_the_binomial_error(interval):
    error = 3 * math.sqrt(0.9 * 0.1 / TRIALS)
    assert covered(interval, seed=2) == pytest.approx(0.9, abs=error)
