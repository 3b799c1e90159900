"""Residual networks v1 and v2, with batch norm, without it, and without it by Fixup; and ResN, with identities alone."""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from shaketable.errors import InputError
from shaketable.networks.initialisers import Initialiser, Network
from shaketable.networks.parts import Bias, Scale, Stem, is_imagenet, scaled, stage0

# Blocks of the stages 1 to 4, and whether they are bottlenecks.
DEPTHS: dict[int, tuple[tuple[int, ...], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


class ResidualBlock(nn.Module):
    """Some modules, then a branch beside a shortcut, then their sum and some modules more.

    Args:
        before: modules that run on the input; branch and projection start from their result, an identity does not.
        branch: modules of the residual branch.
        shortcut: modules of the projection; empty for the identity.
        after: modules that run on the sum.
    """

    def __init__(
        self,
        before: Mapping[str, nn.Module],
        branch: Mapping[str, nn.Module],
        shortcut: Mapping[str, nn.Module],
        after: Mapping[str, nn.Module],
    ) -> None:
        super().__init__()
        self.parts = tuple(tuple(part) for part in (before, branch, shortcut, after))
        for part in (before, branch, shortcut, after):
            for name, module in part.items():
                self.add_module(name, module)

    def forward(self, inputs: Tensor) -> Tensor:
        before, branch, shortcut, after = self.parts
        prepared = self._run(before, inputs)
        skipped = self._run(shortcut, prepared) if shortcut else inputs
        return self._run(after, self._run(branch, prepared) + skipped)

    def _run(self, names: tuple[str, ...], values: Tensor) -> Tensor:
        for name in names:
            values = self.get_submodule(name)(values)
        return values


def _convolutions(inputs: int, outputs: int, stride: int, bottleneck: bool, bias: bool) -> list[nn.Conv2d]:
    """The convolutions of a branch; the stride is in the (first) 3x3."""
    if not bottleneck:
        first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)
        return [first, nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)]
    inner = outputs // 4
    return [
        nn.Conv2d(inputs, inner, 1, bias=bias),
        nn.Conv2d(inner, inner, 3, stride, padding=1, bias=bias),
        nn.Conv2d(inner, outputs, 1, bias=bias),
    ]


def _block_v1(
    convolutions: list[nn.Conv2d], projection: nn.Conv2d | None, batch_norm: bool, fixup: bool
) -> ResidualBlock:
    """Convolution, norm, ReLU; the last ReLU is after the sum. Fixup: its scalars take the place of the norms."""
    last = len(convolutions)
    before: dict[str, nn.Module] = {"bias1a": Bias()} if fixup else {}
    branch: dict[str, nn.Module] = {}
    for i, convolution in enumerate(convolutions, start=1):
        if fixup and i > 1:
            branch[f"bias{i}a"] = Bias()
        branch[f"conv{i}"] = convolution
        if batch_norm:
            branch[f"bn{i}"] = nn.BatchNorm2d(convolution.out_channels)
        if fixup and i == last:
            branch["scale"] = Scale()
        if fixup:
            branch[f"bias{i}b"] = Bias()
        if i < last:
            branch[f"relu{i}"] = nn.ReLU()
    shortcut: dict[str, nn.Module] = {}
    if projection is not None:
        shortcut["downsample"] = projection
        if batch_norm:
            shortcut["downsample_bn"] = nn.BatchNorm2d(projection.out_channels)
    return ResidualBlock(before, branch, shortcut, {f"relu{last}": nn.ReLU()})


def _block_v2(convolutions: list[nn.Conv2d], projection: nn.Conv2d | None, batch_norm: bool) -> ResidualBlock:
    """Norm, ReLU, convolution; nothing after the sum."""
    branch: dict[str, nn.Module] = {}
    for i, convolution in enumerate(convolutions, start=1):
        if batch_norm:
            branch[f"bn{i}"] = nn.BatchNorm2d(convolution.in_channels)
        branch[f"relu{i}"] = nn.ReLU()
        branch[f"conv{i}"] = convolution
    before = {name: branch.pop(name) for name in ("bn1", "relu1") if name in branch}
    return ResidualBlock(before, branch, {} if projection is None else {"downsample": projection}, {})


