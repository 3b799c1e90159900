"""Theorem B.2: the noise that it allows against networks with such noise, the constants, and what it looks at in a study."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import shaketable as st
from shaketable.bounds import deterministic_bound, perturbation_sigmas, prior_indices, study_deterministic_bound
from shaketable.errors import InputError

SHAPES = {"kernels": [3, 1], "channels_in": [3, 16], "channels_out": [4, 10]}
LAYERS = {"parameters": [108, 160], "alphas": [0.5, 1.0], "squared_distances": [2.0, 0.5], "norms": [2.0, 0.7]}


def value(**changes) -> float:
    arguments = {**LAYERS, **SHAPES, "input_norm": 3.0, "image_size": 8, "examples": 5000, "delta": 0.05, **changes}
    return deterministic_bound(0.01, arguments.pop("margin", 1.0), **arguments).value


def study(network: nn.Module, inputs: Tensor, seed: int = 0, step: float = 0.1, **more) -> st.Study:
    """A study whose final weights are a small step from the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    init = {name: torch.randn(tensor.shape, generator=generator) / 2 for name, tensor in st.snapshot(network).items()}
    final = {name: tensor + step * torch.randn(tensor.shape, generator=generator) for name, tensor in init.items()}
    labels = torch.arange(len(inputs)) % 2
    return st.Study(network.eval(), init=init, final=final, train=(inputs, labels), **more)


def test_half_of_the_draws_of_noise_and_more_change_no_logit_by_more_than_an_eighth_of_the_margin():
    generator = torch.Generator().manual_seed(0)
    widths, margin = [6, 12, 9, 3], 0.5
    weights = [torch.randn(b, a, generator=generator).double() / math.sqrt(a) for a, b in pairwise(widths)]
    norms = [float(torch.linalg.matrix_norm(weight, 2)) for weight in weights]
    inputs = torch.nn.functional.normalize(torch.randn(500, 6, generator=generator).double(), dim=1) * 2
    sigmas = perturbation_sigmas(margin, norms, [1] * 3, widths[:-1], widths[1:], 2.0, 1)

    def logits(layers: list[Tensor]) -> Tensor:
        hidden = inputs
        for weight in layers[:-1]:
            hidden = (hidden @ weight.T).relu()
        return hidden @ layers[-1].T

    within = 0
    for _ in range(100):
        noisy = [
            w + s * torch.randn(w.shape, generator=generator, dtype=torch.float64) for w, s in zip(weights, sigmas)
        ]
        within += float((logits(noisy) - logits(weights)).abs().max()) <= margin / 8
    assert within >= 50


@pytest.mark.parametrize(("before", "after"), [(4, 4), (12, 2), (2, 12), (1, 1)])
def test_noise_on_a_convolution_stays_below_its_radius_with_the_probability_of_the_lemma(before, after):
    kernel, size = 3, 6
    sigma = perturbation_sigmas(8 * math.e, [1.0], [kernel], [before], [after], 1.0, size)[0]
    radius = 1 / sigma  # of a single layer with B = 1
    generator = torch.Generator().manual_seed(0)
    identity = torch.eye(before * size * size).reshape(-1, before, size, size)
    padded = nn.functional.pad(identity, (1, 1, 1, 1), mode="circular")
    norms = []
    for _ in range(40):
        noise = torch.randn(after, before, kernel, kernel, generator=generator)
        dense = nn.functional.conv2d(padded, noise).flatten(1).T  # the operator, column by column
        norms.append(float(torch.linalg.matrix_norm(dense, 2)))
    assert sum(norm <= radius for norm in norms) >= 20
    assert max(norms) > radius / 4  # not absurdly wide


def test_the_printed_lemma_is_too_narrow_where_inputs_outnumber_outputs():
    before, after, kernel, spread = 400, 1, 1, math.log(4)
    printed = kernel * (2 * math.sqrt(after) + math.sqrt(2 * spread))
    generator = torch.Generator().manual_seed(0)
    assert float(torch.randn(after, before, generator=generator).norm()) > 4 * printed
    assert 1 / perturbation_sigmas(8 * math.e, [1.0], [1], [before], [after], 1.0, 1)[0] > 20


def test_the_sigmas_are_their_formula_with_the_product_over_the_other_layers_and_printed_over_all():
    spread = math.log(4 * 2 * 64)
    radius = 3 * (math.sqrt(2) * (math.sqrt(3) + 2) + math.sqrt(2 * spread))
    derived = perturbation_sigmas(1.0, [2.0, 0.7], **SHAPES, input_norm=3.0, image_size=8)
    assert derived[0] == pytest.approx(1 / (8 * math.e * 2 * 3 * radius * 0.7), rel=1e-12)
    printed = perturbation_sigmas(1.0, [2.0, 0.7], **SHAPES, input_norm=3.0, image_size=8, form="printed")
    assert printed[0] == pytest.approx(1 / (32 * math.e * 2 * 3 * 1.4 * 3 * math.sqrt(4 * spread)), rel=1e-12)


