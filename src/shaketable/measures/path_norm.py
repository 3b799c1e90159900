"""The path norm."""

import re

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from shaketable.forward import evaluation_mode, forward, map_inputs, tensors_of
from shaketable.measures.measure import JIANG, Measurement, Unavailable, from_value, measure
from shaketable.measures.norm_sums import BatchNorm, weights_of
from shaketable.study import Study

BENT = re.compile(
    "gelu|silu|glu|sigmoid|tanh|hardtanh|clamp_max|hardswish|hardsigmoid|softplus|softshrink|mish|log_sigmoid_forward|exp|erf|"
    "_softmax|_log_softmax|_scaled_dot_product.*|_native_multi_head_attention|mkldnn_rnn_layer"
)
"""Operations that give something else than a multiple of a positive number. A ReLU, leaky or not, and ELU are none of them."""


@measure(symbol="path-norm", direction="lower", paper=JIANG)
def path_norm(study: Study, batch_norm: BatchNorm = "fold") -> Measurement:
    r"""Path norm: the sum over all paths from an input to an output of the product of squared weights.

    .. math:: \sum_k f_{w^2}(1)_k

    the outputs of the network with every parameter squared, for an input of ones, in float64. Biases are paths that start
    there. They are that sum where activations pass positive numbers on as they are, as a ReLU does. Not done: no root is taken.

    Args:
        study: with data, which show the shape of an input; inputs that are tokens have no path norm.
        batch_norm: ``"fold"`` into the weights before them; with ``"keep"`` a network with batch norms has none.

    Returns: at least 0. Unavailable for a network with normalisations that cannot be folded, for squares do not pass through a
        division, and for one with activations that bend positive numbers (GELU, SiLU, tanh, ReLU6, softmax): what comes out is no
        sum over paths then.

    Cost: one pass of one example.

    Deviates: Jiang et al.'s code, too, counts biases, and folds batch norms; max pooling takes the largest path.

    Example:
        >>> study = Study(nn.Linear(2, 1).eval(), final={"weight": torch.tensor([[3.0, -4.0]]), "bias": torch.ones(1)},
        ...               train=(torch.eye(2), [0, 0]))
        >>> path_norm(study).value
        26.0

    References: Jiang et al., 2020, equation 44. Neyshabur, Salakhutdinov, Srebro, "Path-SGD", 2015.
    """
    inputs = study.example_inputs()
    if inputs is None or not all(tensor.is_floating_point() for tensor in tensors_of(inputs).values()):
        raise Unavailable("it needs data with inputs that are real numbers; make the study with train=... or test=...")
    weights = weights_of(study, batch_norm, study.final)
    norms = [
        (path, module)
        for path, module in study.network.named_modules()
        if "Norm" in type(module).__name__ and not isinstance(module, nn.Sequential)
    ]
    for path, module in norms:
        neutral = batch_norm == "fold" and f"{path}.running_mean" in weights
        if not neutral or weights[f"{path}.running_mean"].any() or (weights[f"{path}.weight"] != 1).any():
            raise Unavailable(
                f"normalisation {path!r} ({type(module).__name__}) stays, and divides what the paths carry"
            )
    trained = {name for name, _ in study.network.named_parameters()}
    squared = {
        name: tensor.double().square() if name in trained else tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }
    ones = map_inputs(lambda tensor: torch.ones_like(tensor[:1], dtype=torch.float64), inputs)
    with evaluation_mode(study.network), torch.no_grad(), _Straight():
        return from_value(float(forward(study.network, ones, squared).sum()))


class _Straight(TorchDispatchMode):
    """Passes in which positive numbers are summed, multiplied by weights and chosen among, and nothing else."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::").removesuffix("_")
        capped = name == "clamp" and (any(args[2:]) or any(args[1:2]) or any((kwargs or {}).values()))
        if capped or BENT.fullmatch(name):
            raise Unavailable(
                f"its activation {name} does not pass positive numbers on as they are, so that the outputs of the network with squared "
                "weights are no sum over paths"
            )
        return func(*args, **(kwargs or {}))
