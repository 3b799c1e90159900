"""Convolutions with an addition and a ReLU in one operator, in several ways; the fastest for a shape is found by timing."""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

SCRATCH = 16384
"""Tiles times channels that Winograd's transforms hold at a time: about two megabytes, a second-level cache."""
WORTH = 0.9
"""What a kernel may take of the time of the first that fits, at most, to be chosen: timings on a shared machine err."""


@dataclass(frozen=True)
class Geometry:
    """What a convolution is, beside its tensors. ``shape`` is its input's, [N, C, H, W]."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    shape: tuple[int, ...]
    kernel: tuple[int, ...]

    @property
    def out(self) -> tuple[int, ...]:
        """Height and width of the output."""
        sizes = zip(self.shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple(
            (size + 2 * pad - step * (field - 1) - 1) // stride + 1 for size, field, stride, pad, step in sizes
        )


Room = Callable[[int], Tensor]
"""Gives room for so many numbers, as a tensor [n]: new memory, or memory that is used again and again."""


class Kernel(Protocol):
    """A way to compute a convolution of images [N, C, H, W]: weights are packed once, and used for many inputs."""

    def fits(self, geometry: Geometry, weight: Tensor) -> bool:
        """Whether it can, and may pay."""
        ...

    def pack(self, geometry: Geometry, weight: Tensor, room: Room) -> Tensor:
        """The weights as ``run`` wants them, in new memory, or in ``room``, or the weights themselves."""
        ...

    def run(
        self, geometry: Geometry, x: Tensor, packed: Tensor, bias: Tensor | None, other: Tensor | None, relu: bool
    ) -> Tensor:
        """The convolution plus ``bias`` plus ``other``, and ReLU of it; a new tensor, channels last as ``x`` is."""
        ...


class Plain:
    """Torch's own convolution, channels first: any shape, any device, nothing to pack."""

    def fits(self, geometry: Geometry, weight: Tensor) -> bool:
        return True

    def pack(self, geometry: Geometry, weight: Tensor, room: Room) -> Tensor:
        return weight

    def run(
        self, geometry: Geometry, x: Tensor, packed: Tensor, bias: Tensor | None, other: Tensor | None, relu: bool
    ) -> Tensor:
        g, none = geometry, [0] * len(geometry.stride)
        y = torch.convolution(x.contiguous(), packed, bias, g.stride, g.padding, g.dilation, False, none, g.groups)
        return finish(channels_last(y), None, other, relu)


class OneDNN:
    """The fused operators of torch's compiler."""

    def fits(self, geometry: Geometry, weight: Tensor) -> bool:
        known = hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        if not known or weight.device.type != "cpu" or len(geometry.shape) != 4:
            return False
        return weight.dtype == torch.float32 or _in_bfloat16(weight)

    def pack(self, geometry: Geometry, weight: Tensor, room: Room) -> Tensor:
        g = (geometry.padding, geometry.stride, geometry.dilation, geometry.groups)
        return torch.ops.mkldnn._reorder_convolution_weight(weight.contiguous(), *g, geometry.shape)

    def run(
        self, geometry: Geometry, x: Tensor, packed: Tensor, bias: Tensor | None, other: Tensor | None, relu: bool
    ) -> Tensor:
        g = (geometry.padding, geometry.stride, geometry.dilation, geometry.groups)
        late = relu and x.dtype == torch.float32  # its own ReLU makes 0 of NaN, which only a rough answer may
        unary = "relu" if relu and not late else "none"
        if other is None:
            y = torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *g, unary, [], "")
        else:
            binary, other = torch.ops.mkldnn._convolution_pointwise.binary, channels_last(other)
            y = binary(x, other, packed, bias, *g, "add", 1.0, unary if unary != "none" else None, [], "")
        return y.relu_() if late else y


class Dense:
    """One matrix from all inputs to all outputs, for maps that are smaller than the kernel (3x3 on 2x2)."""

    def fits(self, geometry: Geometry, weight: Tensor) -> bool:
        pixels = math.prod(geometry.shape[2:])
        return len(geometry.shape) == 4 and geometry.groups == 1 and pixels <= min(4, weight[0, 0].numel())

    def pack(self, geometry: Geometry, weight: Tensor, room: Room) -> Tensor:
        g, (outputs, inputs, *field) = geometry, weight.shape
        (height, width), size = g.shape[2:], math.prod((*g.out, *g.shape[1:]))
        taps = weight.reshape(outputs * inputs, -1).t().contiguous().view(*field, outputs, inputs)
        matrix = room(outputs * size).view(*g.out, outputs, height, width, inputs).zero_()
        for y, x, i, j in itertools.product(*map(range, (*g.out, *field))):
            row = y * g.stride[0] - g.padding[0] + i * g.dilation[0]
            column = x * g.stride[1] - g.padding[1] + j * g.dilation[1]
            if 0 <= row < height and 0 <= column < width:
                matrix[y, x, :, row, column] = taps[i, j]
        return matrix.view(-1, height * width * inputs)

    def run(
        self, geometry: Geometry, x: Tensor, packed: Tensor, bias: Tensor | None, other: Tensor | None, relu: bool
    ) -> Tensor:
        y = x.permute(0, 2, 3, 1).reshape(len(x), -1) @ packed.t()
        return finish(y.view(len(x), *geometry.out, -1).permute(0, 3, 1, 2), bias, other, relu)


