"""Density and mass of networks of cells, and their parameters and FLOPs, from depth, width and links alone."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shaketable.errors import InputError
from shaketable.networks.build import checked_shape
from shaketable.networks.cells import Cell
from shaketable.networks.linked import STEM

NN_MASS = "Towards unifying neural architecture space exploration and generalization (NN-Mass), 2020"
Sizes = Any
"""A whole number, or an array of them."""


def long_range_sources(depth: Sizes, width: Sizes, links: Sizes) -> np.ndarray:
    r"""How many channels supply long-range links to the layers of a cell, summed over layers; elementwise on arrays.

    .. math:: \sum_{i=2}^{d_c - 1} \min\{w_c (i - 1), t_c\} = w_c \frac{k (k + 1)}{2} + (n - k) t_c, \qquad
        n = \max(d_c - 2, 0), \quad k = \min(\lfloor t_c / w_c \rfloor, n)

    Each such channel is linked to all :math:`w_c` channels of its layer (equation 5).

    Args:
        depth, width, links: of the cells, whole numbers or arrays of one shape.

    Returns: whole numbers, int64; 0 for cells of fewer than three layers, and without links.

    Raises:
        InputError: a depth or width that is no whole number from 1, or links that are none from 0.

    Example:
        >>> int(long_range_sources(4, 2, 3)), long_range_sources(4, [2, 3, 4], [3, 4, 5]).tolist()
        (5, [5, 7, 9])
    """
    depth, width, links = (
        _whole(name, value, lowest)
        for name, value, lowest in (("depth", depth, 1), ("width", width, 1), ("links", links, 0))
    )
    layers = np.maximum(depth - 2, 0)
    whole = np.minimum(links // width, layers)
    return width * (whole * (whole + 1) // 2) + (layers - whole) * links


def cell_density(cell: Cell) -> float:
    r"""The share of possible long-range links that a cell has (equations 1 and 7).

    .. math:: \rho_c = \frac{2 \sum_{i=2}^{d_c - 1} \min\{w_c (i - 1), t_c\}}{w_c (d_c - 1)(d_c - 2)}

    What is not done: short-range links, between a layer and the next, do not count; a cell of fewer than three layers can have no
    long-range link, where the formula is 0/0, and gets 0.

    Returns: in [0, 1]; 1 where each layer is linked to all earlier ones.

    Example:
        >>> cell_density(Cell(4, 2, 3)), cell_density(Cell(2, 2, 3))
        (0.8333333333333334, 0.0)
    """
    possible = cell.width * (cell.depth - 1) * (cell.depth - 2) // 2
    return sum(cell.sources) / possible if possible else 0.0


def span(widths: Sequence[int], links: Sequence[int]) -> tuple[int, float, float]:
    r"""Possible links, density and mass of a cell whose layers may differ in width.

    .. math:: L = \sum_l w_l \sum_{k \le l - 2} w_k, \qquad \rho = \frac{1}{L} \sum_l n_l, \qquad m = \rho \sum_l w_l

    Args:
        widths: :math:`w_l`, channels of each layer.
        links: :math:`n_l`, long-range links that reach each layer: earlier channels times its own.

    Returns: possible links, density and mass: those of equations 6, 1 and 3 for layers of one width; zeros where no link is possible.

    Example:
        >>> span([2, 2, 2, 2], [0, 0, 4, 6]) == (12, cell_density(Cell(4, 2, 3)), nn_mass([Cell(4, 2, 3)]))
        True
    """
    own = np.asarray(widths, np.int64)
    reach = np.concatenate([[0, 0], np.cumsum(own)[:-2]])[: len(own)]
    possible = int((own * reach).sum())
    density = int(np.asarray(links, np.int64).sum()) / possible if possible else 0.0
    return possible, density, density * int(own.sum())


def nn_density(cells: Sequence[Cell]) -> float:
    r"""NN-Density: the mean of the cells' densities (equation 2).

    .. math:: \rho_{avg} = \frac{1}{N_c} \sum_{c=1}^{N_c} \rho_c

    Returns: in [0, 1].

    Raises:
        InputError: no cell.

    Example:
        >>> round(nn_density([Cell(4, 2, 3), Cell(4, 3, 4), Cell(4, 4, 5)]), 3)
        0.787
    """
    return sum(map(cell_density, checked(cells))) / len(cells)


def nn_mass(cells: Sequence[Cell]) -> float:
    r"""NN-Mass: density times channels, summed over cells (equation 3).

    .. math:: m = \sum_{c=1}^{N_c} w_c d_c \rho_c

    What is not done: nothing is trained, no weight enters. It compares networks of equal widths; the paper claims no more.

    Returns: from 0, which means no long-range link, to the number of channels.

    Raises:
        InputError: no cell.

    Deviates: the paper prints truncated numbers: 1126 for the 1126.55 of the first network of its table 1.

    Example:
        >>> round(nn_mass([Cell(4, 2, 3), Cell(4, 3, 4), Cell(4, 4, 5)]), 2)
        28.0

    References: "Towards unifying neural architecture space exploration and generalization" (NN-Mass), 2020, definition 2.
    """
    return sum(cell.width * cell.depth * cell_density(cell) for cell in checked(cells))


def parameters(
    cells: Sequence[Cell], input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, mlp: bool = False
) -> int:
    """The number of parameters of the network that :func:`shaketable.build` makes of the cells, without building it.

    Args:
        cells: widths as they are, with no multiplier.
        input_shape: of one example.
        classes: number of outputs.
        mlp: that of ``linked-mlp-...``.

    Returns: weights, biases and norms' scales; contributions are no parameters.

    Raises:
        InputError: no cell, or a shape or number of classes that the network could not be built for.

    Example:
        >>> parameters([Cell(20, 32, 90), Cell(20, 64, 170), Cell(20, 128, 300)])
        11895578
    """
    shape = _shape(cells, input_shape, classes, mlp)
    kernel = 1 if mlp else 9
    before = math.prod(shape) if mlp else STEM
    total = 0 if mlp else kernel * shape[0] * STEM
    for index, cell in enumerate(cells):
        norms = 0 if mlp and not index else 2 * before
        inputs = (cell.depth - 1) * cell.width + sum(cell.sources)
        total += kernel * cell.width * (before + inputs) + norms + 2 * inputs
        before = cell.width
    return total + 2 * before + before * classes + classes


def flops(cells: Sequence[Cell], input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, mlp: bool = False) -> int:
    """The FLOPs of a forward pass of one example, without building the network: 2 for a multiplication and an addition.

    Args:
        cells, input_shape, classes, mlp: as for :func:`parameters`.

    Returns: those of convolutions and of the classifier, as :mod:`torch.utils.flop_counter` counts them: no norm, no ReLU.

    Raises:
        InputError: as for :func:`parameters`.

    Deviates: the paper prints those of the convolutions alone; the classifier adds 2 w_c classes.

    Example:
        >>> flops([Cell(20, 32, 90), Cell(20, 64, 170), Cell(20, 128, 300)])
        3634203136
    """
    shape = _shape(cells, input_shape, classes, mlp)
    if mlp:
        before, total = math.prod(shape), 0
        for cell in cells:
            total += 2 * cell.width * (before + (cell.depth - 1) * cell.width + sum(cell.sources))
            before = cell.width
        return total + 2 * before * classes
    channels, height, breadth = shape
    total, before = 18 * channels * STEM * height * breadth, STEM
    for index, cell in enumerate(cells):
        if index:
            height, breadth = -(-height // 2), -(-breadth // 2)
        inputs = before + (cell.depth - 1) * cell.width + sum(cell.sources)
        total += 18 * cell.width * inputs * height * breadth
        before = cell.width
    return total + 2 * before * classes


@dataclass(frozen=True)
class Topology:
    """What is known of a network before it is trained.

    Attributes:
        cells: as they stand in the network's name.
        nn_mass, nn_density: of the network.
        cell_density: of each cell.
        parameters, flops: of the whole network, for one example.
        notes: what is to be known of the numbers, a sentence each.
    """

    cells: str
    nn_mass: float
    nn_density: float
    cell_density: tuple[float, ...]
    parameters: int
    flops: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All as plain values."""
        return asdict(self) | {"cell_density": list(self.cell_density), "notes": list(self.notes)}


