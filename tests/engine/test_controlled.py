"""Questions beside what was evaluated on everything, against all of it by the plain loop."""

import math

import pytest
import torch
from torch import Tensor, nn

from shaketable.data import Data
from shaketable.engine import Engine, largest_magnitude
from shaketable.engine.controlled import Population
from shaketable.errors import InputError
from shaketable.evaluate import evaluate
from shaketable.identity import generator_from
from shaketable.params import state

DRAWS = 3
GRID = [0.02 * 1.3**step for step in range(16)]


def toy(seed: int, examples: int = 80) -> tuple[nn.Module, Data]:
    """A small network, and labels that it mostly gets right."""
    generator = generator_from(seed, "toy")
    network = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    network.load_state_dict({n: torch.randn(t.shape, generator=generator) for n, t in state(network).items()})
    x = torch.randn(examples, 5, generator=generator)
    labels = network(x).argmax(1)
    labels[: examples // 10] = 0
    return network, Data(x, labels, classes=3)


def noisy(network: nn.Module, sigma: float) -> list[dict[str, Tensor]]:
    def one(draw: int) -> dict[str, Tensor]:
        generator = generator_from(1, "noise", draw)
        return {
            n: t.detach() + sigma * torch.randn(t.shape, generator=generator) for n, t in network.named_parameters()
        }

    return [one(draw) for draw in range(DRAWS)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("quantity", ["error", "loss"])
def test_the_magnitude_found_is_that_of_the_plain_loop_over_the_grid(quantity, seed):
    network, data = toy(seed)

    def mean(params):
        sums = evaluate(network, {**state(network), **params}, data)
        return sums.error if quantity == "error" else sums.mean_loss

    means = [sum(mean(one) for one in noisy(network, sigma)) / DRAWS for sigma in GRID]
    for bound in (mean({}) + 0.05, 1.1 * mean({}), (means[6] + means[7]) / 2, means[9], means[-1], means[0] - 1e-6):
        bound += 1e-9  # a float sum in another order is no other answer
        found = largest_magnitude(
            Engine(network), GRID, lambda sigma: noisy(network, sigma), DRAWS, data, lambda _, bound=bound: bound,
            quantity=quantity, seed=seed,
        )  # fmt: skip
        assert all(holds == (means[GRID.index(at)] <= bound) for (at,), holds in found.tested)
        held = [sigma for sigma, one in zip(GRID, means, strict=True) if one <= bound]
        if len(held) == sum(one <= bound for one in means[: len(held)]):  # the curve is monotone
            assert found.value == (held[-1] if held else None)
        assert len(found.decisions) == len(found.tested)


def test_the_bound_is_made_of_the_mean_of_the_base():
    network, data = toy(0)
    given = []
    largest_magnitude(
        Engine(network), GRID, lambda sigma: noisy(network, sigma), DRAWS, data, lambda mean: given.append(mean) or 0.5
    )
    assert given == [evaluate(network, state(network), data).error]


@pytest.mark.parametrize("quantity", ["error", "loss"])
def test_values_are_those_of_each_pair_in_its_place_labels_of_a_sequence_together(quantity):
    network = nn.Linear(2, 3).eval()
    generator = generator_from(0, "tokens")
    x, labels = torch.randn(6, 4, 2, generator=generator), torch.randint(3, (6, 4), generator=generator)
    labels[0, 1:], labels[3] = -100, -100
    data, variants = Data(x, labels, classes=3), noisy(network, 1.0)
    population = Population(Engine(network), data, quantity, DRAWS)
    pairs = torch.randperm(18, generator=generator)[:11]
    found = population.values(variants, pairs)
    for pair, value in zip(pairs.tolist(), found.tolist(), strict=True):
        example, draw = divmod(pair, DRAWS)
        if example == 3:
            assert value == 0
            continue
        sums = evaluate(network, variants[draw], data.subset(torch.tensor([example])))
        assert value == pytest.approx(sums.errors if quantity == "error" else sums.loss, rel=1e-5)
    assert (population.size, population.labels) == (18, 3 * 17)


class Table(Population):
    """Pairs whose values are known."""

    def values(self, variants, pairs):
        return variants[0][pairs]


def table(control: Tensor, flipped: int, by: float, quantity="error") -> tuple[Table, Tensor]:
    """Four draws of examples with these values, and the same with so many of the pairs changed."""
    values = control.clone()
    some = torch.randperm(len(control), generator=generator_from(2, "flipped"))
    values[some[control[some] == 0][:flipped]] += by
    data = Data(torch.zeros(len(control) // 4, 1), torch.zeros(len(control) // 4, dtype=torch.int64), classes=2)
    return Table(Engine(nn.Linear(1, 2)), data, quantity, 4), values


@pytest.mark.parametrize("step", [0, 1], ids=["mean exactly the bound", "mean just above the bound"])
@pytest.mark.parametrize("quantity", ["error", "loss"])
def test_of_answers_at_the_boundary_fewer_are_wrong_than_is_stated(quantity, step):
    control = (torch.rand(400, generator=generator_from(0, "control")) < 0.3).double()
    population, values = table(control, 30, 1.0 if quantity == "error" else 4.0, quantity)
    bound = (float(values.sum()) - step) / 400
    wrong = sum(population.decide([values], control, bound, 0.1, seed).holds is (step == 1) for seed in range(200))
    assert wrong <= 0.1 * 200
    everything = [population.decide([values], control, bound, 1e-12, seed) for seed in range(5)]
    assert all(one.certain and one.holds is (step == 0) and one.outcomes == 400 for one in everything)


def test_a_control_saves_most_of_the_pairs():
    control = (torch.rand(40_000, generator=generator_from(0, "control")) < 0.3).double()
    population, values = table(control, 400, 1.0)
    bound = float(control.mean()) + 0.005  # half of what was added
    beside, alone = (population.decide([values], c, bound, 1e-4, 0) for c in (control, torch.zeros(40_000)))
    assert (beside.holds, alone.holds) == (False, False)
    assert not beside.certain
    assert 4 * beside.outcomes < alone.outcomes
    assert (beside.draws, beside.mean) == (4, pytest.approx(float(values.mean()), abs=0.02))


def test_a_loss_above_the_bound_is_told_early_and_one_within_it_by_all_pairs():
    control = 5 * torch.rand(4000, generator=generator_from(0, "control")).double().pow(4)
    control[:2000] = 0
    population, values = table(control, 300, 2.0, "loss")
    above = population.decide([values], control, float(control.mean()) + 0.05, 1e-4, 0)
    assert (above.holds, above.certain) == (False, False)
    assert above.outcomes < 2000
    within = population.decide([values], control, float(control.mean()) + 0.2, 1e-4, 0)
    assert (within.holds, within.certain, within.outcomes) == (True, True, 4000)


@pytest.mark.parametrize("quantity", ["error", "loss"])
def test_draws_without_a_finite_logit_are_too_much(quantity):
    network, data = toy(0)

    def variants(sigma):
        return [{n: t * (math.inf if sigma > 1 else 1) for n, t in state(network).items()}] * DRAWS

    found = largest_magnitude(
        Engine(network), [0.1, 1.0, 2.0, 3.0, 4.0], variants, DRAWS, data, lambda mean: mean + 0.1, quantity=quantity
    )
    assert found.value == 1
    assert dict(found.tested)[2.0,] is False


def test_what_has_no_bound_is_refused():
    network, data = toy(0)
    with pytest.raises(InputError, match=r"failure=2.* inside \(0, 1\)"):
        largest_magnitude(Engine(network), GRID, lambda _: [], DRAWS, data, lambda mean: mean, failure=2)
    with pytest.raises(InputError, match="ascending"):
        largest_magnitude(Engine(network), [2, 1], lambda _: [{}] * DRAWS, DRAWS, data, lambda mean: mean)
    broken = Engine(network, {"2.bias": torch.full((3,), math.inf)})
    with pytest.raises(InputError, match="the loss of the network itself is not finite"):
        largest_magnitude(broken, GRID, lambda _: [{}] * DRAWS, DRAWS, data, lambda mean: mean, quantity="loss")
    mute = Data(torch.zeros(2, 3, 5), torch.full((2, 3), -100), classes=3)
    with pytest.raises(InputError, match="no label counts"):
        largest_magnitude(Engine(network), GRID, lambda _: [{}] * DRAWS, DRAWS, mute, lambda mean: mean)


def test_variants_that_are_not_one_a_draw_are_refused():
    network, data = toy(0)
    for draws, given, said in ((2, 1, "1 variants for 2 draws"), (2, 3, "3 variants for 2 draws"), (0, 0, "draws=0")):
        with pytest.raises(InputError, match=said):
            largest_magnitude(Engine(network), [0.1, 0.2], lambda _, g=given: [{}] * g, draws, data, lambda mean: mean)
    with pytest.raises(InputError, match="quantity='accuracy'"):
        largest_magnitude(Engine(network), [0.1], lambda _: [{}], 1, data, lambda mean: mean, quantity="accuracy")  # pyright: ignore


def test_that_an_infinite_loss_is_too_much_is_certain_from_any_part():
    control = torch.ones(4000, dtype=torch.float64)
    population, _ = table(control, 0, 0.0, "loss")
    found = population.decide([torch.full((4000,), math.inf)], control, 1e9, 1e-4, 0)
    assert (found.holds, found.certain) == (False, True)
    assert found.outcomes < 4000