def resnet(
    input_shape: Sequence[int],
    classes: int,
    depth: int,
    version: int = 1,
    *,
    batch_norm: bool = False,
    init: Initialiser | Literal["fixup"] = "kaiming-normal",
    width: float = 1.0,
    stem: Stem = "auto",
    pool: Literal["avg", "max"] = "avg",
    bias: bool = False,
    final_activation: bool = True,
) -> Network:
    r"""ResNet-18, 34, 50, 101 or 152, version 1 (He et al. 2016a) or 2 (pre-activation, 2016b).

    The modules are ``stage0`` (``conv``, ``bn``), ``stage1.resblk1`` ... ``stage4.resblk2``, ``final_linear``; inside a
    block ``conv1``, ``bn1``, ... and, where the shape changes, the projection ``downsample``.

    Fixup trains without normalisation. With L blocks of m convolutions

    .. math::
        w_{l,i} \sim L^{-1/(2m-2)} N(0, 2 / n_{in}) \; (i < m), \qquad w_{l,m} = 0, \qquad w_{final} = b_{final} = 0

    and scalars: a bias (0) before each convolution, linear layer and activation, a multiplier (1) at the end of each
    branch.

    Args:
        input_shape: channels, height, width of one example; any size.
        classes: number of outputs.
        depth: 18 or 34 (two 3x3 convolutions a block), 50, 101 or 152 (bottlenecks).
        version: 1 or 2.
        batch_norm: normalisations as in He et al.
        init: initial distribution; "fixup" for version 1 without batch norm. "kaiming-normal" doubles the variance at
            each block: without batch norm, at half the width, fresh logits of a ResNet-18 have a standard deviation of
            27, of a ResNet-50 of 660, of a ResNet-152 v2 of 6e6; with "xavier-uniform" a ResNet-50 starts at 0.08.
        width: multiplier of all channels (64, 64, 128, 256, 512); 0.25 is the "1x width" of "module criticality".
        stem: "cifar" is a 3x3 convolution; "imagenet" is a 7x7 one and a max pooling, both with stride 2; "auto" is
            "imagenet" for images of height 64 and more.
        pool: the pooling over all positions before ``final_linear``.
        bias: biases in the convolutions of a network without batch norm.
        final_activation: version 2: the norm and the ReLU before the pooling.

    Returns:
        The network, without values yet where it is called under ``torch.device("meta")``.

    Raises:
        InputError: "fixup" with batch norm, version 2 or ``bias``; ``bias`` with batch norm.

    Deviates:
        Without batch norm the convolutions have no bias: the papers do not say, but ResNet18 (1x width) has the 6.9e5
        parameters of table 4 only so (7.0e5 with biases); ``bias=True`` is the other reading.
        "Module criticality" prints a maxpool before the last layer, He et al. an average: ``pool`` has both.
        It also prints that all 3x3 convolutions have stride 1 and those of shortcuts stride 2, which cannot be added
        up: here the first 3x3 of the stage has stride 2 too, in bottlenecks the 3x3 and not the 1x1 before it.
        Version 2: ``stage0`` is the convolution alone (and the max pooling), every block activates its own input and
        all identity shortcuts start before that; He et al. 2016b let the first shortcut start after it. The projection
        acts on the activated input and has no norm; ``final_bn`` and a ReLU come before the pooling.
        Fixup: as in its authors' code there is no scalar before the first convolution, which sees the input itself;
        their code takes the variance from the fan-out, here it is the fan-in as in "kaiming-normal". The paper does
        not define version 2.

    References:
        K. He et al., Deep residual learning for image recognition, CVPR 2016; Identity mappings in deep residual
        networks, ECCV 2016. H. Zhang, Y. Dauphin, T. Ma, Fixup initialization, ICLR 2019.
    """
    fixup = init == "fixup"
    if fixup and (batch_norm or version == 2 or bias):
        raise InputError(
            "init='fixup' is defined for ResNets of version 1 without batch norm and with its own scalar biases; "
            "leave out -v2, -bn and bias=True, or choose init='kaiming-normal'."
        )
    if bias and batch_norm:
        raise InputError("bias=True is for ResNets without batch norm: leave out one of the two.")
    channels = scaled(64, width)
    activation: dict[str, nn.Module] = {}
    if version == 1:
        if batch_norm:
            activation["bn"] = nn.BatchNorm2d(channels)
        if fixup:
            activation["bias"] = Bias()
        activation["relu"] = nn.ReLU()
    imagenet = is_imagenet(stem, input_shape[1])
    modules: dict[str, nn.Module] = {"stage0": stage0(input_shape[0], channels, imagenet, bias, activation)}
    gains: dict[str, float] = {"final_linear": 0.0} if fixup else {}
    blocks, bottleneck = DEPTHS[depth]
    inputs = channels
    for i, count in enumerate(blocks, start=1):
        outputs = channels * 2 ** (i - 1) * (4 if bottleneck else 1)
        stage = modules[f"stage{i}"] = nn.Sequential()
        for j in range(1, count + 1):
            stride = 2 if i > 1 and j == 1 else 1
            changes = stride > 1 or inputs != outputs
            convolutions = _convolutions(inputs, outputs, stride, bottleneck, bias)
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=bias) if changes else None
            if version == 1:
                block = _block_v1(convolutions, projection, batch_norm, fixup)
            else:
                block = _block_v2(convolutions, projection, batch_norm)
            stage.add_module(f"resblk{j}", block)
            inputs = outputs
            if fixup:
                m = len(convolutions)
                scaling = sum(blocks) ** (-1 / (2 * m - 2))
                gains |= {f"stage{i}.resblk{j}.conv{k}": scaling if k < m else 0.0 for k in range(1, m + 1)}
    if version == 2 and final_activation:
        if batch_norm:
            modules["final_bn"] = nn.BatchNorm2d(inputs)
        modules["final_relu"] = nn.ReLU()
    modules["pool"] = nn.AdaptiveAvgPool2d(1) if pool == "avg" else nn.AdaptiveMaxPool2d(1)
    modules["flatten"] = nn.Flatten()
    if fixup:
        modules["final_bias"] = Bias()
    modules["final_linear"] = nn.Linear(inputs, classes)
    return Network(modules, "kaiming-normal" if fixup else init, gains)


