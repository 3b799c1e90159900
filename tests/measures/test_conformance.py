"""What holds for every measure that there is: new ones are tested here as soon as they are found by their name."""

import inspect
import math
from functools import cache

import pytest
import torch
from torch import nn

from shaketable.measures import MEASURES, Measure, Measurement
from shaketable.params import snapshot
from shaketable.study import Study

THERE = {name: measure for name, measure in MEASURES.items() if measure.installed}
EVERY = pytest.mark.parametrize("measure", THERE.values(), ids=list(THERE))
GOLDEN = {
    "generalization_error": 5 / 17,
    "product_of_frobenius_norms": 21.568042129879636,
    "product_of_spectral_norms": 14.46410681711211,
    "squared_distance_to_init": 2.9342503618724125,
    "number_of_parameters": 179,
    "sum_of_spectral_norms": 604.1980977598947,
    "network_criticality": 0.0,  # each layer of so small a network may go back alone
    "pac_bayes": 18.046829110363994,
    "hessian_largest_eigenvalue": 2.0869525958548953,
    "hessian_trace": 2.8878636035312346,
    "effective_dimensionality": 0.023553886321955382,
    "fisher_rao_norm": 0.669432774792558,
    "gradient_noise_norm": 0.5532495021518323,
    "inverse_margin": 1.7318006784412536,
    "normalised_margin": 0.6842080161478749,
    "squared_parameter_norm": 20.722186731829833,
    "sum_of_frobenius_norms": 18.57651599260097,
    "sum_of_squared_spectral_norms": 15.212644388851672,
    "frobenius_norms_over_margin": 805.5917375666168,
    "spectral_norms_over_margin": 362.3070570657276,
    "spectral_complexity_from_init": 345.99919301329834,
    "spectral_complexity_from_origin": 2239.280169489909,
    "sum_of_stable_ranks": 6.180614276811266,
    "path_norm": 28.301284114971597,
    "pac_bayes_flatness": 28.183829312644555,
    "pac_bayes_from_init": 35.479427032971174,
    "pac_bayes_from_origin": 160.8125118670098,
    "magnitude_flatness_jiang2020": 11.22018454301963,
    "magnitude_from_init_jiang2020": 166.11748596809272,
    "magnitude_from_origin_jiang2020": 243.81730280258108,
    "magnitude_flatness_kuhn2021": 44.66835921509634,
    "prunability": 0.22,
    "random_prunability": 0.32,
    "number_of_parameters_pruned": 55.0,
    "sum_of_frobenius_norms_pruned": 14.018811437065024,
    "sum_of_squared_spectral_norms_pruned": 11.878025988183254,
    "sharpness_keskar2017": 0.4351743532575017,
    "training_loss": 0.472412481256,
    "sum_of_training_losses": 0.951123901035,
    "last_training_loss": 0.472412481256,
    "gradient_norm_at_init": 0.907395748897796,
    "snip_at_init": 1.0015286786816007,
    "synflow_at_init": 115.30734438390272,
    "naswot_at_init": 92.85582074245073,
    "nn_mass": 0.0,  # it has an addition, and no concatenation
    "nn_density": 0.0,
    "zeta": 0.5,
    "kappa": 0.09782608695652173,
}
"""Values on the study below, as they were when each was added; a change of one raises the measure's version."""
CHANGES = {"batch_size": 4, "batch": 4}
"""Arguments that may change the memory that a measure takes, and nothing else."""


