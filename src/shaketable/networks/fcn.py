"""Fully connected networks."""

import math
from collections.abc import Sequence

from torch import nn

from shaketable.networks.initialisers import Initialiser, Network


def fcn(
    input_shape: Sequence[int],
    classes: int,
    widths: Sequence[int],
    *,
    batch_norm: bool = False,
    init: Initialiser = "xavier-uniform",
) -> Network:
    """A fully connected network: hidden layers with ReLU, and a linear classifier.

    The modules are ``layer1``, ``layer2``, ...; the last of them is the classifier. ``bn1`` follows ``layer1``.
    FCN DxH of "Are all layers created equal?" has D hidden layers of width H; FCN (I) and (II) of "module criticality"
    have widths 5000, 1000 and 10000, 2000, with batch norm.

    Args:
        input_shape: shape of one example; any shape is flattened.
        classes: number of outputs.
        widths: widths of the hidden layers.
        batch_norm: a normalisation between each hidden layer and its ReLU; these layers then have no bias.
        init: initial distribution. The default is that of the dense layers of Keras and TensorFlow: the first paper
            says "the default initialization schemes used in open source deep learning libraries" and names none.

    Returns:
        The network, without values yet where it is called under ``torch.device("meta")``.

    Deviates:
        The papers do not say whether a hidden layer before a batch norm has a bias: it would do nothing.

    References:
        C. Zhang, S. Bengio, Y. Singer, Are all layers created equal?, JMLR 2022, appendix A.
        N. Chatterji, B. Neyshabur, H. Sedghi, The intriguing role of module criticality in the generalization of deep
        networks, ICLR 2020, appendix C.
    """
    modules: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    features = math.prod(input_shape)
    for i, width in enumerate(widths, start=1):
        modules[f"layer{i}"] = nn.Linear(features, width, bias=not batch_norm)
        if batch_norm:
            modules[f"bn{i}"] = nn.BatchNorm1d(width)
        modules[f"relu{i}"] = nn.ReLU()
        features = width
    modules[f"layer{len(widths) + 1}"] = nn.Linear(features, classes)
    return Network(modules, init)
