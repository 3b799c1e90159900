"""Fully connected networks."""

import torch
from torch import nn
from torch.nn import functional as F

from shaketable.networks import build


def linear_shapes(network: nn.Module) -> dict[str, tuple[int, int]]:
    return {n: (m.in_features, m.out_features) for n, m in network.named_modules() if isinstance(m, nn.Linear)}


def test_fcn_3x256_has_three_hidden_layers_and_a_classifier():
    assert linear_shapes(build("fcn-3x256", (1, 28, 28), 10)) == {
        "layer1": (784, 256),
        "layer2": (256, 256),
        "layer3": (256, 256),
        "layer4": (256, 10),
    }


def test_a_list_of_widths_gives_hidden_layers_of_these_widths():
    shapes = linear_shapes(build("fcn-50-10", (3, 4, 4), 7))
    assert shapes == {"layer1": (48, 50), "layer2": (50, 10), "layer3": (10, 7)}


def test_any_shape_is_flattened():
    assert build("fcn-1x4", (11,), 3)(torch.ones(2, 11)).shape == (2, 3)
    assert build("fcn-1x4", (2, 3, 4, 5), 3)(torch.ones(2, 2, 3, 4, 5)).shape == (2, 3)


def test_the_network_equals_a_computation_by_hand():
    network = build("fcn-8-6", (1, 2, 3), 4).double()
    images = torch.randn(5, 1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = dict(network.named_parameters())
    x = images.reshape(5, 6)
    x = torch.relu(x @ p["layer1.weight"].T + p["layer1.bias"])
    x = torch.relu(x @ p["layer2.weight"].T + p["layer2.bias"])
    torch.testing.assert_close(network(images), x @ p["layer3.weight"].T + p["layer3.bias"])


def test_with_batch_norm_it_stands_between_a_hidden_layer_and_its_relu():
    network = build("fcn-8-6-bn", (6,), 4).double().train()
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = dict(network.named_parameters())
    assert [n for n in p if n.endswith("bias")] == ["bn1.bias", "bn2.bias", "layer3.bias"]
    x = inputs
    for i in (1, 2):
        x = x @ p[f"layer{i}.weight"].T
        x = torch.relu(F.batch_norm(x, None, None, p[f"bn{i}.weight"], p[f"bn{i}.bias"], training=True))
    torch.testing.assert_close(network(inputs), x @ p["layer3.weight"].T + p["layer3.bias"])
