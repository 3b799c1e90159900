"""Spectra of linear operators: the singular values of a weight as the map that a layer applies to its input."""

import math
from collections.abc import Iterator, Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from shaketable.errors import InputError
from shaketable.forward import Inputs, evaluation_mode, forward
from shaketable.params import computes_weight, linear_layers

CHUNK = 2**19
"""Complex numbers that are held of a convolution's spectrum at a time: 8 MiB; more is slower."""


class Operator(TypedDict, total=False):
    """What besides its weight decides a layer's operator: keyword arguments of the functions here; empty for a matrix."""

    size: tuple[int, ...] | None
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def singular_values(
    weight: Tensor,
    size: int | Sequence[int] | None = None,
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    r"""All singular values of a layer's linear operator, largest first.

    A matrix [out, in] has those of the matrix. A convolution's weight has those of the operator that takes a whole map
    [in, \*size] to a whole map [out, \*size / stride], on maps that are closed to a ring (circular padding). In the basis
    of the Fourier transform that operator is one small matrix for each frequency :math:`v` of the output,

    .. math:: s^{-d/2} \, \bigl[\hat K(v + a n / s)\bigr]_{a \in \{0, \dots, s - 1\}^d}, \qquad
              \hat K(u) = \sum_t K_t \, e^{2 \pi i \, \langle t, u / n \rangle},

    of shape [out, in s^d], for ``weight`` :math:`K` with taps :math:`t` (times ``dilation``), ``size`` :math:`n`,
    ``stride`` :math:`s` and :math:`d` spatial dimensions; its singular values are those of all these matrices. With
    ``groups`` each group has its own. A kernel that is larger than the map goes around the ring.

    Not done: the zero padding that most networks use. It makes another operator, most often with a smaller norm; measured
    for 3x3 kernels at stride 1: random weights [8, 8, 3, 3] on 16x16 maps 0.6% to 1.1% smaller, on 8x8 maps 2% to 4%,
    [4, 4, 3, 3] on 4x4 maps 10% to 18%; a kernel of equal weights on 8x8 maps 8%, on 32x32 maps 0.6%. No bias, no
    normalisation behind the layer.

    Args:
        weight: a matrix [out, in], or a convolution's weight [out, in / groups, \*kernel] of one to three dimensions.
        size: the spatial size of the input's map, one number for all dimensions or one each; not for a matrix.
        stride, dilation: one number, or one a dimension. The stride must divide the size.
        groups: of the convolution.

    Returns: float64, descending, on the weight's device: min(rows, columns) of them, zeros included.

    Raises:
        InputError: NaN or infinite weights, a convolution without a size, a size that the stride does not divide, or
            numbers that do not fit the weight.

    Cost: one singular value decomposition of a matrix [out / groups, in s^d / groups] for each group and about half of
        the frequencies (the other half are their conjugates): 64x64x3x3 on 32x32 maps 0.2 s, 512x512x3x3 on 4x4 maps 1 s
        (one thread); 64x64x3x3 on 224x224 maps 10 s.

    Deviates: Sedghi et al. transform the kernel by FFT and take stride 1; here its few taps are summed at each frequency,
        which is as exact and can be done in pieces, and any stride is exact too.

    Example:
        >>> singular_values(torch.tensor([[3.0, 0.0], [0.0, -4.0]])).tolist()
        [4.0, 3.0]
        >>> difference = torch.tensor([[[1.0, -1.0]]])  # of neighbours on a ring of four
        >>> [round(value, 4) for value in singular_values(difference, 4).tolist()]
        [2.0, 1.4142, 1.4142, 0.0]

    References: Sedghi, Gupta, Long, "The Singular Values of Convolutional Layers", 2019, theorem 6.
    """
    if weight.ndim == 2 and size is None:
        return torch.linalg.svdvals(_checked(weight))
    found = []
    for matrices, copies in _frequencies(weight, size, stride, dilation, groups):
        found.append(torch.linalg.svdvals(matrices).flatten(1).repeat_interleave(copies, 0).flatten())
    return torch.cat(found).sort(descending=True).values


def operator_norm(
    weight: Tensor,
    size: int | Sequence[int] | None = None,
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    as_matrix: bool = False,
) -> float:
    r"""The largest singular value of a layer's linear operator: how much it can stretch its input.

    .. math:: \lVert K \rVert_2 = \max_{x \ne 0} \frac{\lVert K x \rVert_2}{\lVert x \rVert_2}

    for ``weight`` :math:`K`, as in :func:`singular_values`. Not done: as there.

    Args:
        weight, size, stride, dilation, groups: as in :func:`singular_values`.
        as_matrix: take a convolution's kernel as a matrix [out, in / groups x kernel], as some papers and most code do;
            the other arguments are not needed then. The true norm is at most the square root of the number of taps times
            this one, and at least this one where the kernel fits the map.

    Returns: at least 0, exact to about 1e-12 of itself; 0 means that all weights are zero.

    Raises:
        InputError: as :func:`singular_values`.

    Cost: as there, with the eigenvalues of the smaller Gram matrix in place of each decomposition: about
        three quarters of that, and far less for a matrix of few rows or columns.

    Example:
        >>> box = torch.ones(1, 1, 3, 3)
        >>> round(operator_norm(box, 8), 6), round(operator_norm(box, as_matrix=True), 6)
        (9.0, 3.0)

    References: Sedghi, Gupta, Long, "The Singular Values of Convolutional Layers", 2019. Chatterji, Neyshabur, Sedghi,
        "The intriguing role of module criticality in the generalization of deep networks", 2020, table 1.
    """
    weight = _checked(weight)
    scale = float(weight.abs().max())
    if not scale:
        return 0.0
    weight = weight / scale  # squares may not overflow or vanish
    if as_matrix or (weight.ndim == 2 and size is None):
        return scale * _largest(weight.flatten(1))
    return scale * max(_largest(matrices) for matrices, _ in _frequencies(weight, size, stride, dilation, groups))


def operators(network: nn.Module, inputs: Inputs | None = None) -> dict[str, Operator]:
    r"""The linear operators of a network: by the name of the weight, what :func:`operator_norm` needs besides it.

    Convolutions (of one to three dimensions), transposed ones (by their adjoint: the same singular values, on maps of the
    output's size), and every weight of two dimensions as a matrix (linear layers, embeddings, the joint projections of
    attention, recurrent weights): of the layers that :func:`shaketable.params.linear_layers` names.

    Not done: weights of three or more dimensions that no convolution owns; computed weights (weight norm, of either kind),
    whose parameters are not the weight; what a subclass of a convolution does to its weight before using it.

    Args:
        network: any module; it is called once in evaluation mode, nothing is kept.
        inputs: a few examples [N, ...], from which the sizes of maps are seen. Without them, or for a convolution that is
            not called, the size is None and ``operator_norm`` says so.

    Returns: a dict from names in ``state_dict`` (the first of a tied weight) to keyword arguments, in the order of
        registration: ``operator_norm(params[name], **operators(network, inputs)[name])``. A module that is called with
        maps of several sizes counts with the largest. A size that the stride does not divide is taken up to the next
        multiple: 7x7 at stride 2 as 8x8, with as many outputs as a padded convolution has. A dimension in which a convolution
        without padding fits its map just once (a head of 4x4 on a map of 4x4) has the size of the map as its stride: with one
        output there is nothing to go around a ring, and the operator is the true one, a matrix [out, in x kernel].

    Raises:
        InputError: no parameter has two dimensions.

    Cost: one forward pass on the inputs.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.Flatten(), nn.Linear(36, 2))
        >>> found = operators(network, torch.zeros(1, 1, 8, 8))
        >>> found["0.weight"]["size"], found["2.weight"]
        ((8, 8), {})
        >>> round(operator_norm(torch.ones(4, 1, 3, 3), **found["0.weight"]), 6)
        10.0
    """
    weights = {name for layer in linear_layers(network) for name in layer.params}
    names = {id(parameter): name for name, parameter in network.named_parameters() if name in weights}
    found: dict[str, Operator] = {}
    convolutions: list[tuple[str, _ConvNd]] = []
    for path, module in network.named_modules(remove_duplicate=False):
        if computes_weight(module):
            continue
        for key, parameter in module.named_parameters(recurse=False):
            name = names.get(id(parameter), "")
            if not name or "parametrizations" in path.split("."):
                continue
            if isinstance(module, _ConvNd) and key == "weight":
                found.setdefault(name, _of_convolution(module))
                convolutions.append((name, module))
            elif parameter.ndim == 2:
                found.setdefault(name, {})
    sizes = {} if inputs is None or not convolutions else _map_sizes(network, inputs, convolutions)
    modules = dict(reversed(convolutions))
    for name, size in sizes.items():
        found[name]["size"], found[name]["stride"] = _on_map(modules[name], size)
    return found


def _on_map(module: _ConvNd, size: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The size of map and the stride of a convolution that sees a map, in each dimension."""
    padding = (0,) * len(size) if module.padding == "valid" else module.padding
    sizes, strides = [], []
    for d, (n, s) in enumerate(zip(size, module.stride, strict=True)):
        reach = module.dilation[d] * (module.kernel_size[d] - 1) + 1
        free = padding[d] == 0
        if isinstance(module, _ConvTransposeNd):  # its adjoint maps the output back to the input
            once = free and n == 1
            n = reach + module.output_padding[d] if once else n * s
        else:
            once = free and (n - reach) // s == 0
        stride = n if once else s
        sizes.append(math.ceil(n / stride) * stride)
        strides.append(stride)
    return tuple(sizes), tuple(strides)


def _of_convolution(module: _ConvNd) -> Operator:
    """The operator of a convolution on maps of unknown size."""
    stride, dilation = tuple(module.stride), tuple(module.dilation)
    return {"size": None, "stride": stride, "dilation": dilation, "groups": module.groups}


def _map_sizes(
    network: nn.Module, inputs: Inputs, convolutions: list[tuple[str, _ConvNd]]
) -> dict[str, tuple[int, ...]]:
    """The largest map that each convolution sees in one forward pass, by the name of its weight."""
    seen: dict[str, tuple[int, ...]] = {}

    def record(name: str):
        def note(module: _ConvNd, args: tuple, kwargs: dict) -> None:
            maps = args[0] if args else kwargs["input"]
            size = tuple(maps.shape[-len(module.stride) :])
            seen[name] = max(seen.get(name, size), size, key=math.prod)

        return note

    handles = [module.register_forward_pre_hook(record(name), with_kwargs=True) for name, module in convolutions]
    try:
        with evaluation_mode(network), torch.no_grad():
            forward(network, inputs, {})
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _checked(weight: Tensor) -> Tensor:
    """A weight in float64."""
    if weight.ndim < 2 or not weight.numel() or weight.is_complex():
        raise InputError(
            f"a weight of {weight.dtype} {list(weight.shape)} is no linear operator; give real numbers [out, in, ...]."
        )
    weight = weight.detach().double()
    if not bool(weight.isfinite().all()):
        raise InputError(f"the weight of shape {list(weight.shape)} has NaN or infinite values; it has no spectrum.")
    return weight


def _largest(matrices: Tensor) -> float:
    """The largest singular value in a batch of matrices [..., rows, columns]."""
    gram = matrices @ matrices.mH if matrices.shape[-2] <= matrices.shape[-1] else matrices.mH @ matrices
    return float(torch.linalg.eigvalsh(gram)[..., -1].max().clamp(min=0).sqrt())


def _each(value: int | Sequence[int], dimensions: int, what: str) -> tuple[int, ...]:
    """One whole number from 1 for each spatial dimension."""
    found = (value,) * dimensions if isinstance(value, int) else tuple(value)
    if len(found) != dimensions or not all(isinstance(n, int) and n >= 1 for n in found):
        raise InputError(f"{what}={value!r}: give one whole number from 1, or {dimensions}, one a spatial dimension.")
    return found


def _frequencies(
    weight: Tensor,
    size: int | Sequence[int] | None,
    stride: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """A convolution in pieces: matrices [F, groups, out / groups, in s^d / groups], and how often each frequency counts."""
    weight = _checked(weight)
    dimensions = weight.ndim - 2
    if not 1 <= dimensions <= 3:
        raise InputError(f"a weight of shape {list(weight.shape)} is no convolution; leave size out for a matrix.")
    if size is None:
        raise InputError(
            f"the operator of a convolution's weight {list(weight.shape)} depends on the size of its maps, which is not "
            "known here; give size (operators(network, inputs) finds it), or as_matrix=True for the norm of the kernel."
        )
    n, s = _each(size, dimensions, "size"), _each(stride, dimensions, "stride")
    spread = _each(dilation, dimensions, "dilation")
    if any(a % b for a, b in zip(n, s, strict=True)):
        raise InputError(f"stride={stride!r} does not divide size={size!r}; give the next multiple as the size.")
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or len(weight) % groups:
        raise InputError(f"groups={groups!r} does not divide the {len(weight)} outputs of the weight.")
    place = weight.device
    out, inner, kernel = len(weight), weight.shape[1], weight.shape[2:]
    m = tuple(a // b for a, b in zip(n, s, strict=True))
    taps = _grid(kernel, place) * torch.tensor(spread, device=place)
    aliases = _grid(s, place) * torch.tensor(m, device=place)
    half = (*m[:-1], m[-1] // 2 + 1)  # real weights: a frequency and its negative have the same singular values
    last = torch.arange(half[-1], device=place).repeat(math.prod(half[:-1]))
    counts = torch.where((last == 0) | (2 * last == m[-1]), 1, 2)
    values = weight.reshape(out * inner, -1).mT
    at_once = max(1, CHUNK // (out * inner * len(aliases)))
    modulus = torch.tensor(n, device=place)
    for frequencies, copies in zip(_grid(half, place).split(at_once), counts.split(at_once), strict=True):
        every = (frequencies.unsqueeze(1) + aliases).reshape(-1, 1, dimensions)
        turns = ((every * taps) % modulus / modulus.double()).sum(-1) * (2 * math.pi)
        matrices = torch.complex(turns.cos() @ values, turns.sin() @ values) / math.prod(s) ** 0.5
        matrices = matrices.reshape(len(frequencies), len(aliases), groups, out // groups, inner)
        yield matrices.movedim(1, -2).flatten(-2), copies


def _grid(sizes: Sequence[int], place: torch.device) -> Tensor:
    """All points of a grid of whole numbers [prod(sizes), dimensions], the last dimension fastest."""
    axes = [torch.arange(size, device=place) for size in sizes]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(sizes))
