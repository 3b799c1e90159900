"""Searches against the whole grid."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.engine.test_questions import at, threshold
from torch import nn

from shaketable.data import Data
from shaketable.engine import Combination, Engine, Found, critical_magnitude, guesses, minimum_ratio, run
from shaketable.engine.search import GUESSED, ROUNDS, Point, Search
from shaketable.errors import InputError
from shaketable.evaluate import evaluate
from shaketable.params import state

GRID = [step / 20 for step in range(1, 21)]


def answered(search: Search, condition: Callable[..., bool]) -> Found:
    """A search whose questions a function answers."""
    try:
        point = next(search)
        while True:
            point = search.send(condition(*point))
    except StopIteration as end:
        return end.value


@given(edge=some.floats(0, 1.1))
def test_the_critical_magnitude_is_that_of_the_whole_grid(edge):
    largest = answered(critical_magnitude(GRID), lambda value: value <= edge)
    assert largest.value == max((value for value in GRID if value <= edge), default=None)
    smallest = answered(critical_magnitude(GRID, smallest=True), lambda value: value >= edge)
    assert smallest.value == min((value for value in GRID if value >= edge), default=None)
    assert largest.monotone
    assert smallest.monotone
    assert len(largest.tested) <= 5 + 2


@given(edge=some.floats(0, 1.1), start=some.sampled_from(GRID), smallest=some.booleans())
def test_a_search_from_a_guess_finds_the_same_and_a_good_guess_is_cheap(edge, start, smallest):
    def holds(value):
        return value >= edge if smallest else value <= edge

    found, whole = (answered(critical_magnitude(GRID, smallest, start=one), holds) for one in (start, None))
    assert (found.value, found.monotone) == (whole.value, True)
    assert found.tested[0][0] == (start,)
    away = len(GRID) if found.value is None else abs(GRID.index(found.value) - GRID.index(start))
    assert len(found.tested) <= 2 * math.log2(1 + away) + 3 + 2


def test_a_search_cannot_begin_beside_its_grid():
    with pytest.raises(InputError, match="start=0.123"):
        next(critical_magnitude([0.1, 0.2], start=0.123))


@settings(max_examples=300)
@given(limits=some.lists(some.integers(0, 20), min_size=21, max_size=21))
def test_the_minimum_ratio_is_that_of_the_whole_grid(limits):
    alphas = [step / 20 for step in range(21)]
    reach = dict(zip(alphas, (GRID[limit - 1] if limit else 0.0 for limit in limits), strict=True))
    found = answered(minimum_ratio(alphas, GRID), lambda alpha, sigma: sigma <= reach[alpha])
    feasible = [(alpha / sigma, alpha, sigma) for alpha in alphas for sigma in GRID if sigma <= reach[alpha]]
    if not feasible:
        assert found.value is None
        assert found.point is None
        return
    assert found.value == min(feasible)[0]
    assert (found.value, *found.point) in feasible
    assert found.monotone


@settings(max_examples=300)
@given(
    limits=some.lists(some.integers(0, 20), min_size=21, max_size=21),
    start=some.tuples(some.integers(1, 20), some.sampled_from(GRID)),
)
def test_the_minimum_ratio_from_any_start_is_that_of_the_whole_grid(limits, start):
    alphas = [step / 20 for step in range(21)]
    reach = dict(zip(alphas, (GRID[limit - 1] if limit else 0.0 for limit in limits), strict=True))
    start = (start[0] / 20, start[1])
    found, whole = (
        answered(minimum_ratio(alphas, GRID, start=one), lambda alpha, sigma: sigma <= reach[alpha])
        for one in (start, None)
    )
    assert (found.value, found.monotone) == (whole.value, True)
    assert start in dict(found.tested) or found.value == 0


def test_a_search_from_the_minimum_needs_one_test_an_alpha_and_those_behind_it():
    alphas = [step / 20 for step in range(21)]
    best = (1.0, 0.7)
    found = answered(minimum_ratio(alphas, GRID, start=best), lambda alpha, sigma: sigma <= alpha - 0.3)
    assert found.point == best
    assert len(found.tested) <= len(alphas) + 4
    with pytest.raises(InputError, match="start=\\(1.0, 0.123\\)"):
        next(minimum_ratio(alphas, GRID, start=(1.0, 0.123)))


def test_a_search_needs_few_of_the_points_of_the_grid():
    alphas = [step / 20 for step in range(21)]
    found = answered(minimum_ratio(alphas, GRID), lambda alpha, sigma: sigma <= alpha - 0.3)
    assert found.value == pytest.approx(1 / 0.7)
    assert len(found.tested) < 80  # of 420, though each alpha beats the one before


def test_a_curve_that_is_not_monotone_is_noticed_and_searched_further():
    holes = {0.3, 0.35}
    found = answered(critical_magnitude(GRID), lambda value: value <= 0.6 and round(value, 2) not in holes)
    assert found.value == 0.6 or not found.monotone
    bumpy = answered(critical_magnitude(GRID), lambda value: value <= 0.2 or value == 0.35)
    assert bumpy.value == 0.35
    assert not bumpy.monotone


def two_layers() -> tuple[nn.Module, Data]:
    """A small trained network, and its training data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        x = torch.randn(600, 4)
        y = (x[:, 0] > 0.5).long() + (x[:, 1] > 0).long()
        optimiser = torch.optim.Adam(network.parameters(), 0.02)
        for _ in range(150):
            loss = nn.functional.cross_entropy(network(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval(), Data(x, y, classes=3)


def paths(network: nn.Module, draws: int) -> dict[str, Callable[[Point], list[Combination]]]:
    """For each layer, its variants at (alpha, sigma): between zero and trained, with noise."""
    final = state(network)
    made = {}
    for layer in ("0", "2"):
        names = [name for name in final if name.startswith(layer)]
        end = {name: final[name] for name in names}
        start = {name: torch.zeros_like(final[name]) for name in names}
        generator = torch.Generator().manual_seed(int(layer))
        noise = [{name: torch.randn(final[name].shape, generator=generator) for name in names} for _ in range(draws)]

        def variants(point: Point, start=start, end=end, noise=noise) -> list[Combination]:
            alpha, sigma = point
            return [Combination([(1 - alpha, start), (alpha, end), (sigma, one)]) for one in noise]

        made[layer] = variants
    return made


@pytest.mark.parametrize("exact", [True, False])
def test_searches_of_all_layers_together_find_what_the_whole_grid_says(exact):
    network, data = two_layers()
    alphas, sigmas, draws, bound = [0, 0.25, 0.5, 0.75, 1], [0.1, 0.2, 0.4, 0.8], 3, 0.15
    made = paths(network, draws)
    searches = {layer: (minimum_ratio(alphas, sigmas), variants) for layer, variants in made.items()}
    found = run(Engine(network), searches, data, bound, exact=exact)
    for layer, variants in made.items():
        feasible = []
        for alpha in alphas:
            for sigma in sigmas:
                each = [evaluate(network, state(network) | v.tensors(), data).error for v in variants((alpha, sigma))]
                if sum(each) / draws <= bound:
                    feasible.append(alpha / sigma)
        assert feasible
        assert found[layer].value == min(feasible)
        assert len(found[layer].decisions) == len(found[layer].tested)
        if not exact:
            assert found[layer].outcomes < len(found[layer].tested) * len(data) * draws


def test_guesses_look_at_few_pairs_and_are_near_to_what_is_found():
    network, data = threshold(0.0, 20_000)
    grid = [step / 100 for step in range(1, 101)]
    asked = []

    def searches(**start):
        return {"only": (critical_magnitude(grid, **start), lambda point: [at(point[0])])}

    def remember(number, ask):
        asked.append(ask())
        return asked[-1]

    guess = guesses(Engine(network), searches(beyond=0), data, 0.5, remember=remember)["only"]
    assert guess is not None
    (start,) = guess
    assert start == pytest.approx(0.5, abs=0.07)  # three standard errors
    assert max(answer.outcomes for (answer,) in asked) <= GUESSED
    found, whole = (run(Engine(network), searches(**how), data, 0.5)["only"] for how in ({"start": start}, {}))
    assert found.value == whole.value == 0.5
    nowhere = {"only": (critical_magnitude(grid), lambda point: [at(0.5 + point[0] / 2)])}
    assert guesses(Engine(network), nowhere, data, 0.1) == {"only": None}


def test_a_condition_that_holds_nowhere_finds_nothing():
    network, data = threshold(0.0)
    searches = {"only": (critical_magnitude(GRID), lambda point: [at(0.5 + point[0] / 2)])}
    found = run(Engine(network), searches, data, 0.1)["only"]
    assert found.value is None
    assert found.point is None
    assert not any(holds for _, holds in found.tested)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: critical_magnitude([]), "magnitudes must be a grid"),
        (lambda: critical_magnitude([1, 1]), "magnitudes must be a grid"),
        (lambda: minimum_ratio([0, 1], [0, 1]), "sigmas above 0"),
        (lambda: minimum_ratio([-1, 1], [0.5]), "alphas must be at least 0"),
    ],
)
def test_a_bad_grid_is_one_clear_error(make, message):
    with pytest.raises(InputError, match=message):
        next(make())


def test_levels_know_that_a_search_goes_on_asking(monkeypatch):
    network, data = threshold(0.3)
    planned, mapped = [], Engine.map
    monkeypatch.setattr(Engine, "map", lambda self, *a: planned.append(a[5]) or mapped(self, *a))
    run(Engine(network), {"bias": (critical_magnitude(GRID), lambda point: [at(point[0])])}, data, bound=0.5)
    assert set(planned) == {ROUNDS * len(data)}
