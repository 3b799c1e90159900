"""What the report says and draws about unit ablation."""

from pathlib import Path

import polars as pl
from tests.report.test_criticality import words
from tests.report.test_page import Browser
from tests.report.test_page import browser as browser
from tests.tables import ablation, prunability

from shaketable.report import write_report
from shaketable.report.ablation import ablation_paragraphs, ablation_part


def test_what_few_units_do_is_said_with_how_they_were_ordered() -> None:
    first, how, says = ablation_paragraphs(ablation())
    assert "Of the 4 units of conv2, in the mean over classes, the removal of the 1.5 that are most active" in first
    assert "from 100% to chance" in first
    assert "never" not in first
    assert "by the L1 norm of their activation on the class, in both orders: conv2 at the output of relu2" in how
    assert "corrupted ones too" in how
    assert "no bound" in says


def test_classes_that_never_fall_to_chance_are_told_with_what_counts_then() -> None:
    assert (
        "For 100% of the classes it never falls to chance; then all units count."
        in ablation_paragraphs(ablation(never=True))[0]
    )
    over_all = ablation_paragraphs(ablation((None,), never=True, rule="code"))[0]
    assert "It never falls to chance; then the first minimum counts." in over_all


def test_the_figures_and_the_turning_points_are_in_the_page_without_a_complaint(
    tmp_path: Path, browser: Browser
) -> None:
    path = write_report([ablation((0, 1, 2, 3, None)), prunability()], tmp_path / "report.html")
    found, console = browser(
        path, "return [...document.querySelectorAll('.chart')].map(each => [each.id, !!each.querySelector('svg')])"
    )
    assert [name for name, _ in found if name.startswith("ablation")] == [
        "ablation-0-0", "ablation-0-1", "ablation-0-2", "ablation-scatter",
    ]  # fmt: skip
    assert all(drawn for _, drawn in found)
    assert console == []
    text = words(path)
    assert "How few units do the work" in text
    assert "mean of classes" in text
    assert "via sparsity" in text


def test_what_is_too_much_for_a_page_is_cut_and_said_and_a_class_without_examples_is_listed() -> None:
    found = ablation(range(6))
    part = ablation_part(found, 3)
    assert part["figures"] == {}
    assert "figures are left out" in part["notes"][0]
    assert "shows 3 of 7 rows" in part["notes"][1]
    gone = found.table.with_columns(
        status=pl.when(pl.col("class") == 5).then(pl.lit("unavailable")).otherwise("status"),
        reason=pl.lit("class 5 has no train examples"),
    )
    (row,) = ablation_part(type(found)(gone, found.provenance), 100)["missing"]
    assert (row["layer"], row["where"], row["split"]) == ("conv2", ["class 5"], ["train"])
