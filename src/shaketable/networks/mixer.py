"""MLP-Mixers: images as tables of patches by channels, mixed along one and then along the other."""

from collections.abc import Sequence

from torch import Tensor, nn

from shaketable.networks.initialisers import Initialiser, Network
from shaketable.networks.vit import EPSILON, PatchNetwork, numbered, patches_in, two_dense


class Tokens(nn.Module):
    """[N, width, H, W] to [N, H W, width]."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(2).transpose(1, 2)


class MixerBlock(nn.Module):
    """Two dense layers along the patches, two along the channels, each behind a layer norm and beside an identity skip."""

    def __init__(self, count: int, width: int, token_hidden: int, channel_hidden: int) -> None:
        super().__init__()
        self.norm0 = nn.LayerNorm(width, EPSILON)
        self.token_mixing = two_dense(count, token_hidden)
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.channel_mixing = two_dense(width, channel_hidden)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs + self.token_mixing(self.norm0(inputs).transpose(1, 2)).transpose(1, 2)
        return inputs + self.channel_mixing(self.norm1(inputs))


class MeanToken(nn.Module):
    """[N, T, width] to the mean over tokens [N, width]."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean(1)


def mixer(
    input_shape: Sequence[int],
    classes: int,
    blocks: int,
    width: int,
    *,
    patch: int = 4,
    token_expansion: float = 0.5,
    channel_expansion: float = 4.0,
    init: Initialiser = "xavier-uniform",
) -> Network:
    r"""An MLP-Mixer: dense layers over patches and over channels in turn, on a table [patches, width].

    .. math::
        X \leftarrow X + \bigl(W_1 \operatorname{gelu}(W_0 \operatorname{norm}_0(X)^\top)\bigr)^\top, \qquad
        X \leftarrow X + W_3 \operatorname{gelu}(W_2 \operatorname{norm}_1(X))

    (biases left out). The modules are ``stem``, ``blocks.00.norm0``, ``.token_mixing.dense0``, ``.token_mixing.dense1``,
    ``.norm1``, ``.channel_mixing.dense0``, ``.channel_mixing.dense1``, ..., ``final_norm``, ``head``.

    What is not done: no dropout, no stochastic depth.

    Args:
        input_shape: channels, height, width of one example; the patches must cover it.
        classes: number of outputs.
        blocks: the number of blocks.
        width: the number of channels of each patch.
        patch: height and width of a patch, in pixels.
        token_expansion: width of ``token_mixing.dense0`` over ``width``.
        channel_expansion: width of ``channel_mixing.dense0`` over ``width``.
        init: initial distribution of the stem and linear layers; biases are 0, layer norms the identity.

    Returns:
        The network, without values yet where it is called under ``torch.device("meta")``.

    Raises:
        InputError: patches that do not cover the image.

    Cost:
        Mixer-B/16 is ``mixer-12x768`` with ``patch=16``, Mixer-L/16 ``mixer-24x1024`` with ``patch=16``.

    Deviates:
        The authors' code starts the head at 0 and draws all others from a truncated normal of variance 1 / fan-in; here one
        distribution draws all, the head too: a re-randomised head would otherwise always be 0.

    Example:
        >>> from shaketable.networks import construct
        >>> network = construct("mixer-12x768", (3, 224, 224), 1000, patch=16)
        >>> sum(parameter.numel() for parameter in network.parameters())
        59880472

    References:
        I. Tolstikhin et al., MLP-Mixer: an all-MLP architecture for vision, NeurIPS 2021.
        C. Zhang, S. Bengio, Y. Singer, Are all layers created equal?, JMLR 2022, section 5.2.
    """
    count = patches_in(f"mixer-{blocks}x{width}", input_shape, patch)
    token_hidden, channel_hidden = (max(1, round(width * factor)) for factor in (token_expansion, channel_expansion))
    modules = {
        "stem": nn.Conv2d(input_shape[0], width, patch, patch),
        "tokens": Tokens(),
        "blocks": numbered([MixerBlock(count, width, token_hidden, channel_hidden) for _ in range(blocks)]),
        "final_norm": nn.LayerNorm(width, EPSILON),
        "pool": MeanToken(),
        "head": nn.Linear(width, classes),
    }
    return PatchNetwork(modules, init)
