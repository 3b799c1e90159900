"""Choosing examples so that every class keeps its share."""

import torch
from torch import Tensor


def stratified(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Sorted indices [count] of examples drawn without replacement, each class in proportion to its size.

    A class of n_c among N examples gets n_c * count / N rounded down, and the classes with the largest remainders one
    more (the smaller label first where remainders tie), so that the total is exact.

    Args:
        labels: class of each example [N].
        count: how many examples, 0..N.
        generator: a CPU generator.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> labels[stratified(labels, 3, torch.Generator().manual_seed(0))].tolist()
        [0, 0, 1]
    """
    sizes = torch.bincount(labels)
    shares = sizes * count // len(labels)
    remainders = sizes * count % len(labels)
    largest = torch.argsort(remainders, descending=True, stable=True)
    shares[largest[: count - int(shares.sum())]] += 1
    chosen = []
    for label, share in enumerate(shares.tolist()):
        members = (labels == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:share]])
    return torch.cat(chosen).sort().values
