"""Small pieces that several families share."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shaketable.identity import generator_from

Stem = Literal["auto", "cifar", "imagenet"]


class Bias(nn.Module):
    """One trainable number that is added, 0 at the start (Fixup)."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.bias


class Scale(nn.Module):
    """One trainable number that multiplies, 1 at the start (Fixup)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.scale


class Fixed(nn.Module):
    """A module with buffers that belong to the architecture: they are neither drawn anew with the weights nor trained."""

    def fix(self) -> None:
        """Write these buffers' values."""
        raise NotImplementedError


class Contributed(Fixed):
    r"""A convolution or linear layer without bias whose weights are multiplied by fixed contributions of inputs to outputs.

    .. math:: \alpha_{i} = \text{softmax}(q_i), \qquad q_{ij} \sim N(0, 2 / n)

    for the output i and each of n inputs j; where they are not ``random``, :math:`q = 0`. ``free`` is what is trained, ``weight`` the
    product, as with weight normalisation.

    Args:
        size: of the weight [out, in, ...].
        stride: of a convolution.
        random: whether contributions differ.
        words: of the seed that they are drawn from.
    """

    contributions: Tensor

    def __init__(self, size: Sequence[int], stride: int, random: bool, words: Sequence[str | int]) -> None:
        super().__init__()
        self.free = nn.Parameter(torch.empty(tuple(size)))
        self.register_buffer("contributions", torch.empty((*size[:2], *(1 for _ in size[2:]))))
        self.stride, self.random, self.words = stride, random, tuple(words)

    def fix(self) -> None:
        """Draw the contributions."""
        outputs, inputs = self.contributions.shape[:2]
        drawn = torch.zeros(outputs, inputs, device="cpu")
        if self.random:
            seed, *words = self.words
            drawn.normal_(0, (2 / inputs) ** 0.5, generator=generator_from(int(seed), "contributions", *words))
        self.contributions.copy_(drawn.softmax(1).reshape(self.contributions.shape))

    @property
    def weight(self) -> Tensor:
        """What inputs are multiplied with."""
        return self.free * self.contributions

    def forward(self, inputs: Tensor) -> Tensor:
        return (
            F.linear(inputs, self.weight)
            if self.free.ndim == 2
            else F.conv2d(inputs, self.weight, None, self.stride, 1)
        )

    def plain(self) -> nn.Module:
        """The same as a module of torch, with the products as its weights."""
        outputs, inputs, *kernel = self.free.shape
        with torch.no_grad():
            weight = self.weight.clone()
        where = {"device": "meta", "dtype": weight.dtype}
        made = (
            nn.Conv2d(inputs, outputs, kernel[0], self.stride, padding=1, bias=False, **where)
            if kernel
            else nn.Linear(inputs, outputs, bias=False, **where)
        )
        made.weight = nn.Parameter(weight, requires_grad=self.free.requires_grad)
        return made.train(self.training)


def scaled(channels: int, width: float) -> int:
    """A number of channels times a width multiplier, at least one."""
    return max(1, round(channels * width))


def is_imagenet(stem: Stem, height: int) -> bool:
    """Whether the stem is the one that divides height and width by four; "auto" takes it from a height of 64."""
    return stem == "imagenet" or (stem == "auto" and height >= 64)


def stage0(
    channels: int, outputs: int, imagenet: bool, bias: bool, activation: Mapping[str, nn.Module]
) -> nn.Sequential:
    """The stem: ``conv``, the activation; [C, H, W] to [outputs, H, W], for ImageNet pooled to [outputs, H/4, W/4]."""
    stage = nn.Sequential()
    if imagenet:
        stage.add_module("conv", nn.Conv2d(channels, outputs, 7, 2, padding=3, bias=bias))
    else:
        stage.add_module("conv", nn.Conv2d(channels, outputs, 3, padding=1, bias=bias))
    for name, module in activation.items():
        stage.add_module(name, module)
    if imagenet:
        stage.add_module("pool", nn.MaxPool2d(3, 2, padding=1))
    return stage
