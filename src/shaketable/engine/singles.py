"""Each unit of a layer removed alone: one recorded pass, of which only what is behind the layer runs again."""

import torch
from torch import Tensor, nn

from shaketable.engine.compare import close
from shaketable.engine.replay import Replay
from shaketable.engine.replica import Replica, Unsuitable
from shaketable.forward import Inputs, evaluation_mode, forward, map_inputs
from shaketable.intervene import Site, ablated, with_mask
from shaketable.params import Params, state

CHECKED = 2
"""Examples on which one unit is removed from the network itself, for comparison."""


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
        found = torch.stack([replay.logits({name: mask.view_as(ones)}) for mask in masks])
        if not close(_removed(network, site, few, weights, 0), found[0, :CHECKED]):
            raise Unsuitable("its replayed logits differ from its own")
    return found


def _removed(network: nn.Module, site: Site, inputs: Inputs, weights: Params, unit: int) -> Tensor:
    """Logits of the network as it stands."""
    with torch.no_grad(), evaluation_mode(network), torch.random.fork_rng(devices=[]), ablated(network, site, [unit]):
        return forward(network, map_inputs(torch.clone, inputs), weights)
