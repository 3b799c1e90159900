"""R2: closed forms, scikit-learn, and what cannot be fitted."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from shaketable.errors import InputError
from shaketable.statistics import cross_validated_r2, r2, standardised_coefficients, unseen_r2


def columns(variables: int = 3, networks: int = 40):
    random = np.random.default_rng(0)
    x = random.normal(size=(networks, variables)) * 10.0 ** np.arange(variables)
    return x, x @ random.normal(size=variables) / 100 + random.normal(size=networks)


def test_it_is_that_of_scikit_learn():
    x, y = columns()
    expected = LinearRegression().fit(x, y).score(x, y)
    assert r2(x, y) == pytest.approx(expected, rel=1e-12)
    assert r2(x, y, adjusted=True) == pytest.approx(1 - (1 - expected) * 39 / 36, rel=1e-12)


def test_with_one_variable_it_is_the_squared_correlation():
    x, y = columns(1)
    assert r2(x[:, 0], y) == pytest.approx(np.corrcoef(x[:, 0], y)[0, 1] ** 2, rel=1e-12)


def test_noise_has_an_adjusted_one_of_0_on_average():
    random = np.random.default_rng(1)
    found = np.array([r2(random.normal(size=(30, 5)), random.normal(size=30), adjusted=True) for _ in range(300)])
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(300)


def test_constant_and_repeated_columns_count_for_nothing():
    x, y = columns(1)
    more = np.concatenate((x, np.full_like(x, 7.0), 3 * x), axis=1)
    assert r2(more, y, adjusted=True) == pytest.approx(r2(x, y, adjusted=True), rel=1e-10)
    assert r2(np.full(40, 7.0), y) == pytest.approx(0, abs=1e-12)
    assert standardised_coefficients(more[:, :2], y)[1] == 0


def test_each_network_is_predicted_by_the_fit_without_its_fold():
    x, y = columns()
    alone = cross_validated_r2(x, y, folds=40)  # leave one out: no matter how the folds fall
    predicted = [
        LinearRegression().fit(np.delete(x, i, 0), np.delete(y, i)).predict(x[i : i + 1])[0] for i in range(len(y))
    ]
    assert alone.value == pytest.approx(r2_score(y, predicted), rel=1e-10)
    assert alone.mean is None  # one network has no variance
    several = cross_validated_r2(x, y, folds=7, seed=3)
    assert several == cross_validated_r2(x, y, folds=7, seed=3)
    assert several != cross_validated_r2(x, y, folds=7, seed=4)
    assert len(several.folds) == 7
    assert several.value < r2(x, y)


def test_the_standardised_coefficients_are_those_of_columns_with_variance_1():
    x, y = columns()
    scaled = (x - x.mean(0)) / x.std(0)
    expected = LinearRegression().fit(scaled, (y - y.mean()) / y.std()).coef_
    assert standardised_coefficients(x, y) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2, 3], [1, 1, 1], "all 3 numbers of y are equal"),
        ([1, 2, np.inf], [1, 2, 3], r"x\[:, 0\]\[2\] is infinite"),
        ([1, 2], [1, 2, 3], "x has 2 rows and y has 3"),
        (np.zeros((3, 2, 2)), [1, 2, 3], "one variable"),
        ([[1, 2], [2, np.nan], [3, 4]], [1, 2, 3], r"x\[:, 1\]\[1\] is missing or NaN"),
    ],
)
def test_what_no_line_fits_is_one_clear_error(x, y, message):
    with pytest.raises(InputError, match=message):
        r2(x, y)


def test_too_few_networks_and_too_many_folds_are_refused():
    with pytest.raises(InputError, match="at least 4 networks for an adjusted R2, and there are 3"):
        r2([[1, 2], [2, 5], [3, 4]], [1, 2, 4], adjusted=True)
    with pytest.raises(InputError, match="from 2 to the number of networks, 3"):
        cross_validated_r2([1, 2, 3], [1, 2, 4], folds=4)


def test_unseen_groups_are_predicted_by_the_others_alone():
    rng = np.random.default_rng(3)
    x, groups = rng.normal(size=20), np.repeat([0, 1, 2, 3], 5)
    y = 2 * x + rng.normal(size=20)
    value, predicted = unseen_r2(x, y, groups)
    for group in range(4):
        slope, offset = np.polyfit(x[groups != group], y[groups != group], 1)
        assert predicted[groups == group] == pytest.approx(slope * x[groups == group] + offset)
    assert value == pytest.approx(1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def test_a_group_below_zero_is_fitted_on_and_not_judged():
    x, y = np.arange(6.0), np.array([0.0, 1.0, 2.0, 3.5, 4.0, 4.5])
    value, predicted = unseen_r2(x, y, [-1, -1, -1, 0, 0, 0])
    assert predicted[3:] == pytest.approx([3, 4, 5])
    assert np.isnan(predicted[:3]).all()
    assert value == pytest.approx(1 - 0.5 / ((y[3:] - 4) ** 2).sum())


@pytest.mark.parametrize(
    ("groups", "said"), [([0, 0], "shape"), ([-1, -1, -1], "no variance"), ([0, 0, 0], "leaves 0 networks to fit on")]
)
def test_groups_that_leave_nothing_to_predict_or_to_fit_on_are_one_clear_error(groups, said):
    with pytest.raises(InputError, match=said):
        unseen_r2([1, 2, 3], [1, 2, 4], groups)


@pytest.mark.parametrize("statistic", [r2, cross_validated_r2, standardised_coefficients])
def test_a_column_without_numbers_is_one_clear_error(statistic):
    with pytest.raises(InputError, match="x has 0 rows and y has 3 numbers"):
        statistic([], [1, 2, 3])