def test_the_value_is_the_formula_of_its_docstring():
    m, delta = 5000, 0.05
    sigmas = perturbation_sigmas(1.0, LAYERS["norms"], **SHAPES, input_norm=3.0, image_size=8)
    numbers = list(zip(LAYERS["parameters"], LAYERS["alphas"], LAYERS["squared_distances"], sigmas))
    inside = sum(k * math.log(1 + a**2 * d / (k * s**2)) for k, a, d, s in numbers) / 2 + 1 + math.log(2)
    indices = prior_indices(LAYERS["parameters"], LAYERS["alphas"], sigmas, LAYERS["squared_distances"], m)
    inside += math.log(m / delta) / 2 + sum(math.log(math.pi * j / math.sqrt(6)) for j in indices)
    assert value() == pytest.approx(0.01 + math.sqrt(inside / (m - 1)), rel=1e-12)


def test_the_printed_form_is_equations_6_and_7():
    m, delta, d, b = 5000, 0.05, 2, 3.0
    spread = math.log(4 * d * 64)
    total = math.log(m / delta) + 1
    for k, a, square, others, c in ((108, 0.5, 2.0, 0.7, 4), (160, 1.0, 0.5, 2.0, 10)):
        distance = 32 * math.e * d * b * a * math.sqrt(square) * others * math.sqrt(spread)
        total += k * math.log(1 + distance**2 / c)
        total += math.log(7 * m + 2 * math.log(k / (k / (16 * math.e * others * spread) ** 2 + a**2 * square)))
    assert value(form="printed") == pytest.approx(0.01 + math.sqrt(total / (m - 1)), rel=1e-12)


def test_the_bound_falls_with_margin_examples_and_delta_and_grows_with_norms_and_the_input():
    for form in ("derived", "printed"):
        base = value(form=form)
        assert value(margin=2.0, form=form) < base
        assert value(examples=10000, form=form) < base
        assert value(delta=0.1, form=form) < base
        assert value(norms=[2.5, 0.7], form=form) > base
        assert value(input_norm=4.0, form=form) > base


def test_a_margin_that_no_network_with_these_norms_reaches_gives_no_bound_below_1():
    loose = {"parameters": [4], "alphas": [0.0], "squared_distances": [0.0], "kernels": [1], "channels_in": [2]}
    arguments = {**loose, "channels_out": [2], "input_norm": 1.0, "image_size": 1, "examples": 10**6}
    assert deterministic_bound(0.0, 1.0, norms=[1.0], **arguments).value < 0.1
    assert deterministic_bound(0.0, 1.0, norms=[0.01], **arguments).value >= 1


def test_a_layer_with_a_bias_counts_as_a_matrix_on_inputs_with_a_1_behind_them():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    given = study(network, torch.randn(20, 3, generator=torch.Generator().manual_seed(1)))
    first, second = (
        torch.cat((given.final[f"{i}.weight"], given.final[f"{i}.bias"].unsqueeze(1)), 1).double() for i in (0, 2)
    )
    first = torch.cat((first, torch.tensor([[0.0, 0.0, 0.0, 1.0]]).double()))
    inputs = torch.cat((given.data("train").inputs, torch.ones(20, 1)), 1).double()
    logits = (inputs @ first.T).relu() @ second.T
    torch.testing.assert_close(logits.float(), network_logits(given), rtol=1e-4, atol=1e-5)
    bound = study_deterministic_bound(given, margin=0.1)
    product = sum(math.log10(float(torch.linalg.matrix_norm(matrix, 2))) for matrix in (first, second))
    assert bound.term("log10 of the product of norms") == pytest.approx(product, rel=1e-9)
    margins = torch.where(given.data("train").labels == 0, 1, -1) * (logits[:, 0] - logits[:, 1])
    assert bound.term("margin loss") == pytest.approx(float((margins <= 0.1).double().mean()))


def network_logits(given: st.Study) -> Tensor:
    """Logits of the final weights on the training inputs."""
    with torch.no_grad():
        return torch.func.functional_call(given.network, dict(given.final), given.data("train").inputs)


def status(bound, words: str) -> str:
    return next(assumption.status for assumption in bound.assumptions if words in assumption.what)


def test_a_path_that_changes_a_logit_too_much_fails_and_at_alpha_1_nothing_changes():
    network = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    given = study(network, torch.randn(20, 3, generator=torch.Generator().manual_seed(1)))
    assert status(study_deterministic_bound(given, 0.5), "moving to alpha") == "holds"
    far = study_deterministic_bound(given, 1e-3, alphas=0.0)
    assert status(far, "moving to alpha") == "fails"
    assert far.statement().startswith("This is no bound")
    assert far.term("change of logits") > 1e-3 / 8
    assert status(study_deterministic_bound(given, 1e3, alphas=[0.99, 1.0]), "moving to alpha") == "not checked"


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)), "checked"),
        (nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)), "checked"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)), "fails"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 2)), "fails"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)), "fails"),
        (
            nn.Sequential(
                nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 2, bias=False)
            ),
            "checked",
        ),
    ],
)
def test_what_the_proof_does_not_cover_is_found(network, expected):
    inputs = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    if any(isinstance(module, nn.BatchNorm1d) for module in network):
        state = st.snapshot(network)
        given = st.Study(
            network.eval(),
            init=state,
            final={name: tensor + 1 for name, tensor in state.items()},
            train=(inputs, torch.arange(10) % 2),
        )
    else:
        given = study(network, inputs)
    assert status(study_deterministic_bound(given, 1.0), "chain") == expected


