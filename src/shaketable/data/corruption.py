"""Labels made wrong on purpose: what a network fits only by heart."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from shaketable.data.data import Data
from shaketable.errors import InputError
from shaketable.identity import generator_from


def corrupt_labels(
    data: Data, fraction: float, seed: int, per_class: bool | Mapping[int, float] = False, other: bool = False
) -> Data:
    """The data with the labels of a chosen fraction of the examples redrawn, and the indices of these in `corrupted`.

    A new label is uniform over *all* classes, so that about 1 in ``classes`` of the chosen examples keeps its label by
    chance; with ``other`` it is uniform over the other classes and always wrong. The inputs are shared, not copied.

    Args:
        data: examples with one label each [N].
        fraction: share of the examples to choose, in [0, 1]; exactly ``round(fraction * N)`` of them.
        seed: decides which, and the new labels.
        per_class: False: the fraction of all examples; True: the fraction within each class; a mapping: the fraction
            within each class that it names, and ``fraction`` within the others.
        other: draw from the other classes only.

    Returns:
        Data whose `corrupted` holds the sorted indices chosen, together with those of earlier corruptions.

    Raises:
        InputError: a fraction outside of [0, 1], a class that does not exist, or labels that are not [N].

    Example:
        >>> data = Data(torch.zeros(10, 1), torch.arange(10) % 2, classes=2)
        >>> noisy = corrupt_labels(data, 0.3, seed=0, other=True)
        >>> bool((noisy.labels != data.labels).nonzero().flatten().equal(noisy.corrupted)), len(noisy.corrupted)
        (True, 3)

    References:
        Zhang, Bengio, Hardt, Recht, Vinyals, "Understanding deep learning requires rethinking generalization", 2017,
        section 2.1 (partially corrupted labels: uniform over the classes).
    """
    if data.labels.ndim != 1:
        raise InputError(f"labels {list(data.labels.shape)} cannot be corrupted; there must be one label per example.")
    fractions = dict.fromkeys(range(data.classes), fraction)
    if isinstance(per_class, Mapping):
        fractions |= dict(per_class)
    for label, share in fractions.items():
        if not 0 <= label < data.classes:
            raise InputError(f"per_class names class {label}, and the classes are 0..{data.classes - 1}.")
        if not 0 <= share <= 1:
            raise InputError(f"the fraction of labels to corrupt must be in [0, 1], and {share} was given.")
    if other and data.classes < 2:
        raise InputError("there is one class only, so no other label can be drawn; use other=False.")

    labels = data.labels.cpu().clone()
    generator = generator_from(seed, "label corruption")
    groups = [(torch.arange(len(labels)), fraction)]
    if per_class:
        groups = [((labels == label).nonzero().flatten(), share) for label, share in sorted(fractions.items())]
    parts = [
        group[torch.randperm(len(group), generator=generator)[: round(share * len(group))]] for group, share in groups
    ]
    chosen = torch.cat(parts).sort().values
    if other:
        labels[chosen] += torch.randint(1, data.classes, (len(chosen),), generator=generator)
        labels %= data.classes
    else:
        labels[chosen] = torch.randint(data.classes, (len(chosen),), generator=generator)
    if data.corrupted is not None:
        chosen = torch.cat([chosen, data.corrupted.cpu()]).unique()
    return replace(data, labels=labels.to(data.device), corrupted=chosen.to(data.device))