class Patches:
    """One product of all patches with the weights, for small maps in bfloat16, where oneDNN's convolution is slow."""

    def fits(self, geometry: Geometry, weight: Tensor) -> bool:
        g = geometry
        small = len(g.shape) == 4 and math.prod(g.out) <= 64 and g.groups == 1
        return small and weight.dtype == torch.bfloat16 and g.dilation == (1, 1) and g.kernel != (1, 1)

    def pack(self, geometry: Geometry, weight: Tensor, room: Room) -> Tensor:
        packed = room(weight.numel()).view(len(weight), *geometry.kernel, -1)
        return packed.copy_(weight.permute(0, 2, 3, 1)).view(len(weight), -1)

    def run(
        self, geometry: Geometry, x: Tensor, packed: Tensor, bias: Tensor | None, other: Tensor | None, relu: bool
    ) -> Tensor:
        (down, across), (rows, columns) = geometry.stride, geometry.out
        (top, left), maps = geometry.padding, x.permute(0, 2, 3, 1)
        maps = F.pad(maps, (0, 0, left, left, top, top)) if top or left else maps.contiguous()
        image, line, pixel, _ = maps.stride()
        sizes = (len(x), rows, columns, *geometry.kernel, x.shape[1])
        patches = maps.as_strided(sizes, (image, down * line, across * pixel, line, pixel, 1))
        added = None if other is None else other.permute(0, 2, 3, 1).reshape(len(x) * rows * columns, -1)
        y = product(patches.reshape(len(x) * rows * columns, -1), packed, bias, added, relu)
        return y.view(len(x), rows, columns, -1).permute(0, 3, 1, 2)


