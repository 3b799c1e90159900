"""Turning points and key quantities on given curves."""

import numpy as np
import pytest

from shaketable.errors import InputError
from shaketable.probes.turning_points import key_quantities

STEEP = [1.0, 0.4, 0.1, 0.0, 0.0], [1.0, 1.0, 0.9, 1.0, 0.0]
NEVER = [0.9, 0.6, 0.3, 0.3, 0.5], [0.9, 0.9, 0.8, 0.7, 0.5]


def authors(most: list[float], least: list[float], chance: float, units: int) -> tuple[float, float]:
    """The lines of the authors' program that count, with their chance level and number of units as arguments."""
    below = np.where(np.array(most) <= chance)[0]
    first = below[0] if len(below) else np.argmin(most)
    second = np.argmax(np.array(least)[::-1][1:]) + 1
    return (first + second) / (2 * units), np.average(np.array(least) - np.array(most))


def test_the_formulas_of_the_paper_worked_out_by_hand():
    found = key_quantities(*STEEP, 0.1)
    assert (found["n_0"], found["n_0_r"], found["reached"]) == (2, 3, True)
    assert found["zeta"] == (2 + 4 - 3) / 8
    assert found["kappa"] == pytest.approx((0.6 + 0.8 + 1.0) / 4)


def test_the_first_of_several_maxima_gives_a_larger_zeta():
    found = key_quantities(*STEEP, 0.1, ties="first")
    assert (found["n_0_r"], found["zeta"]) == (0, (2 + 4 - 0) / 8)


def test_where_chance_is_never_reached_all_units_count_or_in_the_code_the_first_minimum():
    paper, code = key_quantities(*NEVER, 0.25), key_quantities(*NEVER, 0.25, "code")
    assert (paper["n_0"], paper["reached"], paper["n_0_r"]) == (4, False, 1)
    assert (code["n_0"], code["reached"], code["n_0_r"]) == (2, False, 1)


def test_the_code_leaves_out_the_end_point_and_keeps_the_sign():
    most, least = [0.5, 0.6, 0.2, 1.0], [0.5, 0.4, 0.3, 1.0]
    assert key_quantities(most, least, 0.1)["n_0_r"] == 3
    code = key_quantities(most, least, 0.1, "code")
    assert code["n_0_r"] == 0
    assert code["kappa"] == pytest.approx((-0.2 + 0.1) / 4)
    assert key_quantities(most, least, 0.1)["kappa"] == pytest.approx(0.3 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_the_code_rule_is_the_authors_program_on_random_curves(seed):
    generator = np.random.default_rng(seed)
    most, least = (np.round(generator.random(33), 1).tolist() for _ in range(2))
    for chance in (0.0, 0.1, 0.3):
        found = key_quantities(most, least, chance, "code")
        assert (found["zeta"], found["kappa"]) == pytest.approx(authors(most, least, chance, 32))


def test_an_accuracy_equal_to_chance_counts_as_chance():
    assert key_quantities([1, 5 / 50, 0], [1, 1, 0], 1 / 10)["n_0"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([1, 0], [1, 0, 0], 0.1), "two curves of the same length"),
        (([1], [1], 0.1), "two curves of the same length"),
        (([1, 2], [1, 0], 0.1), "accuracies"),
        (([1, float("nan")], [1, 0], 0.1), "accuracies"),
        (([1, 0], [1, 0], 0.1, "mine"), "use rule='paper' or 'code'"),
    ],
)
def test_what_is_no_pair_of_curves_is_one_clear_error(arguments, said):
    with pytest.raises(InputError, match=said):
        key_quantities(*arguments)
