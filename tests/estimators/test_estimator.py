"""The estimator: what it recovers, what it says of a network, and how it is kept."""

import json
import pickletools

import numpy as np
import polars as pl
import pytest
import torch
from tests.estimators.test_splits import table

from shaketable.errors import InputError
from shaketable.estimators import Estimate, Estimator, fit
from shaketable.measures import MEASURES
from shaketable.study import Study


@pytest.fixture(scope="module")
def made():
    """A zoo whose gap is 2 zeta - kappa + 0.3, and noise."""
    generator = np.random.default_rng(0)
    zeta, kappa = generator.uniform(size=80), generator.uniform(size=80)
    return table(2 * zeta - kappa + 0.3 + 0.01 * generator.normal(size=80), zeta=zeta, kappa=kappa)


def recipes(zoo):
    return {entry.name: entry.recipe for entry in zoo.plan.networks}


@pytest.fixture
def fitted(small_zoo):
    """Fitted on the zoo of small networks."""
    return fit(small_zoo.table(), ["training_loss"], coverage=0.8, recipes=recipes(small_zoo))


def study_of(zoo, place=0):
    return Study.from_run(zoo.runs / zoo.plan.networks[place].name)


def test_the_coefficients_of_equation_7_are_found_again(made):
    found = fit(made)
    assert [one.measure for one in found.features] == ["zeta", "kappa"]
    assert found.regression.whole.coefficients == pytest.approx((2, -1), abs=0.02)
    assert found.regression.whole.intercept == pytest.approx(0.3, abs=0.02)
    assert found.regression.error == pytest.approx(0.01, rel=0.3)


def test_networks_without_a_measure_or_a_gap_are_left_out_and_counted(made):
    names = made["network"].unique(maintain_order=True).to_list()
    holes = made.with_columns(
        value=pl.when((pl.col("network") == names[0]) & (pl.col("measure") == "kappa")).then(None).otherwise("value"),
        gap=pl.when(pl.col("network") == names[1]).then(float("nan")).otherwise("gap"),
    )
    found = fit(holes)
    assert (found.networks, found.provenance["left_out"]) == (78, 2)
    assert found.regression.whole == fit(made.filter(~pl.col("network").is_in(names[:2]))).regression.whole


def test_a_measure_that_spans_many_powers_of_ten_is_fitted_by_its_logarithm():
    found = fit(table(np.arange(20) / 20, norm=10.0 ** np.arange(20)), ["norm"])
    assert found.features[0].logarithm
    assert found.features[0].high == pytest.approx(19)
    assert found.predict(np.array([[10.0]]))[0, 0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("model", "interval"), [("linear", None), ("ridge", "cv+"), ("boosting", None), ("boosting", "split")]
)
def test_an_estimator_read_from_its_file_estimates_the_same_to_the_bit(made, tmp_path, model, interval):
    found = fit(made, model=model, interval=interval)
    path = found.save(tmp_path / "deep" / "gap.json")
    again = Estimator.load(path)
    assert again == found
    x = np.random.default_rng(1).uniform(size=(30, 2))
    assert (again.predict(x) == found.predict(x)).all()
    assert json.loads(path.read_text())["kind"] == "shaketable estimator"
    with pytest.raises(ValueError):  # no pickle
        list(pickletools.genops(path.read_bytes()))


def test_the_estimate_of_a_network_is_what_the_regression_says_of_its_measure(small_zoo, fitted):
    study = study_of(small_zoo)
    found = fitted.estimate(study)
    value = MEASURES["training_loss"](study).value
    assert [found.value, found.low, found.high] == fitted.predict(np.array([[value]]))[0].tolist()
    assert found.warnings == ()
    assert found.low < found.value < found.high
    assert found.features["value"].to_list() == [value]
    assert fitted.estimate(study, strict=True).value == found.value
    assert f"The estimated gap is {found.value:.3f}, between {found.low:.3f}" in found.statement()


