"""Repeated splits: SSR and Pearson are what the paper says they are."""

import numpy as np
import polars as pl
import pytest

from shaketable.errors import InputError
from shaketable.estimators import correlation, left_out, repeated_splits, whole_fit


def table(gaps, **measures) -> pl.DataFrame:
    """The table of a zoo with some measures."""
    rows = [
        {"network": f"n{place}", "gap": gap, "measure": name, "value": float(values[place])}
        for place, gap in enumerate(gaps)
        for name, values in measures.items()
    ]
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def zoo():
    generator = np.random.default_rng(0)
    zeta, kappa = generator.uniform(size=50), generator.uniform(size=50)
    return table(2 * zeta - kappa + 0.3 + 0.05 * generator.normal(size=50), zeta=zeta, kappa=kappa)


def test_each_split_holds_a_tenth_out_and_its_ssr_and_pearson_are_those_of_its_points(zoo):
    found = repeated_splits(zoo, repeats=7, seed=1)
    assert len(found.table) == 7
    for row in found.table.to_dicts():
        points = found.points.filter(split=row["split"])
        test, train = points.filter(part="test"), points.filter(part="train")
        assert (len(test), len(train)) == (5, 45)
        assert not set(test["network"]) & set(train["network"])
        assert row["ssr"] == pytest.approx(((test["estimate"] - test["gap"]) ** 2).sum())
        assert row["pearson"] == pytest.approx(np.corrcoef(train["estimate"], train["gap"])[0, 1])
        assert row["inside"] == ((test["low"] <= test["gap"]) & (test["gap"] <= test["high"])).sum()
    assert found.points.filter(part="test")["network"].n_unique() > 5


def test_the_fit_of_a_split_has_not_seen_the_networks_that_are_held_out(zoo):
    found = repeated_splits(zoo, repeats=1)
    held = found.points.filter(part="test")["network"].to_list()
    spoilt = zoo.with_columns(gap=pl.when(pl.col("network").is_in(held)).then(99.0).otherwise("gap"))
    again = repeated_splits(spoilt, repeats=1)
    assert again.points["estimate"].equals(found.points["estimate"])


def test_intervals_of_networks_left_out_one_by_one_cover_within_the_binomial_error():
    generator = np.random.default_rng(5)
    zeta = generator.uniform(size=100)
    found = left_out(table(zeta + 0.1 * generator.normal(size=100), zeta=zeta), ["zeta"])
    assert found["inside"].to_list() == found.select(pl.col("gap").is_between("low", "high")).to_series().to_list()
    assert found["inside"].mean() == pytest.approx(0.9, abs=3 * np.sqrt(0.9 * 0.1 / 100))


def test_a_network_that_is_left_out_has_no_part_in_its_own_estimate(zoo):
    found = left_out(zoo)
    name = found["network"][3]
    again = left_out(zoo.with_columns(gap=pl.when(pl.col("network") == name).then(99.0).otherwise("gap")))
    assert again.row(3)[2:5] == found.row(3)[2:5]
    assert not again["inside"][3]


def test_the_estimates_of_a_whole_fit_are_on_the_line_where_there_is_no_noise():
    found = whole_fit(table([0.1, 0.2, 0.3, 0.4], zeta=[1, 2, 3, 4]), ["zeta"])
    assert found["estimate"].to_list() == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_a_constant_has_no_correlation():
    assert correlation(np.ones(3), np.arange(3.0)) is None
    assert correlation(np.arange(3.0), -np.arange(3.0)) == pytest.approx(-1)


@pytest.mark.parametrize("share", [0, 1, 0.999])
def test_a_share_that_leaves_nothing_on_one_side_is_refused(zoo, share):
    with pytest.raises(InputError, match="leaves none on one side"):
        repeated_splits(zoo, share=share)
