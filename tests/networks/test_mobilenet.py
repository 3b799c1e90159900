"""MobileNet."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shaketable.errors import InputError
from shaketable.networks import build, construct

PUBLISHED = {1.0: 4.2, 0.75: 2.6, 0.5: 1.3, 0.25: 0.5}  # millions of parameters: Howard et al. 2017, table 6
KERAS = 4_253_864  # parameters and running statistics of keras.applications.MobileNet


@pytest.mark.parametrize("width", PUBLISHED)
def test_parameters_are_as_many_as_the_paper_prints(width):
    network = construct("mobilenet", (3, 224, 224), 1000, width=width)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == PUBLISHED[width]


def test_parameters_and_running_statistics_are_as_many_as_keras_has():
    network = construct("mobilenet", (3, 224, 224), 1000)
    tensors = [tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")]
    assert sum(tensor.numel() for tensor in tensors) == KERAS


@pytest.mark.parametrize(
    ("size", "stem", "side"), [(32, "auto", 2), (64, "auto", 2), (32, "imagenet", 1), (224, "auto", 7)]
)
def test_the_stem_decides_what_is_left_of_the_image(size, stem, side):
    network = construct("mobilenet", (3, size, size), 10, width=0.1, stem=stem).eval()
    with torch.device("meta"):
        left = torch.zeros(1, 3, size, size)
        for name, module in network.named_children():
            if name == "pool":
                break
            left = module(left)
    assert left.shape[2:] == (side, side)


def test_a_network_equals_a_computation_by_hand():
    network = build("mobilenet", (3, 16, 16), 5, width=0.1).double()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected, p = x, network.state_dict()
    fresh = (1 + 1e-5) ** 0.5  # a fresh batch norm in evaluation mode divides by it
    expected = torch.relu(F.conv2d(expected, p["stem.conv.weight"], padding=1) / fresh)
    for number, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1), start=1):
        depthwise = p[f"block{number}.depthwise.weight"]
        expected = F.conv2d(expected, depthwise, stride=stride, padding=1, groups=len(depthwise))
        expected = torch.relu(expected / fresh)
        expected = torch.relu(F.conv2d(expected, p[f"block{number}.pointwise.weight"]) / fresh)
    expected = F.linear(expected.mean((2, 3)), p["final_linear.weight"], p["final_linear.bias"])
    torch.testing.assert_close(network(x), expected)


def test_it_has_28_layers_with_weights():
    network = construct("mobilenet", (3, 32, 32), 10)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == 28


def test_an_image_that_is_too_small_is_refused():
    with pytest.raises(InputError, match="needs at least 16x16, not 8x8"):
        construct("mobilenet", (3, 8, 8), 10)
