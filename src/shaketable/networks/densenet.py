"""DenseNet-121."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shaketable.errors import InputError
from shaketable.networks.initialisers import Initialiser, Network
from shaketable.networks.parts import Stem, is_imagenet, scaled, stage0

LAYERS = (6, 12, 24, 16)


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3 convolution, appended to the input: [C, H, W] to [C + growth, H, W]."""

    def __init__(self, inputs: int, growth: int, batch_norm: bool, bias: bool) -> None:
        super().__init__()
        inner = 4 * growth
        self.bn1 = nn.BatchNorm2d(inputs) if batch_norm else nn.Identity()
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=bias)
        self.bn2 = nn.BatchNorm2d(inner) if batch_norm else nn.Identity()
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=bias)

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.conv1(self.relu1(self.bn1(inputs)))
        return torch.cat([inputs, self.conv2(self.relu2(self.bn2(inner)))], 1)


def _transition(inputs: int, outputs: int, batch_norm: bool, bias: bool) -> nn.Sequential:
    """Norm, ReLU, 1x1 convolution, average pooling: [inputs, H, W] to [outputs, H/2, W/2]."""
    transition = nn.Sequential()
    if batch_norm:
        transition.add_module("bn", nn.BatchNorm2d(inputs))
    transition.add_module("relu", nn.ReLU())
    transition.add_module("conv", nn.Conv2d(inputs, outputs, 1, bias=bias))
    transition.add_module("pool", nn.AvgPool2d(2))
    return transition


def densenet(
    input_shape: Sequence[int],
    classes: int,
    *,
    batch_norm: bool = False,
    init: Initialiser = "kaiming-normal",
    width: float = 1.0,
    stem: Stem = "auto",
    bias: bool = False,
) -> Network:
    """DenseNet-121 (DenseNet-BC): growth 32, stages of 6, 12, 24 and 16 dense layers, compression 0.5.

    The modules are ``stage0`` (``conv``), ``stage1.dense1`` (``conv1``, ``conv2``), ..., ``transition1`` (``conv``),
    ..., ``stage4.dense16``, ``final_linear``.

    Args:
        input_shape: channels, height, width of one example; at least 8x8 behind the stem.
        classes: number of outputs.
        batch_norm: normalisations as in Huang et al.
        init: initial distribution.
        width: multiplier of the growth, and with it of all channels.
        stem: "cifar" is a 3x3 convolution; "imagenet" is a 7x7 one and a max pooling, both with stride 2; "auto" is
            "imagenet" for images of height 64 and more.
        bias: biases in the convolutions of a network without batch norm.

    Returns:
        The network, without values yet where it is called under ``torch.device("meta")``.

    Raises:
        InputError: an image too small; ``bias`` with batch norm.

    Deviates:
        Without batch norm the convolutions have no bias, as in the ResNets, where the printed parameter counts tell;
        for this network they agree both ways, and ``bias=True`` is the other reading.
        The CIFAR stem is the convolution alone, that for ImageNet has norm and ReLU too, as in the original code.

    References:
        G. Huang et al., Densely connected convolutional networks, CVPR 2017.
    """
    if bias and batch_norm:
        raise InputError("bias=True is for DenseNets without batch norm: leave out one of the two.")
    channels, height, breadth = input_shape
    imagenet = is_imagenet(stem, height)
    if min(height, breadth) < (29 if imagenet else 8):
        needed = "the imagenet stem needs at least 29x29" if imagenet else "the cifar stem needs at least 8x8"
        raise InputError(
            f"densenet121 halves the image three times and with {needed}, not {height}x{breadth}; "
            "pad the images, or build a ResNet, which takes any size."
        )
    growth = scaled(32, width)
    features = 2 * growth
    activation: dict[str, nn.Module] = {"relu": nn.ReLU()} if imagenet else {}
    if imagenet and batch_norm:
        activation = {"bn": nn.BatchNorm2d(features), **activation}
    modules: dict[str, nn.Module] = {"stage0": stage0(channels, features, imagenet, bias, activation)}
    for i, count in enumerate(LAYERS, start=1):
        stage = modules[f"stage{i}"] = nn.Sequential()
        for j in range(1, count + 1):
            stage.add_module(f"dense{j}", DenseLayer(features, growth, batch_norm, bias))
            features += growth
        if i < len(LAYERS):
            modules[f"transition{i}"] = _transition(features, features // 2, batch_norm, bias)
            features //= 2
    if batch_norm:
        modules["final_bn"] = nn.BatchNorm2d(features)
    modules["final_relu"] = nn.ReLU()
    modules["pool"] = nn.AdaptiveAvgPool2d(1)
    modules["flatten"] = nn.Flatten()
    modules["final_linear"] = nn.Linear(features, classes)
    return Network(modules, init)
