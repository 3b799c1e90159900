"""What a bound is: a number that an error exceeds with probability delta at most, and what that rests on."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from shaketable.errors import InputError

Status = Literal["holds", "checked", "not checked", "fails"]
"""``"holds"``: by construction or exact arithmetic; ``"checked"``: looked at here; ``"fails"``: looked at, and it is not so."""

SCHEMA = {"name": pl.String, "value": pl.Float64, "about": pl.String}


@dataclass(frozen=True)
class Assumption:
    """One thing that a bound rests on: what must be so, whether it is, and how that is known."""

    what: str
    status: Status
    how: str


@dataclass(frozen=True)
class Bound:
    """An upper bound on an error, with everything that it is made of and rests on.

    Attributes:
        theorem: where it is proved.
        subject: what is bounded, of which classifier: the words after "the" in :meth:`statement`.
        value: the bound; at least 0, may be above 1.
        delta: the probability that it may fail, over the training set (and over the draws of noise, where there are some).
        examples: the number m of training examples.
        assumptions: what it rests on. Only where none of them is "not checked" or "fails" is it proved.
        terms: what it is made of: ``name``, ``value``, ``about``.
        draws: of noise, on which the training error rests; None where it was given as it is.
        chance: the error of guessing among equally frequent classes, where that is known.
    """

    theorem: str
    subject: str
    value: float
    delta: float
    examples: int
    assumptions: tuple[Assumption, ...]
    terms: pl.DataFrame = field(repr=False)
    draws: int | None = None
    chance: float | None = None

    @property
    def vacuous(self) -> bool:
        """Whether it says nothing: an error is never above 1."""
        return self.value >= 1

    def term(self, name: str) -> float:
        """The value of one of the terms.

        Raises:
            InputError: there is no such term.
        """
        found = self.terms.filter(pl.col("name") == name)
        if not len(found):
            raise InputError(f"there is no term {name!r}; there are {', '.join(self.terms['name'])}.")
        return float(found["value"][0])

    def statement(self) -> str:
        """What was bounded, for which classifier, with which probability, and what was not checked: plain sentences."""
        failed = [assumption for assumption in self.assumptions if assumption.status == "fails"]
        open_ = [assumption for assumption in self.assumptions if assumption.status == "not checked"]
        number = (
            f"{math.ceil(self.value * 1e4) / 1e4:g}" if self.value < 100 else f"{self.value:.4g}"
        )  # never rounded down
        probability = f"{1 - self.delta:g}"
        if probability == "1":
            probability += f" - {self.delta:g}"
        draws = "" if self.draws is None else f" and of {self.draws:,} draws of noise"
        unless = (
            f"This is no bound: it needs that {_listed(failed)}, which is not so. Were it so, then with"
            if failed
            else "With"
        )
        said = (
            f"{unless} probability at least {probability} over the choice of the {self.examples:,} training examples{draws} "
            f"the {self.subject} is at most {number} ({self.theorem})"
        )
        said += f", provided that {_listed(open_)}, which was not checked." if open_ else "."
        if self.vacuous:
            said += " That says nothing: no error is above 1."
        elif self.chance is not None and self.value >= self.chance:
            said += f" Guessing does as well: its error is {self.chance:.4g}."
        return said


def rows(terms: Iterable[tuple[str, float, str]]) -> pl.DataFrame:
    """Terms as a table."""
    return pl.DataFrame(list(terms), schema=SCHEMA, orient="row")


def common(prior: str) -> tuple[Assumption, ...]:
    """What every bound here rests on and no program can look up."""
    return (
        Assumption(
            "the training examples are independent draws of the distribution that new examples come from",
            "not checked",
            "nothing in the numbers shows it",
        ),
        Assumption(
            f"{prior} and the pre-processing of the inputs were fixed without the training examples",
            "not checked",
            "nothing in the numbers shows it; normalising by the training set's own statistics breaks it",
        ),
    )


def check_probability(value: float, name: str) -> float:
    """A number inside (0, 1).

    Raises:
        InputError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise InputError(f"{name}={value!r}: give a probability inside (0, 1).")
    return float(value)


def check_error(value: float, name: str = "error") -> float:
    """A number in [0, 1].

    Raises:
        InputError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{name}={value!r}: give a fraction of wrong examples, in [0, 1].")
    return float(value)


def check_positive(value: float, name: str, zero: bool = False) -> float:
    """A finite number above 0, or from 0.

    Raises:
        InputError: it is not.
    """
    good = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    if not good or value < 0 or (value == 0 and not zero):
        raise InputError(f"{name}={value!r}: give a number {'from' if zero else 'above'} 0.")
    return float(value)


def check_whole(value: int, name: str, least: int) -> int:
    """A whole number from a least one.

    Raises:
        InputError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name}={value!r}: give a whole number from {least}.")
    return value


def check_same_length(**arrays: Sequence[float]) -> int:
    """The number of layers, where all arrays have one number for each.

    Raises:
        InputError: lengths differ, or there are no layers.
    """
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) != 1 or not min(lengths.values()):
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"each layer needs one number in each array, and the lengths are: {listed}.")
    return next(iter(lengths.values()))


def _listed(assumptions: Sequence[Assumption]) -> str:
    """Assumptions as one part of a sentence."""
    return "; that ".join(assumption.what for assumption in assumptions)