class Winograd:
    r"""3x3 with stride 1 as products at 36 points: 4x4 outputs from 6x6 inputs, a quarter of the multiplications.

    .. math:: Y = A^T [(G w G^T) \odot (B^T x B)] A

    at the points 0, :math:`\pm 3/4`, :math:`\pm 3/2` and infinity: all constants are exact in float32 but G's, and the
    rounding error is a quarter of that of the common 0, :math:`\pm 1`, :math:`\pm 2`.

    References:
        A. Lavin, S. Gray, Fast algorithms for convolutional neural networks, CVPR 2016. B. Barabasz, A. Anderson, K. Soodhalter,
        D. Gregg, Error analysis and improving the accuracy of Winograd convolution for deep neural networks, TOMS 2020.
    """

    def __init__(self) -> None:
        points = [0.0, 0.75, -0.75, 1.5, -1.5]
        at = torch.tensor([[p**i for p in points] + [float(i == 3)] for i in range(4)], dtype=torch.float64)
        g, bt = torch.zeros(6, 3, dtype=torch.float64), torch.zeros(6, 6, dtype=torch.float64)
        g[5, 2] = 1
        for row, point in enumerate([*points, None]):
            others = [q for q in points if q != point]
            product = torch.ones(1, dtype=torch.float64)  # of (x - q), lowest power first
            for q in others:
                product = F.pad(product, (1, 0)) - q * F.pad(product, (0, 1))
            bt[row, : len(product)] = product
            if point is not None:
                scale = sum(float(c) * point**i for i, c in enumerate(product))
                g[row] = torch.tensor([1, point, point**2], dtype=torch.float64) / scale
        self._b, self._a = torch.kron(bt, bt).float(), torch.kron(at, at).float()
        self._g = torch.kron(g, g).float()

    def fits(self, geometry: Geometry, weight: Tensor) -> bool:
        g = geometry
        square = g.kernel == (3, 3) and g.stride == g.dilation == (1, 1) and g.groups == 1
        plain = weight.dtype == torch.float32 and weight.device.type == "cpu"
        return square and plain and min(weight.shape[:2]) >= 32 and min(g.out) >= 3

    def pack(self, geometry: Geometry, weight: Tensor, room: Room) -> Tensor:
        out = room(4 * weight.numel()).view(36, -1)
        return torch.mm(self._g, weight.reshape(-1, 9).t(), out=out).view(36, *weight.shape[:2]).transpose(1, 2)

    def run(
        self, geometry: Geometry, x: Tensor, packed: Tensor, bias: Tensor | None, other: Tensor | None, relu: bool
    ) -> Tensor:
        (count, inputs, height, width), outputs = geometry.shape, packed.shape[2]
        (rows, columns), (top, left) = geometry.out, geometry.padding
        down, across = -(-rows // 4), -(-columns // 4)
        chunk = min(count, max(1, max(64, SCRATCH // max(inputs, outputs)) // (down * across)))
        maps = x.permute(0, 2, 3, 1)
        padded = x.new_zeros(chunk, max(4 * down + 2, height + top), max(4 * across + 2, width + left), inputs)
        image, line, pixel, _ = padded.stride()
        one, two = x.new_empty(2, 36 * chunk * down * across * max(inputs, outputs))
        out = x.new_empty(count, 4 * down, 4 * across, outputs)
        added = None if other is None else other.permute(0, 2, 3, 1)
        for start in range(0, count, chunk):
            n = min(chunk, count - start)
            t = n * down * across
            padded[:n, top : top + height, left : left + width] = maps[start : start + n]
            tiles = one[: 36 * t * inputs].view(36, -1)
            windows = padded.as_strided((6, 6, n, down, across, inputs), (line, pixel, image, 4 * line, 4 * pixel, 1))
            tiles.view(windows.shape).copy_(windows)
            points = torch.mm(self._b, tiles, out=two[: 36 * t * inputs].view(36, -1)).view(36, t, inputs)
            products = torch.bmm(points, packed, out=one[: 36 * t * outputs].view(36, t, outputs)).view(36, -1)
            part = torch.mm(self._a, products, out=two[: 16 * t * outputs].view(16, -1))
            part = part.view(4, 4, n, down, across, outputs).permute(2, 3, 0, 4, 1, 5)
            here = out[start : start + n]
            tiled = here.view(n, down, 4, across, 4, outputs)
            if bias is not None:
                torch.add(part, bias, out=tiled)
            else:
                tiled.copy_(part)
            if added is not None:
                here[:, :rows, :columns].add_(added[start : start + n])
            if relu:
                here.relu_()
        return out[:, :rows, :columns].permute(0, 3, 1, 2)


KERNELS = (OneDNN(), Plain(), Dense(), Patches(), Winograd())
_chosen: dict[Any, tuple[Kernel, Kernel]] = {}


def choose(
    geometry: Geometry, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None, relu: bool, room: Room
) -> tuple[Kernel, Kernel]:
    """The fastest kernel for weights that are used often, and for weights that are packed for a single use.

    Timed once for each shape; batches up to the same power of four count as one.
    """
    g = geometry
    batch = ((g.shape[0] - 1).bit_length() + 1) // 2
    key = (g.stride, g.padding, g.dilation, g.groups, *g.shape[1:], *weight.shape, batch, weight.dtype, weight.device)
    if key not in _chosen:
        times = []
        for kernel in KERNELS:
            if not kernel.fits(g, weight):
                continue
            best = min((taken for taken, _, _ in times), default=math.inf)
            packing = _seconds(lambda kernel=kernel: kernel.pack(g, weight, room), best)
            packed = kernel.pack(g, weight, room)
            running = _seconds(lambda kernel=kernel, packed=packed: kernel.run(g, x, packed, bias, other, relu), best)
            unfair = 1.0 if not times else WORTH
            times.append((running / unfair, (packing + running) / unfair, kernel))
        _chosen[key] = (min(times, key=lambda item: item[0])[2], min(times, key=lambda item: item[1])[2])
    return _chosen[key]


def _seconds(function: Callable[[], object], best: float) -> float:
    """Processor time of this thread for a call: the shortest of three, or the first if that is far from the ``best``."""
    taken = []
    for _ in range(3):
        started = time.thread_time()
        function()
        taken.append(time.thread_time() - started)
        if taken[0] > 2 * best:
            break
    return min(taken)


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None, relu: bool, out: Tensor | None = None
) -> Tensor:
    """Inputs [N, in] times weights [out, in], plus ``bias`` [out] and ``other`` [N, out], and ReLU of it: a new tensor [N, out],
    or ``out`` in float32."""
    if _in_bfloat16(weight) and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        if other is None:
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "")
        y = torch.ops.mkldnn._linear_pointwise.binary(x, other, weight, bias, "add")
        return y.relu_() if relu else y
    y = torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)
    return finish(y, None, other, relu)


def packed(weight: Tensor) -> Tensor:
    """Weights [out, in] as :func:`product` multiplies with them fastest; the same where there is no other way."""
    if _in_bfloat16(weight) and hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return torch.ops.mkldnn._reorder_linear_weight(weight)
    return weight


def _in_bfloat16(weight: Tensor) -> bool:
    """Whether these are weights in bfloat16 that this processor's oneDNN can multiply with."""
    return (
        weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def finish(y: Tensor, bias: Tensor | None, other: Tensor | None, relu: bool) -> Tensor:
    """Add a bias [C] and a tensor to a fresh tensor, and ReLU, in place."""
    if bias is not None:
        y.add_(bias.view(-1, *[1] * (y.dim() - 2)))
    if other is not None:
        y.add_(other)
    return y.relu_() if relu else y


def channels_last(x: Tensor) -> Tensor:
    """The same tensor, the channels of images [N, C, H, W] together in memory."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()
