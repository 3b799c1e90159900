"""Decoder-only transformers: language models that predict the next token."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from shaketable.errors import InputError
from shaketable.networks.initialisers import Initialiser, Network


class Positions(nn.Module):
    """Sines and cosines of the position are added, nothing is trained."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + sinusoids(inputs.shape[-2], inputs.shape[-1], inputs)


def sinusoids(length: int, width: int, like: Tensor) -> Tensor:
    """A table [length, width]: sin and cos of t / 10000^(2i / width), alternating; type and device of another tensor."""
    position = torch.arange(length, dtype=torch.float32, device=like.device)
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=like.device)
    angles = position[:, None] * torch.exp(steps * (-math.log(10_000) / width))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width].to(like.dtype)


class DecoderBlock(nn.Module):
    """Causal attention and two dense layers, each behind a layer norm and beside an identity skip."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm0 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.norm1 = nn.LayerNorm(width)
        self.dense0 = nn.Linear(width, hidden)
        self.dense1 = nn.Linear(hidden, width)

    def forward(self, inputs: Tensor) -> Tensor:
        seen = self.norm0(inputs)
        query, key, value = (self._by_head(layer(seen)) for layer in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        inputs = inputs + self.output(attended.transpose(1, 2).flatten(2))
        return inputs + self.dense1(torch.relu(self.dense0(self.norm1(inputs))))

    def _by_head(self, features: Tensor) -> Tensor:
        """[N, T, width] as [N, heads, T, width / heads]."""
        return features.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Decoder(Network):
    """A network whose embedding and layer norms can be redrawn too.

    Linear layers are drawn as :class:`Network` says, embeddings from N(0, 1); layer norms are the identity.
    """

    @torch.no_grad()
    def initialise(self, generator: Generator) -> None:
        """Redraw all parameters in place; see :meth:`Network.initialise`."""
        super().initialise(generator)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                shape, device = module.weight.shape, generator.device
                module.weight.copy_(torch.empty(shape, dtype=torch.float32, device=device).normal_(generator=generator))
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()  # ones and zeros: draws nothing


def decoder(
    input_shape: Sequence[int],
    classes: int,
    blocks: int,
    width: int,
    *,
    head_width: int = 64,
    expansion: float = 8 / 3,
    init: Initialiser = "xavier-uniform",
) -> Network:
    r"""A decoder-only transformer: token numbers [N, T] to logits of the next token [N, T, classes].

    .. math::
        h \leftarrow h + W_o \operatorname{softmax}\Bigl(\frac{Q K^\top}{\sqrt{d}} + M\Bigr) V, \qquad
        h \leftarrow h + W_1 \operatorname{relu}(W_0 \operatorname{norm}_1(h) + b_0) + b_1

    with Q, K, V linear in :math:`\operatorname{norm}_0(h)`, d the width of a head and M minus infinity where a position
    would see a later one. The modules are ``embedding``, ``blocks.00.norm0``, ``.query``, ``.key``, ``.value``,
    ``.output``, ``.norm1``, ``.dense0``, ``.dense1``, ``blocks.01.norm0``, ..., ``final_norm``, ``prediction``: the
    sub-layers of figure 7 of "Are all layers created equal?". ``by="block"`` takes each block as one layer.

    What is not done: no dropout; embedding and prediction share no weights; positions are not trained.

    Args:
        input_shape: (T,), the length of the sequences; any other length works too.
        classes: the size of the vocabulary.
        blocks: the number of blocks.
        width: of the embedding and of every block.
        head_width: width of an attention head; there are ``width // head_width`` heads, at least one.
        expansion: width of dense0 over the width of the network.
        init: initial distribution of the linear layers, the default that of Flax and Keras. Embeddings are drawn from
            N(0, 1), biases are 0, layer norms the identity.

    Returns:
        The network, without values yet where it is called under ``torch.device("meta")``.

    Raises:
        InputError: inputs that are no sequences, or a width that the heads do not divide.

    Cost:
        12 blocks of width 768 and 30,000 tokens: 112 million parameters.

    Deviates:
        The paper names "the decoder-only version of T5-Base" and prints 112,242,480 parameters. What has just this many is
        ``decoder-12x768`` with 30,000 classes: dense layers of 2,048 with biases, attention without, 25 layer norms with
        scale and bias, an embedding and a prediction (with bias) that are not tied, and no trained positions: the language
        model of Flax's examples at the width of T5-Base. T5 itself has no biases, scales only, and trained relative
        positions. Number of heads, order of the norms and initial distributions are not printed; they are those of Flax,
        but for biases, which Flax draws with standard deviation 1e-6. Dropout is not mentioned in the paper.

    Example:
        >>> from shaketable.networks import construct
        >>> sum(p.numel() for p in construct("decoder-12x768", (128,), 30_000).parameters())
        112242480

    References:
        C. Zhang, S. Bengio, Y. Singer, Are all layers created equal?, JMLR 2022, section 5.1.
        A. Vaswani et al., Attention is all you need, NeurIPS 2017. C. Raffel et al., Exploring the limits of transfer
        learning with a unified text-to-text transformer, JMLR 2020.
    """
    if len(input_shape) != 1:
        raise InputError(
            f"decoder-{blocks}x{width} takes sequences of T tokens, input shape (T,), not examples of shape "
            f"{tuple(input_shape)}; give it text."
        )
    heads, hidden = max(1, width // head_width), max(1, round(width * expansion))
    if width % heads:
        raise InputError(
            f"decoder-{blocks}x{width}: {heads} heads do not divide the width {width}; choose another head_width."
        )
    digits = max(2, len(str(blocks - 1)))
    stack = {f"{number:0{digits}}": DecoderBlock(width, heads, hidden) for number in range(blocks)}
    modules = {
        "embedding": nn.Embedding(classes, width),
        "positions": Positions(),
        "blocks": nn.Sequential(),
        "final_norm": nn.LayerNorm(width),
        "prediction": nn.Linear(width, classes),
    }
    for name, block in stack.items():
        modules["blocks"].add_module(name, block)
    return Decoder(modules, init)
