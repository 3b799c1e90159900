"""Regressions as plain numbers: they are those of the closed form, or of scikit-learn."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shaketable.errors import InputError
from shaketable.estimators import fitted
from shaketable.estimators.models import BOOSTING, MODELS, PENALTIES, Linear, of_plain


@pytest.fixture(scope="module")
def data():
    """Sixty networks with three measures of very different scales, and gaps that depend on them in a bent way."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 3)) * [1, 1e-3, 1e4] + [0, 5, -3]
    y = np.sin(x[:, 0]) + 200 * (x[:, 1] - 5) + x[:, 2] * 1e-5 + 0.1 * generator.normal(size=60)
    return x, y, generator.normal(size=(200, 3)) * [1, 1e-3, 1e4] + [0, 5, -3]


def test_least_squares_solves_the_normal_equations(data):
    x, y, _ = data
    ones = np.column_stack([x, np.ones(len(x))])
    *coefficients, intercept = np.linalg.solve(ones.T @ ones, ones.T @ y)
    found = fitted("linear", x, y)
    assert isinstance(found, Linear)
    np.testing.assert_allclose(found.coefficients, coefficients, rtol=1e-6)
    assert found.intercept == pytest.approx(intercept, rel=1e-6)


def test_ridge_estimates_as_scikit_learn_does_on_scaled_columns(data):
    x, y, new = data
    expected = make_pipeline(StandardScaler(), RidgeCV(alphas=PENALTIES)).fit(x, y).predict(new)
    np.testing.assert_allclose(fitted("ridge", x, y).predict(new), expected, rtol=1e-9)


def test_ridge_takes_the_penalty_of_least_error_on_networks_left_out_one_by_one():
    generator = np.random.default_rng(0)
    for columns in (1, 3, 6) * 4:
        x, y = generator.normal(size=(12, columns)), generator.normal(size=12) + 5
        scaled = (x - x.mean(0)) / x.std(0)

        def fit(z, t, penalty):
            middle = z - z.mean(0)
            weights = np.linalg.solve(middle.T @ middle + penalty * np.eye(z.shape[1]), middle.T @ (t - t.mean()))
            return lambda new: t.mean() + (new - z.mean(0)) @ weights

        def error(penalty, z=scaled, t=y, fit=fit):
            rest = [np.arange(len(t)) != place for place in range(len(t))]
            return sum((fit(z[kept], t[kept], penalty)(z[~kept])[0] - t[~kept][0]) ** 2 for kept in rest)

        best = fit(scaled, y, min(PENALTIES, key=error))
        np.testing.assert_allclose(fitted("ridge", x, y).predict(x), best(scaled), rtol=1e-9)


def test_boosting_estimates_as_scikit_learn_does_though_it_is_made_of_plain_numbers(data):
    x, y, new = data
    expected = GradientBoostingRegressor(**BOOSTING, random_state=3).fit(x, y).predict(new)
    found = of_plain(json.loads(json.dumps(asdict(fitted("boosting", x, y, seed=3)))), 3)
    np.testing.assert_allclose(found.predict(new), expected, rtol=0, atol=1e-12)
    assert np.ptp(expected) > 1


@pytest.mark.parametrize("model", MODELS)
def test_a_model_that_went_through_json_estimates_the_same_to_the_bit(model, data):
    x, y, new = data
    found = fitted(model, x, y)
    assert (of_plain(json.loads(json.dumps(asdict(found))), 3).predict(new) == found.predict(new)).all()


@pytest.mark.parametrize("model", ["linear", "ridge"])
def test_a_constant_measure_changes_nothing(model, data):
    x, y, new = data
    more, new_more = (np.column_stack([one, np.full(len(one), 7.0)]) for one in (x, new))
    np.testing.assert_allclose(fitted(model, more, y).predict(new_more), fitted(model, x, y).predict(new), rtol=1e-9)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[1.0, 2.0]] * 3, [1.0, 2.0, 3.0], "3 networks are too few to fit 3 coefficients"),
        ([[1.0], [2.0], [3.0], [4.0]], [0.5] * 4, "all 4 networks have the same gap, 0.5"),
        ([[1.0], [np.nan], [3.0]], [1.0, 2.0, 3.0], "there is a NaN or an infinite number"),
        ([[1.0], [2.0], [3.0]], [1.0, np.inf, 3.0], "there is a NaN or an infinite number"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_sentence(model, x, y, message):
    with pytest.raises(InputError, match=message):
        fitted(model, np.array(x), np.array(y))


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match=r"model='forest': give one of linear, ridge, boosting"):
        fitted("forest", np.zeros((5, 1)), np.arange(5.0))
