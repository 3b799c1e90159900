"""What the report says and draws about pruning."""

from pathlib import Path

import polars as pl
import pytest
from tests.report.test_criticality import words
from tests.report.test_page import Browser
from tests.report.test_page import browser as browser
from tests.tables import criticality, prunability

from shaketable.report import write_report
from shaketable.report.pruning import prunability_paragraphs, pruning_part


def test_what_can_go_is_said_with_its_tolerance_and_what_it_rests_on() -> None:
    first, searched, says = prunability_paragraphs(prunability(methods=("magnitude", "random")))
    assert "Of the 1,000 weights that count, 70% can be set to zero at once, those of smallest magnitude" in first
    assert "at most 0.11 nats (1.1 times its value)" in first
    assert "The prunability by random is 0.85 ± 0.05, the mean over 2 draws" in first
    assert "Every answer is certain" in searched
    assert "2 by magnitude and 3 by random" in searched
    assert "no bound" in says


def test_a_curve_that_is_not_monotone_and_an_absolute_tolerance_are_told() -> None:
    found = prunability(tolerance="absolute", search="every")
    lower = found.tests.with_columns(holds=pl.col("kept") < 0.25)
    first, searched, _ = prunability_paragraphs(type(found)(found.table, found.provenance, lower))
    assert "0.1 nats above its value" in first
    assert "not monotone" in first
    assert "search every one to know" not in searched
    assert "search every one to know" in prunability_paragraphs(prunability())[1]


def test_answers_that_rest_on_bfloat16_are_counted_and_their_error_is_in_the_table() -> None:
    found = prunability()
    rough = found.tests.with_columns(error=pl.when("holds").then(0.005))
    estimated = type(found)(found.table, found.provenance, rough)
    searched = prunability_paragraphs(estimated)[1]
    assert "1 of the answers rest on losses in bfloat16, their mean at least 4 standard errors away" in searched
    assert "Every answer is certain" not in searched
    old = type(found)(found.table, found.provenance, found.tests.drop("error", "in_float32"))
    assert "Every answer is certain" in prunability_paragraphs(old)[1]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    found = prunability(noise=2, methods=("magnitude", "random"))
    rough = found.tests.with_columns(error=pl.when(pl.col("kept") == 0.3).then(0.005))
    return write_report([type(found)(found.table, found.provenance, rough), criticality()], path)


def test_the_figures_and_the_tests_are_in_the_page_without_a_complaint(written: Path, browser: Browser) -> None:
    found, console = browser(
        written, "return [...document.querySelectorAll('.chart')].map(each => [each.id, !!each.querySelector('svg')])"
    )
    assert [name for name, _ in found if name.startswith("pruning")] == [
        "pruning-magnitude-loss", "pruning-magnitude-error", "pruning-random-loss", "pruning-random-error",
    ]  # fmt: skip
    assert all(drawn for _, drawn in found)
    assert console == []
    text = words(written)
    assert "How much can be pruned" in text
    assert "random noise of the same size" in text
    assert "0.1 ± 0.005" in text
    assert "> 0.12" in text
    assert "Robustness to pruning predicts generalization" in text


def test_what_is_too_much_for_a_page_is_cut_and_said() -> None:
    part = pruning_part(prunability(), 3)
    assert part["figures"] == {}
    assert "curves are left out" in part["notes"][0]
    assert len(pruning_part(prunability(methods=("random",)), 2)["tests"]) == 2


def test_a_loss_that_is_not_finite_is_listed_as_missing() -> None:
    found = prunability()
    bad = found.table.with_columns(
        status=pl.when(pl.col("sparsity") == 1).then(pl.lit("not finite")).otherwise("status"),
        reason=pl.lit("3 examples"),
    )
    (row,) = pruning_part(type(found)(bad, found.provenance, found.tests), 100)["missing"]
    assert (row["where"], row["split"], row["status"]) == (["sparsity 1.0"], ["test", "train"], "not finite")