class Toy(nn.Module):
    """Convolutions, one with stride 2, a normalisation, a branch, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)  # registered first, runs last
        self.conv1, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.conv2, self.skip = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(3, 4, 1, stride=2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs):
        x = self.norm(self.conv1(inputs)).relu()
        x = (self.conv2(x) + self.skip(x)).relu()
        return self.head(self.dropout(x.mean((2, 3))))


@cache
def weights(seed: int) -> dict[str, torch.Tensor]:
    """Initial weights, from a seed."""
    generator = torch.Generator().manual_seed(seed)
    drawn = snapshot(Toy())
    for name, tensor in drawn.items():
        if name.startswith("norm."):
            continue  # as made: 1 and 0
        fan_in = max(1, tensor[0].numel())
        drawn[name] = torch.randn(tensor.shape, generator=generator) / math.sqrt(fan_in)
    return drawn


def study(**without: None) -> Study:
    """A toy without an error on 23 training examples, and with some on 17 test examples."""
    generator = torch.Generator().manual_seed(5)
    init, move = weights(0), weights(1)
    final = {name: init[name] if name.startswith("norm.") else init[name] + 0.5 * move[name] for name in init}
    train, test = (torch.randn(count, 1, 6, 6, generator=generator) for count in (23, 17))
    network = Toy().eval()
    network.load_state_dict(final)
    with torch.no_grad():
        right, wrong = network(train).argmax(1), network(test).argmax(1)
    wrong[::4] = (wrong[::4] + 1) % 3
    middle = {name: (init[name] + final[name]) / 2 for name in init if init[name].is_floating_point()}
    given = {"init": init, "train": (train, right), "test": (test, wrong)} | without
    if "trajectory" not in given:
        given["checkpoints"] = {1: init | middle, 2: final}
    given.pop("trajectory", None)
    return Study(network, final=final, **given)  # pyright: ignore[reportArgumentType]


@cache
def found(name: str) -> Measurement:
    """A measure of the whole study, with its default arguments."""
    return MEASURES[name](study())


@EVERY
def test_a_measure_has_the_value_that_it_had_when_it_was_added(measure: Measure):
    assert measure.name in GOLDEN, f"add the value of {measure.name} on this study to GOLDEN: {found(measure.name)}"
    assert found(measure.name).status == "ok", found(measure.name).reason
    assert found(measure.name).value == pytest.approx(GOLDEN[measure.name], rel=1e-5)


@EVERY
def test_a_measure_carries_its_name_a_finite_number_and_its_logarithm(measure: Measure):
    value, log_value = found(measure.name).value, found(measure.name).log_value
    assert found(measure.name).name == measure.name
    assert value is not None
    assert math.isfinite(value)
    assert log_value == (pytest.approx(math.log(value), abs=1e-12) if value > 0 else -math.inf if value == 0 else None)


@EVERY
def test_a_measure_that_was_drawn_says_how_often_and_how_exactly(measure: Measure):
    assert (found(measure.name).draws is None) == (found(measure.name).stderr is None)


def test_measures_that_are_made_of_terms_have_them():
    assert {name for name in THERE if found(name).layers is not None} >= {
        "sum_of_spectral_norms",
        "network_criticality",
    }


@EVERY
def test_the_terms_of_a_measure_are_a_row_a_layer_in_forward_order(measure: Measure):
    table = found(measure.name).layers
    if table is None:
        return
    assert {"layer", "position", "kind", "parameters"} <= set(table.columns)
    order = ["conv1", "norm", "conv2", "skip", "head"]
    assert table["layer"].to_list() == [name for name in order if name in table["layer"].to_list()]
    assert table["position"].to_list() == list(range(len(table)))


@EVERY
def test_a_measure_leaves_weights_hooks_modes_and_the_global_random_state_alone(measure: Measure):
    given = study()
    given.network.dropout.eval()
    before, state = snapshot(given.network), torch.get_rng_state()
    final = {name: tensor.clone() for name, tensor in given.final.items()}
    flags = [parameter.requires_grad for parameter in given.network.parameters()]
    measure(given)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(given.network).items())
    assert all(torch.equal(tensor, final[name]) for name, tensor in given.final.items())
    assert [parameter.requires_grad for parameter in given.network.parameters()] == flags
    assert all(parameter.grad is None for parameter in given.network.parameters())
    for module in given.network.modules():
        assert not module.training
        assert not any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks))


@EVERY
def test_a_measure_of_a_network_that_was_put_into_training_mode_leaves_it_there_with_the_same_number(measure: Measure):
    given = study()
    given.network.train()
    again = measure(given)
    assert all(module.training for module in given.network.modules())
    assert again.value == found(measure.name).value
    assert int(given.network.norm.num_batches_tracked) == 0


@EVERY
def test_a_measure_repeats_exactly_whatever_the_global_random_state(measure: Measure):
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        again = measure(study())
    first = found(measure.name)
    assert (again.value, again.log_value, again.stderr, again.draws) == (
        first.value,
        first.log_value,
        first.stderr,
        first.draws,
    )
    assert (again.layers is None) == (first.layers is None)
    assert again.layers is None or first.layers is None or again.layers.equals(first.layers)


def batching_of(measure: Measure) -> list[str]:
    return [name for name in CHANGES if name in inspect.signature(measure).parameters]


@pytest.mark.parametrize("name", [name for name, measure in THERE.items() if batching_of(measure)])
def test_a_measure_does_not_depend_on_how_data_are_batched(name: str):
    measure, batching = THERE[name], batching_of(THERE[name])
    for size in (4, 23, 1000):  # ragged, whole, more than there are
        again = measure(study(), **dict.fromkeys(batching, size))
        assert again.value == pytest.approx(found(name).value, rel=1e-12)


@EVERY
def test_what_a_measure_needs_and_what_is_not_there_is_a_row_with_a_status_and_a_reason(measure: Measure):
    for need in measure.needs:
        missing = measure(study(**{need: None}))
        assert (missing.value, missing.log_value, missing.status) == (None, None, "unavailable")
        assert need in str(missing.reason)


@EVERY
def test_what_a_measure_does_not_need_may_be_missing(measure: Measure):
    without = {need: None for need in ("init", "train") if need not in measure.needs}
    if "test" not in measure.needs and "train" in measure.needs:
        without["test"] = None  # one of the two shows the sizes of the maps
    again = measure(study(**without))
    assert again.status == "ok", again.reason
    assert again.value == found(measure.name).value


@EVERY
def test_a_measure_is_documented_with_an_example(measure: Measure):
    text = inspect.getdoc(measure.function) or ""
    assert measure.about == text.partition("\n")[0]
    assert len(measure.about) < 100
    assert measure.about.endswith(".")
    sections = ["Args:", "Returns:", "Cost:", "Example:", "References:"]
    places = [text.find(f"\n{section}") for section in sections]
    assert -1 not in places, f"lacks {[name for name, place in zip(sections, places, strict=True) if place < 0]}"
    assert places == sorted(places)
    for argument in list(inspect.signature(measure).parameters):
        assert f"{argument}:" in text or f"{argument}," in text, f"{argument} is not explained"


@EVERY
def test_a_measure_has_a_symbol_of_its_own_a_direction_and_a_paper(measure: Measure):
    assert [other.symbol for other in MEASURES.values()].count(measure.symbol) == 1
    assert measure.direction in ("lower", "higher")
    assert measure.version >= 1
    assert measure.paper
    assert MEASURES[measure.name] is measure
