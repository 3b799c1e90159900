"""Initial distributions, and the network that carries its own: what re-randomising a layer draws from."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from shaketable.errors import InputError
from shaketable.networks.parts import Bias, Contributed, Fixed, Scale

Initialiser = Literal["kaiming-normal", "xavier-uniform", "torch"]


def _fans(weight: Tensor) -> tuple[int, int]:
    """Inputs and outputs of one unit of a weight [out, in, ...], times the receptive field."""
    field = math.prod(weight.shape[2:])
    return weight.shape[1] * field, weight.shape[0] * field


def _uniform(tensor: Tensor, bound: float, generator: Generator) -> None:
    tensor.uniform_(-bound, bound, generator=generator)


def _xavier_uniform(weight: Tensor, bias: Tensor, generator: Generator) -> None:
    """U(-b, b), b = sqrt(6 / (fan_in + fan_out)); bias 0."""
    _uniform(weight, math.sqrt(6 / sum(_fans(weight))), generator)


def _kaiming_normal(weight: Tensor, bias: Tensor, generator: Generator) -> None:
    """N(0, 2 / fan_in); bias 0."""
    weight.normal_(0, math.sqrt(2 / _fans(weight)[0]), generator=generator)


def _torch_default(weight: Tensor, bias: Tensor, generator: Generator) -> None:
    """U(-b, b), b = 1 / sqrt(fan_in), weight and bias: what the constructors of nn.Linear and nn.Conv2d draw."""
    bound = 1 / math.sqrt(_fans(weight)[0])
    _uniform(weight, bound, generator)
    _uniform(bias, bound, generator)


# Each draws into a weight [out, in, ...] and, if it does not leave it zero, into a bias [out].
INITIALISERS: dict[str, Callable[[Tensor, Tensor, Generator], None]] = {
    "kaiming-normal": _kaiming_normal,
    "xavier-uniform": _xavier_uniform,
    "torch": _torch_default,
}


class Network(nn.Sequential):
    r"""A sequence of named modules that can redraw its own initial weights.

    .. math::
        \text{kaiming-normal: } w \sim N(0, 2 / n_{in}), \quad
        \text{xavier-uniform: } w \sim U(\pm\sqrt{6 / (n_{in} + n_{out})}), \quad
        \text{torch: } w, b \sim U(\pm 1 / \sqrt{n_{in}})

    Biases are 0 (except with "torch"), normalisations are the identity. All families of this package are of this
    class; slicing it is not supported, a part of a network has no initial distribution of its own.

    Args:
        modules: the modules by name, in the order in which they run.
        init: the initial distribution of every convolution and linear layer, a key of ``INITIALISERS``.
        gains: factors on the drawn weight of the modules named here, e.g. 0 (Fixup needs them).

    Raises:
        InputError: an unknown ``init``.

    References:
        K. He et al., Delving deep into rectifiers, ICCV 2015. X. Glorot, Y. Bengio, Understanding the difficulty of
        training deep feedforward neural networks, AISTATS 2010.
    """

    def __init__(self, modules: Mapping[str, nn.Module], init: str, gains: Mapping[str, float] | None = None) -> None:
        if init not in INITIALISERS:
            raise InputError(f"init: {init!r} is unknown; choose one of {', '.join(INITIALISERS)}.")
        super().__init__(OrderedDict(modules))
        self.init = init
        self.gains = dict(gains or {})

    @torch.no_grad()
    def initialise(self, generator: Generator) -> None:
        """Redraw all parameters in place and reset the running statistics.

        The result depends on the generator alone: not on the present values, the precision or the device of the
        network, nor on torch's global random state.

        Args:
            generator: the source of every random number drawn here.

        Cost:
            One pass over the parameters.

        Example:
            >>> from shaketable.networks import build
            >>> network = build("fcn-1x4", (1, 2, 2), 3)
            >>> before = network.layer1.weight.clone()
            >>> network.initialise(torch.Generator().manual_seed(1))
            >>> torch.equal(before, network.layer1.weight)
            False
        """
        for name, module in self.named_modules():
            if isinstance(module, Fixed):
                module.fix()
            if isinstance(module, nn.Linear | nn.Conv2d | Contributed):
                kept = module.free if isinstance(module, Contributed) else module.weight
                # Drawn in float32 beside the generator, then copied: equal in every precision and on every device.
                weight = torch.empty(kept.shape, dtype=torch.float32, device=generator.device)
                bias = torch.zeros(weight.shape[0], dtype=torch.float32, device=generator.device)
                INITIALISERS[self.init](weight, bias, generator)
                kept.copy_(weight * self.gains[name] if name in self.gains else weight)
                if not isinstance(module, Contributed) and module.bias is not None:
                    module.bias.copy_(bias)
            elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.reset_parameters()  # ones and zeros: draws nothing
            elif isinstance(module, Bias):
                module.bias.zero_()
            elif isinstance(module, Scale):
                module.scale.fill_(1.0)
