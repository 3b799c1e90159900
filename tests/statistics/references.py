"""The statistics as they are printed, in plain Python loops over all pairs of networks."""

import math
from itertools import combinations, product


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def granulated(x, y, hyper: dict, axis: str) -> float:
    """Mean over the settings of the others of tau-a over the networks that differ in the axis."""
    cells: dict[tuple, list[int]] = {}
    for i in range(len(x)):
        cells.setdefault(tuple(hyper[name][i] for name in hyper if name != axis), []).append(i)
    taus = []
    for members in cells.values():
        signs = [
            sign(x[i] - x[j]) * sign(y[i] - y[j])
            for i, j in combinations(members, 2)
            if hyper[axis][i] != hyper[axis][j]
        ]
        if signs:
            taus.append(sum(signs) / len(signs))
    return sum(taus) / len(taus)


def entropy(shares) -> float:
    return -sum(share * math.log2(share) for share in shares if share)


def information(x, y, hyper: dict, given: tuple[str, ...], competition: bool) -> float | None:
    """Normalised conditional mutual information given some hyper-parameters; None without entropy."""
    cells: dict[tuple, dict[tuple, int]] = {}
    for i, j in product(range(len(x)), repeat=2):
        if competition:
            signs = (x[i] > x[j], y[i] > y[j])
        else:
            signs = (sign(x[i] - x[j]), sign(y[i] - y[j]))
            if 0 in signs:
                continue
        where = tuple((hyper[name][i], hyper[name][j]) for name in given)
        counts = cells.setdefault(where, {})
        counts[signs] = counts.get(signs, 0) + 1
    everything = sum(sum(counts.values()) for counts in cells.values())
    shared = of_y = 0.0
    for counts in cells.values():
        total = sum(counts.values())
        weight = 1 if competition else total / everything
        marginal = [
            [
                sum(n for key, n in counts.items() if key[side] == value) / total
                for value in {key[side] for key in counts}
            ]
            for side in (0, 1)
        ]
        joint = entropy(n / total for n in counts.values())
        shared += weight * (entropy(marginal[0]) + entropy(marginal[1]) - joint)
        of_y += weight * entropy(marginal[1])
    return shared / of_y if of_y else None


def conditional_information(x, y, hyper: dict, competition: bool = False) -> float:
    sizes = (2,) if competition else (0, 1, 2)
    found = [information(x, y, hyper, given, competition) for size in sizes for given in combinations(hyper, size)]
    return min(value for value in found if value is not None)


def weight(difference: float, examples: int) -> float:
    return max(0.0, 1 - 2 * math.exp(-2 * examples * (abs(difference) / 2) ** 2)) ** 2


def sign_errors(x, y, hyper: dict, examples: int, least: float) -> dict[str, list[float]]:
    """By axis, the weighted sign error of each environment with enough effective pairs."""
    found: dict[str, list[float]] = {}
    settings = [tuple(hyper[name][i] for name in hyper) for i in range(len(x))]
    for one, other in combinations(sorted(set(settings)), 2):
        differs = [name for name, a, b in zip(hyper, one, other) if a != b]
        if len(differs) != 1:
            continue
        total = squares = wrong = 0.0
        for i, j in product(range(len(x)), repeat=2):
            if settings[i] == one and settings[j] == other:
                w = max(0.0, weight(y[i] - y[j], examples) - 0.5)
                total, squares = total + w, squares + w * w
                wrong += w * (1 - sign(x[i] - x[j]) * sign(y[i] - y[j])) / 2
        if total and total**2 >= least * squares:
            found.setdefault(differs[0], []).append(wrong / total)
    return found