def test_an_estimate_that_was_kept_is_read_as_it_was(small_zoo, fitted, tmp_path):
    found = fitted.estimate(study_of(small_zoo))
    again = Estimate.load(found.save(tmp_path))
    assert again.features.equals(found.features)
    assert (again.value, again.low, again.high, again.warnings) == (found.value, found.low, found.high, found.warnings)
    assert again.provenance == json.loads(json.dumps(found.provenance))


def test_a_network_outside_of_the_zoo_is_told_so_and_refused_where_that_is_asked_for(small_zoo):
    inside = [entry.name for entry in small_zoo.plan.networks if entry.hyperparameters["width"] == 8]
    part = small_zoo.table().filter(pl.col("network").is_in(inside))
    narrow = fit(part, ["squared_distance_to_init"], coverage=0.5, recipes=recipes(small_zoo))
    wide = study_of(
        small_zoo, next(k for k, one in enumerate(small_zoo.plan.networks) if one.hyperparameters["width"] == 9)
    )
    said = narrow.estimate(wide).warnings
    assert "The zoo had no network of the architecture fcn-1x9; it had fcn-1x8." in said
    with pytest.raises(InputError, match=r"no estimate: .*architecture fcn-1x9"):
        narrow.estimate(wide, strict=True)


def test_a_measure_outside_of_its_range_in_the_zoo_is_told(small_zoo, fitted):
    study = study_of(small_zoo)
    untrained = Study(study.network, final=study.init, train=(100 * study.train.inputs, study.train.labels))
    (*_, known, data, loss) = fitted.estimate(untrained).warnings
    assert known == "Whether the zoo had this architecture is not known."
    assert data == "Whether the zoo had this data set is not known."
    assert loss.startswith("training_loss is ")
    assert "outside of the zoo's" in loss


