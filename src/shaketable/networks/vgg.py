"""VGG: plain convolutional networks."""

from collections.abc import Sequence

from torch import nn

from shaketable.errors import InputError
from shaketable.networks.initialisers import Initialiser, Network
from shaketable.networks.parts import scaled

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


def vgg(
    input_shape: Sequence[int],
    classes: int,
    depth: int,
    *,
    batch_norm: bool = False,
    init: Initialiser = "kaiming-normal",
    width: float = 1.0,
    hidden: int = 4096,
    dropout: float = 0.0,
    dropped: int = 2,
) -> Network:
    """VGG-11, 13, 16 or 19: five stages of 3x3 convolutions, each ended by a max pooling, and three linear layers.

    The modules are ``conv1``, ``conv2``, ..., ``fc1``, ``fc2``, ``final_linear``; ``bn1`` follows ``conv1``.

    Args:
        input_shape: channels, height, width of one example; at least 32x32, because it is halved five times.
        classes: number of outputs.
        depth: 11, 13, 16 or 19 layers with weights.
        batch_norm: a normalisation on the output of each convolution, which then has no bias.
        init: initial distribution.
        width: multiplier of all channels (64 to 512) and of ``hidden``.
        hidden: outputs of ``fc1`` and ``fc2``.
        dropout: the probability that an output of a hidden linear layer is dropped in training; 0.5 in the paper of VGG.
        dropped: how many of the two layers ``fc1`` and ``fc2`` have it.

    Returns:
        The network, without values yet where it is called under ``torch.device("meta")``.

    Raises:
        InputError: an image smaller than 32x32, a dropout of 1 or more, or more than two layers with it.

    Deviates:
        No dropout unless it is asked for: the papers on layers do not mention it.
        Inputs of 32x32 reach the classifier as 512 numbers, not 7 x 7 x 512: so the printed parameter counts want it.

    References:
        K. Simonyan, A. Zisserman, Very deep convolutional networks for large-scale image recognition, ICLR 2015.
        Y. Zhao, H. Zhang, X. Hu, Estimating the generalization in deep neural networks via sparsity, 2021, appendix D (dropout).
    """
    channels, height, breadth = input_shape
    if min(height, breadth) < 32:
        raise InputError(
            f"vgg{depth} halves the image five times and needs at least 32x32, not {height}x{breadth}; "
            "pad the images, or build a ResNet, which takes any size."
        )
    if not 0 <= dropout < 1:
        raise InputError(f"dropout={dropout}: give a probability from 0 to below 1.")
    if dropped > 2:
        raise InputError(f"dropped={dropped}: vgg{depth} has two hidden linear layers; give 1 or 2.")
    modules: dict[str, nn.Module] = {}
    number = 0
    for stage, (convolutions, base) in enumerate(zip(CONVOLUTIONS[depth], CHANNELS, strict=True), start=1):
        outputs = scaled(base, width)
        for _ in range(convolutions):
            number += 1
            modules[f"conv{number}"] = nn.Conv2d(channels, outputs, 3, padding=1, bias=not batch_norm)
            if batch_norm:
                modules[f"bn{number}"] = nn.BatchNorm2d(outputs)
            modules[f"relu{number}"] = nn.ReLU()
            channels = outputs
        modules[f"pool{stage}"] = nn.MaxPool2d(2)
    modules["flatten"] = nn.Flatten()
    features = channels * (height // 32) * (breadth // 32)
    for i in (1, 2):
        modules[f"fc{i}"] = nn.Linear(features, scaled(hidden, width))
        modules[f"relu_fc{i}"] = nn.ReLU()
        if dropout and i <= dropped:
            modules[f"drop_fc{i}"] = nn.Dropout(dropout)
        features = scaled(hidden, width)
    modules["final_linear"] = nn.Linear(features, classes)
    return Network(modules, init)
