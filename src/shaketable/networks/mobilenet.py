"""MobileNet, version 1: a convolution of each channel by itself, then one of all channels at each position."""

from collections.abc import Sequence

from torch import nn

from shaketable.errors import InputError
from shaketable.networks.initialisers import Initialiser, Network
from shaketable.networks.parts import Stem, is_imagenet, scaled

STEM = 32
"""Channels behind the first convolution."""
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Channels and stride of each block."""


def mobilenet(
    input_shape: Sequence[int],
    classes: int,
    *,
    init: Initialiser = "kaiming-normal",
    width: float = 1.0,
    stem: Stem = "auto",
) -> Network:
    """MobileNet: a 3x3 convolution, thirteen blocks of a depthwise 3x3 and a pointwise convolution, a linear layer.

    The modules are ``stem`` (``conv``, ``bn``, ``relu``), ``block1`` (``depthwise``, ``bn1``, ``relu1``, ``pointwise``, ``bn2``,
    ``relu2``) to ``block13``, ``final_linear``. Every convolution is followed by a batch norm, as published.

    Args:
        input_shape: channels, height, width of one example; at least 16x16 with the CIFAR stem, 32x32 with ImageNet's.
        classes: number of outputs.
        init: initial distribution.
        width: multiplier of all channels, 32 to 1024.
        stem: "imagenet" gives the first convolution a stride of 2, "cifar" of 1, so that 32x32 ends in 2x2; "auto" takes
            "imagenet" from a height of 64.

    Returns:
        The network, without values yet where it is called under ``torch.device("meta")``.

    Raises:
        InputError: an image that would be halved to nothing.

    Deviates:
        Zhao, Zhang and Hu do not say how MobileNet takes images of 32x32; the stride of 1 in front is that of the common ports.

    References:
        A. Howard et al., MobileNets: efficient convolutional neural networks for mobile vision applications, 2017, table 1.
        Y. Zhao, H. Zhang, X. Hu, Estimating the generalization in deep neural networks via sparsity, 2021, appendix B.
    """
    channels, height, breadth = input_shape
    stride = 2 if is_imagenet(stem, height) else 1
    if min(height, breadth) < 16 * stride:
        raise InputError(
            f"mobilenet with this stem divides the image by {16 * stride} and needs at least {16 * stride}x{16 * stride}, "
            f"not {height}x{breadth}; pad the images."
        )
    outputs = scaled(STEM, width)
    first = nn.Sequential()
    first.add_module("conv", nn.Conv2d(channels, outputs, 3, stride, padding=1, bias=False))
    first.add_module("bn", nn.BatchNorm2d(outputs))
    first.add_module("relu", nn.ReLU())
    modules: dict[str, nn.Module] = {"stem": first}
    for number, (base, stride) in enumerate(BLOCKS, start=1):
        inputs, outputs = outputs, scaled(base, width)
        block = modules[f"block{number}"] = nn.Sequential()
        block.add_module("depthwise", nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False))
        block.add_module("bn1", nn.BatchNorm2d(inputs))
        block.add_module("relu1", nn.ReLU())
        block.add_module("pointwise", nn.Conv2d(inputs, outputs, 1, bias=False))
        block.add_module("bn2", nn.BatchNorm2d(outputs))
        block.add_module("relu2", nn.ReLU())
    modules["pool"] = nn.AdaptiveAvgPool2d(1)
    modules["flatten"] = nn.Flatten()
    modules["final_linear"] = nn.Linear(outputs, classes)
    return Network(modules, init)