def resn(
    input_shape: Sequence[int],
    classes: int,
    blocks: Sequence[int],
    *,
    batch_norm: bool = False,
    init: Initialiser = "xavier-uniform",
    width: float = 1.0,
    stem: Stem = "auto",
    bias: bool = False,
) -> Network:
    """ResN: a residual network in which every block has an identity skip, with a layer of its own between stages.

    The modules are ``stage0`` (``conv``), ``stage1.resblk1``, ..., ``downsample2`` (``conv``), ``stage2.resblk1``, ...,
    ``final_linear``. Blocks are basic ones of version 2; ``downsample`` is norm, ReLU and a 3x3 convolution of stride 2
    that doubles the channels. ResN(4^2) of the paper is ``resn-4-4``, ResN(4^4) is ``resn-4-4-4-4``.

    Args:
        input_shape: channels, height, width of one example; any size.
        classes: number of outputs.
        blocks: the number of residual blocks of each stage.
        batch_norm: normalisations in blocks, between stages and at the end.
        init: initial distribution.
        width: multiplier of all channels (64, doubled from stage to stage).
        stem: as for :func:`resnet`.
        bias: biases in the convolutions of a network without batch norm.

    Returns:
        The network, without values yet where it is called under ``torch.device("meta")``.

    Raises:
        InputError: ``bias`` with batch norm.

    Deviates:
        The paper says "a slightly modified variant by explicitly having a downsample layer between stages, so that all the
        residual blocks are with identity skip connections" and no more: basic blocks, 64 channels in the first stage,
        doubling, and the shape of the layer between stages are ours. A 1x1 convolution of stride 2, as in the shortcuts of
        other ResNets, would here be the only way on and drop three pixels in four.

    References:
        C. Zhang, S. Bengio, Y. Singer, Are all layers created equal?, JMLR 2022, section 6, table 2, appendix A.
    """
    if bias and batch_norm:
        raise InputError("bias=True is for ResNets without batch norm: leave out one of the two.")
    channels = scaled(64, width)
    modules: dict[str, nn.Module] = {
        "stage0": stage0(input_shape[0], channels, is_imagenet(stem, input_shape[1]), bias, {})
    }
    for i, count in enumerate(blocks, start=1):
        if i > 1:
            between = modules[f"downsample{i}"] = nn.Sequential()
            if batch_norm:
                between.add_module("bn", nn.BatchNorm2d(channels))
            between.add_module("relu", nn.ReLU())
            between.add_module("conv", nn.Conv2d(channels, 2 * channels, 3, 2, padding=1, bias=bias))
            channels *= 2
        stage = modules[f"stage{i}"] = nn.Sequential()
        for j in range(1, count + 1):
            convolutions = _convolutions(channels, channels, 1, False, bias)
            stage.add_module(f"resblk{j}", _block_v2(convolutions, None, batch_norm))
    if batch_norm:
        modules["final_bn"] = nn.BatchNorm2d(channels)
    modules |= {
        "final_relu": nn.ReLU(),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "final_linear": nn.Linear(channels, classes),
    }
    return Network(modules, init)
