"""Robust sign error: the worst case over environments in which one hyper-parameter changes."""

from dataclasses import dataclass

import numpy as np

from shaketable.errors import InputError
from shaketable.statistics.columns import HyperParameters, Values, codes, finite, joined, two_columns
from shaketable.statistics.ranks import pairs_along, ranks


@dataclass(frozen=True)
class SignError:
    """Sign errors over environments: pairs of settings that differ in one hyper-parameter.

    Attributes:
        robust: the largest over environments, in [0, 1]; 1/2 is chance.
        mean: the mean over environments.
        axes: by hyper-parameter, the largest over the environments in which it changes.
        axis_means: by hyper-parameter, the mean.
        environments: by hyper-parameter, how many environments have enough pairs.
        too_few: environments that were left out, for their effective number of pairs is too small.
    """

    robust: float
    mean: float
    axes: dict[str, float]
    axis_means: dict[str, float]
    environments: dict[str, int]
    too_few: int


def hoeffding_weight(difference: Values | float, examples: int) -> np.ndarray:
    r"""How sure it is that two gaps that differ by so much in the test set differ in that direction.

    .. math:: \max\bigl(0, 1 - 2 e^{-2 n (|\Delta| / 2)^2}\bigr)^2

    by Hoeffding's inequality for each of the two, measured on ``examples`` :math:`n` independent test examples.

    Args:
        difference: :math:`\Delta`, of two errors or gaps in [0, 1].
        examples: of the test set.

    Returns: in [0, 1], of the shape of the difference; 0 where it may be noise.

    Raises:
        InputError: no examples.

    Example:
        >>> hoeffding_weight([0.0, 0.02, 0.1], 10_000).round(4).tolist()
        [0.0, 0.5319, 1.0]

    References: Dziugaite et al., "In search of robust measures of generalization", 2020, section 4 and appendix.
    """
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
        raise InputError(f"examples={examples!r}: give the number of test examples, a whole number from 1.")
    unsure = 2 * np.exp(-2 * examples * (np.abs(np.asarray(difference, dtype=np.float64)) / 2) ** 2)
    return np.maximum(0, 1 - unsure) ** 2


def robust_sign_error(
    x: Values,
    y: Values,
    hyperparameters: HyperParameters,
    test_examples: int | None,
    threshold: float = 0.5,
    least: float = 12.0,
) -> SignError:
    r"""Robust sign error: how often a measure orders two networks against their gaps, in the worst environment.

    .. math:: \max_e \frac{\sum_{(i, j) \in e} w_{ij} \frac12 \bigl(1 - \operatorname{sign}(x_i - x_j)
              \operatorname{sign}(y_i - y_j)\bigr)}{\sum_{(i, j) \in e} w_{ij}}, \qquad
              w_{ij} = \max(0, h(y_i - y_j) - \tau)

    An environment e is a pair of settings that differ in one hyper-parameter; its pairs of networks are all those of the
    two settings (seeds). h is :func:`hoeffding_weight` and :math:`\tau` the ``threshold``. Environments with fewer than
    ``least`` effective pairs, :math:`(\sum w)^2 / \sum w^2`, are left out. A tie in x counts one half.

    Args:
        x: the measure [n].
        y: the gap [n], finite.
        hyperparameters: by name, the value of each network; seeds are not among them.
        test_examples: on which the gaps were measured; None counts every pair fully.
        threshold: in [0, 1).
        least: effective pairs that an environment needs; 0 takes all that have a weight.

    Returns: a :class:`SignError`; 0: never against the gap.

    Raises:
        InputError: unequal lengths, a number out of its range, or no environment with enough pairs.

    Cost: the pairs that differ in one hyper-parameter, over all seeds.

    Deviates: from the paper's text, which does not print the threshold and ``least``: they are those of its published code.

    Example:
        >>> width, gap = [1] * 4 + [2] * 4, [0.1, 0.11, 0.12, 0.13, 0.3, 0.31, 0.32, 0.33]
        >>> found = robust_sign_error([1, 1, 1, 9, 2, 2, 2, 2], gap, {"width": width}, test_examples=10_000)
        >>> found.robust
        0.25

    References: Dziugaite et al., "In search of robust measures of generalization", NeurIPS 2020, equations 4 to 6; its code
        (github.com/nitarshan/robust-generalization-measures).
    """
    one, other = two_columns(x, y)
    one, other = ranks(one), finite(other, "y")
    known = codes(hyperparameters, len(one))
    if not 0 <= threshold < 1 or not least >= 0:
        raise InputError(f"threshold={threshold!r}, least={least!r}: give numbers in [0, 1) and from 0.")
    setting = joined(list(known.values()), len(one))
    largest, means, counts, too_few, every = {}, {}, {}, 0, []
    for name, values in known.items():
        fixed = joined([column for key, column in known.items() if key != name], len(one))
        first, second = pairs_along(fixed, values)
        weights = np.ones(len(first))
        if test_examples is not None:
            weights = np.maximum(0, hoeffding_weight(other[first] - other[second], test_examples) - threshold)
        against = (1 - np.sign(one[first] - one[second]) * np.sign(other[first] - other[second])) / 2
        ends = np.sort(np.stack((setting[first], setting[second]), 1), 1)
        environment = joined(list(ends.T), len(first)) if len(first) else np.empty(0, dtype=np.int64)
        total, squares, wrong = (
            np.bincount(environment, column) for column in (weights, weights**2, weights * against)
        )
        enough = (total > 0) & (total**2 >= least * squares * (1 - 1e-12))
        too_few += int((~enough).sum())
        if enough.any():
            errors = wrong[enough] / total[enough]
            largest[name], means[name], counts[name] = float(errors.max()), float(errors.mean()), len(errors)
            every.append(errors)
    if not every:
        raise InputError(
            f"none of {too_few} environments has {least:g} effective pairs; give more seeds or test examples, or a smaller least."
        )
    whole = np.concatenate(every)
    return SignError(float(whole.max()), float(whole.mean()), largest, means, counts, too_few)
