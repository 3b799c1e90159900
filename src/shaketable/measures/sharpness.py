"""Sharpness after Keskar et al.: how high the training loss can be made near the weights."""

from typing import Any

import numpy as np
from scipy.optimize import Bounds, minimize

from shaketable.errors import InputError
from shaketable.measures.derivatives import Objective, Parameters
from shaketable.measures.measure import Measurement, from_value, measure
from shaketable.study import Study

KESKAR = (
    "Keskar, Mudigere, Nocedal, Smelyanskiy, Tang, On large-batch training for deep learning: generalization gap and sharp minima, "
    "2017"
)


@measure(symbol="sharpness", direction="lower", needs=("train",), paper=KESKAR)
def sharpness_keskar2017(
    study: Study,
    radius: float = 5e-4,
    steps: int = 10,
    parameters: Parameters = "all",
    examples: int = 1000,
    seed: int = 0,
) -> Measurement:
    r"""Sharpness of Keskar et al.: how much the training loss can grow in a box around the weights.

    .. math:: 100 \, \frac{\max_{|z_i| \le \rho (|w_i| + 1)} L(w + z) - L(w)}{1 + L(w)}

    in per cent, with the mean cross-entropy L in evaluation mode; the maximum is the best point of ``steps`` iterations of L-BFGS-B that
    start at a random corner of a box a tenth as wide. Not done: no random subspace (the paper's A is the identity).

    Args:
        study: with training data.
        radius: :math:`\rho`; the paper takes 1e-3 and 5e-4.
        steps: iterations.
        parameters: ``"all"``, or the ``"weight"`` of linear layers alone.
        examples: so many of the training examples, drawn from the seed.
        seed: of the examples and of the start.

    Returns: at least 0; a lower bound on the true maximum, as is every such number.

    Raises:
        InputError: a radius that is not above 0, or no steps.

    Cost: some two passes forward and backward over the examples for each step.

    Deviates: the paper starts at the weights; at a minimum the gradient is nothing there, so that we start beside it.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(1, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.zeros(2, 1)}, train=(torch.ones(1, 1), [0]))
        >>> found = sharpness_keskar2017(study, radius=0.1)  # logits -0.1 and 0.1 are the worst in the box
        >>> round(found.value, 3) == round(float(100 * (np.log(1 + np.exp(0.2)) - np.log(2)) / (1 + np.log(2))), 3)
        True

    References: Keskar et al., "On large-batch training for deep learning: generalization gap and sharp minima", 2017,
        metric 2.1.
    """
    if isinstance(radius, bool) or not isinstance(radius, int | float) or not radius > 0:
        raise InputError(f"radius={radius!r}: give a number above 0.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps={steps!r}: give a whole number from 1.")
    objective = Objective(study, parameters, examples, seed)
    final, box = objective.final, radius * (np.abs(objective.final) + 1)
    highest, _ = clean, _ = objective.gradient()

    def falling(z: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal highest
        loss, gradient = objective.gradient(final + z)
        highest = max(highest, loss)
        return -loss, -gradient

    start = 0.1 * box * np.random.default_rng(seed).choice([-1.0, 1.0], size=len(box))
    bounds: Any = Bounds  # of arrays, which its type stub does not know
    minimize(falling, start, jac=True, method="L-BFGS-B", bounds=bounds(-box, box), options={"maxiter": steps})
    return from_value(100 * (highest - clean) / (1 + clean))
