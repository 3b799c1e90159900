"""What the report says and draws about layers together, searches, sensitivity and attacks."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.report.test_criticality import words
from tests.report.test_page import Browser
from tests.report.test_page import browser as browser
from tests.tables import attacks, joint, layer_sets, sensitivity

from shaketable.errors import InputError
from shaketable.report import write_report
from shaketable.report.page import MOST_BYTES
from shaketable.report.together import joint_part, layer_sets_part
from shaketable.report.together_words import (
    joint_paragraphs,
    recommendations,
    search_paragraphs,
    sensitivity_paragraphs,
)

FOUND = {"found": ["block1", "block3"]}


@pytest.fixture(scope="module")
def everything(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    searches = [layer_sets("remove", ("block1",), complete=False), layer_sets()]
    results = [attacks(suspect=True), sensitivity(unpruned=("norm",)), *searches, joint(removable=False), build()]
    return write_report(results, tmp_path_factory.mktemp("report") / "report.html")


def test_everything_is_drawn_in_its_order_without_a_complaint(everything: Path, browser: Browser) -> None:
    found, console = browser(
        everything,
        """const charts = [...document.querySelectorAll(".chart")];
        const blue = [...document.querySelectorAll("#joint-0 text")].filter((text) => text.textContent.startsWith("* "));
        return {drawn: charts.map((chart) => chart.id), empty: charts.filter((chart) => !chart.querySelector("svg")).length,
                heads: [...document.querySelectorAll("h2")].map((head) => head.textContent),
                starred: blue.map((text) => [text.textContent, text.getAttribute("fill")]),
                wide: document.documentElement.scrollWidth - document.documentElement.clientWidth};""",
    )
    own = ["joint-0", "trade-off-remove", "trade-off-reinitialise", "sensitivity-test", "sensitivity-train"]
    assert found["drawn"][-5:] == own
    assert found["empty"] == 0
    assert found["starred"] == [["* block1", "#0072b2"], ["* block3", "#0072b2"]]
    assert found["heads"][-9:-3] == [
        "Layers reset together",
        "The largest set of layers that can be removed together",
        "The largest set of layers that can be re-initialised together",
        "Noise on one layer, and its smallest weights removed",
        "The network and its randomised versions under attack",
        "What may be frozen, what may be dropped",
    ]
    assert console == []
    assert found["wide"] <= 0
    assert everything.stat().st_size <= MOST_BYTES


def test_without_scripts_the_numbers_and_what_they_do_not_say_are_there(everything: Path) -> None:
    said = words(everything)
    for one in (
        "for every-other (2 of 5 layers): 30% re-initialised and 54% re-randomised. Nothing was retrained.",
        "every-other 2 200 re-initialised 30.00 20.0",
        "The largest set of layers that can be re-initialised together within 5 points of train accuracy has 2 of 3 candidates",
        "block1 and block3 may stay at their initial weights: with them re-initialised together the error is",
        "12% on train data and 30% on test data, without any retraining.",
        "fine-tuning itself was not measured",
        "block1 may be dropped: with it removed the error is 11% on train data",
        "8 sets were tried, and not all: a larger one may exist. Given up early, as not among the best of their size: 1.",
        "its shortcut is no identity",
        "Pruning: the most sensitive layer, in, bears not even the smallest one that was tried",
        "norm pruned",
        "This is no defense.",
        "suspect: PGD is too weak here",
        "r=4, s=1 PGD 10 0.03137 20 0.007843 30.50",
    ):
        assert one in said, one


def test_a_recommendation_takes_the_error_of_the_other_split_from_the_group_with_the_same_layers(
    tmp_path: Path,
) -> None:
    alone = words(write_report(layer_sets(), tmp_path / "alone.html"))
    assert "the error is 12% on train data, without any retraining" in alone
    other = words(write_report([layer_sets(), joint({"found": ["block1", "block4"]})], tmp_path / "other.html"))
    assert "the error is 12% on train data, without any retraining" in other
    nothing = words(write_report(layer_sets(largest=()), tmp_path / "nothing.html"))
    assert "Nothing: no layer could be re-initialised within 5 points." in nothing


def test_of_a_network_at_chance_nothing_is_recommended_and_no_steps_are_shown(tmp_path: Path) -> None:
    found = layer_sets()
    clean = pl.col("step") == 0
    at_chance = found.table.with_columns(errors=pl.when(clean).then(88).otherwise("errors"))  # 12% of 10 classes
    said = recommendations([type(found)(at_chance, found.provenance)], joint(FOUND))
    assert said[0]["text"] == (
        "Nothing can be recommended: as trained, the network gets 12 of 100 train examples right, no more than guessing among 10 classes "
        "would. It has nothing to lose; train it first."
    )
    assert said[0]["steps"] == []
    better = found.table.with_columns(errors=pl.when(clean).then(80).otherwise("errors"))
    drawn = found.table.with_columns(
        draws=pl.lit(3, pl.Int64), errors=pl.when(clean).then(90).otherwise("errors")
    )  # 30 each
    assert "may stay at their initial" in recommendations([type(found)(drawn, found.provenance)], None)[0]["text"]
    assert "may stay at their initial" in recommendations([type(found)(better, found.provenance)], None)[0]["text"]


def test_a_search_among_sets_that_go_back_to_a_later_checkpoint_never_speaks_of_initial_weights(tmp_path: Path) -> None:
    later, groups = layer_sets(checkpoint=2), joint({"found": ["block1", "block3"]})
    said = words(write_report([later, groups], tmp_path / "report.html"))
    assert "block1 and block3 may stay as at checkpoint 2: with them re-initialised to checkpoint 2 together" in said
    assert (
        "the error is 12% on train data, without any retraining. What training did to them after checkpoint 2" in said
    )
    assert "The largest set of layers that can be re-initialised to checkpoint 2 together" in said
    at = pl.when(pl.col("checkpoint") == 0).then(pl.lit(2)).otherwise("checkpoint").alias("checkpoint")
    same = type(groups)(groups.table.with_columns(at), groups.provenance)
    assert "30% re-initialised to checkpoint 2" in joint_paragraphs(same, "test")[0]
    assert "12% on train data and 30% on test data" in recommendations([later], same)[0]["text"]


def test_a_recommendation_takes_no_error_that_was_measured_with_other_running_statistics() -> None:
    groups = joint({"found": ["block1", "block3"]}, statistics="rewind")
    assert "12% on train data, without any retraining" in recommendations([layer_sets()], groups)[0]["text"]


def test_two_searches_of_one_way_are_refused_and_of_two_ways_are_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two results of the kind search-remove"):
        write_report([layer_sets("remove"), layer_sets("remove")], tmp_path / "report.html")
    assert write_report([layer_sets("remove"), layer_sets()], tmp_path / "report.html").is_file()


def test_too_many_groups_and_sets_are_cut_and_the_report_says_so() -> None:
    groups = {f"group {i}": ["block1"] for i in range(9)}
    part = joint_part(joint(groups), 5000)
    assert len(part["figures"]) == 6
    assert part["notes"] == ["Layers together: figures show 6 of 9 groups; the table has them all."]
    assert joint_part(joint(groups), 5)["figures"] == {}
    assert joint().with_rest() == {"every-other": ["every-other", "rest of every-other"]}
    part = layer_sets_part(layer_sets(), 6)
    assert len(part["steps"]) == 6
    assert "the figure shows 6 of 7 sets" in part["notes"][0]
    (rows,) = next(iter(part["figures"].values()))["datasets"].values()
    assert {row["set"] for row in rows} >= set(layer_sets().summary()["set"])
    assert len(rows) == 6
    early = layer_sets_part(layer_sets(complete=False), 6)
    assert "the figure shows 6 of 7 sets" in early["notes"][0]  # the one that was given up has no point
    assert len(next(iter(next(iter(early["figures"].values()))["datasets"].values()))) == 6


def test_by_parameters_the_final_network_need_not_be_on_the_curve_and_its_error_is_told() -> None:
    """A larger set that is no worse takes its place."""
    result = layer_sets()
    better = result.table.with_columns(error=pl.when(pl.col("step") == 1).then(0.05).otherwise("error"))
    result = type(result)(better, result.provenance | {"size": "parameters"})
    assert 0 not in result.summary()["step"]
    assert dict(layer_sets_part(result, 100)["facts"])["Clean train error"] == "10%"


def test_what_could_not_be_measured_at_all_is_said() -> None:
    result = joint()
    table = result.table.with_columns(error=pl.when(pl.col("position") < 0).then("error"))
    assert "No group of layers could be reset" in joint_paragraphs(type(result)(table, result.provenance), "test")[0]
    assert search_paragraphs(layer_sets(largest=())) == [
        "No layer of 3 candidates can be re-initialised within 5 points of train accuracy.",
        "Every set of the candidates was tried (7).",
    ]
    only = sensitivity()
    only = type(only)(only.table.filter(pl.col("perturbation") != "noise"), only.provenance)
    assert len(sensitivity_paragraphs(only, "test")) == 2
