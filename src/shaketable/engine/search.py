"""Searches over magnitudes: few tests instead of a grid, and many searches through each batch of data together."""

import math
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from shaketable.data import Data
from shaketable.engine.decisions import share
from shaketable.engine.engine import Engine
from shaketable.engine.questions import Decision, Quantity, decide
from shaketable.engine.variants import Variant
from shaketable.errors import InputError
from shaketable.identity import seed_from

Point = tuple[float, ...]
Search = Generator[Point, bool, "Found"]
"""Yields a point to test, is sent whether the condition holds there, and returns what it found."""
Key = TypeVar("Key", bound=Hashable)
Searched = Mapping[Key, tuple[Search, Callable[[Point], Sequence[Variant]]]]
"""By name, the search and what makes the variants (one a draw) of a point."""
Answers = Callable[[], list[Decision]]
Remember = Callable[[int, Answers], list[Decision]]
ROUNDS = 16
"""Questions that a search goes on to ask, at least as many as are worth the setting up of a level."""
GUESSED = 500
"""Pairs of an example and a draw, at most, from which the answer to a question is guessed."""


@dataclass(frozen=True)
class Found:
    """Where a search ended.

    ``point`` is the magnitudes found, None if the condition holds nowhere that was tested; ``value`` what was sought (the
    magnitude, or the ratio). ``tested`` lists every point with its answer, ``monotone`` is False where these contradict the
    assumption behind the bisection (the condition held beyond a point at which it failed); the answer is then the best of the
    points tested. ``decisions`` are the answers in full.
    """

    point: Point | None
    value: float | None
    tested: tuple[tuple[Point, bool], ...]
    monotone: bool
    decisions: tuple[Decision, ...] = ()

    @property
    def outcomes(self) -> int:
        """Pairs of an example and a draw that were evaluated."""
        return sum(decision.outcomes for decision in self.decisions)


def critical_magnitude(
    magnitudes: Sequence[float], smallest: bool = False, beyond: int = 2, start: float | None = None
) -> Search:
    """The largest magnitude at which a condition still holds, by bisection over a grid.

    Assumes that the condition holds up to some magnitude and fails behind it; the next ``beyond`` ones behind the magnitude
    found are tested too, and the search goes on from there where it holds again.

    Args:
        magnitudes: the grid, ascending.
        smallest: the smallest magnitude instead, of a condition that fails up to some magnitude and holds behind it.
        beyond: how many further magnitudes are tested to notice a curve that is not monotone.
        start: one of the magnitudes, a guess: it is tested first, then others in steps that double, until it is passed.

    Returns: a :data:`Search` for :func:`run`; points have one coordinate.

    Raises:
        InputError: the grid is empty or not ascending, or ``start`` is none of it.

    Cost: the logarithm of the number of magnitudes (of those between the guess and what is found), plus ``beyond`` tests.
    """
    grid = _ascending(magnitudes, "magnitudes")
    order = grid[::-1] if smallest else grid
    tested: dict[Point, bool] = {}
    if start is not None and start not in order:
        raise InputError(f"start={start}: give one of the {len(order)} magnitudes, where the search may begin.")
    guess = None if start is None else order.index(start)
    best = yield from _last_that_holds([(value,) for value in order], tested, beyond, start=guess)
    point = None if best is None else (order[best],)
    answers = [tested[(value,)] for value in order if (value,) in tested]
    monotone = answers == sorted(answers, reverse=True)
    return Found(point, None if point is None else point[0], tuple(tested.items()), monotone)