def test_a_forward_of_ones_own_is_not_read_and_said_so():
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(x + self.first(x).relu())

    given = study(Skip(), torch.randn(10, 3, generator=torch.Generator().manual_seed(0)))
    bound = study_deterministic_bound(given, 1.0)
    assert status(bound, "chain") == "not checked"
    assert "chain of the given linear maps" in bound.statement()


def test_a_bare_linear_layer_and_tied_weights_have_their_parameters_by_whatever_name():
    inputs = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    bare = study_deterministic_bound(study(nn.Linear(3, 2), inputs), 1.0)
    assert bare.value == study_deterministic_bound(study(nn.Sequential(nn.Linear(3, 2)), inputs), 1.0).value
    tied = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    tied[2].weight = tied[0].weight
    assert status(study_deterministic_bound(study(tied, inputs), 1.0), "chain") == "fails"


def test_a_computed_weight_is_refused_in_one_sentence():
    inputs = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    with pytest.raises(InputError, match="layer '0' computes its weight from other parameters"):
        study_deterministic_bound(study(network, inputs), 1.0)


class Scaled(nn.Module):
    """A parameter of its own in front of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.last = nn.Parameter(torch.ones(3)), nn.Linear(3, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x * self.scale)


class Attending(nn.Module):
    """Attention in front of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.attention(x, x, x)[0][:, 0])


@pytest.mark.parametrize(
    ("network", "shape", "name"), [(Scaled(), (3,), "scale"), (Attending(), (2, 4), "attention.in_proj_weight")]
)
def test_a_parameter_outside_of_the_linear_maps_fails(network, shape, name):
    given = study(network, torch.randn(10, *shape, generator=torch.Generator().manual_seed(0)))
    (chain,) = (one for one in study_deterministic_bound(given, 1.0).assumptions if "chain" in one.what)
    assert chain.status == "fails"
    assert repr(name) in chain.how


def test_the_norm_of_a_zero_padded_convolution_is_at_most_the_one_that_is_used():
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, stride=2, bias=False), nn.Flatten(), nn.Linear(48, 2, bias=False)
    )
    given = study(network, torch.randn(10, 2, 8, 8, generator=torch.Generator().manual_seed(0)))
    weight = given.final["0.weight"]
    identity = torch.eye(128).reshape(-1, 2, 8, 8)
    dense = nn.functional.conv2d(identity, weight, padding=1, stride=2).flatten(1)
    exact = math.log10(float(torch.linalg.matrix_norm(dense, 2)))
    linear = math.log10(float(torch.linalg.matrix_norm(given.final["2.weight"], 2)))
    used = study_deterministic_bound(given, 1.0).term("log10 of the product of norms") - linear
    assert exact <= used <= exact + 0.5


def test_the_norm_of_a_kernel_whose_worst_wave_does_not_fit_the_map_is_not_missed():
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(9, 2, bias=False))
    given = study(network, torch.randn(10, 1, 3, 3, generator=torch.Generator().manual_seed(0)))
    wave = torch.tensor([-1.0, 2.0, -1.0])
    final = {**given.final, "0.weight": torch.outer(wave, wave)[None, None]}
    given = st.Study(network, init=given.init, final=final, train=given.train)
    linear = math.log10(float(torch.linalg.matrix_norm(final["2.weight"], 2)))
    used = study_deterministic_bound(given, 1.0).term("log10 of the product of norms") - linear
    assert 10**used >= (2 + 2 * math.cos(math.pi / 4)) ** 2 - 1e-9  # on a ring of three it would be 9


def test_what_the_theorem_cannot_be_asked_is_one_sentence():
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(InputError, match="needs the initial weights"):
        study_deterministic_bound(st.Study(network.eval(), train=(inputs, torch.tensor([0, 1, 0, 1]))), 1.0)
    with pytest.raises(InputError, match="margin=0"):
        study_deterministic_bound(study(network, inputs), 0)
    with pytest.raises(InputError, match="layers 1, alphas 2"):
        study_deterministic_bound(study(network, inputs), 1.0, alphas=[1.0, 1.0])
    with pytest.raises(InputError, match="norms=0.0"):
        value(norms=[0.0, 1.0])
    with pytest.raises(InputError, match="too large for floats"):
        value(norms=[1e200, 1e200])
    with pytest.raises(InputError, match="form='x'"):
        value(form="x")
