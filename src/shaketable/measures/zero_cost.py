"""Zero-cost proxies: numbers about a network before training, from one batch or none, that should rank test accuracy."""

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from shaketable.errors import InputError, RunError
from shaketable.forward import Inputs, forward, map_inputs
from shaketable.identity import generator_from
from shaketable.measures.measure import Measurement, Unavailable, from_value, measure
from shaketable.params import linear_layers
from shaketable.study import Study
from shaketable.topology import Additive, TracedTopology, traced_topology

ABDELFATTAH = "Abdelfattah, Mehrotra, Dudziak, Lane, Zero-cost proxies for lightweight NAS, 2021"
LEE = "Lee, Ajanthan, Torr, SNIP: single-shot network pruning based on connection sensitivity, 2019"
TANAKA = "Tanaka, Kunin, Yamins, Ganguli, Pruning neural networks without any data by iteratively conserving synaptic flow, 2020"
MELLOR = "Mellor, Turner, Storkey, Crowley, Neural architecture search without training, 2021"
NN_MASS = "Towards unifying neural architecture space exploration and generalization (NN-Mass), 2020"


@measure(symbol="grad norm", direction="higher", needs=("init", "train"), paper=ABDELFATTAH)
def gradient_norm_at_init(study: Study, examples: int = 128, seed: int = 0) -> Measurement:
    r"""Gradient norm before training: the sum over layers of the norm of the loss's gradient.

    .. math:: \sum_l \left\lVert \frac{\partial L}{\partial \theta_l} \right\rVert_2

    for the weights :math:`\theta_l` of convolutions and linear layers at init, on one batch. Not done: batch norms use the statistics of
    the batch, as in training; dropout is off; images are not augmented.

    Args:
        study: with initial weights and training data.
        examples: of the batch; all, where there are fewer.
        seed: of the choice of examples.

    Returns: at least 0; 0 means that the batch gives no direction. Unavailable where a batch norm sees one value of each channel (one
        example on a map of one position): that has no variance.

    Raises:
        InputError: fewer than one example.

    Cost: one pass forward and backward on the batch, and a copy of the network.

    Example:
        >>> network = nn.Linear(1, 2, bias=False).eval()
        >>> study = Study(network, init={"weight": torch.zeros(2, 1)}, final=network.state_dict(), train=(torch.ones(1, 1), [0]))
        >>> round(gradient_norm_at_init(study).value, 6)
        0.707107

    References: Abdelfattah et al., "Zero-cost proxies for lightweight NAS", 2021, section 3.2.
    """
    gradients, _ = _gradients(study, examples, seed)
    return from_value(math.fsum(float(one.double().norm()) for one in gradients.values()))


@measure(symbol="SNIP", direction="higher", needs=("init", "train"), paper=LEE)
def snip_at_init(study: Study, examples: int = 128, seed: int = 0) -> Measurement:
    r"""SNIP before training: how much the loss would change if weights were scaled, summed over weights.

    .. math:: \sum_i \left| \frac{\partial L}{\partial \theta_i} \theta_i \right|

    for the weights of convolutions and linear layers at init, on one batch. Not done: as for :func:`gradient_norm_at_init`.

    Args:
        study: with initial weights and training data.
        examples, seed: as there.

    Returns: at least 0. Unavailable as there.

    Raises:
        InputError: fewer than one example.

    Cost: as there.

    Deviates: Lee et al. divide each by the sum, to rank weights; the sum itself is the proxy, as in Abdelfattah et al.

    Example:
        >>> network = nn.Linear(1, 2, bias=False).eval()
        >>> study = Study(network, init={"weight": torch.ones(2, 1)}, final=network.state_dict(), train=(torch.ones(1, 1), [0]))
        >>> snip_at_init(study).value
        1.0

    References: Lee et al., 2019, equations 4 and 6. Abdelfattah et al., 2021, equation 1.
    """
    gradients, weights = _gradients(study, examples, seed)
    return from_value(math.fsum(float((one.double() * weights[name]).abs().sum()) for name, one in gradients.items()))


