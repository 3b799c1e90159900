"""The pieces that several families share."""

import pytest
import torch

from shaketable.networks.parts import Bias, Scale, is_imagenet, scaled, stage0


def test_a_bias_adds_and_a_scale_multiplies_one_number():
    bias, scale = Bias(), Scale()
    values = torch.tensor([1.0, -2.0])
    assert torch.equal(scale(bias(values)), values)
    torch.nn.init.constant_(bias.bias, 3.0)
    torch.nn.init.constant_(scale.scale, 2.0)
    assert torch.equal(scale(bias(values)), torch.tensor([8.0, 2.0]))


def test_a_width_multiplier_rounds_and_never_reaches_zero():
    assert [scaled(64, width) for width in (0.25, 1, 2, 0.1, 0.001)] == [16, 64, 128, 6, 1]


@pytest.mark.parametrize(
    ("stem", "height", "answer"),
    [("auto", 63, False), ("auto", 64, True), ("cifar", 224, False), ("imagenet", 32, True)],
)
def test_the_automatic_stem_is_that_of_imagenet_from_a_height_of_64(stem, height, answer):
    assert is_imagenet(stem, height) is answer


def test_the_imagenet_stem_divides_the_image_by_four_and_that_of_cifar_does_not():
    for imagenet, size in ((True, 56), (False, 224)):
        stage = stage0(3, 4, imagenet, False, {"relu": torch.nn.ReLU()})
        assert stage(torch.ones(1, 3, 224, 224)).shape == (1, 4, size, size)
