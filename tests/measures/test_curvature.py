"""Derivatives against dense references in float64 by torch.autograd, and closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call, grad, vmap

from shaketable import measures as m
from shaketable.errors import InputError
from shaketable.measures.curvature import hessian_spectrum
from shaketable.measures.derivatives import Objective
from shaketable.networks import build
from shaketable.params import state
from shaketable.study import Study


def small(double: bool = True) -> Study:
    """A convolution, a batch norm and a linear layer, in float64."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    network = (network.double() if double else network).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        network[1].running_var.fill_(0.5)
    kind = torch.float64 if double else torch.float32
    inputs = torch.randn(27, 1, 4, 4, generator=generator, dtype=kind)
    return Study(network, train=(inputs, torch.randint(3, (27,), generator=generator)))


def losses(study: Study, vector: torch.Tensor, names: list[str]) -> torch.Tensor:
    """The reference: the losses of all examples as a function of one vector."""
    like = [study.final[name] for name in names]
    parts = vector.split([tensor.numel() for tensor in like])
    changed = {name: part.reshape(one.shape) for name, part, one in zip(names, parts, like, strict=True)}
    data = study.data("train")
    logits = functional_call(study.network, {**study.final, **changed}, (data.inputs,))
    return nn.functional.cross_entropy(logits.double(), data.labels, reduction="none")


@pytest.fixture(scope="module")
def dense() -> tuple[Study, Objective, np.ndarray, np.ndarray]:
    """The network, our derivatives, and the reference's Hessian and gradients of single examples."""
    study = small()
    objective = Objective(study, "weight")
    vector = torch.from_numpy(objective.final)
    whole = hessian(lambda v: losses(study, v, objective.names).mean(), vector)
    each = jacobian(lambda v: losses(study, v, objective.names), vector)
    return study, objective, whole.numpy(), each.numpy()


def test_gradient_products_and_slopes_are_those_of_the_dense_reference(dense, monkeypatch):
    monkeypatch.setattr("shaketable.measures.derivatives.BATCH", 10)  # batches of 10, 10 and 7
    _, objective, whole, each = dense
    direction = np.random.default_rng(0).normal(size=objective.size)
    loss, gradient = objective.gradient()
    assert loss == pytest.approx(
        float(losses(dense[0], torch.from_numpy(objective.final), objective.names).mean()), rel=1e-6
    )
    assert gradient == pytest.approx(each.mean(0), abs=1e-6)
    assert objective.product(direction) == pytest.approx(whole @ direction, abs=1e-5)
    assert objective.slopes(direction) == pytest.approx(each @ direction, abs=1e-5)
    assert np.stack(list(objective.gradients())) == pytest.approx(each, abs=1e-6)


@pytest.mark.parametrize("count", [1, 5, 20, 42])
def test_the_spectrum_is_that_of_the_dense_hessian_with_small_residuals(dense, count):
    study, objective, whole, _ = dense
    assert objective.size == 42
    expected = np.sort(np.linalg.eigvalsh(whole))[::-1][:count]
    found = hessian_spectrum(study, count)
    assert found["eigenvalue"].to_numpy() == pytest.approx(expected, abs=1e-5)
    assert found["residual"].max() < 1e-4


def test_the_largest_magnitudes_may_be_negative(dense):
    study, _, whole, _ = dense
    values = np.linalg.eigvalsh(whole)
    found = hessian_spectrum(study, 3, which="magnitude")["eigenvalue"].to_numpy()
    expected = values[np.argsort(-np.abs(values))][:3]
    assert np.sort(found) == pytest.approx(np.sort(expected), abs=1e-5)


def test_the_measures_of_curvature_are_functions_of_the_dense_spectrum(dense):
    study, _, whole, each = dense
    values = np.linalg.eigvalsh(whole)
    assert m.hessian_largest_eigenvalue(study).value == pytest.approx(values.max(), rel=1e-4)
    positive = values.clip(min=0)
    full = m.effective_dimensionality(study, z=0.1, normalised=False)
    assert full.value == pytest.approx((positive / (positive + 0.1)).sum(), rel=1e-4)
    assert m.effective_dimensionality(study, z=0.1).value == pytest.approx(full.value / 42, rel=1e-6)
    trace = m.hessian_trace(study, draws=200)
    assert abs(trace.value - np.trace(whole)) < 3 * trace.stderr
    noise = math.sqrt(((each - each.mean(0)) ** 2).sum(1).mean())
    assert m.gradient_noise_norm(study, parameters="weight").value == pytest.approx(noise, rel=1e-5)


def test_the_fisher_rao_norm_is_that_of_the_gradients_of_all_parameters():
    study = small()
    objective = Objective(study, "all")
    each = jacobian(lambda v: losses(study, v, objective.names), torch.from_numpy(objective.final)).numpy()
    expected = math.sqrt(((each @ objective.final) ** 2).mean())
    assert m.fisher_rao_norm(study).value == pytest.approx(expected, rel=1e-5)


