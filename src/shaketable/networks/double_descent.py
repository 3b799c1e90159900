"""The networks of the double-descent experiments: five layers, and a ResNet-18, of width k."""

from collections.abc import Sequence

from torch import nn

from shaketable.errors import InputError
from shaketable.networks.initialisers import Initialiser, Network
from shaketable.networks.resnet import resnet

POOLS = (1, 2, 2, 8)
"""Pooling behind each convolution."""


def cnn5(
    input_shape: Sequence[int],
    classes: int,
    width: int,
    *,
    batch_norm: bool = False,
    init: Initialiser = "torch",
) -> Network:
    """Five layers: 3x3 convolutions of k, 2k, 4k and 8k channels, with max pooling by 1, 2, 2 and 8, and a linear layer.

    The modules are ``conv1``, ``bn1``, ``relu1``, ``pool1``, ..., ``final_linear``.

    Args:
        input_shape: channels, height, width of one example; at least 32x32, because it is divided by 32.
        classes: number of outputs.
        width: k; 2, 4, ... 64 in the paper.
        batch_norm: a normalisation behind each convolution, as in the paper.
        init: initial distribution; torch's own in the paper's code.

    Returns:
        The network, without values yet where it is called under ``torch.device("meta")``.

    Raises:
        InputError: an image smaller than 32x32.

    Deviates:
        Convolutions have a bias also with batch norm, as in the authors' code: 1,558,026 parameters at k = 64.

    References:
        P. Nakkiran et al., Deep double descent, ICLR 2020, appendix B. L. Kuhn et al., Robustness to pruning predicts
        generalization in deep neural networks, 2021, appendix A.4.
    """
    channels, height, breadth = input_shape
    if min(height, breadth) < 32:
        raise InputError(
            f"cnn5-{width} divides the image by 32 and needs at least 32x32, not {height}x{breadth}; pad it."
        )
    modules: dict[str, nn.Module] = {}
    for number, pool in enumerate(POOLS, start=1):
        outputs = width * 2 ** (number - 1)
        modules[f"conv{number}"] = nn.Conv2d(channels, outputs, 3, padding=1)
        if batch_norm:
            modules[f"bn{number}"] = nn.BatchNorm2d(outputs)
        modules[f"relu{number}"] = nn.ReLU()
        if pool > 1:
            modules[f"pool{number}"] = nn.MaxPool2d(pool)
        channels = outputs
    modules["flatten"] = nn.Flatten()
    modules["final_linear"] = nn.Linear(channels * (height // 32) * (breadth // 32), classes)
    return Network(modules, init)


def resnet18k(input_shape: Sequence[int], classes: int, width: int, *, init: Initialiser = "torch") -> Network:
    """The ResNet-18 of width k of the double-descent experiments: version 2 with batch norm, k to 8k channels.

    Args:
        input_shape: channels, height, width of one example; any size.
        classes: number of outputs.
        width: k; 64 is the usual ResNet-18.
        init: initial distribution; torch's own in the paper's code.

    Returns:
        :func:`shaketable.networks.resnet.resnet` of depth 18 and version 2, its channels times k / 64, without a norm before the pooling.

    Deviates:
        As in the authors' code there is neither norm nor ReLU behind the last block.

    References:
        P. Nakkiran et al., Deep double descent, ICLR 2020, appendix B. L. Kuhn et al., Robustness to pruning predicts
        generalization in deep neural networks, 2021, appendices A.4 and A.5.
    """
    return resnet(
        input_shape, classes, 18, 2, batch_norm=True, init=init, width=width / 64, stem="cifar", final_activation=False
    )
