"""What a measure is: rows with a status, logarithms beyond a float's range, arguments that are checked."""

import inspect
import math

import pytest
import torch
from torch import nn

import shaketable as st
from shaketable.errors import InputError, RunError
from shaketable.measures.measure import (
    MEASURES,
    SCHEMA,
    Measurement,
    Unavailable,
    from_factors,
    from_log,
    from_value,
    measure,
    measurements,
)
from shaketable.study import Study


@pytest.fixture
def study() -> Study:
    network = nn.Linear(2, 2, bias=False).eval()
    return Study(network, final={"weight": torch.diag(torch.tensor([2.0, 3.0]))})


@pytest.fixture
def made(monkeypatch):
    """A decorator for measures that are forgotten after the test."""
    monkeypatch.setattr("shaketable.measures.measure.MEASURES", kept := dict(MEASURES))

    def decorate(function, **about):
        found = measure(**({"symbol": "T", "direction": "lower", "paper": "none"} | about))(function)
        assert kept[function.__name__] is found
        return found

    return decorate


def test_a_product_beyond_a_float_has_no_value_and_its_logarithm_exactly():
    found = from_factors([1e200, 1e129])
    assert found.value is None
    assert found.log_value == pytest.approx(329 * math.log(10), rel=1e-15)
    tiny = from_factors([1e-200, 1e-129])  # zero would be a lie
    assert tiny.value is None
    assert tiny.log_value == pytest.approx(-329 * math.log(10), rel=1e-15)


def test_a_product_that_is_a_float_is_exact_also_where_a_part_of_it_is_none():
    assert from_factors([3.0, 7.0]).value == 21.0
    assert from_factors([1e200, 1e200, 1e-300]).value == pytest.approx(1e100, rel=1e-12)
    assert from_factors([1e-200, 1e-200, 1e300]).value == pytest.approx(1e-100, rel=1e-12)


def test_zero_has_the_logarithm_minus_infinity_and_a_negative_number_has_none():
    assert (from_factors([0.0, 5.0]).value, from_factors([0.0, 5.0]).log_value) == (0.0, -math.inf)
    assert (from_log(-math.inf).value, from_value(0.0).log_value) == (0.0, -math.inf)
    assert (from_value(-0.25).value, from_value(-0.25).log_value) == (-0.25, None)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_a_reason_not_a_nan(value):
    found = from_value(value)
    assert (found.value, found.log_value, found.status) == (None, None, "failed")
    assert str(value) in str(found.reason)
    assert from_value(value, reason="what is known of it").reason == found.reason


def test_a_table_has_a_row_a_measure_in_the_order_asked_for_with_decimal_logarithms(study):
    table = measurements(study, ["product_of_frobenius_norms", "number_of_parameters"])
    assert dict(table.schema) == SCHEMA
    assert table["measure"].to_list() == ["product_of_frobenius_norms", "number_of_parameters"]
    assert table["symbol"].to_list() == ["PFN", "NoP"]
    assert table["log10"].to_list() == pytest.approx([math.log10(13) / 2, math.log10(4)])
    assert table["status"].to_list() == ["ok", "ok"]


def test_the_whole_table_has_every_measure_and_says_of_each_what_is_missing(study):
    table = st.measurements(study)
    assert table["measure"].to_list() == list(st.MEASURES)
    rows = {row["measure"]: row for row in table.iter_rows(named=True)}
    assert rows["generalization_error"]["status"] == "unavailable"
    assert rows["generalization_error"]["reason"] == "the study has no train; make it with train=(inputs, labels)"
    assert rows["squared_distance_to_init"]["reason"] == (
        "the study has no init; make it with init=..., the weights before training"
    )
    assert table.filter(table["status"] != "ok")["reason"].is_not_null().all()


def test_arguments_reach_their_measure(study):
    asked = {"product_of_spectral_norms": {"operator": "matrix"}}
    assert measurements(study, "product_of_spectral_norms", asked)["value"].item() == pytest.approx(3.0)
    with pytest.raises(InputError, match="unknown operator='fft'"):
        measurements(study, "product_of_spectral_norms", {"product_of_spectral_norms": {"operator": "fft"}})
    with pytest.raises(InputError, match="'product_of_spectral_norms' has no argument 'sigma'; it has operator"):
        measurements(study, "product_of_spectral_norms", {"product_of_spectral_norms": {"sigma": 1}})


def test_a_name_that_is_no_measure_is_refused_with_the_names_that_are(study):
    with pytest.raises(InputError, match="there is no measure 'sharpness'; there are .*generalization_error"):
        measurements(study, ["sharpness"])
    with pytest.raises(InputError, match="there is no measure 'sharpness'"):
        measurements(study, [], {"sharpness": {}})


def test_what_fails_or_turns_out_to_be_missing_is_a_row_and_wrong_input_is_an_error(study, made):
    def fails(study):
        raise RunError("no memory")

    def lacks(study):
        raise Unavailable("no units")

    def refuses(study):
        raise InputError("a wrong argument")

    for function in (fails, lacks, refuses):
        made(function)
    table = measurements(study, ["fails", "lacks"])
    assert table.select("value", "status", "reason").rows() == [
        (None, "failed", "no memory"),
        (None, "unavailable", "no units"),
    ]
    with pytest.raises(InputError, match="a wrong argument"):
        measurements(study, ["refuses"])


def test_a_measure_that_needs_a_trajectory_says_how_to_give_one(study, made):
    found = made(lambda study: from_value(1.0), needs=("trajectory",))(study)
    assert str(found.reason).startswith("the study has no trajectory; make it with checkpoints=...")


def test_a_measure_that_draws_leaves_the_global_random_state_alone(study, made):
    before = torch.get_rng_state()
    made(lambda study: from_value(float(torch.rand(()))))(study)
    assert torch.equal(before, torch.get_rng_state())


def test_a_measure_looks_like_the_function_that_it_was_made_of(made):
    def some_number(study, sharpness: float = 1.0) -> Measurement:
        """Some number.

        More about it.
        """
        return from_value(sharpness)

    found = made(some_number)
    assert (found.name, found.about, found.__doc__) == ("some_number", "Some number.", some_number.__doc__)
    assert inspect.signature(found) == inspect.signature(some_number)


def test_a_network_with_too_many_errors_for_a_measure_is_a_row_with_the_reason():
    network = torch.nn.Linear(1, 2, bias=False).eval()
    final, init = torch.tensor([[1.0], [-1.0]]), torch.zeros(2, 1)
    study = Study(network, final={"weight": final}, init={"weight": init}, train=(torch.ones(4, 1), [0, 0, 0, 1]))
    rows = measurements(study, ["network_criticality", "number_of_parameters"])
    assert rows["status"].to_list() == ["unavailable", "ok"]
    assert "clean training error is 0.25, above the bound 0.1" in rows["reason"][0]
    with pytest.raises(InputError, match=r"epsilon=\[0.1, 0.3\]: give one number"):
        measurements(study, ["network_criticality"], {"network_criticality": {"epsilon": [0.1, 0.3]}})
