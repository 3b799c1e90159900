"""McAllester's bound: the inverse of the divergence against scipy, and how often the bounds fail, exactly."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as some
from scipy.optimize import brentq
from scipy.special import rel_entr, xlogy
from scipy.stats import binom

from shaketable.bounds import error_upper_bound, kl_inverse, mcallester_bound
from shaketable.errors import InputError


def divergence(q: float, p: float) -> float:
    return float(rel_entr(q, p) + rel_entr(1 - q, 1 - p))


@pytest.mark.parametrize("q", [0.001, 0.02, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("c", [1e-4, 0.01, 0.3, 2.0])
def test_the_inverse_is_the_root_that_scipy_finds(q, c):
    root = brentq(lambda p: divergence(q, p) - c, q, 1 - 1e-15, xtol=1e-15, rtol=1e-15)
    assert kl_inverse(q, c) == pytest.approx(root, abs=1e-12)


def test_the_inverse_has_its_known_values():
    assert kl_inverse(0.0, 0.7) == pytest.approx(1 - math.exp(-0.7), abs=1e-15)
    assert kl_inverse(0.5, -0.5 * math.log(4 * 0.8 * 0.2)) == pytest.approx(0.8, abs=1e-14)
    assert kl_inverse(0.3, 0.0) == 0.3
    assert kl_inverse(1.0, 0.1) == 1.0
    assert kl_inverse(0.3, math.inf) == 1.0
    assert kl_inverse(0.3, 1e4) == 1.0


@pytest.mark.parametrize("c", [1e-12, 1e-20, 1e-26])
def test_the_inverse_keeps_its_digits_for_the_smallest_divergences(c):
    q = 0.3
    step = math.sqrt(2 * c * q * (1 - q))  # to second order in the step
    assert kl_inverse(q, c) - q == pytest.approx(step, rel=1e-5, abs=2e-16)


@given(q=some.floats(0, 1), c=some.floats(0, 5), more=some.floats(0, 5))
@example(q=5e-324, c=1.0, more=1.0)
def test_the_inverse_grows_with_the_divergence_and_stays_below_its_square_root_relaxation(q, c, more):
    value = kl_inverse(q, c)
    assert q <= value <= min(1.0, q + math.sqrt(c / 2)) + 1e-15
    assert kl_inverse(q, c + more) >= value - 1e-15


@pytest.mark.parametrize(("examples", "delta"), [(20, 0.05), (200, 0.05), (200, 0.3)])
def test_the_bound_of_a_posterior_that_is_the_prior_fails_in_less_than_delta_of_training_sets(examples, delta):
    outcomes = np.arange(examples + 1)
    bounds = np.array([mcallester_bound(k / examples, 0.0, examples, delta).value for k in outcomes])
    for error in np.linspace(0.01, 0.99, 50):
        assert binom.pmf(outcomes[bounds < error], examples, error).sum() <= delta


@pytest.mark.parametrize(("draws", "delta"), [(5, 0.2), (50, 0.05), (200, 0.01)])
def test_the_upper_bound_from_draws_fails_in_less_than_delta_of_draws_and_in_more_than_a_tenth_of_that(draws, delta):
    outcomes = np.arange(draws + 1)
    bounds = np.array([error_upper_bound(k / draws, draws, delta) for k in outcomes])
    failures = [binom.pmf(outcomes[bounds < error], draws, error).sum() for error in np.linspace(0.01, 0.99, 99)]
    assert delta / 10 < max(failures) <= delta


def test_theorem_a1_follows_from_maurers_for_every_number_of_examples_from_2():
    for m in (*range(2, 200), 1000):
        k = np.arange(m + 1)
        log_choose = np.array([math.lgamma(m + 1) - math.lgamma(i + 1) - math.lgamma(m - i + 1) for i in k])
        maurer = np.exp(log_choose + xlogy(k, k / m) + xlogy(m - k, 1 - k / m)).sum()  # E exp(m kl) at most this
        for delta in (1.0, 0.5, 1e-3):
            assert math.log(maurer / delta) / m <= math.log(m / delta) / (m - 1)


def test_the_terms_add_up_to_the_formula():
    bound = mcallester_bound(0.1, 50.0, 1001, 0.05)
    share = (50 + math.log(1001 / 0.05)) / 1000
    assert bound.term("share") == pytest.approx(share, rel=1e-12)
    assert bound.term("square root") == pytest.approx(0.1 + math.sqrt(share / 2), rel=1e-12)
    assert divergence(0.1, bound.value) == pytest.approx(share, rel=1e-9)


def test_delta_is_split_between_training_sets_and_draws():
    bound = mcallester_bound(0.1, 50.0, 1001, 0.05, draws=100, delta_draws=0.02)
    upper = kl_inverse(0.1, math.log(1 / 0.02) / 100)
    assert bound.term("error, upper") == upper
    assert bound.value == mcallester_bound(upper, 50.0, 1001, 0.03).value
    assert bound.delta == 0.05
    assert mcallester_bound(0.1, 50.0, 1001, 0.05, draws=100).term("error, upper") == error_upper_bound(0.1, 100, 0.01)


@pytest.mark.parametrize(("delta", "said"), [(0.05, "0.95"), (1e-8, "1 - 1e-08"), (1e-20, "1 - 1e-20")])
def test_the_probability_of_a_bound_is_never_said_to_be_1(delta, said):
    assert f"probability at least {said} over" in mcallester_bound(0.02, 100.0, 14380, delta).statement()


@given(
    error=some.floats(0, 0.5), kl=some.floats(0, 1e4), examples=some.integers(2, 10**6), delta=some.floats(1e-6, 0.4)
)
def test_the_bound_falls_with_examples_and_delta_and_grows_with_error_and_divergence(error, kl, examples, delta):
    value, rounding = mcallester_bound(error, kl, examples, delta).value, 1e-15
    assert mcallester_bound(error, kl, 2 * examples, delta).value <= value + rounding
    assert mcallester_bound(error, kl, examples, 2 * delta).value <= value + rounding
    assert mcallester_bound(error, kl + 1, examples, delta).value >= value - rounding
    assert mcallester_bound(error + 0.1, kl, examples, delta).value >= value - rounding


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"error": 1.5}, "error=1.5: give a fraction"),
        ({"error": math.nan}, "error=nan: give a fraction"),
        ({"divergence": -1.0}, "divergence=-1.0: give a number from 0"),
        ({"divergence": math.nan}, "divergence=nan"),
        ({"examples": 1}, "examples=1: give a whole number from 2"),
        ({"delta": 0.0}, "delta=0.0: give a probability"),
        ({"draws": 0}, "draws=0"),
        ({"draws": 10, "delta_draws": 0.05}, "leaves nothing of delta=0.05"),
        ({"delta_draws": 0.01}, "give draws as well"),
    ],
)
def test_what_is_out_of_range_is_one_sentence(arguments, message):
    with pytest.raises(InputError, match=message):
        mcallester_bound(**{"error": 0.1, "divergence": 1.0, "examples": 100, **arguments})


def test_a_divergence_below_0_has_no_inverse():
    with pytest.raises(InputError, match="divergence=-1: give a number of nats"):
        kl_inverse(0.1, -1)
