"""What the report says about a zoo."""

import polars as pl
import pytest
from tests.zoo.test_ranking import made

from shaketable.report import write_report
from shaketable.report.zoo import zoo_paragraphs
from shaketable.zoo import rank


@pytest.fixture(scope="module")
def ranking():
    table = made(
        path_norm=lambda n, w, d, s, gap: gap,
        training_loss=lambda n, w, d, s, gap: float(w),
        normalised_margin=lambda n, w, d, s, gap: gap,
        prunability=lambda n, *_: None,
    )
    lacking = {"network": "<b>", "gap": None, "status": "failed", "reason": "it diverged"}
    return rank(
        pl.concat([table, pl.DataFrame([lacking], schema_overrides={"gap": pl.Float64})], how="diagonal_relaxed")
    )


def test_the_sentences_say_which_measures_predict_which_fail_along_an_axis_and_what_was_left_out(ranking):
    said = " ".join(zoo_paragraphs(ranking))
    assert "Of 4 measures of 12 networks 2 order the gap as they should" in said
    assert "The best is path_norm (tau 1.00 ±" in said
    assert "The wrong way round, by more than chance: normalised_margin (-1.00)." in said
    assert "these fail (tau at most 0): training_loss along weight_decay (0.00)." in said
    assert "Most alike are normalised_margin and path_norm: tau -1.00" in said
    assert "Without a verdict: prunability" in said
    assert "1 (it diverged)" in said


def test_where_no_measure_fails_along_an_axis_that_is_said():
    said = " ".join(zoo_paragraphs(rank(made(path_norm=lambda n, w, d, s, gap: gap))))
    assert "each of them orders more pairs as it should" in said


def test_where_nothing_predicts_that_is_said():
    said = zoo_paragraphs(rank(made(path_norm=lambda n, *_: float(n * 7 % 5))))
    assert said[0] == "None of 1 measures of 12 networks orders the gap by more than chance would."


def test_the_page_asks_which_measures_predict_and_has_table_and_figures(ranking, tmp_path):
    text = write_report(ranking, tmp_path / "report.html").read_text()
    assert "<h1>Which measures predict how well 12 networks generalise?</h1>" in text
    for figure in ("zoo-axes", "zoo-relations", "zoo-scatter-path_norm", "zoo-ranks-path_norm"):
        assert f'id="{figure}"' in text
    assert "prunability" in text
    assert "Nothing: every number that was asked for" not in text