@measure(symbol="SynFlow", direction="higher", needs=("init", "train"), paper=TANAKA)
def synflow_at_init(study: Study) -> Measurement:
    r"""SynFlow before training: the flow through all paths of the network with absolute weights.

    .. math:: \sum_i \theta_i \frac{\partial R}{\partial \theta_i}, \qquad R = 1^T f_{|\theta|}(1)

    for the weights of convolutions and linear layers at init, on an input of ones. In float64. Not done: batch norms are taken out
    (they are the identity), biases are 0; no data enter but the shape of an example.

    Args:
        study: with initial weights, and training data for the shape.

    Returns: at least 0; ``log_value`` is what one ranks by.

    Cost: one pass forward and backward of one example, and a copy of the network.

    Deviates: Tanaka et al. leave batch norms in evaluation mode; taken out is Abdelfattah et al.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)).eval()
        >>> init = {"0.weight": torch.ones(3, 2), "1.weight": -torch.ones(1, 3)}
        >>> study = Study(network, init=init, final=network.state_dict(), train=(torch.ones(1, 2), [0]))
        >>> synflow_at_init(study).value  # two layers, six paths
        12.0

    References: Tanaka et al., 2020, equation 2. Abdelfattah et al., 2021, equation 2.
    """
    network = _at_init(study).double()
    names = _weight_names(study)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(parameter.abs() if name in names else torch.zeros_like(parameter))
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                _make_identity(module)
    inputs = map_inputs(lambda one: torch.ones_like(one[:1]).double(), study.example_inputs())
    weights = {name: parameter for name, parameter in network.named_parameters() if name in names}
    gradients = torch.autograd.grad(forward(network, inputs).sum(), list(weights.values()), allow_unused=True)
    flow = [
        float((one * weight.detach()).sum())
        for one, weight in zip(gradients, weights.values(), strict=True)
        if one is not None
    ]
    return from_value(math.fsum(flow))


@measure(symbol="NASWOT", direction="higher", needs=("init", "train"), paper=MELLOR)
def naswot_at_init(study: Study, examples: int = 128, seed: int = 0) -> Measurement:
    r"""NASWOT before training: how differently the ReLUs answer to different examples.

    .. math:: \log |\det K|, \qquad K_{ij} = N_A - d_H(c_i, c_j)

    with :math:`c_i` the bits that say which of all :math:`N_A` ReLUs are above 0 for example i, and :math:`d_H` the Hamming distance. Not
    done: as for :func:`gradient_norm_at_init`; activations that are no ReLU count for nothing.

    Args:
        study: with initial weights and training data.
        examples, seed: as there.

    Returns: any number. Unavailable as there, where there is no ReLU, or where the determinant is 0: two examples have one code, or
        there are too few ReLUs.

    Raises:
        InputError: fewer than one example.

    Cost: one pass forward on the batch, and a copy of the network.

    Example:
        >>> network = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU()).eval()
        >>> init = {"0.weight": torch.tensor([[1.0], [-1.0]])}
        >>> study = Study(network, init=init, final=network.state_dict(), train=(torch.tensor([[1.0], [-1.0]]), [0, 1]))
        >>> round(naswot_at_init(study).value, 6)  # K = 2 I
        1.386294

    References: Mellor et al., 2021, equation 2.
    """
    network, (inputs, _) = _at_init(study), _batch(study, examples, seed)
    with torch.no_grad(), _Codes() as codes:
        forward(network, inputs)
    if codes.kernel is None:
        raise Unavailable("the network has no ReLU")
    if int(torch.linalg.matrix_rank(codes.kernel, hermitian=True)) < len(codes.kernel):  # else a logarithm of rounding
        raise Unavailable(
            "two examples of the batch have one code, or there are too few ReLUs for so many examples, so that the determinant is 0; "
            "take fewer examples"
        )
    return from_value(float(torch.linalg.slogdet(codes.kernel)[1]))


@measure(symbol="NN-Mass", direction="higher", needs=("train",), paper=NN_MASS)
def nn_mass(study: Study, additive: Additive = "none") -> Measurement:
    r"""NN-Mass: density of long-range links times channels, summed over cells, from the network's graph.

    .. math:: m = \sum_c w_c d_c \rho_c

    see :func:`shaketable.topology.traced_topology`. Not done: no weight and no label enters.

    Args:
        study: with training data for the shape of an example.
        additive: what residual skips count for, as there.

    Returns: at least 0, which means no concatenation; ``reason`` says what the number leaves out. Unavailable where channels cannot be
        followed (attention).

    Cost: a trace without values: seconds.

    Example:
        >>> from shaketable.networks import build
        >>> network = build("linked-mlp-4x2t3", (3,), 2)
        >>> round(nn_mass(Study(network, train=(torch.ones(2, 3), [0, 1]))).value, 6)
        6.666667

    References: "Towards unifying neural architecture space exploration and generalization" (NN-Mass), 2020, equation 3.
    """
    found = _topology(study, additive)
    return from_value(found.nn_mass, reason=" ".join(found.notes) or None)


