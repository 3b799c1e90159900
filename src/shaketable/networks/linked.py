"""Networks of cells with long-range links: earlier channels, drawn at random, concatenated to each layer's input."""

import copy
import math
from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shaketable.errors import InputError
from shaketable.networks.cells import Cell, Link, draw_links
from shaketable.networks.initialisers import Initialiser, Network
from shaketable.networks.parts import Contributed, Fixed, scaled

Contributions = Literal["random", "constant", "ones"]
STEM = 16
"""Channels of the first convolution, whatever the width multiplier: the printed counts say so."""


class LinkedLayer(Fixed):
    """Norm, ReLU and operator, on the layer before and the channels that long-range links bring: [N, in, ...] to [N, out, ...].

    Attributes:
        links: the earlier channels of the cell that are concatenated behind the layer before.
        outputs: its channels.
    """

    channels: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        links: Sequence[Link],
        *,
        convolution: bool,
        stride: int = 1,
        activate: bool = True,
        contributions: Contributions = "random",
        words: Sequence[str | int] = (),
    ) -> None:
        super().__init__()
        self.links, self.outputs = tuple(links), outputs
        self.sources = tuple((layer, len(list(of))) for layer, of in groupby(self.links, key=lambda link: link[0]))
        self.register_buffer("channels", torch.empty(len(self.links), dtype=torch.long))
        whole = inputs + len(self.links)
        norm = nn.BatchNorm2d if convolution else nn.BatchNorm1d
        self.norm = norm(whole) if activate else nn.Identity()
        self.relu = nn.ReLU() if activate else nn.Identity()
        if contributions == "ones":
            self.operator: nn.Module = (
                nn.Conv2d(whole, outputs, 3, stride, padding=1, bias=False)
                if convolution
                else nn.Linear(whole, outputs, bias=False)
            )
        else:
            size = (outputs, whole, 3, 3) if convolution else (outputs, whole)
            self.operator = Contributed(size, stride, random=contributions == "random", words=words)

    def fix(self) -> None:
        """Write the links into their buffer."""
        numbers = [channel for _, channel in self.links]
        self.channels.copy_(torch.tensor(numbers, dtype=torch.long, device="cpu"))

    def forward(self, inputs: Tensor, earlier: Sequence[Tensor]) -> Tensor:
        parts = [inputs]
        each = self.channels.split([count for _, count in self.sources])
        for (layer, _), channels in zip(self.sources, each, strict=True):
            part = earlier[layer].index_select(1, channels)
            if part.shape[2:] != inputs.shape[2:]:
                part = F.adaptive_avg_pool2d(part, inputs.shape[2:])  # pyright: ignore[reportArgumentType]
            parts.append(part)
        return self.operator(self.relu(self.norm(torch.cat(parts, 1) if len(parts) > 1 else inputs)))


