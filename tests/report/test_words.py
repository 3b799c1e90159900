"""The sentences: grammar for none, one, many and all, and what they say when something is missing."""

from typing import Any

import polars as pl
import pytest

from shaketable.report.words import listing, of_the_layers, paragraphs, percent, points


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "No layer is robust."),
        (["a"], "One of the 9 layers is robust: a."),
        (["a", "b"], "2 of the 9 layers are robust: a and b."),
        (list("abcdefghi"), "All 9 layers are robust: a, b, c, d, e, f and 3 more."),
    ],
)
def test_none_one_some_and_all_have_their_grammar(names: list[str], said: str) -> None:
    assert of_the_layers(names, 9, "is robust", "are robust") == said


def test_the_only_layer_is_called_so() -> None:
    assert of_the_layers(["fc"], 1, "is robust", "are robust") == "The only layer, fc, is robust."


def test_a_list_is_not_cut_for_the_sake_of_one_name() -> None:
    assert listing(list("abc"), most=2) == "a, b and c"
    assert listing(list("abcd"), most=2) == "a, b and 2 more"


def test_shares_are_points_and_per_cents() -> None:
    assert [points(0.01), points(0.25), points(0.125)] == ["1 point", "25 points", "12.5 points"]
    assert [percent(0.0), percent(0.9), percent(0.01807)] == ["0%", "90%", "1.81%"]


def test_the_first_paragraph_names_the_layers_that_hold_the_network_up(build: Any) -> None:
    result = build()
    first, second, last = paragraphs(result, "test")
    assert first.startswith("One of the 4 layers holds this network up: layers.0.")
    assert result.layers_that_are("critical") == ["layers.0"]
    assert "at least 25 points of test accuracy" in first
    assert "at most 5 points" in first
    assert "2 of the 4 layers are robust: layers.2 and final. One of the 4 layers lies in between: layers.1." in first
    assert "re-randomised instead" in second
    assert last.startswith(
        "As trained, the network gets 1.81% of the 10,000 test examples wrong; guessing among 10 classes"
    )
    assert "90% wrong" in last


def test_without_initial_weights_the_verdict_rests_on_rerandomisation(build: Any) -> None:
    result = build()
    table = result.table.filter(pl.col("perturbation") != "reinitialise")
    first, _ = paragraphs(type(result)(table, result.distances, 0.05, 0.25, result.provenance), "test")
    assert "when that layer alone is re-randomised" in first
    assert first.endswith("Re-initialisation to checkpoint 0 was not asked for.")


def test_a_network_no_better_than_guessing_is_said_to_be_so(build: Any) -> None:
    result = build(classes=2, splits=("train",))
    bad = result.table.with_columns(error=pl.lit(0.48), accuracy_drop=pl.lit(0.0))
    found = paragraphs(type(result)(bad, result.distances, 0.05, 0.25, result.provenance), "train")
    assert found[0].startswith("No layer holds this network up.")
    assert "so close to guessing that a loss of 25 points is hardly possible" in found[-1]


def test_where_nothing_could_be_measured_it_says_so(build: Any) -> None:
    result = build()
    nothing = result.table.filter(pl.col("position") < 0)
    layer = result.table.filter(pl.col("position") == 0).with_columns(
        accuracy_drop=pl.lit(None, pl.Float64), status=pl.lit("unavailable")
    )
    empty = type(result)(pl.concat([nothing, layer]), result.distances, 0.05, 0.25, result.provenance)
    assert paragraphs(empty, "test")[0].startswith("Which layers hold this network up could not be measured")
