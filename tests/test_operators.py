"""Spectra of operators: against the dense operator, applied column by column, and against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shaketable.errors import InputError
from shaketable.operators import operator_norm, operators, singular_values

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


def dense(weight, size, stride=1, dilation=1, groups=1):
    """The operator on circularly padded maps as a matrix: the convolution of each unit map, in float64."""
    inner = weight.shape[1] * groups
    units = torch.eye(inner * math.prod(size), dtype=torch.float64).reshape(-1, inner, *size)
    strides = (stride,) * len(size) if isinstance(stride, int) else stride
    for dimension, (n, kernel) in enumerate(
        zip(size, weight.shape[2:], strict=True)
    ):  # around the ring as often as needed
        units = units.index_select(2 + dimension, torch.arange(n + (kernel - 1) * dilation) % n)
    maps = CONVOLUTIONS[len(size) - 1](units, weight.double(), stride=strides, dilation=dilation, groups=groups)
    return maps.flatten(1).T.numpy()


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(4,), (4, 6)])
def test_the_spectrum_of_a_convolution_is_that_of_its_dense_operator(size, kernel, stride, dilation, groups):
    weight = draw(4, 3, *[kernel] * len(size))
    reference = np.linalg.svd(dense(weight, size, stride, dilation, groups), compute_uv=False)
    found = singular_values(weight, size, stride=stride, dilation=dilation, groups=groups)
    assert found.shape == reference.shape
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), reference, rtol=1e-10, atol=1e-10)
    norm = operator_norm(weight, size, stride=stride, dilation=dilation, groups=groups)
    assert norm == pytest.approx(reference[0], rel=1e-10)


@pytest.mark.parametrize(
    ("shape", "size", "stride", "groups"),
    [
        ((3, 2, 3, 3), (5, 3), 1, 1),  # odd maps
        ((2, 3, 3, 2), (6, 4), (3, 2), 1),  # a stride for each dimension
        ((4, 1, 3, 3), (4, 4), 1, 4),  # depthwise
        ((2, 2, 3, 3), (2, 2), 2, 1),  # a kernel larger than the map, and one frequency left
        ((6, 1, 3), (7,), 1, 3),  # more outputs than inputs
        ((2, 2, 2, 3, 2), (2, 3, 4), (1, 3, 2), 1),  # three dimensions
    ],
)
def test_the_spectrum_is_that_of_the_dense_operator_on_odd_maps_and_for_other_shapes(shape, size, stride, groups):
    weight = draw(*shape)
    reference = np.linalg.svd(dense(weight, size, stride, groups=groups), compute_uv=False)
    found = singular_values(weight, size, stride=stride, groups=groups)
    np.testing.assert_allclose(found.numpy(), reference, rtol=1e-10, atol=1e-10)
    assert operator_norm(weight, size, stride=stride, groups=groups) == pytest.approx(reference[0], rel=1e-10)


def test_torch_pads_circularly_as_the_dense_operator_of_these_tests_does():
    weight, size = draw(2, 3, 3, 3), (4, 5)
    units = torch.eye(60, dtype=torch.float64).reshape(-1, 3, *size)
    padded = F.pad(units, (1, 1, 1, 1), mode="circular")  # centred: the same operator up to a shift of the map
    centred = F.conv2d(padded, weight).flatten(1).T.numpy()
    found = singular_values(weight, size).numpy()
    np.testing.assert_allclose(found, np.linalg.svd(centred, compute_uv=False), rtol=1e-10, atol=1e-10)


def test_the_pieces_in_which_it_is_computed_change_nothing(monkeypatch):
    weight = draw(4, 2, 3, 3)
    whole = singular_values(weight, (6, 6), stride=2, groups=2), operator_norm(weight, (6, 6), stride=2, groups=2)
    monkeypatch.setattr("shaketable.operators.CHUNK", 1)
    assert torch.allclose(singular_values(weight, (6, 6), stride=2, groups=2), whole[0], rtol=1e-13)
    assert operator_norm(weight, (6, 6), stride=2, groups=2) == pytest.approx(whole[1], rel=1e-13)


def test_a_matrix_and_a_kernel_taken_as_a_matrix_have_the_spectrum_that_numpy_gives():
    matrix, kernel = draw(5, 8).float(), draw(4, 3, 3, 3)
    assert singular_values(matrix).numpy() == pytest.approx(np.linalg.svd(matrix.double().numpy(), compute_uv=False))
    assert operator_norm(matrix) == pytest.approx(np.linalg.norm(matrix.double().numpy(), 2), rel=1e-12)
    reshaped = np.linalg.norm(kernel.reshape(4, -1).numpy(), 2)
    assert operator_norm(kernel, as_matrix=True) == pytest.approx(reshaped, rel=1e-12)
    assert reshaped - 1e-12 <= operator_norm(kernel, 6) <= 3 * reshaped


@pytest.mark.parametrize("scale", [0.0, 1e-200, 1e200])
def test_the_norm_scales_with_the_weight_down_to_zero_and_far_beyond_the_root_of_the_largest_number(scale):
    weight = draw(3, 2, 3, 3)
    assert operator_norm(weight * scale, 4) == pytest.approx(scale * operator_norm(weight, 4), rel=1e-12)


def test_squares_of_singular_values_sum_to_the_squared_norm_of_the_kernel_times_the_outputs():
    weight = draw(6, 5, 3, 3)
    total = singular_values(weight, 8, stride=2).square().sum()
    assert float(total) == pytest.approx(float(weight.square().sum()) * 16, rel=1e-12)


class Twice(nn.Module):
    """One convolution on two sizes of maps, a transposed one, a grouped one with a stride, and matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(2, 2, 3, padding=1)
        self.up = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
        self.down = nn.Conv2d(3, 6, 3, stride=2, dilation=2, groups=3)
        self.unused = nn.Conv1d(1, 1, 3)
        self.table = nn.Parameter(torch.zeros(1, 3, 4))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.shared(x) + F.interpolate(self.shared(input=F.avg_pool2d(x, 2)), scale_factor=2)
        return self.head(self.down(self.up(x)).mean((2, 3)))


