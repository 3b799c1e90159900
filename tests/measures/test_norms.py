"""Norms, distances and counts: closed forms, numpy's norms, scaling laws, and numbers beyond a float."""

import math

import numpy as np
import pytest
import torch
from studies.published import chatterji2020
from torch import nn
from torch.nn.utils import prune

from shaketable.errors import InputError
from shaketable.measures import (
    Measurement,
    number_of_parameters,
    product_of_frobenius_norms,
    product_of_spectral_norms,
    squared_distance_to_init,
    sum_of_spectral_norms,
)
from shaketable.networks import build
from shaketable.params import Params, snapshot
from shaketable.study import Study

PRODUCTS = (product_of_frobenius_norms, product_of_spectral_norms)
WEIGHT_ONLY = (*PRODUCTS, squared_distance_to_init, sum_of_spectral_norms)


def linear(*weights: torch.Tensor, init: tuple[torch.Tensor, ...] | None = None) -> Study:
    """A chain of linear layers without biases."""
    network = nn.Sequential(*(nn.Linear(w.shape[1], w.shape[0], bias=False) for w in weights)).double().eval()

    def named(of):
        return {f"{index}.weight": weight for index, weight in enumerate(of)}

    return Study(network, final=named(weights), init=None if init is None else named(init))


def rotation(size: int, seed: int) -> torch.Tensor:
    """A random orthogonal matrix."""
    return torch.linalg.qr(draw(size, size, seed=seed))[0]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Convolutional(nn.Module):
    """Convolutions with batch norm and biases, one of them with stride 2, registered behind the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, stride=2, padding=1)

    def forward(self, inputs):
        return self.head(self.conv2(self.bn1(self.conv1(inputs)).relu()).relu().mean((2, 3)))


def convolutional(change: float = 0.1, data: bool = True) -> Study:
    """Weights and biases drawn from a seed, final = init + change x another draw."""
    network = Convolutional().double().eval()

    def drawn(offset: int) -> dict[str, torch.Tensor]:
        tensors = snapshot(network)
        return {
            name: draw(*tensor.shape, seed=offset + index) if tensor.is_floating_point() else tensor
            for index, (name, tensor) in enumerate(tensors.items())
        }

    init, other = drawn(0), drawn(100)
    for name in init:
        if "running_var" in name:
            init[name] = other[name] = torch.ones_like(init[name])
    final = {name: init[name] + change * other[name] for name in init}
    test = (draw(3, 2, 6, 6), [0, 1, 2]) if data else None
    return Study(network, init=init, final=final, test=test)


def names_of(params: Params) -> list[str]:
    return [name for name, tensor in params.items() if name.endswith("weight") and tensor.ndim > 1]


def value(found: Measurement) -> float:
    assert found.status == "ok", found.reason
    assert found.value is not None
    return found.value


def log_value(found: Measurement) -> float:
    assert found.log_value is not None, found.reason
    return found.log_value


def test_diagonal_layers_have_the_products_that_one_writes_down():
    study = linear(torch.diag(torch.tensor([3.0, 4.0])).double(), torch.diag(torch.tensor([-12.0, 5.0])).double())
    assert value(product_of_frobenius_norms(study)) == pytest.approx(5 * 13, rel=1e-14)
    assert value(product_of_spectral_norms(study)) == pytest.approx(4 * 12, rel=1e-14)


def test_orthogonal_layers_have_a_product_of_spectral_norms_of_1():
    study = linear(*(rotation(5, seed) for seed in range(20)))
    assert log_value(product_of_spectral_norms(study)) == pytest.approx(0, abs=1e-12)
    assert log_value(product_of_frobenius_norms(study)) == pytest.approx(20 * math.log(5) / 2, rel=1e-12)


def test_distances_sum_squared_frobenius_norms_but_spectral_norms_that_are_not_squared():
    init = (torch.zeros(2, 2).double(), torch.zeros(2, 2).double())
    study = linear(torch.diag(torch.tensor([3.0, 4.0])).double(), 2 * torch.eye(2).double(), init=init)
    assert value(squared_distance_to_init(study)) == pytest.approx((9 + 16) + (4 + 4), rel=1e-14)
    assert value(sum_of_spectral_norms(study)) == pytest.approx(8 * (4 + 2), rel=1e-14)


@pytest.mark.parametrize("measure", PRODUCTS)
def test_scaling_one_layer_by_c_adds_log_c(measure):
    first, second = draw(4, 3), draw(2, 4, seed=1)
    before, after = log_value(measure(linear(first, second))), log_value(measure(linear(first, 1e5 * second)))
    assert after - before == pytest.approx(math.log(1e5), rel=1e-12)


@pytest.mark.parametrize("operator", ["convolution", "matrix"])
def test_moving_c_times_as_far_has_c_squared_times_the_squared_distance_and_c_times_the_spectral_one(operator):
    near, far = convolutional(0.1), convolutional(0.7)
    assert value(squared_distance_to_init(far)) == pytest.approx(49 * value(squared_distance_to_init(near)), rel=1e-9)
    one, other = sum_of_spectral_norms(near, operator=operator), sum_of_spectral_norms(far, operator=operator)
    assert value(other) == pytest.approx(7 * value(one), rel=1e-9)


def test_only_weights_of_linear_layers_count_in_forward_order_with_their_own_numbers():
    study = convolutional()
    for measure in WEIGHT_ONLY:
        table = measure(study).layers
        assert table["layer"].to_list() == ["conv1", "conv2", "head"]
        assert table["position"].to_list() == [0, 1, 2]
        assert table["kind"].to_list() == ["Conv2d", "Conv2d", "Linear"]
        assert table["parameters"].to_list() == [2 * 4 * 9, 4 * 4 * 9, 4 * 3]
    frobenius = product_of_frobenius_norms(study).layers["value"].to_list()
    expected = [np.linalg.norm(study.final[f"{name}.weight"].numpy().ravel()) for name in ("conv1", "conv2", "head")]
    assert frobenius == pytest.approx(expected, rel=1e-13)


def test_measures_are_the_product_or_the_sum_of_their_layers():
    study = convolutional()
    for measure in PRODUCTS:
        found = measure(study)
        assert value(found) == pytest.approx(found.layers["value"].product(), rel=1e-13)
        assert log_value(found) == pytest.approx(math.log(value(found)), rel=1e-13)
    assert value(squared_distance_to_init(study)) == pytest.approx(
        squared_distance_to_init(study).layers["value"].sum()
    )
    found = sum_of_spectral_norms(study)
    assert value(found) == pytest.approx(value(number_of_parameters(study)) * found.layers["value"].sum(), rel=1e-13)


def test_the_norm_of_a_convolution_is_that_of_its_dense_operator_or_of_its_kernel_as_a_matrix():
    study = convolutional()
    kernel = study.final["conv2.weight"]
    units = torch.eye(4 * 6 * 6, dtype=torch.float64).reshape(-1, 4, 6, 6)
    ring = nn.functional.pad(units, (1, 1, 1, 1), mode="circular")
    dense = nn.functional.conv2d(ring, kernel, stride=2).flatten(1).numpy()
    true = product_of_spectral_norms(study).layers["value"][1]
    assert true == pytest.approx(np.linalg.norm(dense, 2), rel=1e-10)
    matrix = product_of_spectral_norms(study, operator="matrix").layers["value"]
    assert matrix[1] == pytest.approx(np.linalg.norm(kernel.numpy().reshape(4, -1), 2), rel=1e-10)
    head = np.linalg.norm(study.final["head.weight"].numpy(), 2)
    assert matrix[2] == pytest.approx(head, rel=1e-12)
    assert product_of_spectral_norms(study).layers["value"][2] == pytest.approx(head, rel=1e-12)


def test_a_spectral_norm_is_between_the_frobenius_norm_and_that_divided_by_the_root_of_the_rank():
    study = convolutional()
    frobenius = product_of_frobenius_norms(study).layers["value"]
    spectral = product_of_spectral_norms(study, operator="matrix").layers["value"]
    assert (spectral < frobenius).all()
    assert (spectral > frobenius / np.sqrt([4, 4, 3])).all()


def test_all_parameters_add_biases_and_normalisations_but_no_running_statistics_to_the_distance():
    study = convolutional()
    trained = dict(study.network.named_parameters())
    expected = sum(float(((study.final[name] - study.init[name]) ** 2).sum()) for name in trained)
    everything = squared_distance_to_init(study, parameters="all")
    assert value(everything) == pytest.approx(expected, rel=1e-12)
    assert everything.layers["layer"].to_list() == ["conv1", "bn1", "conv2", "head"]
    weights = sum(float(((study.final[name] - study.init[name]) ** 2).sum()) for name in names_of(study.final))
    assert value(squared_distance_to_init(study)) == pytest.approx(weights, rel=1e-12)
    assert weights < expected


def test_the_number_of_parameters_counts_biases_normalisations_and_frozen_ones_but_no_buffers():
    study = convolutional()
    study.network.requires_grad_(False)
    found = number_of_parameters(study)
    assert value(found) == (2 * 4 * 9 + 4) + (4 + 4) + (4 * 4 * 9 + 4) + (4 * 3 + 3)
    assert found.layers["parameters"].to_list() == [76, 8, 148, 15]


def test_tied_weights_count_once():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.predict = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
            self.predict.weight = self.embed.weight

        def forward(self, tokens):
            return self.predict(self.embed(tokens))

    network = Tied().eval()
    study = Study(network, final={"embed.weight": torch.ones(7, 3)})
    assert value(number_of_parameters(study)) == 21
    assert value(product_of_frobenius_norms(study)) == pytest.approx(math.sqrt(21))
    assert value(product_of_spectral_norms(study)) == pytest.approx(math.sqrt(21))


def test_each_weight_of_a_recurrent_layer_is_an_operator_of_its_own():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.RNN(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, inputs):
            return self.head(self.rnn(inputs)[0][:, -1])

    study = Study(Recurrent().eval())
    weights = [study.final[f"rnn.weight_{kind}_l0"].double().numpy() for kind in ("ih", "hh")]
    spectral = product_of_spectral_norms(study).layers["value"][0]
    assert spectral == pytest.approx(math.prod(np.linalg.norm(weight, 2) for weight in weights), rel=1e-10)
    frobenius = product_of_frobenius_norms(study).layers["value"][0]
    assert frobenius == pytest.approx(math.prod(np.linalg.norm(weight) for weight in weights), rel=1e-10)


@pytest.mark.parametrize(("name", "row"), [("resnet18", 0), ("densenet121", 4), ("vgg11", 5), ("fcn-5000-1000-bn", 7)])
@pytest.mark.parametrize(("table", "classes"), [(2, 10), (3, 100)])
def test_published_networks_have_the_published_number_of_parameters_to_a_unit_of_its_last_digit(
    name, row, table, classes
):
    study = Study(build(name, (3, 32, 32), classes), share=True)
    published = chatterji2020(table).networks["number_of_parameters"][row]
    unit = 10.0 ** (math.floor(math.log10(published)) - 1)
    assert abs(value(number_of_parameters(study)) - published) < unit  # printed numbers are cut off, or rounded


def test_a_densenet121_with_a_product_beyond_any_float_has_its_logarithm():
    network = build("densenet121", (3, 8, 8), 10, width=0.125)
    small = Study(network, test=(torch.zeros(2, 3, 8, 8), [0, 1]))
    large = Study(
        network,
        final={name: 1e30 * tensor for name, tensor in small.final.items()},  # squares of these are no float32
        test=(torch.zeros(2, 3, 8, 8), [0, 1]),
    )
    for measure in PRODUCTS:
        before, after = measure(small), measure(large)
        assert len(before.layers) == 121
        assert (after.status, after.value) == ("ok", None)
        assert log_value(after) - log_value(before) == pytest.approx(121 * 30 * math.log(10), rel=1e-7)


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_weights_whose_squares_are_no_floats_have_norms(scale):
    study = linear(scale * torch.diag(torch.tensor([3.0, 4.0])).double())
    assert value(product_of_frobenius_norms(study)) == pytest.approx(5 * scale, rel=1e-14)
    assert value(product_of_spectral_norms(study)) == pytest.approx(4 * scale, rel=1e-14)


def test_a_squared_distance_that_is_no_float_is_a_row_with_its_reason():
    found = squared_distance_to_init(linear(1e300 * torch.eye(2).double(), init=(torch.zeros(2, 2).double(),)))
    assert (found.value, found.status) == (None, "failed")
    assert "too large for float64" in str(found.reason)


def test_distances_are_taken_in_float64_also_of_weights_in_half_precision():
    network = nn.Linear(100, 100, bias=False).bfloat16().eval()
    init = {"weight": torch.full((100, 100), 0.5)}
    study = Study(network, init=init, final={"weight": torch.full((100, 100), 258.0)})  # in bfloat16 258 - 0.5 is 258
    assert value(squared_distance_to_init(study)) == pytest.approx(257.5**2 * 100 * 100, rel=1e-14)
    assert value(sum_of_spectral_norms(study)) == pytest.approx(10_000 * 25_750, rel=1e-12)


@pytest.mark.parametrize("measure", PRODUCTS)
def test_a_layer_that_is_zero_makes_a_product_of_zero(measure):
    found = measure(linear(torch.zeros(2, 2).double(), 1e9 * torch.eye(2).double()))
    assert (found.value, found.log_value, found.status) == (0.0, -math.inf, "ok")


@pytest.mark.parametrize("measure", [product_of_spectral_norms, sum_of_spectral_norms])
def test_a_convolution_without_data_has_no_operator_norm_but_says_what_to_do(measure):
    study = convolutional(data=False)
    found = measure(study)
    assert (found.value, found.status) == (None, "unavailable")
    assert "'conv1.weight' depends on the size of its maps" in str(found.reason)
    assert measure(study, operator="matrix").status == "ok"


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (nn.BatchNorm1d(3), "no linear layer"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), "computes its weight from other parameters"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)), "computes its weight from other parameters"),
    ],
    ids=["no weight", "weight norm", "spectral norm"],
)
@pytest.mark.parametrize("measure", PRODUCTS)
def test_a_network_whose_weights_are_not_its_parameters_is_a_row_with_its_reason(network, reason, measure):
    found = measure(Study(network.eval()))
    assert (found.value, found.status) == (None, "unavailable")
    assert reason in str(found.reason)


def test_a_pruned_layer_is_a_row_that_says_how_to_bake_the_mask_in():
    network = nn.Sequential(nn.Linear(3, 2))
    prune.l1_unstructured(network[0], "weight", amount=2)
    assert "prune.remove" in str(product_of_frobenius_norms(Study(network.eval())).reason)


def test_a_parameter_that_no_operator_is_known_for_is_unavailable_but_has_a_matrix_norm():
    class Expert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.Parameter(torch.ones(2, 3, 4))

        def forward(self, inputs):
            return inputs @ self.experts[0]

    study = Study(Expert().eval())
    assert "'experts' is of no convolution and no matrix" in str(product_of_spectral_norms(study).reason)
    assert value(product_of_spectral_norms(study, operator="matrix")) == pytest.approx(math.sqrt(24))


def test_an_unknown_operator_or_choice_of_parameters_is_refused():
    with pytest.raises(InputError, match="unknown operator='fft'; use 'convolution'"):
        product_of_spectral_norms(convolutional(), operator="fft")
    with pytest.raises(InputError, match="unknown parameters='bias'; use 'weight' or 'all'"):
        squared_distance_to_init(convolutional(), parameters="bias")
