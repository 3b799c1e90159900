"""Weight perturbations: pure functions of params. The network that they came from is never written to."""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from shaketable.data import Data
from shaketable.errors import InputError
from shaketable.forward import forward
from shaketable.identity import generator_from, seed_from
from shaketable.networks import Network
from shaketable.params import Layer, Params, state

Statistics = Literal["keep", "rewind"]
"""What happens to the running statistics of a layer's normalisations when its parameters change."""

Initialise = Callable[[nn.Module, torch.Generator], object]
"""Redraws all parameters of a network in place, from a generator: the distribution of its initial weights."""


def replace_layer(params: Params, layer: Layer, source: Params, statistics: Statistics = "keep") -> dict[str, Tensor]:
    r"""The params with one layer taken from other params: re-initialisation, rewinding and re-randomisation alike.

    .. math:: (\theta_1, \dots, \theta_{d-1}, \theta'_d, \theta_{d+1}, \dots, \theta_D)

    for ``params`` :math:`\theta`, ``source`` :math:`\theta'` and ``layer`` :math:`d`. Nothing is copied.

    Args:
        params: the params to perturb.
        layer: the layer :math:`d`.
        source: where its parameters come from: the initial weights, a checkpoint, a fresh draw.
        statistics: ``"keep"`` leaves the layer's buffers (running statistics of normalisations) as they are in
            ``params``; ``"rewind"`` takes from ``source`` those that it has.

    Returns: a dict with the keys of ``params``.

    Raises:
        InputError: ``source`` lacks a parameter of the layer, or ``statistics`` is unknown.

    Deviates: the paper does not say whether running statistics are reset; hence the choice.

    Example:
        >>> from shaketable.params import layers, state
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> zeros = {name: torch.zeros_like(tensor) for name, tensor in state(network).items()}
        >>> rewound = replace_layer(state(network), layers(network)[1], zeros)
        >>> float(rewound["1.weight"].abs().sum()), rewound["0.weight"] is zeros["0.weight"]
        (0.0, False)

    References: Zhang, Bengio, Singer, "Are All Layers Created Equal?", 2022, section 2.
    """
    return {**params, **changed_tensors(layer, source, statistics)}


def changed_tensors(layer: Layer, source: Params, statistics: Statistics = "keep") -> dict[str, Tensor]:
    """The tensors of a layer as they are in ``source``: what :func:`replace_layer` changes."""
    if statistics not in ("keep", "rewind"):
        raise InputError(f"unknown statistics={statistics!r}; use 'keep' or 'rewind'.")
    names = list(layer.params)
    if statistics == "rewind":
        names += [name for name in layer.buffers if name in source]
    missing = [name for name in names if name not in source]
    if missing:
        raise InputError(f"layer {layer.name!r}: the source of its weights has no {missing[0]!r}.")
    return {name: source[name] for name in names}


