"""Theorem 3.2 and corollary 3.3: the divergence against torch, the grid of priors, the constants, and a simulation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy.integrate import quad
from scipy.stats import norm

from shaketable.bounds import (
    corollary_bound,
    criticality_bound,
    criticality_kl,
    kl_inverse,
    prior_indices,
    prior_sigma,
)
from shaketable.errors import InputError

LAYER = some.tuples(some.integers(1, 10**6), some.floats(0, 1), some.floats(1e-4, 1), some.floats(0, 1e3))
LAYERS = some.lists(LAYER, min_size=1, max_size=5).map(lambda rows: tuple(list(column) for column in zip(*rows)))
TOY = ([300, 40], [0.5, 1.0], [0.2, 0.1], [4.0, 0.5])
DEMO = ([16640, 65792, 65792, 2570], [1.0] * 4, [0.05] * 4, [317.65, 142.90, 70.13, 39.61])


def test_the_divergence_is_that_of_torchs_gaussians():
    generator = torch.Generator().manual_seed(0)
    sizes, alphas, sigmas, priors = [7, 3], [0.3, 1.0], [0.2, 0.9], [0.4, 0.6]
    shifts = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    expected = 0.0
    for shift, alpha, sigma, prior in zip(shifts, alphas, sigmas, priors):
        posterior = torch.distributions.MultivariateNormal(alpha * shift, sigma**2 * torch.eye(len(shift)).double())
        around = torch.distributions.MultivariateNormal(
            torch.zeros_like(shift), prior**2 * torch.eye(len(shift)).double()
        )
        expected += float(torch.distributions.kl_divergence(posterior, around))
    squares = [float(shift.square().sum()) for shift in shifts]
    assert criticality_kl(sizes, alphas, sigmas, squares, priors) == pytest.approx(expected, rel=1e-12)


def test_the_divergence_of_one_parameter_is_its_integral():
    posterior, prior = norm(0.5 * 3.0, 0.3), norm(0, 0.8)
    integral, _ = quad(lambda x: posterior.pdf(x) * (posterior.logpdf(x) - prior.logpdf(x)), -2, 5, epsabs=1e-12)
    assert criticality_kl([1], [0.5], [0.3], [9.0], [0.8]) == pytest.approx(integral, rel=1e-9)


@given(layers=LAYERS, examples=some.integers(2, 10**6))
def test_the_chosen_prior_satisfies_equation_5_and_is_in_the_grid_or_the_bound_is_above_1(layers, examples):
    bound = criticality_bound(0.0, *layers, examples)
    for index, k, alpha, sigma, square in zip(prior_indices(*layers, examples), *layers):
        if index < 1:
            assert bound.value >= 1
            assert criticality_bound(0.0, *layers, examples, form="inverse").value == 1
            continue
        needed = k * sigma**2 + alpha**2 * square
        assert needed * (1 - 1e-9) <= k * prior_sigma(index, k, examples) ** 2 <= needed * math.exp(1 / k) * (1 + 1e-9)


def test_the_printed_choice_of_the_prior_does_not_satisfy_equation_5():
    k, sigma, examples = 65792, 0.1, 1438
    printed = math.ceil(4 * examples / k + 1 + math.log(1 / sigma**2))
    assert prior_sigma(printed, k, examples) ** 2 > 100 * sigma**2
    assert prior_indices([k], [0.0], [sigma], [0.0], examples)[0] > 5 * examples + math.log(1 / sigma**2)


@settings(max_examples=30, deadline=None)
@given(rows=some.lists(some.tuples(some.integers(1, 40), some.floats(0, 1), some.floats(0.05, 1), some.floats(0, 9)),
                       min_size=1, max_size=2), examples=some.integers(2, 60))  # fmt: skip
def test_the_theorem_is_at_least_the_best_of_all_priors_without_relaxations(rows, examples):
    sizes, alphas, sigmas, squares = (list(column) for column in zip(*rows))
    error, delta = 0.1, 0.05
    least = 0.0  # of KL + sum of log(pi^2 j^2 / 6), by trying every j up to far beyond
    for k, a, s, d in rows:
        j = np.arange(1, 20 * (examples + k) + 200)
        log_variance = (4 * examples - j) / k + 1
        with np.errstate(over="ignore"):
            ratio = (k * s * s + a * a * d) * np.exp(-log_variance)
        kl = 0.5 * (ratio - k + k * (log_variance - 2 * math.log(s)))
        least += float((kl + np.log(np.pi**2 * j**2 / 6)).min())
    root = error + math.sqrt((least + math.log(examples / delta)) / (2 * (examples - 1)))
    bound = criticality_bound(error, sizes, alphas, sigmas, squares, examples, delta)
    assert bound.value >= root - 1e-12
    inverse = kl_inverse(error, (least + math.log(examples / delta)) / (examples - 1))
    assert inverse - 1e-12 <= bound.term("inverse") <= bound.value + 1e-12


def test_the_shares_of_delta_of_all_priors_of_all_layers_sum_to_no_more_than_delta():
    bound = criticality_bound(0.1, *TOY, 500)
    indices = prior_indices(*TOY, 500)
    share = math.prod(6 / (math.pi**2 * index**2) for index in indices)
    assert bound.term("priors") == pytest.approx(-0.5 * math.log(share), rel=1e-12)
    one_layer = np.float64(6) / (np.pi**2 * np.arange(1, 10**6, dtype=np.float64) ** 2)
    assert one_layer.sum() <= 1
    assert np.outer(one_layer[:1000], one_layer[:1000]).sum() <= 1  # pairs of layers


def test_the_value_is_the_formula_of_its_docstring():
    sizes, alphas, sigmas, squares = TOY
    examples, delta = 5000, 0.05
    inside = sum(
        k / 4 * math.log(1 + a**2 * d / (k * s**2)) + 1 / 4 for k, a, s, d in zip(sizes, alphas, sigmas, squares)
    )
    inside += 0.5 * math.log(examples / delta)
    inside += sum(math.log(math.pi * j / math.sqrt(6)) for j in prior_indices(*TOY, examples))
    bound = criticality_bound(0.02, *TOY, examples, delta)
    assert bound.value == pytest.approx(0.02 + math.sqrt(inside / (examples - 1)), rel=1e-12)


def test_the_printed_form_is_the_paper_s_and_its_constants_are_smaller_than_the_proof_s_on_the_demo_network():
    sizes, alphas, sigmas, squares = DEMO
    m, delta = 1438, 0.05
    epsilon = sum(
        math.log(7 * m + 2 * math.log(k / (k * s**2 + a**2 * d))) for k, a, s, d in zip(sizes, alphas, sigmas, squares)
    )
    quarter = sum(k * math.log(1 + a**2 * d / (k * s**2)) for k, a, s, d in zip(sizes, alphas, sigmas, squares)) / 4
    printed = criticality_bound(0.0, *DEMO, m, delta, form="printed")
    assert printed.value == pytest.approx(math.sqrt((quarter + math.log(m / delta) + epsilon) / (m - 1)), rel=1e-12)
    assert printed.statement().startswith("This is no bound: it needs that the printed constants are right")
    assert printed.value < criticality_bound(0.0, *DEMO, m, delta).value


def test_equation_3_has_no_value_for_one_parameter_with_far_too_much_noise_and_the_printed_form_says_so():
    layers = ([1], [1.0], [1.0], [1e300])
    assert math.isnan(criticality_bound(0.1, *layers, 2).term("printed"))
    assert criticality_bound(0.1, *layers, 2).value >= 1
    with pytest.raises(InputError, match="logarithm of a negative number"):
        criticality_bound(0.1, *layers, 2, form="printed")


@given(layers=LAYERS, examples=some.integers(2, 10**5), error=some.floats(0, 1))
def test_the_forms_are_ordered_and_the_bound_is_never_below_the_error(layers, examples, error):
    bound = criticality_bound(error, *layers, examples)
    assert error <= bound.term("inverse") <= 1
    assert bound.term("inverse") <= bound.value + 1e-12
    assert criticality_bound(error, *layers, examples, form="inverse").value == bound.term("inverse")


def test_the_bound_falls_with_examples_delta_and_sigma_and_grows_with_alpha_and_distance():
    def value(examples=5000, delta=0.05, alpha=0.5, sigma=0.1, square=4.0, form="derived"):
        return criticality_bound(0.02, [300], [alpha], [sigma], [square], examples, delta, form=form).value

    for form in ("derived", "printed", "inverse"):
        base = value(form=form)
        assert value(examples=10000, form=form) < base
        assert value(delta=0.1, form=form) < base
        assert value(sigma=0.2, form=form) < base
        assert value(alpha=0.6, form=form) > base
        assert value(square=5.0, form=form) > base


def test_draws_cost_a_part_of_delta():
    bound = criticality_bound(0.02, *TOY, 5000, 0.05, draws=50, delta_draws=0.02)
    upper = kl_inverse(0.02, math.log(50) / 50)
    assert bound.value == pytest.approx(criticality_bound(upper, *TOY, 5000, 0.03).value, rel=1e-14)
    assert bound.delta == 0.05
    assert "50 draws of noise" in bound.statement()


def test_the_corollary_is_at_least_the_theorem_at_the_same_point_and_close_to_it_for_little_noise():
    sizes, alphas, sigmas, squares = TOY
    criticality = sum(a**2 * d / s**2 for a, d, s in zip(alphas, squares, sigmas))
    for form in ("derived", "printed"):
        theorem = criticality_bound(0.02, *TOY, 5000, form=form).value
        assert theorem <= corollary_bound(criticality, 0.02, sizes, sigmas, 5000, form=form).value <= 1.1 * theorem


def test_the_corollary_is_its_formula_and_names_its_conjecture():
    bound = corollary_bound(200.0, 0.05, [1000, 100], [0.2, 0.1], 5000, 0.05)
    indices = [math.floor(20000 + k * (1 - 2 * math.log(s))) for k, s in ((1000, 0.2), (100, 0.1))]
    inside = 50 + 0.5 + 0.5 * math.log(5000 / 0.05) + sum(math.log(math.pi * j / math.sqrt(6)) for j in indices)
    assert bound.value == pytest.approx(0.05 + math.sqrt(inside / 4999), rel=1e-12)
    assert "the trained network is no worse on new examples" in bound.statement()


def test_the_bound_at_the_best_noise_holds_in_most_training_sets_of_random_labels_where_errors_on_new_examples_are_a_half():
    """Labels are coin flips, so that every classifier errs on half of the new examples, and the fit is all luck."""
    generator = np.random.default_rng(0)
    size, examples, delta, failures, naive = 4, 40, 0.2, 0, 0
    for _ in range(200):
        inputs = generator.normal(size=(examples, size))
        labels = generator.choice([-1.0, 1.0], examples)
        final = np.linalg.lstsq(inputs, labels, rcond=None)[0] * 3
        scale, reach = np.linalg.norm(inputs, axis=1), labels * (inputs @ final)
        bounds, errors = [], []
        for sigma in (0.03, 0.1, 0.3, 1.0):
            for alpha in (0.1, 0.3, 1.0):
                error = float(norm.cdf(-alpha * reach / (sigma * scale)).mean())  # exact over the noise
                arguments = ([size], [alpha], [sigma], [float(final @ final)], examples, delta)
                bounds.append(criticality_bound(error, *arguments, form="inverse").value)
                errors.append(error)
        failures += min(bounds) < 0.5
        naive += min(errors) < 0.42
    assert failures / 200 <= delta
    assert naive / 200 > 0.5  # the training error alone would mislead in most of them


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigmas": [0.0]}, "sigmas=0.0: give a number above 0"),
        ({"sigmas": [1.5]}, "standard deviations in"),
        ({"alphas": [1.5]}, "alphas has 1.5"),
        ({"alphas": [math.nan]}, "alphas=nan"),
        ({"squared_distances": [-1.0]}, "squared_distances=-1.0"),
        ({"parameters": [0]}, "parameters=0: give a whole number from 1"),
        ({"parameters": [10, 10]}, "parameters 2, alphas 1, sigmas 1"),
        ({"examples": 1}, "examples=1"),
        ({"delta": 1.0}, "delta=1.0"),
        ({"form": "best"}, "form='best': use"),
    ],
)
def test_what_is_out_of_range_is_one_sentence(arguments, message):
    good = {"parameters": [10], "alphas": [0.5], "sigmas": [0.1], "squared_distances": [1.0], "examples": 100}
    with pytest.raises(InputError, match=message):
        criticality_bound(0.1, **{**good, **arguments})


def test_no_layers_are_refused_and_so_is_the_inverse_of_the_corollary():
    with pytest.raises(InputError, match="each layer needs one number"):
        criticality_bound(0.1, [], [], [], [], 100)
    with pytest.raises(InputError, match="needs alphas and distances"):
        corollary_bound(1.0, 0.1, [10], [0.1], 100, form="inverse")  # pyright: ignore[reportArgumentType]
