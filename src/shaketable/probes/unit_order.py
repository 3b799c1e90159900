"""The order in which the units of a layer are removed: by what they are to a class, to all data, or by chance."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from shaketable.errors import InputError
from shaketable.identity import generator_from
from shaketable.intervene import Site
from shaketable.params import Params

Attribute = Literal["activation", "selectivity", "weight", "random"]
ATTRIBUTES = ("activation", "selectivity", "weight", "random")


def class_sums(activation: Tensor, labels: Tensor, site: Site, classes: int) -> Tensor:
    """Sums of absolute activations [classes, units] over the examples of each label and all positions."""
    by_unit = activation.movedim(site.axis, 1).flatten(2) if activation.dim() > 2 else activation.unsqueeze(2)
    norms = by_unit.abs().sum(2, dtype=torch.float64)
    return torch.zeros(classes, site.units, dtype=torch.float64, device=norms.device).index_add_(0, labels, norms)


def unit_order(
    attribute: Attribute,
    groups: Sequence[int | None],
    site: Site,
    sums: Tensor,
    examples: Tensor,
    network: nn.Module,
    params: Params,
    seed: int,
) -> Tensor:
    r"""Units [groups, units] of a layer, for each group of data that of the largest attribute first; among equal ones the lowest.

    Args:
        attribute: ``"activation"``: the L1 norm of the unit's activation on the group; ``"selectivity"``: the class selectivity
            :math:`(\mu_j - \mu_{-j}) / (\mu_j + \mu_{-j})` of mean absolute activations on class j and on the other classes
            (the mean of their means), for all data that of its best class; ``"weight"``: the L1 norm of its incoming weights;
            ``"random"``.
        groups: classes; None is all data.
        site: of the layer.
        sums: of :func:`class_sums`, over all data.
        examples: [classes], how many there are.
        network, params: where the weights are.
        seed: of random orders, one for each group.

    Raises:
        InputError: no such attribute, or the layer's weights are not to be found.

    References: "On the importance of single directions for generalization" (Morcos et al., 2018) for class selectivity.
    """
    if attribute == "random":
        drawn = [
            torch.randperm(
                site.units,
                generator=generator_from(seed, "order of units", site.layer, "all" if group is None else group),
            )
            for group in groups
        ]
        return torch.stack(drawn).to(sums.device)
    if attribute == "weight":
        weight = params.get(f"{site.layer}.weight".removeprefix("."))
        transposed = getattr(network.get_submodule(site.layer), "transposed", False)
        if weight is None or weight.shape[int(transposed)] != site.units:
            raise InputError(
                f"layer {site.layer!r} has no weight with a row for each unit; use another attribute than 'weight'."
            )
        value = weight.detach().double().abs().movedim(int(transposed), 0).flatten(1).sum(1).expand(len(groups), -1)
    elif attribute == "activation":
        value = torch.stack([sums.sum(0) if group is None else sums[group] for group in groups])
    elif attribute == "selectivity":
        value = _selectivity(groups, sums, examples)
    else:
        raise InputError(f"attribute={attribute!r}: use one of {', '.join(ATTRIBUTES)}.")
    return value.argsort(dim=1, descending=True, stable=True)


def _selectivity(groups: Sequence[int | None], sums: Tensor, examples: Tensor) -> Tensor:
    """Class selectivity [groups, units]; 0 for a unit that is never active."""
    there = examples > 0
    if int(there.sum()) < 2:
        raise InputError("class selectivity compares classes: give data of two or more, or another attribute.")
    means = sums / examples.clamp_min(1)[:, None]
    others = (means[there].sum(0) - means) / (int(there.sum()) - 1)
    index = (means - others) / (means + others).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.stack([index[there].amax(0) if group is None else index[group] for group in groups])
