"""Vision transformers: images as sequences of patches."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from shaketable.errors import InputError
from shaketable.networks.initialisers import Initialiser, Network

EPSILON = 1e-6  # of the layer norms, as in the authors' code


class PatchEmbedding(nn.Module):
    """Images [N, C, H, W] to a class token and one token a patch [N, 1 + patches, width], plus trained positions."""

    def __init__(self, channels: int, width: int, patch: int, count: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embedding = nn.Parameter(torch.zeros(1, 1 + count, width))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], 1) + self.pos_embedding


class Attention(nn.Module):
    """Every token looks at every token, in several heads: [N, T, width] to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        query, key, value = (self._by_head(layer(inputs)) for layer in (self.query, self.key, self.value))
        # Written out: fused attention has no second derivative, which spectra of the Hessian need.
        looks = (query @ key.transpose(2, 3) / query.shape[3] ** 0.5).softmax(3)
        return self.output((looks @ value).transpose(1, 2).flatten(2))

    def _by_head(self, features: Tensor) -> Tensor:
        """[N, T, width] as [N, heads, T, width / heads]."""
        return features.unflatten(2, (self.heads, -1)).transpose(1, 2)


class EncoderBlock(nn.Module):
    """Attention and two dense layers, each behind a layer norm and beside an identity skip."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm0 = nn.LayerNorm(width, EPSILON)
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.mlp = two_dense(width, hidden)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs + self.attention(self.norm0(inputs))
        return inputs + self.mlp(self.norm1(inputs))


class FirstToken(nn.Module):
    """[N, T, width] to the class token [N, width]."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, 0]


class PatchNetwork(Network):
    """A network whose layer norms, class token and positions can be redrawn too: the identity, 0, and N(0, 0.02^2)."""

    @torch.no_grad()
    def initialise(self, generator: Generator) -> None:
        """Redraw all parameters in place; see :meth:`Network.initialise`."""
        super().initialise(generator)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()  # ones and zeros: draws nothing
            elif isinstance(module, PatchEmbedding):
                module.cls.zero_()
                drawn = torch.empty(module.pos_embedding.shape, dtype=torch.float32, device=generator.device)
                module.pos_embedding.copy_(drawn.normal_(0, 0.02, generator=generator))


def two_dense(width: int, hidden: int) -> nn.Sequential:
    """``dense0``, GELU, ``dense1``: width to hidden to width."""
    dense = nn.Sequential()
    dense.add_module("dense0", nn.Linear(width, hidden))
    dense.add_module("gelu", nn.GELU(approximate="tanh"))
    dense.add_module("dense1", nn.Linear(hidden, width))
    return dense


def numbered(blocks: Sequence[nn.Module]) -> nn.Sequential:
    """The blocks under the names ``00``, ``01``, ..."""
    stack = nn.Sequential()
    for number, block in enumerate(blocks):
        stack.add_module(f"{number:0{max(2, len(str(len(blocks) - 1)))}}", block)
    return stack


def patches_in(name: str, input_shape: Sequence[int], patch: int) -> int:
    """The number of patches of an image.

    Raises:
        InputError: they do not cover it.
    """
    _, height, breadth = input_shape
    if height % patch or breadth % patch:
        raise InputError(
            f"{name}: patches of {patch}x{patch} do not cover an image of {height}x{breadth}; "
            "choose a patch that divides both, or pad the images."
        )
    return (height // patch) * (breadth // patch)


def vit(
    input_shape: Sequence[int],
    classes: int,
    blocks: int,
    width: int,
    *,
    patch: int = 4,
    heads: int = 4,
    expansion: float = 4.0,
    init: Initialiser = "xavier-uniform",
) -> Network:
    r"""A vision transformer (ViT): patches of an image attend to each other; a class token is classified.

    .. math::
        h \leftarrow h + W_o \operatorname{softmax}\Bigl(\frac{Q K^\top}{\sqrt{d}}\Bigr) V, \qquad
        h \leftarrow h + W_1 \operatorname{gelu}(W_0 \operatorname{norm}_1(h) + b_0) + b_1

    with Q, K, V affine in :math:`\operatorname{norm}_0(h)` and d the width of a head. The modules are
    ``embedding.patches``, ``blocks.00.norm0``, ``.attention.query``, ``.key``, ``.value``, ``.output``, ``.norm1``,
    ``.mlp.dense0``, ``.mlp.dense1``, ..., ``final_norm``, ``head``; beside them ``embedding`` owns ``cls`` and
    ``pos_embedding``, which are layers of their own.

    What is not done: no dropout, no stochastic depth, no distillation token.

    Args:
        input_shape: channels, height, width of one example; the patches must cover it.
        classes: number of outputs.
        blocks: the number of blocks.
        width: of every token.
        patch: height and width of a patch, in pixels.
        heads: attention heads; they must divide the width.
        expansion: width of ``dense0`` over that of the tokens.
        init: initial distribution of the patches and linear layers. Biases and the class token are 0, layer norms the
            identity, positions N(0, 0.02^2).

    Returns:
        The network, without values yet where it is called under ``torch.device("meta")``.

    Raises:
        InputError: patches that do not cover the image, or heads that do not divide the width.

    Cost:
        ViT-B/16 is ``vit-12x768`` with ``patch=16, heads=12``, ViT-L/16 ``vit-24x1024`` with ``patch=16, heads=16``.

    Deviates:
        The paper tests released weights alone and trains none. The authors' code draws the patches from a
        truncated normal of variance 1 / fan-in and biases with standard deviation 1e-6, and starts the head at 0; here
        one distribution draws all, the head too: a re-randomised head would otherwise always be 0.

    Example:
        >>> from shaketable.networks import construct
        >>> network = construct("vit-12x768", (3, 224, 224), 1000, patch=16, heads=12)
        >>> sum(parameter.numel() for parameter in network.parameters())
        86567656

    References:
        A. Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021.
        C. Zhang, S. Bengio, Y. Singer, Are all layers created equal?, JMLR 2022, section 5.2.
    """
    name = f"vit-{blocks}x{width}"
    if width % heads:
        raise InputError(f"{name}: {heads} heads do not divide the width {width}; choose another number of heads.")
    count = patches_in(name, input_shape, patch)
    hidden = max(1, round(width * expansion))
    modules = {
        "embedding": PatchEmbedding(input_shape[0], width, patch, count),
        "blocks": numbered([EncoderBlock(width, heads, hidden) for _ in range(blocks)]),
        "final_norm": nn.LayerNorm(width, EPSILON),
        "pool": FirstToken(),
        "head": nn.Linear(width, classes),
    }
    return PatchNetwork(modules, init)