def reestimated_statistics(
    network: nn.Module, params: Params, data: Data, *, batches: int, batch_size: int = 128, seed: int = 0
) -> dict[str, Tensor]:
    r"""The running statistics that batch norms have with given weights, estimated anew on data.

    .. math:: \mu = \frac{1}{B} \sum_{b=1}^B \mu_b, \qquad v = \frac{1}{B} \sum_{b=1}^B v_b

    for each batch norm and channel, with :math:`\mu_b` and :math:`v_b` the mean and the unbiased variance of what it sees in
    batch b of B ``batches``, in one pass in which batch norms use the statistics of their batch, as in training; every other
    module is in evaluation mode. Nothing is trained, and no statistic of ``params`` enters.

    What is not done: the data are not augmented; normalisations other than batch norms with running statistics stay.

    Args:
        network: gives the forward pass; it is copied, never written to.
        params: its weights, all of them.
        data: the training data.
        batches: B; all of the same size.
        batch_size: examples in a batch, at least 2.
        seed: of the examples and their order, which are the same for all weights.

    Returns: the buffers of the batch norms by name (mean, variance, number of batches), for the keys of ``params``.

    Raises:
        InputError: a network without batch norms that keep statistics, or fewer examples than asked for.

    Cost: a forward pass over batches x batch_size examples, and a copy of the network.

    Deviates: the paper does not say what happens to running statistics when a layer is reset. Variances are means of variances
        within batches, as running ones are, and not those of all examples.

    Example:
        >>> network = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 2)).eval()
        >>> data = Data(torch.tensor([[0.0], [2.0]]), torch.tensor([0, 1]), 2)
        >>> found = reestimated_statistics(network, state(network), data, batches=1, batch_size=2)
        >>> found["0.running_mean"].item(), found["0.running_var"].item()
        (1.0, 2.0)

    References: Zhang, Bengio, Singer, "Are All Layers Created Equal?", 2022, appendix C. P. Izmailov et al., Averaging weights
    leads to wider optima and better generalization, UAI 2018, section 3.2.
    """
    for name, value, lowest in (("batches", batches, 1), ("batch_size", batch_size, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise InputError(f"{name}={value!r}: give a whole number from {lowest}.")
    if batches * batch_size > len(data):
        raise InputError(
            f"{batches} batches of {batch_size} need {batches * batch_size} examples, and there are {len(data)}; "
            "give fewer batches."
        )
    copied = copy.deepcopy(network).eval()
    norms = {
        path: module
        for path, module in copied.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    if not norms:
        raise InputError(f"{type(network).__name__} has no batch norms with running statistics; use statistics='keep'.")
    order = torch.randperm(len(data), generator=generator_from(seed, "statistics"))[: batches * batch_size]
    with torch.no_grad():
        for name, tensor in state(copied).items():
            tensor.copy_(params[name])
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None  # a mean over all batches
            norm.train()
        for inputs, _ in data.batches(batch_size, order):
            forward(copied, inputs)
    held = state(copied)
    names = [f"{path}.{key}" for path, norm in norms.items() for key, _ in norm.named_buffers(recurse=False)]
    return {name: held[name].clone() for name in (name.removeprefix(".") for name in names)}


def fresh_params(
    network: nn.Module, seed: int, init: Params | None = None, initialise: Initialise | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A fresh draw of a network's weights from the distribution that made its initial ones, and where that came from.

    For each tensor the first that applies: ``"initialiser"``, the function ``initialise``, or the method of a network of
    this package; ``"reset_parameters"``, the method of that name (or ``_reset_parameters``) of the outermost module that
    sets the tensor; ``"empirical init"``, entries of the tensor's initial values drawn with replacement (a constant stays
    constant). A parameter to which none applies is left out, and so is a buffer that nothing resets (a mask, a table of
    positions).

    Args:
        network: gives the shapes; it is copied, never written to.
        seed: the same seed gives the same draw, on every device (drawn on the CPU). Torch's global random state is seeded
            for the call, for code that draws from it, and put back.
        init: the initial weights, for the third way.
        initialise: redraws a network in place, given it and a generator.

    Returns: the tensors by name, on the devices that they have in the network, and for each the name of its source.

    Cost: one copy of the network, and one draw of all its weights.

    Deviates: code that is about draws every weight from N(0, 1); the paper means the layer's own distribution.
    """
    redrawn = copy.deepcopy(network).cpu()
    generator = torch.Generator().manual_seed(seed_from(seed, "fresh weights"))
    held, trained = state(redrawn), dict(redrawn.named_parameters())
    draws: dict[str, Tensor] = {}
    sources: dict[str, str] = {}

    def draw(redraw: Callable[[], object], source: str, path: str = "") -> None:
        """Keep what a function sets: it finds the tensors below a module that have no draw yet filled with a mark."""
        below = [name for name in held if (not path or name.startswith(f"{path}.")) and name not in draws]
        with torch.no_grad():
            for name in below:
                held[name].fill_(_mark(held[name]))
            if below:
                redraw()
        for name in below:
            tensor = redrawn.get_parameter(name) if name in trained else redrawn.get_buffer(name)
            if not _is_marked(tensor):
                draws[name], sources[name] = tensor.detach().clone(), source

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_from(seed, "global"))
        if initialise is not None:
            draw(lambda: initialise(redrawn, generator), "initialiser")
        elif isinstance(redrawn, Network):
            draw(lambda: redrawn.initialise(generator), "initialiser")
        for path, module in redrawn.named_modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset) and _takes_nothing(reset):
                draw(reset, "reset_parameters", path)
    for name, tensor in held.items():
        if name in trained and name not in draws and init is not None and name in init:
            draws[name], sources[name] = _resample(init[name], generator).to(tensor.dtype), "empirical init"
    devices = {name: tensor.device for name, tensor in state(network).items()}
    return {name: tensor.to(devices[name]) for name, tensor in draws.items()}, sources


def _takes_nothing(function: Callable[..., object]) -> bool:
    """Whether a function can be called without arguments."""
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True


def _mark(tensor: Tensor) -> float | int | bool:
    """A value that no initialiser writes: NaN, the smallest integer, or True."""
    if tensor.is_floating_point():
        return float("nan")
    return True if tensor.dtype == torch.bool else torch.iinfo(tensor.dtype).min


def _is_marked(tensor: Tensor) -> bool:
    """Whether a tensor still holds the mark somewhere."""
    mark = _mark(tensor)
    return bool((tensor.isnan() if tensor.is_floating_point() else tensor == mark).any())


def _resample(values: Tensor, generator: torch.Generator) -> Tensor:
    """A tensor of the same shape whose entries are drawn from the given ones with replacement."""
    flat = values.detach().cpu().reshape(-1)
    return flat[torch.randint(len(flat), flat.shape, generator=generator)].reshape(values.shape)


def source_of(layer: Layer, sources: Mapping[str, str]) -> str | None:
    """The source of a layer's fresh draw: one name, several joined by " + ", or None when a parameter has none."""
    if any(name not in sources for name in layer.params):
        return None
    return " + ".join(dict.fromkeys(sources[name] for name in layer.params))
