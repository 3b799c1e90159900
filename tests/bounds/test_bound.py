"""What a bound says of itself."""

import pytest

from shaketable.bounds import Assumption, Bound
from shaketable.bounds.bound import rows
from shaketable.errors import InputError


def bound(value: float = 0.12344, *assumptions: Assumption, chance: float | None = None) -> Bound:
    terms = rows([("error", 0.1, "")])
    return Bound("theorem T", "error of f", value, 0.05, 1000, assumptions, terms, chance=chance)


def test_a_statement_names_probability_subject_and_theorem_and_never_rounds_the_bound_down():
    said = bound().statement()
    assert said == (
        "With probability at least 0.95 over the choice of the 1,000 training examples the error of f is at most 0.1235 "
        "(theorem T)."
    )


def test_a_statement_says_what_was_not_checked_and_leaves_out_what_was():
    said = bound(0.2, Assumption("it rains", "not checked", ""), Assumption("it snows", "checked", "")).statement()
    assert "provided that it rains, which was not checked" in said
    assert "snows" not in said


def test_a_bound_with_an_assumption_that_fails_says_that_it_is_none():
    said = bound(0.2, Assumption("it rains", "fails", ""), Assumption("it pours", "not checked", "")).statement()
    assert said.startswith("This is no bound: it needs that it rains, which is not so.")
    assert "it pours" in said


def test_a_bound_is_vacuous_from_1_on_and_says_so():
    assert [bound(value).vacuous for value in (0.999, 1.0, 7.0)] == [False, True, True]
    assert "says nothing" in bound(1.0).statement()
    assert "says nothing" not in bound(0.95, chance=0.9).statement()
    assert "Guessing does as well: its error is 0.9" in bound(0.95, chance=0.9).statement()
    assert "Guessing" not in bound(0.85, chance=0.9).statement()


def test_a_term_is_found_by_its_name_or_the_names_are_listed():
    assert bound().term("error") == 0.1
    with pytest.raises(InputError, match="no term 'x'; there are error"):
        bound().term("x")