def minimum_ratio(
    alphas: Sequence[float], sigmas: Sequence[float], beyond: int = 2, start: Point | None = None
) -> Search:
    r"""The smallest ratio :math:`\alpha / \sigma` at which a condition holds, over a grid.

    One test an :math:`\alpha` tells whether it can beat the best so far: at the smallest :math:`\sigma` that would. Only
    where that holds is the largest :math:`\sigma` bisected. Assumes for each :math:`\alpha` that what holds at a
    :math:`\sigma` holds at smaller ones; the next ``beyond`` ones are tested to notice where it does not.

    Args:
        alphas: the grid, ascending, from 0 or more.
        sigmas: the grid, ascending, above 0.
        beyond: how many larger sigmas are tested behind the largest found.
        start: one of the points, a guess: see :func:`minimum_value`.

    Returns: a :data:`Search`; points are (alpha, sigma). At alpha = 0 the ratio is 0, and the smallest sigma decides.

    Raises:
        InputError: a grid that is empty, not ascending, or out of range.

    Cost: about one test an alpha, and a bisection for the few that can win.

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep networks",
        2020, definition 3.1.
    """
    alphas, sigmas = _ascending(alphas, "alphas"), _ascending(sigmas, "sigmas")
    if alphas[0] < 0 or sigmas[0] <= 0:
        raise InputError("alphas must be at least 0 and sigmas above 0.")
    ways = [[(alpha, sigma) for sigma in (sigmas if alpha else sigmas[:1])] for alpha in alphas]
    return minimum_value(ways, lambda point: point[0] / point[1], beyond, start=start)


def minimum_value(
    ways: Sequence[Sequence[Point]],
    value: Callable[[Point], float],
    beyond: int = 2,
    below: float = math.inf,
    start: Point | None = None,
) -> Search:
    """The smallest value of a point at which a condition holds, over several ways on which the value falls.

    One test a way tells whether it can beat the best so far: at its first point that would. Only where that holds is the
    last such point bisected. Assumes for each way that what holds at a point holds at the earlier ones; the next ``beyond``
    ones are tested to notice where it does not.

    Args:
        ways: points in order, at least one each, from where the condition is likely to hold to where it is not.
        value: of a point, at least 0; it falls along each way.
        beyond: how many points are tested behind the last one found.
        below: only values smaller than this are sought.
        start: one of the points, a guess: its way is searched from there, and then the others, the nearer ones first.

    Returns: a :data:`Search`. A way that ends in a value of 0 comes first, and if the condition holds there that is all.

    Raises:
        InputError: ``start`` is none of the points.

    Cost: about one test a way, and a bisection for the few that can win; with a good guess, one test a way.
    """
    begin = 0 if start is None else next((number for number, way in enumerate(ways) if start in way), None)
    if begin is None:
        raise InputError(f"start={start}: give one of the points, where the search may begin.")
    tested: dict[Point, bool] = {}
    best: Point | None = None
    lowest = below
    order = sorted(range(len(ways)), key=lambda number: (value(ways[number][-1]) > 0, abs(number - begin)))
    for way in (ways[number] for number in order):
        winning = [point for point in way if value(point) < lowest]
        if not winning:
            continue
        guess = winning.index(start) if start in winning else None
        found = yield from _last_that_holds(winning, tested, beyond, first=guess is None, start=guess)
        if found is not None:
            best = winning[found]
            lowest = value(best)
        if lowest == 0:
            break
    monotone = True
    for way in ways:
        answers = [tested[point] for point in way if point in tested]
        monotone &= answers == sorted(answers, reverse=True)
    return Found(best, None if best is None else lowest, tuple(tested.items()), monotone)


def _last_that_holds(
    points: Sequence[Point],
    tested: dict[Point, bool],
    beyond: int,
    first: bool = False,
    start: int | None = None,
) -> Generator[Point, bool, int | None]:
    """The last of the points, in order, at which the condition holds, by bisection; None if it fails at the first one.

    With ``first`` the first point is tested before all others: often it settles the matter. With ``start`` that point is, and
    then others ever farther from it until the matter lies between two of them.
    """

    def test(index: int) -> Generator[Point, bool, bool]:
        point = points[index]
        if point not in tested:
            tested[point] = yield point
        return tested[point]

    low, high = -1, len(points)  # it holds at low, and fails at high
    if first:
        if not (yield from test(0)):
            high = 0
        else:
            low = 0
    step, index = 1, low if start is None else start
    while low < index < high:
        if (yield from test(index)):
            low, index = index, index + step
        else:
            high, index = index, index - step
        step *= 2
    while True:
        while high - low > 1:
            middle = (low + high) // 2
            if (yield from test(middle)):
                low = middle
            else:
                high = middle
        again = None
        for index in range(low + 2, min(low + 2 + beyond, len(points))):
            if low >= 0 and (yield from test(index)):
                again = index  # it holds beyond a point where it failed
        if again is None:
            return None if low < 0 else low
        low, high = again, len(points)