class LinkedCell(nn.Module):
    """Layers one after the other, each linked to channels of the layers before the one before it."""

    def __init__(self, layers: Sequence[LinkedLayer]) -> None:
        super().__init__()
        for index, layer in enumerate(layers):
            self.add_module(f"layer{index}", layer)

    @property
    def links(self) -> tuple[tuple[Link, ...], ...]:
        """For each layer the earlier channels, as (layer, channel), that it is linked to."""
        return tuple(layer.links for layer in self.children() if isinstance(layer, LinkedLayer))

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels of each layer."""
        return tuple(layer.outputs for layer in self.children() if isinstance(layer, LinkedLayer))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for layer in self.children():
            outputs.append(layer(outputs[-1] if outputs else inputs, outputs))
        return outputs[-1]


def linked(
    input_shape: Sequence[int],
    classes: int,
    cells: Sequence[Cell],
    *,
    width: float = 1.0,
    contributions: Contributions = "random",
    one_cell: bool = False,
    link_seed: int = 0,
    init: Initialiser = "kaiming-normal",
) -> Network:
    r"""A convolutional network of cells with long-range links, always with batch norm.

    .. math:: y_i = \sum_j \alpha_{ij} W_{ij} * \text{relu}(\text{norm}(x_j)), \qquad \alpha_i = \text{softmax}(q_i), \qquad
        q_{ij} \sim N(0, 2 / n)

    with n the channels of the layer's input: those of the layer before, and min{w_c (i - 1), t_c} of all earlier ones of its cell.
    :math:`\alpha` is fixed throughout; :func:`folded` multiplies it into the weights for good.

    The modules are ``stem`` (a 3x3 convolution to 16 channels), ``cell1.layer0`` (``norm``, ``relu``, ``operator``), ...,
    ``final_norm``, ``final_relu``, ``pool``, ``flatten``, ``final_linear``; each cell's attribute ``links`` has its links. The
    first layer of each cell but the first has stride 2. What is not done: no link leaves its cell.

    Args:
        input_shape: channels, height, width of one example; any size.
        classes: number of outputs.
        cells: depth, width and links of each.
        width: multiplier of the cells' widths; links stay as they are.
        contributions: ``"random"``, ``"constant"`` (1/n each), or ``"ones"``: a plain convolution.
        one_cell: links reach over all cells (appendix B.1): they are one, with layers of several widths; earlier channels of
            larger maps are averaged down to the size of the layer's input.
        link_seed: of links and contributions, which belong to the architecture; weights are drawn from the seed of ``build``.
        init: initial distribution of the weights.

    Returns:
        The network, without values yet where it is called under ``torch.device("meta")``.

    Deviates: the paper says neither where the norm stands nor how many channels the first convolution has. The printed parameters
        and FLOPs of table 1 need a norm *before* each convolution, over its whole input, 16 channels (not multiplied), and nothing
        but average pooling between the last cell and the classifier. A norm behind the last cell is ours. "Depth" is three times
        that of a cell and 4; there are 3 d_c + 2 layers with weights. Pooled links between groups of one cell are ours.

    References: "Towards unifying neural architecture space exploration and generalization" (NN-Mass), 2020, sections 3.1, 4,
        appendices B and G. The authors' later code (SLDGroup/NN_Mass) has no contributions.
    """
    modules: dict[str, nn.Module] = {"stem": nn.Conv2d(input_shape[0], STEM, 3, padding=1, bias=False)}
    inputs = STEM
    groups = [Cell(cell.depth, scaled(cell.width, width), cell.links) for cell in cells]
    for number, part in enumerate([groups] if one_cell else [[group] for group in groups], start=1):
        widths = [group.width for group in part for _ in range(group.depth)]
        limits = [group.links for group in part for _ in range(group.depth)]
        counts = [min(sum(widths[: max(0, i - 1)]), limit) for i, limit in enumerate(limits)]
        starts = {sum(group.depth for group in part[:k]) for k in range(len(part)) if k > 0 or number > 1}
        layers = [
            LinkedLayer(
                widths[i - 1] if i else inputs,
                widths[i],
                links,
                convolution=True,
                stride=2 if i in starts else 1,
                contributions=contributions,
                words=(link_seed, number, i),
            )
            for i, links in enumerate(draw_links(widths, counts, link_seed, number))
        ]
        modules[f"cell{number}"] = LinkedCell(layers)
        inputs = widths[-1]
    modules |= {
        "final_norm": nn.BatchNorm2d(inputs),
        "final_relu": nn.ReLU(),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "final_linear": nn.Linear(inputs, classes),
    }
    return Network(modules, init)


def linked_mlp(
    input_shape: Sequence[int],
    classes: int,
    cells: Sequence[Cell],
    *,
    width: float = 1.0,
    contributions: Contributions = "random",
    link_seed: int = 0,
    init: Initialiser = "kaiming-normal",
) -> Network:
    """A fully connected network of cells with long-range links: :func:`linked` with units in place of channels.

    The modules are ``flatten``, ``cell1.layer0`` (``operator``: it sees the inputs as they are), ``cell1.layer1`` (``norm``,
    ``relu``, ``operator``), ..., ``final_norm``, ``final_relu``, ``final_linear``.

    Args:
        input_shape: of one example; any shape.
        classes: number of outputs.
        cells: depth, width and links of each; one in the paper's theory.
        width: multiplier of the cells' widths.
        contributions, link_seed, init: as for :func:`linked`.

    Returns:
        The network, without values yet where it is called under ``torch.device("meta")``.

    Deviates: the paper has no such network; its authors' later code has one, with ELU, without norms, and with the classifier as the
        cell's last layer.

    References: "Towards unifying neural architecture space exploration and generalization" (NN-Mass), 2020, section 3.3.
    """
    modules: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    inputs = math.prod(input_shape)
    for number, cell in enumerate(cells, start=1):
        group = Cell(cell.depth, scaled(cell.width, width), cell.links)
        widths = [group.width] * group.depth
        modules[f"cell{number}"] = LinkedCell(
            [
                LinkedLayer(
                    group.width if i else inputs,
                    group.width,
                    links,
                    convolution=False,
                    activate=i > 0 or number > 1,
                    contributions=contributions,
                    words=(link_seed, number, i),
                )
                for i, links in enumerate(draw_links(widths, group.sources, link_seed, number))
            ]
        )
        inputs = group.width
    modules |= {
        "final_norm": nn.BatchNorm1d(inputs),
        "final_relu": nn.ReLU(),
        "final_linear": nn.Linear(inputs, classes),
    }
    return Network(modules, init)


def folded(network: nn.Module) -> nn.Module:
    """A copy of a linked network with its contributions multiplied into the weights: plain convolutions, equal outputs.

    For those who deploy it, and for measures of weights; trained further it would be another network, as a step then moves the
    products and not the weights before them.

    Args:
        network: any; modules that are no :class:`Contributed` stay as they are.

    Returns:
        The copy. The network itself is not changed.

    Raises:
        InputError: there is nothing to fold.

    Example:
        >>> from shaketable.networks import build
        >>> plain = folded(build("linked-3x4t2", (1, 8, 8), 2))
        >>> type(plain.cell1.layer2.operator).__name__
        'Conv2d'
    """
    if not any(isinstance(module, Contributed) for module in network.modules()):
        raise InputError("the network has no contributions to fold: its weights are those that it multiplies with.")
    copied = copy.deepcopy(network)
    for module in list(copied.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Contributed):
                setattr(module, name, child.plain())
    return copied
