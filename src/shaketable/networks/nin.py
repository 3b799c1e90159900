"""Network in Network, as in the DEMOGEN set of networks."""

from collections.abc import Sequence

from torch import nn

from shaketable.errors import InputError
from shaketable.networks.initialisers import Initialiser, Network

HEAD = 4
"""Side of the kernel of the head."""


def nin(
    input_shape: Sequence[int],
    classes: int,
    blocks: int,
    channels: int,
    *,
    batch_norm: bool = False,
    dropout: float = 0.0,
    init: Initialiser = "xavier-uniform",
) -> Network:
    """Network in Network: blocks of a 3x3 convolution of stride 2 and two 1x1 convolutions, then one 4x4 convolution.

    The modules are ``block1`` (``conv1``, ``bn1``, ``relu1``, ..., ``dropout``), ``block2``, ..., ``head`` (a convolution to one
    map a class).

    Args:
        input_shape: channels, height, width of one example; 32x32 in the paper.
        classes: number of outputs.
        blocks: 2, 3 or 4 in the paper.
        channels: of every convolution; 192, 288 or 384 in the paper.
        batch_norm: a normalisation between each convolution and its ReLU.
        dropout: the probability that a value behind a block is dropped in training; 0, 0.2 or 0.5 in the paper.
        init: initial distribution.

    Returns:
        The network, without values yet where it is called under ``torch.device("meta")``.

    Raises:
        InputError: an image that the blocks halve to less than one position, or a dropout of 1 or more.

    Deviates:
        A head of 4x4 fits 32x32 images behind three blocks only. Behind two it gives 5x5 positions, whose logits are averaged
        here; behind four, where 2x2 positions are left, its kernel is 2x2. The paper says neither. TensorFlow pads a
        convolution of stride 2 on one side, torch on both. Every convolution has a bias, as in DEMOGEN's code, also with
        batch norm.

    References:
        Y. Jiang, D. Krishnan, H. Mobahi, S. Bengio, Predicting the generalization gap in deep networks with margin
        distributions, ICLR 2019, appendix. L. Kuhn et al., Robustness to pruning predicts generalization in deep neural
        networks, 2021, appendix A.3. M. Lin, Q. Chen, S. Yan, Network in network, ICLR 2014.
    """
    inputs, height, breadth = input_shape
    if not 0 <= dropout < 1:
        raise InputError(f"dropout={dropout}: give a probability from 0 to below 1.")
    modules: dict[str, nn.Module] = {}
    for number in range(1, blocks + 1):
        if min(height, breadth) < 2:
            raise InputError(
                f"nin-{blocks}x{channels} halves the image {blocks} times, and nothing is left of {input_shape[1]}x"
                f"{input_shape[2]}; take fewer blocks."
            )
        block = modules[f"block{number}"] = nn.Sequential()
        for layer in (1, 2, 3):
            kernel, stride = (3, 2) if layer == 1 else (1, 1)
            block.add_module(f"conv{layer}", nn.Conv2d(inputs, channels, kernel, stride, padding=kernel // 2))
            if batch_norm:
                block.add_module(f"bn{layer}", nn.BatchNorm2d(channels))
            block.add_module(f"relu{layer}", nn.ReLU())
            inputs = channels
        if dropout:
            block.add_module("dropout", nn.Dropout(dropout))
        height, breadth = -(-height // 2), -(-breadth // 2)
    modules["head"] = nn.Conv2d(inputs, classes, (min(HEAD, height), min(HEAD, breadth)))
    modules["pool"] = nn.AdaptiveAvgPool2d(1)
    modules["flatten"] = nn.Flatten()
    return Network(modules, init)