def run(
    engine: Engine,
    searches: Searched[Key],
    data: Data,
    bound: float,
    *,
    quantity: Quantity = "error",
    failure: float = 1e-4,
    exact: bool = False,
    seed: int = 0,
    advance: Callable[[int], object] = lambda searches: None,
    remember: Remember = lambda number, ask: ask(),
) -> dict[Key, Found]:
    """Run searches together: each round asks one question of each, and every batch is prefixed once for all of them.

    Args:
        engine: of the base network.
        searches: by name, the search and what makes the variants (one a draw) of a point. For common random numbers make
            them from the same draws at every point.
        data: N examples.
        bound: the condition is that the mean of the quantity is at most this.
        quantity, exact: as in :func:`decide`.
        failure: the probability that any answer in any of the searches is wrong: a round k has k (k + 1) times less of it,
            split evenly over its questions, and an order of its own, drawn after they were chosen.
        seed: of the orders.
        advance: called with the number of searches that ended, after each round.
        remember: given the number of a round and what asks its questions, returns the answers: those of an earlier run where
            they were kept. The same searches with the same arguments ask the same questions.

    Returns: what each search found.
    """

    def answered(number: int, questions: Sequence[Sequence[Variant]]) -> list[Decision]:
        return decide(
            engine,
            questions,
            data,
            bound,
            quantity=quantity,
            failure=share(failure, number),
            exact=exact,
            seed=seed_from(seed, "round", number),
            rounds=ROUNDS,
        )

    return _rounds(searches, answered, remember, advance)


def guesses(
    engine: Engine,
    searches: Searched[Key],
    data: Data,
    bound: float,
    *,
    quantity: Quantity = "error",
    seed: int = 0,
    advance: Callable[[int], object] = lambda searches: None,
    remember: Remember = lambda number, ask: ask(),
) -> dict[Key, Point | None]:
    """Where searches would end if some pairs of an example and a draw were all: where others may start.

    Nothing is claimed of these points. Every question sees the same pairs, at most ``GUESSED`` of them.

    Args:
        engine, searches, data, bound, quantity, seed, advance, remember: as for :func:`run`.

    Returns: the point of each, None where the condition held nowhere.

    Cost: at most ``GUESSED`` pairs a question, fewer of those that are far from the bound.
    """

    def answered(number: int, questions: Sequence[Sequence[Variant]]) -> list[Decision]:
        return decide(
            engine,
            questions,
            data,
            bound,
            quantity=quantity,
            failure=0.5,
            seed=seed_from(seed, "guess"),
            rounds=ROUNDS,
            most=GUESSED,
        )

    return {name: found.point for name, found in _rounds(searches, answered, remember, advance).items()}


def _rounds(
    searches: Searched[Key],
    answered: Callable[[int, Sequence[Sequence[Variant]]], list[Decision]],
    remember: Remember,
    advance: Callable[[int], object] = lambda searches: None,
) -> dict[Key, Found]:
    """What searches find, each of which asks one question in a round; ``answered`` is given the round's number and all of them."""
    waiting: dict[Key, Point] = {}
    found: dict[Key, Found] = {}
    decisions: dict[Key, list[Decision]] = {name: [] for name in searches}

    def step(name: Key, answer: bool | None) -> None:
        """Send a search its answer, and note its next point or its end."""
        search = searches[name][0]
        try:
            waiting[name] = next(search) if answer is None else search.send(answer)
        except StopIteration as end:
            waiting.pop(name, None)
            ended: Found = end.value
            found[name] = Found(ended.point, ended.value, ended.tested, ended.monotone, tuple(decisions[name]))

    for name in searches:
        step(name, None)
    number = 0
    while waiting:
        number += 1
        names = list(waiting)

        def ask(number: int = number, names: Sequence[Key] = names) -> list[Decision]:
            return answered(number, [searches[name][1](waiting[name]) for name in names])

        answers = remember(number, ask)
        before = len(found)
        for name, answer in zip(names, answers, strict=True):
            decisions[name].append(answer)
            step(name, answer.holds)
        advance(len(found) - before)
    return {name: found[name] for name in searches}


def _ascending(values: Sequence[float], what: str) -> list[float]:
    """The values of a grid, checked."""
    grid = [float(value) for value in values]
    if not grid or any(b <= a for a, b in pairwise(grid)):
        raise InputError(f"{what} must be a grid of at least one number, ascending.")
    return grid