@measure(symbol="NN-Density", direction="higher", needs=("train",), paper=NN_MASS)
def nn_density(study: Study) -> Measurement:
    r"""NN-Density: the share of possible long-range links, the mean over cells of the network's graph.

    .. math:: \rho_{avg} = \frac{1}{N_c} \sum_c \rho_c

    Not done: as for :func:`nn_mass`.

    Args:
        study: as there.

    Returns: in [0, 1].

    Cost: as there.

    Example:
        >>> from shaketable.networks import build
        >>> network = build("linked-mlp-4x2t3", (3,), 2)
        >>> round(nn_density(Study(network, train=(torch.ones(2, 3), [0, 1]))).value, 6)
        0.833333

    References: as there, equation 2.
    """
    found = _topology(study, "none")
    return from_value(found.nn_density, reason=" ".join(found.notes) or None)


def _topology(study: Study, additive: Additive) -> TracedTopology:
    """Mass and density of a study's network."""
    try:
        return traced_topology(study.network, study.example_inputs(), additive)
    except RunError as error:
        raise Unavailable(str(error)) from error


def _at_init(study: Study) -> nn.Module:
    """A copy of the network with its initial weights, in evaluation mode but for batch norms, which see their batch."""
    assert study.init is not None  # the decorator has seen to it
    network = copy.deepcopy(study.network).eval()
    with torch.no_grad():
        held: Mapping[str, Tensor] = dict(network.named_parameters()) | dict(network.named_buffers())
        for name, tensor in study.init.items():
            if name in held:
                held[name].copy_(tensor)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.train().register_forward_pre_hook(_refuse_single)
    return network.requires_grad_(True)


def _refuse_single(norm: _BatchNorm, args: tuple[Tensor, ...]) -> None:
    """One sentence where a batch norm gets one value of each channel, which has no variance."""
    if norm.training and args and args[0].numel() <= args[0].shape[1]:
        raise Unavailable(
            "a batch norm sees one value of each channel (one example, on a map of one position), which has no variance; "
            "take two or more examples"
        )


def _batch(study: Study, examples: int, seed: int) -> tuple[Inputs, Tensor]:
    """Some training examples, drawn from a seed."""
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
        raise InputError(f"examples={examples!r}: give a whole number from 1.")
    data = study.data("train")
    order = torch.randperm(len(data), generator=generator_from(seed, "proxy"))[:examples]
    return next(iter(data.batches(len(order), order)))


def _weight_names(study: Study) -> set[str]:
    """The weights of convolutions and linear layers."""
    try:
        return {name for layer in linear_layers(study.network) for name in layer.params}
    except InputError as error:
        raise Unavailable(str(error)) from error


def _gradients(study: Study, examples: int, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradient of the loss at init for each weight, and the weights."""
    network, (inputs, labels) = _at_init(study), _batch(study, examples, seed)
    names = _weight_names(study)
    weights = {name: parameter for name, parameter in network.named_parameters() if name in names}
    logits = forward(network, inputs)
    loss = cross_entropy(logits.flatten(0, -2), labels.flatten())
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    gradients = {name: one for name, one in zip(weights, found, strict=True) if one is not None}
    return gradients, {name: weight.detach().double() for name, weight in weights.items()}


def _make_identity(norm: _BatchNorm) -> None:
    """Let a batch norm pass on what it gets."""
    norm.eval()
    if norm.running_mean is None or norm.running_var is None:
        raise Unavailable("it has a batch norm without running statistics, which cannot be taken out")
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    if norm.weight is not None:
        norm.weight.fill_(1)


class _Codes(TorchDispatchMode):
    """The sum over ReLUs of agreements between examples, of the passes within."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel: Tensor | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func in RELUS and isinstance(output, Tensor):
            bits = (output > 0).flatten(1).double()
            agree = bits @ bits.T + (1 - bits) @ (1 - bits).T
            self.kernel = agree if self.kernel is None else self.kernel + agree
        return output


RELUS = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)
"""The operations that a ReLU is, however it is called."""
