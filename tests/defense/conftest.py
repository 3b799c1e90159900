"""What the tests of classifiers and of attacks share."""

import os

import pytest
import torch

from shaketable.data import Data
from shaketable.networks import build
from shaketable.study import Study

BLOCKS = ["stage1.resblk1", "stage1.resblk2", "stage1.resblk3", "stage2.resblk1", "stage2.resblk2"]


@pytest.fixture(scope="session")
def captum():
    """The library of the attacks; without it as for ``data_root``."""
    if os.environ.get("SHAKETABLE_REQUIRE_DATA") != "1":
        pytest.importorskip("captum")


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def study():
    """A small ResN with stages of three and two blocks, in float64, trained by chance."""
    network = build("resn-3-2-bn", (1, 6, 6), 3, width=0.06, init="kaiming-normal").double()
    init = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        for number, (name, value) in enumerate(network.state_dict().items()):
            if value.is_floating_point():
                value += 0.5 * (noise(*value.shape, seed=number) - (0 if "var" in name else 0.5))
        network.final_linear.bias -= network(noise(60, 1, 6, 6, seed=5)).mean(0)  # each class is somebody's
    return Study(network, init=init)


@pytest.fixture(scope="module")
def data(study):
    """Images, with the labels that the network gives them, so that it has no errors."""
    images = noise(12, 1, 6, 6, seed=99)
    with torch.no_grad():
        return Data(images, study.network(images).argmax(1), 3)


def replaced(study, classifier, choices):
    """The logits function of the study's network with the chosen weight sets in place, by torch.func."""
    weights = dict(study.final)
    for block, choice, number in zip(BLOCKS, classifier._choices, choices.tolist(), strict=True):
        for name, value in choice.variants[number].state_dict().items():
            weights[f"{block}.{name}"] = value
    return lambda image: torch.func.functional_call(study.network, weights, image[None])[0]