def test_of_a_network_at_chance_that_is_told_instead_of_a_gap_and_strict_refuses_it(small_zoo, fitted):
    study = study_of(small_zoo)
    nothing = {name: torch.zeros_like(tensor) for name, tensor in study.final.items()}
    labels = [number % 10 for number in range(len(study.train))]
    blind = Study(study.network, final=nothing, train=(study.train.inputs, labels))
    found = fitted.estimate(blind)
    assert found.provenance["at_chance"]
    assert found.statement().startswith("No gap can be told of this network, for it is at chance: It gets ")
    assert "no more than guessing among 10 classes would" in found.statement()
    assert f"{found.value:.3f}" not in found.statement()
    with pytest.raises(InputError, match="no estimate: It gets"):
        fitted.estimate(blind, strict=True)
    assert not fitted.estimate(study).provenance["at_chance"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measures": ["zeta", "nothing"]}, "the zoo has no measure 'nothing'; it has zeta, kappa"),
        ({"measures": ["generalization_error"]}, "generalization_error needs test data"),
        ({"measures": []}, "give the names of one or more measures"),
        ({"measures": ["zeta", "zeta"]}, "each once"),
        ({"target": "accuracy"}, "target='accuracy': give one of gap"),
        ({"model": "forest"}, "model='forest': give one of"),
        ({"interval": "bayes"}, "interval='bayes': give one of"),
        ({"coverage": 0.999}, "80 networks are too few for an interval of coverage 0.999, which needs 999"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_sentence(made, change, message):
    with pytest.raises(InputError, match=message):
        fit(made, **change)


def test_fewer_networks_than_coefficients_one_gap_alone_and_no_value_at_all_are_refused(made):
    few = made.filter(pl.col("network").is_in(["n0", "n1", "n2"]))
    with pytest.raises(InputError, match="3 networks are too few to fit 3 coefficients"):
        fit(few)
    with pytest.raises(InputError, match=r"all 80 networks have the same gap, 0\.5"):
        fit(made.with_columns(gap=pl.lit(0.5)))
    with pytest.raises(InputError, match="no network of the zoo has a gap and all of zeta, kappa"):
        fit(made.with_columns(value=pl.lit(float("nan"))))


@pytest.mark.parametrize("x", [[[np.nan, 0.5]], [[0.5, np.inf]]])
def test_no_estimate_is_made_of_a_measure_that_is_no_number(made, x):
    with pytest.raises(InputError, match=r"of network 0 is NaN or infinite"):
        fit(made).predict(np.array(x))


def test_another_number_of_measures_is_refused(made):
    with pytest.raises(InputError, match="give the 2 measures of each network"):
        fit(made).predict(np.zeros((3, 1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace('"schema": 1', '"schema": 2'),
            "of schema 2, and this version reads an estimator of schema 1",
        ),
        (lambda text: text.replace('"measure": "zeta"', '"measure": "magic"'), "needs the measure 'magic'"),
        (lambda text: text.replace('"version": ', '"version": 9', 1), r"fitted on version 9\d* of zeta"),
        (
            lambda text: text.replace('"intercept": ', '"intercept": NaN, "was": ', 1),
            "cannot be read .JSON is malformed",
        ),
        (lambda text: text.replace('"residuals"', '"rest"'), "this estimator is damaged"),
        (
            lambda text: text.replace('"part": [', '"part": [99, '),
            "damaged .residuals and regressions do not belong together",
        ),
        (lambda text: text.replace('"coefficients": [', '"coefficients": [1.0, ', 1), "this estimator is damaged"),
        (lambda text: text[:200], "cannot be read"),
        (lambda text: "[]", "cannot be read"),
        (lambda text: '{"kind": "cake", "schema": 1}', "this is 'cake'"),
    ],
)
def test_a_file_that_is_no_estimator_of_this_version_is_refused_in_one_sentence(made, tmp_path, change, message):
    path = fit(made).save(tmp_path / "gap.json")
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message):
        Estimator.load(path)


TREE = ("regression", "whole", "trees", 0)


@pytest.fixture(scope="module")
def kept(made, tmp_path_factory):
    """What the file of an estimator of trees holds."""
    path = fit(made, model="boosting").save(tmp_path_factory.mktemp("kept") / "gap.json")
    return path.read_text()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("target",), "magic"),
        (("networks",), "many"),
        (("coverage",), 1.5),
        (("covers", "data"), 1),
        (("covers", "architectures"), [None]),
        (("provenance",), {}),
        (("provenance", "lowest"), None),
        (("features", 0, "measure"), ["zeta"]),
        (("features", 0, "arguments"), 3),
        (("features", 0, "high"), "1"),
        (("regression", "model"), "forest"),
        (("regression", "interval"), None),
        (("regression", "residuals", 0), 10**400),
        (("regression", "residuals", 0), 1e300),
        (("regression", "extra"), 1),
        ((*TREE, "feature", 0), 2),
        ((*TREE, "feature", 0), -2),
        ((*TREE, "value"), [0.0]),
    ],
)
def test_a_file_with_a_value_of_a_wrong_kind_is_refused_when_it_is_read(kept, tmp_path, place, value):
    values = where = json.loads(kept)
    for step in place[:-1]:
        where = where[step]
    where[place[-1]] = value
    (tmp_path / "gap.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="this estimator is damaged"):
        Estimator.load(tmp_path / "gap.json")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"kind": 1e999}', "\x00"])
def test_a_file_that_is_no_sound_json_cannot_be_read(tmp_path, text):
    (tmp_path / "gap.json").write_text(text)
    with pytest.raises(InputError, match="cannot be read"):
        Estimator.load(tmp_path / "gap.json")


def test_a_tree_that_leads_back_is_refused_and_not_followed(made, tmp_path):
    path = fit(made, model="boosting").save(tmp_path / "gap.json")
    values = json.loads(path.read_text())
    values["regression"]["whole"]["trees"][0]["left"][0] = 0
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="this estimator is damaged .a tree leads nowhere"):
        Estimator.load(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Estimator.load(tmp_path / "nothing.json")


def test_a_measure_that_cannot_be_taken_of_a_network_is_the_error(small_zoo, fitted):
    study = study_of(small_zoo)
    with pytest.raises(InputError, match="training_loss of this network is not to be had"):
        fitted.estimate(Study(study.network, final=study.final, test=study.test))
