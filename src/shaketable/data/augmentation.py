"""Random changes to whole batches of images, without a loop over images.

Each function draws one row of random numbers per image from a CPU generator and moves them to the images' device, so
that CPU and CUDA see the same changes, and a batch is changed as its parts would be, one after the other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from shaketable.errors import InputError

Fill = Sequence[float] | None


def pad_and_crop(images: Tensor, generator: torch.Generator, padding: int = 4, fill: Fill = None) -> Tensor:
    """Images with a border of ``padding`` pixels added and a window of the old size cut out at a random place.

    Args:
        images: [N, C, H, W].
        generator: a CPU generator; draws the window's top and left, each uniform in 0..2*padding, per image.
        padding: width of the border in pixels.
        fill: value of the border per channel [C]; default 0 (for normalised images give `Normalisation.black`).

    Returns:
        [N, C, H, W].

    Example:
        >>> pad_and_crop(torch.ones(1, 1, 2, 2), torch.Generator().manual_seed(1), padding=1).shape
        torch.Size([1, 1, 2, 2])
    """
    count, _, height, width = images.shape
    corners = torch.randint(2 * padding + 1, (count, 2), generator=generator).to(images.device)
    black = _filling(images, fill)
    bordered = black.expand(count, -1, height + 2 * padding, width + 2 * padding).clone()
    bordered[:, :, padding : padding + height, padding : padding + width] = images
    windows = bordered.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(count, device=images.device), :, corners[:, 0], corners[:, 1]]


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images [N, C, H, W] of which each is mirrored left to right with probability 1/2."""
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored.to(images.device), images.flip(-1), images)


def shift(images: Tensor, generator: torch.Generator, pixels: int = 1, fill: Fill = None) -> Tensor:
    """Images moved by a whole number of pixels in -pixels..pixels, down and across: `pad_and_crop` by another name.

    What moves in from outside has the value of ``fill`` per channel [C], default 0.
    """
    return pad_and_crop(images, generator, pixels, fill)


def rotation(images: Tensor, generator: torch.Generator, degrees: float = 10, fill: Fill = None) -> Tensor:
    """Images turned about their centre by an angle uniform in [-degrees, degrees], with bilinear interpolation.

    Args:
        images: [N, C, H, W].
        generator: a CPU generator; draws one number per image.
        degrees: the largest angle.
        fill: value of what turns in from outside, per channel [C]; default 0.

    Returns:
        [N, C, H, W]; a positive angle turns clockwise as seen on screen (the first row of pixels on top).
    """
    angles = (torch.rand(len(images), generator=generator) * 2 - 1) * math.radians(degrees)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    height, width = images.shape[2:]  # affine_grid measures in half heights and half widths
    rows = (cos, sin * height / width, zero, -sin * width / height, cos, zero)
    matrices = torch.stack(rows, 1).reshape(-1, 2, 3).to(images)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    black = _filling(images, fill)
    return F.grid_sample(images - black, grid, align_corners=False) + black


def cutout(images: Tensor, generator: torch.Generator, size: int = 8, fill: Fill = None) -> Tensor:
    """Images with a square of ``size`` by ``size`` pixels blanked; its centre is uniform over the pixels.

    Args:
        images: [N, C, H, W].
        generator: a CPU generator; draws the pixel at the centre, per image.
        size: side of the square in pixels; at the border the part outside of the image is lost.
        fill: value of the square per channel [C]; default 0.

    Returns:
        [N, C, H, W].

    Deviates:
        The authors' code blanks size - 1 pixels where the size is odd; here it is always ``size``.

    References:
        DeVries, Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.
    """
    height, width = images.shape[2:]
    places = torch.randint(height * width, (len(images), 1, 1, 1), generator=generator).to(images.device)
    top, left = places // width - size // 2, places % width - size // 2
    rows = torch.arange(height, device=images.device).reshape(1, 1, -1, 1)
    columns = torch.arange(width, device=images.device)
    inside = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
    return torch.where(inside, _filling(images, fill), images)


# step: the function, whether it takes a fill, and the name and type of its number (None: it takes no number)
_STEPS: dict[str, tuple[Callable[..., Tensor], bool, tuple[str, type] | None]] = {
    "pad-crop": (pad_and_crop, True, ("padding", int)),
    "flip": (flip, False, None),
    "shift": (shift, True, ("pixels", int)),
    "rotation": (rotation, True, ("degrees", float)),
    "cutout": (cutout, True, ("size", int)),
}
STEPS = ("pad-crop:PIXELS", "flip", "shift:PIXELS", "rotation:DEGREES", "cutout:PIXELS")


@dataclass(frozen=True)
class Augmentation:
    """Steps applied one after the other to a batch: ``augmentation(images, generator)``.

    Args:
        steps: texts such as ``"pad-crop:4"``, ``"flip"``, ``"shift:1"``, ``"rotation:10"``, ``"cutout:8"``; none of them
            leaves the images as they are.
        fill: value per channel of pixels that come from outside or are cut out; default 0 (for normalised images give
            `Normalisation.black`).

    Raises:
        InputError: an unknown step, or a number that is missing, superfluous or not positive.

    Example:
        >>> augmentation = Augmentation(("pad-crop:4", "flip"))
        >>> augmentation(torch.rand(5, 3, 32, 32), torch.Generator().manual_seed(0)).shape
        torch.Size([5, 3, 32, 32])
    """

    steps: tuple[str, ...]
    fill: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for step in self.steps:
            _function(step, self.fill)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        for step in self.steps:
            images = _function(step, self.fill)(images, generator)
        return images


def _function(step: str, fill: Fill) -> Callable[[Tensor, torch.Generator], Tensor]:
    """The function of one textual step with its number and fill bound."""
    name, _, text = step.partition(":")
    if name not in _STEPS:
        raise InputError(f"{step!r} is no augmentation; the steps are {', '.join(STEPS)}.")
    function, fills, number = _STEPS[name]
    arguments: dict[str, object] = {"fill": fill} if fills else {}
    if number is None:
        if step != name:
            raise InputError(f"{step!r}: {name} takes no number; the steps are {', '.join(STEPS)}.")
        return partial(function, **arguments)
    try:
        value = number[1](text)
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        kind = "a whole number" if number[1] is int else "a number"
        raise InputError(f"{step!r}: {name} needs {kind} above 0 after the colon; the steps are {', '.join(STEPS)}.")
    return partial(function, **arguments, **{number[0]: value})


def _filling(images: Tensor, fill: Fill) -> Tensor:
    """The fill as [1, C, 1, 1] on the images' device; one value per channel."""
    channels = images.shape[1]
    if fill is None:
        return images.new_zeros(1, channels, 1, 1)
    if len(fill) != channels:
        raise InputError(
            f"the fill has {len(fill)} values and the images have {channels} channels; give one per channel."
        )
    return images.new_tensor(tuple(fill)).reshape(1, channels, 1, 1)
