"""Bootstrap intervals: a closed form, coverage, and draws that fail."""

import numpy as np
import pytest

from shaketable.errors import InputError
from shaketable.statistics import bootstrap, kendall_tau


def mean(column) -> float:
    return float(np.mean(column))


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    column = np.random.default_rng(0).normal(size=400)
    found = bootstrap(mean, column, draws=2000)
    error = column.std() / 20
    assert found.value == mean(column)
    assert found.stderr == pytest.approx(error, rel=0.05)
    assert (found.low, found.high) == pytest.approx(
        (found.value - 1.96 * error, found.value + 1.96 * error), abs=error / 5
    )


def test_ninety_percent_of_intervals_hold_the_true_correlation():
    random, hits, trials = np.random.default_rng(1), 0, 50
    true = 2 / np.pi * np.arcsin(0.6)  # of two normal columns with correlation 0.6
    for trial in range(trials):
        x, noise = random.normal(size=(2, 60))
        found = bootstrap(kendall_tau, x, 0.6 * x + 0.8 * noise, draws=100, level=0.9, seed=trial)
        hits += found.low <= true <= found.high
    assert abs(hits / trials - 0.9) < 3 * np.sqrt(0.09 / trials)


def test_the_same_seed_draws_the_same_networks():
    x, y = np.random.default_rng(2).random((2, 30))
    assert bootstrap(kendall_tau, x, y, draws=20, seed=1) == bootstrap(kendall_tau, x, y, draws=20, seed=1)
    assert bootstrap(kendall_tau, x, y, draws=20, seed=1) != bootstrap(kendall_tau, x, y, draws=20, seed=2)


def test_networks_of_one_group_are_drawn_together():
    column = np.repeat(np.random.default_rng(3).normal(size=40), 10)
    alone, together = bootstrap(mean, column), bootstrap(mean, column, groups=np.repeat(range(40), 10))
    assert together.stderr == pytest.approx(alone.stderr * np.sqrt(10), rel=0.15)


def test_draws_of_one_network_alone_fail_and_are_counted():
    found = bootstrap(kendall_tau, [1, 2, 3], [1, 2, 3], draws=900)
    assert found.failed == pytest.approx(100, abs=3 * np.sqrt(900 / 9 * 8 / 9))  # all three draws alike: 3 / 27
    assert found.draws + found.failed == 900
    with pytest.raises(InputError, match=r"failed on \d+ of 300 draws: all 2 numbers"):
        bootstrap(kendall_tau, [1, 2], [1, 2], draws=300, seed=next(seed for seed in range(99) if _half_fail(seed)))


def _half_fail(seed: int) -> bool:
    """Whether more than half of the draws from two networks are of one alone, which happens to every other seed."""
    try:
        bootstrap(kendall_tau, [1, 2], [1, 2], draws=300, seed=seed)
    except InputError:
        return True
    return False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"draws": 1}, "draws=1"), ({"level": 1.0}, "level=1.0"), ({"groups": [1]}, "groups has 1 entries for 3")],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        bootstrap(kendall_tau, [1, 2, 3], [1, 2, 3], **arguments)
    with pytest.raises(InputError, match="one row per network"):
        bootstrap(kendall_tau, [1, 2, 3], [1, 2])
