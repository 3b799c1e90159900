"""Small pieces that several families share."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

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
