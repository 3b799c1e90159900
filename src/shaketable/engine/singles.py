"""Each unit of a layer removed alone: one recorded pass, of which only what is behind the layer runs again."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shaketable.engine.compare import close
from shaketable.engine.memory import is_out_of_memory
from shaketable.engine.replay import Replay
from shaketable.engine.replica import Replica, Unsuitable
from shaketable.forward import Inputs, count_of, evaluation_mode, forward, map_inputs
from shaketable.intervene import Site, ablated, recorded, with_mask
from shaketable.params import Params, state

CHECKED = 2
"""Examples on which one unit is removed from the network itself, for comparison."""
TOGETHER, ROOM = 32, 2**23
"""Units in one pass at most, and the bytes of their activations: what a cache holds."""


def single_removals(network: nn.Module, site: Site, inputs: Inputs, params: Params | None = None) -> Tensor:
    """Logits with each unit of a site at zero, alone.

    Args:
        network: any module; run in evaluation mode and never written to.
        site: of :func:`shaketable.intervene.site_of`.
        inputs: N examples that fit one batch.
        params: weights by name; the network's own where a name is left out.

    Returns: [units, N, ...]: the network's own logits, to the rounding of float32. ``logits - found[i]`` is what unit i does.

    Cost: one pass, and for each unit the part of a pass behind the site.

    Example:
        >>> from shaketable.intervene import site_of
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2, bias=False)).eval()
        >>> _ = nn.init.eye_(network[0].weight), nn.init.zeros_(network[0].bias), nn.init.eye_(network[2].weight)
        >>> single_removals(network, site_of(network, "0", torch.ones(1, 2)), torch.tensor([[1.0, 2.0]])).tolist()
        [[[0.0, 2.0]], [[1.0, 0.0]]]
    """
    weights = {**state(network), **(params or {})}
    try:
        return _replayed(network, site, inputs, weights)
    except Unsuitable:
        return torch.stack([_removed(network, site, inputs, weights, unit) for unit in range(site.units)])


def _replayed(network: nn.Module, site: Site, inputs: Inputs, weights: Params) -> Tensor:
    """The same by a recorded pass.

    Raises:
        Unsuitable: the network cannot be replayed.
    """
    copy, few = Replica(network, weights).network, map_inputs(lambda tensor: tensor[:CHECKED], inputs)
    with torch.no_grad(), with_mask(copy, site, few) as name:
        replay = Replay(copy, {})
        replay.base(inputs)
        ones = state(copy)[name]
        masks = torch.eye(site.units, dtype=ones.dtype, device=ones.device).neg().add(1)
        variants = [{name: mask.view_as(ones)} for mask in masks]
        with recorded(network, site) as seen:
            truth = _removed(network, site, few, weights, 0)
        size = seen[0].nbytes * count_of(inputs) // count_of(few)
        found = _several(replay, variants, min(TOGETHER, ROOM // size)) if 2 * size <= ROOM else None
        if found is None:
            found = torch.stack([replay.logits(variant) for variant in variants])
        if not close(truth, found[0, :CHECKED]):
            raise Unsuitable("its replayed logits differ from its own")
    return found


def _several(replay: Replay, variants: Sequence[Params], together: int) -> Tensor | None:
    """Logits of variants, so many in one pass by vmap; None where that cannot carry the network's code."""
    parts = [variants[start : start + together] for start in range(0, len(variants), together)]
    try:
        return torch.cat([replay.many(part) for part in parts])
    except Exception as error:  # any code may stand in a network
        if is_out_of_memory(error):
            raise
        return None


def _removed(network: nn.Module, site: Site, inputs: Inputs, weights: Params, unit: int) -> Tensor:
    """Logits of the network as it stands."""
    with torch.no_grad(), evaluation_mode(network), torch.random.fork_rng(devices=[]), ablated(network, site, [unit]):
        return forward(network, map_inputs(torch.clone, inputs), weights)