def test_the_fisher_rao_norm_does_not_depend_on_how_layers_are_scaled():
    network = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False)).eval()
    data = (torch.randn(30, 3, generator=torch.Generator().manual_seed(0)), [0, 1] * 15)
    final = state(network)
    scaled = {"0.weight": 10 * final["0.weight"], "2.weight": final["2.weight"] / 10}
    one, other = (m.fisher_rao_norm(Study(network, final=each, train=data)).value for each in (final, scaled))
    assert other == pytest.approx(one, rel=1e-4)
    sharp, flat = (
        m.hessian_largest_eigenvalue(Study(network, final=each, train=data)).value for each in (final, scaled)
    )
    assert abs(math.log(sharp / flat)) > 1, "which the Hessian does"


def test_attention_and_tokens_have_second_derivatives():
    tokens = torch.randint(7, (6, 5), generator=torch.Generator().manual_seed(0))
    study = Study(build("decoder-1x8", (5,), 7), train=(tokens, tokens))
    objective = Objective(study, "weight")
    direction = np.random.default_rng(0).normal(size=objective.size)
    step = 1e-3 / np.linalg.norm(direction)
    ahead, behind = (objective.gradient(objective.final + sign * step * direction)[1] for sign in (1, -1))
    slope = (ahead - behind) / (2 * step)
    product = objective.product(direction)
    assert np.linalg.norm(product - slope) < 0.05 * np.linalg.norm(slope)


def test_sharpness_is_the_maximum_over_the_box_where_that_is_known():
    network = nn.Linear(2, 2, bias=False).eval()
    final = {"weight": torch.tensor([[3.0, 0.0], [0.0, -1.0]])}
    study = Study(network, final=final, train=(torch.tensor([[1.0, 1.0]]), [0]))
    radius = 0.01
    # the loss is log(1 + exp(f_1 - f_0)): the worst corner moves each weight by radius x (|w| + 1)
    moved = radius * ((3 + 1) + (0 + 1) + (0 + 1) + (1 + 1))
    clean, worst = (math.log(1 + math.exp(gap)) for gap in (-4, -4 + moved))
    found = m.sharpness_keskar2017(study, radius=radius)
    assert found.value == pytest.approx(100 * (worst - clean) / (1 + clean), rel=1e-3)
    assert m.sharpness_keskar2017(study, radius=0.1).value > found.value


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: m.sharpness_keskar2017(s, radius=0), "radius=0"),
        (lambda s: m.sharpness_keskar2017(s, steps=0), "steps=0"),
        (lambda s: m.effective_dimensionality(s, z=0), "z=0"),
        (lambda s: m.hessian_trace(s, draws=1), "draws=1"),
        (lambda s: hessian_spectrum(s, 0), "count=0"),
        (lambda s: hessian_spectrum(s, 2, which="smallest"), "which='smallest'"),
    ],
)
def test_numbers_out_of_their_range_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(small())


def test_a_flat_loss_has_eigenvalues_of_0_also_where_lanczos_would_look_for_them():
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    still = {name: torch.zeros_like(tensor) for name, tensor in state(network).items()}
    study = Study(network, final=still, train=(torch.eye(6), [0, 1, 2, 0, 1, 2]))
    assert m.hessian_largest_eigenvalue(study).value == 0
    assert hessian_spectrum(study, 3)["eigenvalue"].to_list() == [0, 0, 0]


@pytest.mark.parametrize("name", ["hessian_largest_eigenvalue", "effective_dimensionality", "hessian_trace"])
def test_logits_that_are_not_finite_make_a_row_with_its_reason(name):
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    large = {name: torch.full_like(tensor, 1e30) for name, tensor in state(network).items()}
    row = m.measurements(Study(network, final=large, train=(torch.eye(6), [0, 1, 2, 0, 1, 2])), name).row(0, named=True)
    assert (row["value"], row["status"]) == (None, "failed")
    assert "logits" in row["reason"]


def test_vmap_agrees_with_one_example_after_another():
    study = small()
    objective = Objective(study, "all")
    data = study.data("train")
    params = {name: study.final[name] for name in objective.names}
    rest = {name: tensor for name, tensor in study.final.items() if name not in params}

    def loss(params, inputs, label):
        logits = functional_call(study.network, {**params, **rest}, (inputs.unsqueeze(0),))
        return nn.functional.cross_entropy(logits, label.unsqueeze(0))

    grads = vmap(grad(loss), in_dims=(None, 0, 0))(params, data.inputs, data.labels)
    each = torch.cat([grads[name].flatten(1) for name in objective.names], 1).numpy()
    assert np.stack(list(objective.gradients())) == pytest.approx(each, abs=1e-6)