def test_operators_are_found_with_the_sizes_that_a_forward_pass_shows():
    network = Twice().train()
    found = operators(network, torch.zeros(1, 2, 4, 4))
    conv = {"stride": (1, 1), "dilation": (1, 1), "groups": 1}
    assert found == {
        "shared.weight": conv | {"size": (4, 4)},  # the larger of two maps
        "up.weight": conv | {"size": (8, 8), "stride": (2, 2)},
        "down.weight": {
            "size": (8, 8),
            "stride": (2, 2),
            "dilation": (2, 2),
            "groups": 3,
        },  # 7x7, up to the next multiple
        "unused.weight": {"size": None, "stride": (1,), "dilation": (1,), "groups": 1},
        "head.weight": {},
    }
    assert network.training
    assert not any(module._forward_pre_hooks for module in network.modules())
    with pytest.raises(InputError, match="depends on the size of its maps"):
        operator_norm(network.unused.weight, **found["unused.weight"])
    assert operators(network)["shared.weight"]["size"] is None


def test_a_transposed_convolution_has_the_singular_values_of_its_dense_operator():
    layer = nn.ConvTranspose1d(4, 2, 3, stride=2, groups=2).double()
    (where,) = operators(layer, torch.zeros(1, 4, 5, dtype=torch.float64)).values()
    units = torch.eye(20, dtype=torch.float64).reshape(20, 4, 5)
    line = F.conv_transpose1d(units, layer.weight, stride=2, groups=2).detach()  # 11 long: one more than the ring
    ring = line[..., :10].clone()
    ring[..., 0] += line[..., 10]
    reference = np.linalg.svd(ring.flatten(1).T.numpy(), compute_uv=False)
    found = singular_values(layer.weight, **where)
    np.testing.assert_allclose(found.numpy(), reference, rtol=1e-10, atol=1e-10)