def topology(
    cells: Sequence[Cell], input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, mlp: bool = False
) -> Topology:
    """Mass, density, parameters and FLOPs of a design, from its cells alone.

    Args:
        cells, input_shape, classes, mlp: as for :func:`parameters`.

    Raises:
        InputError: as for :func:`parameters`.

    Cost: microseconds; nothing is built.

    Example:
        >>> found = topology([Cell(4, 2, 9), Cell(2, 3, 4)])
        >>> found.nn_mass, found.cell_density
        (8.0, (1.0, 0.0))
        >>> found.notes[0]
        'cell 1: 9 links are more than the 4 earlier channels that a layer has at most; each is linked to all there are.'

    References: "Towards unifying neural architecture space exploration and generalization" (NN-Mass), 2020, equations 1 to 7.
    """
    return Topology(
        "-".join(map(str, checked(cells))),
        nn_mass(cells),
        nn_density(cells),
        tuple(map(cell_density, cells)),
        parameters(cells, input_shape, classes, mlp),
        flops(cells, input_shape, classes, mlp),
        tuple(note for number, cell in enumerate(cells, start=1) for note in _notes(number, cell)),
    )


def links_for_density(depth: int, width: int, density: float) -> int:
    """The links with which a cell's density is nearest to a given one (the fewest, of several as near).

    Args:
        depth, width: of the cell.
        density: in [0, 1].

    Returns: from 0 to all earlier channels of the last layer; 0 for a cell of fewer than three layers.

    Raises:
        InputError: a density that is none, or a size that is no cell's.

    Example:
        >>> links_for_density(9, 32, 0.1), cell_density(Cell(9, 32, 14))
        (13, 0.109375)
    """
    if not 0 <= density <= 1:
        raise InputError(f"density={density!r}: give a number from 0 to 1.")
    Cell(depth, width, 0)  # refuses sizes that are none
    links = np.arange(width * max(0, depth - 2) + 1)
    possible = max(1, width * (depth - 1) * (depth - 2) // 2)
    return int(np.abs(long_range_sources(depth, width, links) / possible - density).argmin())


def checked(cells: Sequence[Cell]) -> Sequence[Cell]:
    """Cells of which there is one at least."""
    if not cells:
        raise InputError("a network has at least one cell; give its depth, width and links.")
    return cells


def _shape(cells: Sequence[Cell], input_shape: Sequence[int], classes: int, mlp: bool) -> tuple[int, ...]:
    """The shape of an example, if the network of some cells could be built for it."""
    name = f"linked-{'mlp-' if mlp else ''}{'-'.join(map(str, checked(cells)))}"
    return checked_shape(name, input_shape, classes, images=not mlp)


def _whole(name: str, value: Sizes, lowest: int) -> np.ndarray:
    """Whole numbers that are not below the lowest."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or (array < lowest).any():
        raise InputError(f"{name}={value!r}: give whole numbers from {lowest}.")
    return array.astype(np.int64)


def _notes(number: int, cell: Cell) -> list[str]:
    """What is to be known of a cell's density."""
    if cell.depth < 3:
        layers = "one layer" if cell.depth == 1 else f"{cell.depth} layers"
        return [
            f"cell {number}: {layers} can have no long-range link, which joins layers two apart; its density counts as 0."
        ]
    if not cell.links:
        return [f"cell {number}: without long-range links its density is 0, and it adds nothing to the mass."]
    if cell.capped:
        most = cell.width * (cell.depth - 2)
        there = f"more than the {most} earlier channels that a layer has at most"
        return [f"cell {number}: {cell.links} links are {there}; each is linked to all there are."]
    return []
