"""The dropout bound: its divergence by sampling, its terms by hand, and what it says of a network."""

import math

import pytest
import torch
from torch import nn

from shaketable.bounds import dropout_bound, dropout_divergence, mcallester_bound, study_dropout_bound
from shaketable.errors import InputError
from shaketable.study import Study


@pytest.mark.parametrize("dropped", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_the_divergence_is_the_mean_log_ratio_of_the_densities(dropped, sigma):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(50, generator=generator, dtype=torch.float64) / 5
    kept = (torch.rand(200_000, 50, generator=generator, dtype=torch.float64) >= dropped).double()
    noisy = weights + sigma * torch.randn(200_000, 50, generator=generator, dtype=torch.float64)
    # the masks have one distribution, and what is dropped is 0 under both: kept weights alone tell them apart
    ratios = (kept * (noisy**2 - (noisy - weights) ** 2)).sum(1) / (2 * sigma**2)
    expected = dropout_divergence(float(weights.square().sum()), dropped, sigma)
    assert float(ratios.mean()) == pytest.approx(expected, abs=3 * float(ratios.std()) / math.sqrt(200_000))


def test_the_bound_is_mcallester_s_at_the_share_of_one_choice():
    bound = dropout_bound(0.1, 400.0, 0.5, 10_000, searched=20, delta=0.05)
    inner = mcallester_bound(0.1, 100.0, 10_000, 0.05 / 20)
    assert bound.value == inner.value
    assert bound.term("square root") == pytest.approx(
        0.1 + math.sqrt((100 + math.log(20 * 10_000 / 0.05)) / (2 * 9999)), rel=1e-12
    )
    assert bound.delta == 0.05


def test_the_printed_term_is_that_of_148_choices_whatever_was_searched():
    printed = 0.1 + math.sqrt((100 + math.log(10_000 / 0.05) + 5) / (2 * 9999))
    for searched in (1, 148, 1000):
        bound = dropout_bound(0.1, 400.0, 0.5, 10_000, searched)
        assert bound.term("equation 1, printed") == pytest.approx(printed, rel=1e-12)
        assert (bound.term("square root") > printed) == (searched > math.exp(5))
    assert math.exp(5) == pytest.approx(148.4, abs=0.1)


def test_the_draws_have_their_share_of_delta():
    bound = dropout_bound(0.1, 100.0, 0.5, 10_000, searched=10, draws=200)
    inner = mcallester_bound(0.1, 25.0, 10_000, 0.04 / 10 + 0.01, draws=200, delta_draws=0.01)
    assert bound.value == pytest.approx(inner.value, rel=1e-12)
    assert bound.term("error, upper") > 0.1


def test_more_dropout_costs_less_at_one_error():
    values = [dropout_bound(0.1, 1000.0, dropped, 5000, 10).value for dropped in (0.0, 0.5, 0.9)]
    assert values == sorted(values, reverse=True)


def study(network: nn.Module, **given) -> Study:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(400, 4, generator=generator)
    labels = (inputs[:, 0] > 0).long()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return Study(network.eval(), train=(inputs, labels), test=(inputs, labels), **given)


def test_a_study_s_bound_is_at_the_choice_that_makes_it_smallest_with_the_test_error_beside():
    network = nn.Linear(4, 2)
    of = study(network)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[-1.0, 0, 0, 0], [1.0, 0, 0, 0]]))
    of = Study(network, train=of.train, test=of.test)
    bound = study_dropout_bound(of, [0.0, 0.9], [0.1, 3.0], draws=50)
    assert (bound.term("dropped"), bound.term("sigma")) == (0.0, 0.1)
    assert bound.term("log(searched)") == pytest.approx(math.log(4))
    assert bound.term("squared norm") == pytest.approx(2 + float(network.bias.detach().square().sum()), rel=1e-6)
    assert bound.term("test error") == bound.term("error")
    assert "weights dropped at random" in bound.statement()
    assert not [one for one in bound.assumptions if one.status == "fails"]


def test_running_statistics_that_were_trained_make_it_no_bound():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    init = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network[1].running_mean.fill_(0.3)
    bound = study_dropout_bound(study(network, init=init), [0.5], [0.1], draws=3)
    assert bound.statement().startswith("This is no bound")
    unknown = study_dropout_bound(study(network), [0.5], [0.1], draws=3)
    assert not unknown.statement().startswith("This is no bound")
    assert (
        "nothing but parameters with noise was trained: no running statistics, which was not checked"
        in unknown.statement()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dropped": 1.0}, "dropped=1.0"),
        ({"sigma": 0.0}, "sigma=0.0"),
        ({"searched": 0}, "searched=0"),
        ({"squared_norm": -1.0}, "squared_norm=-1.0"),
        ({"error": 1.5}, "error=1.5"),
    ],
)
def test_numbers_out_of_their_range_are_refused(arguments, message):
    given = {"error": 0.1, "squared_norm": 10.0, "dropped": 0.5, "examples": 100, "searched": 10} | arguments
    with pytest.raises(InputError, match=message):
        dropout_bound(**given)