def applied(module, shape):
    """The operator of a module without bias on zero-padded, or unpadded, maps as a matrix, applied to each unit map."""
    units = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        return module(units).flatten(1).T.numpy()


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(3, 5, 4, bias=False), (3, 4, 4)),  # the head of a network in network
        (
            nn.Conv2d(3, 2, 3, stride=2, padding="valid", bias=False),
            (3, 4, 4),
        ),  # one output, and a column that is not seen
        (nn.Conv2d(4, 6, 2, dilation=3, groups=2, bias=False), (4, 4, 4)),
        (nn.Conv1d(2, 3, 5, stride=5, bias=False), (2, 5)),
        (nn.ConvTranspose2d(3, 5, 4, bias=False), (3, 1, 1)),  # the first layer of many generators
        (nn.ConvTranspose2d(4, 2, 3, stride=2, groups=2, output_padding=1, bias=False), (4, 1, 1)),
    ],
)
def test_an_operator_with_one_position_is_the_true_one_a_matrix(module, shape):
    module = module.double()
    true = np.linalg.svd(applied(module, shape), compute_uv=False)
    ((name, operator),) = operators(module, torch.zeros(1, *shape, dtype=torch.float64)).items()
    weight = module.state_dict()[name]
    assert operator_norm(weight, **operator) == pytest.approx(true[0], rel=1e-10)
    found = singular_values(weight, **operator).numpy()
    np.testing.assert_allclose(found[: len(true)], true[: len(found)], rtol=1e-10, atol=1e-10)


def test_a_convolution_that_fits_its_map_once_in_one_dimension_alone_goes_around_a_ring_in_the_other():
    module = nn.Conv2d(2, 3, (3, 4), padding=(1, 0), bias=False).double()
    (operator,) = operators(module, torch.zeros(1, 2, 6, 4, dtype=torch.float64)).values()
    assert (operator["size"], operator["stride"]) == ((6, 4), (1, 4))
    ring = nn.Conv1d(8, 3, 3, padding=1, padding_mode="circular", bias=False).double()
    with torch.no_grad():
        ring.weight.copy_(module.weight.permute(0, 1, 3, 2).flatten(1, 2))
    true = np.linalg.svd(applied(ring, (8, 6)), compute_uv=False)
    assert operator_norm(module.weight, **operator) == pytest.approx(true[0], rel=1e-10)


def test_hooks_are_gone_when_the_network_raises_and_tied_weights_count_once():
    network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    network[1].weight = network[0].weight
    assert operators(network) == {"0.weight": {}}
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(3, 3))
    with pytest.raises(RuntimeError):
        operators(network, torch.zeros(1, 1, 2, 2))
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_parametrised_weights_are_left_out_as_their_parameters_are_not_the_weight():
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), nn.Linear(2, 2))
    assert list(operators(network)) == ["1.weight"]


@pytest.mark.parametrize(
    ("shape", "arguments", "sentence"),
    [
        ((2, 2, 3, 3), {}, "give size"),
        ((2, 2, 3, 3), {"size": (4, 4, 4)}, "give one whole number from 1, or 2"),
        ((2, 2, 3, 3), {"size": 0}, "give one whole number from 1"),
        ((2, 2, 3, 3), {"size": 5, "stride": 2}, "does not divide size=5"),
        ((2, 2, 3, 3), {"size": 4, "groups": 3}, "groups=3 does not divide the 2 outputs"),
        ((2, 2), {"size": 4}, "leave size out for a matrix"),
        ((2,), {}, "is no linear operator"),
    ],
)
def test_wrong_arguments_end_in_one_sentence(shape, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        singular_values(torch.ones(shape), **arguments)
    with pytest.raises(InputError, match=sentence):
        operator_norm(torch.ones(shape), **arguments)


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="NaN or infinite"):
        operator_norm(torch.tensor([[1.0, float("nan")]]))
