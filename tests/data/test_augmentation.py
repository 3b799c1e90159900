"""Augmentation, each step against a loop over images and pixels written on its own."""

import math

import pytest
import torch

from shaketable.data import STEPS, Augmentation
from shaketable.data.augmentation import cutout, flip, pad_and_crop, rotation, shift
from shaketable.errors import InputError

FILL = (-1.0, 2.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 40, height: int = 6, width: int = 5) -> torch.Tensor:
    """Images whose values are all different."""
    return torch.arange(count * 2 * height * width).reshape(count, 2, height, width).float() + 10


def moved(image: list, down: int, right: int, fill: tuple[float, ...]) -> list:
    """One image (nested lists) moved by whole pixels, pixel by pixel."""
    height, width = len(image[0]), len(image[0][0])

    def value(c: int, y: int, x: int) -> float:
        return image[c][y][x] if 0 <= y < height and 0 <= x < width else fill[c]

    return [[[value(c, y - down, x - right) for x in range(width)] for y in range(height)] for c in range(len(image))]


@pytest.mark.parametrize(("function", "reach"), [(pad_and_crop, 2), (shift, 1)])
@pytest.mark.parametrize("fill", [None, FILL])
def test_pad_and_crop_and_shift_move_every_image_by_whole_pixels_and_all_moves_come_up(function, reach, fill):
    images = pictures(300, 4, 3)
    span, seen = range(-reach, reach + 1), set()
    for image, result in zip(images.tolist(), function(images, generator(), reach, fill).tolist(), strict=True):
        matching = [(y, x) for y in span for x in span if result == moved(image, y, x, fill or (0, 0))]
        assert len(matching) == 1
        seen.add(matching[0])
    assert len(seen) == (2 * reach + 1) ** 2


def test_flip_mirrors_about_half_of_the_images_left_to_right():
    images = pictures(400)
    mirrored = 0
    for image, result in zip(images, flip(images, generator()), strict=True):
        reference = torch.stack([torch.stack([row[[4, 3, 2, 1, 0]] for row in channel]) for channel in image])
        assert torch.equal(result, image) != torch.equal(result, reference)
        mirrored += torch.equal(result, reference)
    assert abs(mirrored - 200) <= 3 * math.sqrt(100)


def turned(image: torch.Tensor, angle: float, fill: tuple[float, ...]) -> torch.Tensor:
    """One image turned clockwise about its centre with bilinear interpolation, pixel by pixel."""
    channels, height, width = image.shape
    result = torch.empty_like(image)
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2

    def value(c: int, y: int, x: int) -> float:
        return float(image[c, y, x]) if 0 <= y < height and 0 <= x < width else fill[c]

    for c in range(channels):
        for y in range(height):
            for x in range(width):
                dy, dx = y - middle_y, x - middle_x
                from_x = middle_x + math.cos(angle) * dx + math.sin(angle) * dy
                from_y = middle_y - math.sin(angle) * dx + math.cos(angle) * dy
                y0, x0 = math.floor(from_y), math.floor(from_x)
                v, u = from_y - y0, from_x - x0
                top = (1 - u) * value(c, y0, x0) + u * value(c, y0, x0 + 1)
                bottom = (1 - u) * value(c, y0 + 1, x0) + u * value(c, y0 + 1, x0 + 1)
                result[c, y, x] = (1 - v) * top + v * bottom
    return result


@pytest.mark.parametrize("fill", [None, FILL])
def test_rotation_turns_every_image_by_its_own_angle_also_where_it_is_no_square(fill):
    images = torch.rand(12, 2, 7, 5, generator=generator(1))
    angles = (torch.rand(12, generator=generator(3)).double() * 2 - 1) * math.radians(50)
    reference = torch.stack([turned(image, float(a), fill or (0, 0)) for image, a in zip(images, angles, strict=True)])
    torch.testing.assert_close(rotation(images, generator(3), 50, fill), reference, atol=2e-5, rtol=0)
    assert float(angles.min()) < 0 < float(angles.max())


def test_a_quarter_turn_clockwise_brings_the_left_edge_to_the_top(monkeypatch):
    image = torch.zeros(1, 1, 5, 5)
    image[..., 0] = 1
    monkeypatch.setattr("torch.rand", lambda *sizes, **_: torch.ones(sizes))
    result = rotation(image, generator(), 90)
    torch.testing.assert_close(result[0, 0, 0], torch.ones(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(result[0, 0, 1:], torch.zeros(4, 5), atol=1e-5, rtol=0)


def blanked(image: list, y: int, x: int, size: int, fill: tuple[float, ...]) -> list:
    """One image (nested lists) with a square about (y, x) filled."""
    rows, columns = (range(centre - size // 2, centre - size // 2 + size) for centre in (y, x))
    return [
        [
            [fill[c] if i in rows and j in columns else value for j, value in enumerate(row)]
            for i, row in enumerate(channel)
        ]
        for c, channel in enumerate(image)
    ]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("fill", [None, FILL])
def test_cutout_blanks_one_square_of_every_image_and_its_centre_is_everywhere(size, fill):
    images, seen = pictures(300, 5, 4), set()
    places = [(y, x) for y in range(5) for x in range(4)]
    for image, result in zip(images.tolist(), cutout(images, generator(), size, fill).tolist(), strict=True):
        centres = [(y, x) for y, x in places if result == blanked(image, y, x, size, fill or (0, 0))]
        assert len(centres) == 1
        seen.update(centres)
    assert seen == set(places)


@pytest.mark.parametrize("function", [pad_and_crop, flip, shift, rotation, cutout])
def test_a_batch_is_changed_as_its_parts_are_one_after_the_other(function):
    images = pictures(37)
    whole, together = generator(5), function(images, generator(5))
    parts = [function(part, whole) for part in images.split([16, 1, 20])]
    assert torch.equal(torch.cat(parts), together)


@pytest.mark.parametrize("function", [pad_and_crop, flip, shift, rotation, cutout])
def test_the_images_that_were_given_and_the_global_random_state_stay_as_they_were(function):
    images, state = pictures(), torch.random.get_rng_state()
    function(images, generator())
    assert torch.equal(images, pictures())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_steps_are_applied_in_order_with_one_stream_of_random_numbers():
    images, stream = pictures(), generator(2)
    reference = cutout(flip(pad_and_crop(images, stream, 3, FILL), stream), stream, 2, FILL)
    steps = Augmentation(("pad-crop:3", "flip", "cutout:2"), FILL)
    assert torch.equal(steps(images, generator(2)), reference)


def test_no_steps_change_nothing():
    images = pictures()
    assert Augmentation(())(images, generator()) is images


@pytest.mark.parametrize(
    "step",
    ["mirror", "flip:1", "flip:", "pad-crop", "pad-crop:", "pad-crop:x", "pad-crop:1.5", "shift:0", "cutout:-1", "rotation:nan",
     "rotation:inf", ""],
)  # fmt: skip
def test_an_unknown_step_or_a_bad_number_is_refused_with_the_list_of_steps(step):
    with pytest.raises(InputError) as problem:
        Augmentation(("flip", step))
    assert repr(step) in str(problem.value)
    assert all(known in str(problem.value) for known in STEPS)


def test_a_fill_for_another_number_of_channels_is_refused():
    with pytest.raises(InputError, match="2 channels"):
        pad_and_crop(pictures(), generator(), 1, (0.0, 0.0, 0.0))
