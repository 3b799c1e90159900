"""The bound of a study, end to end: its draws against the plain loop, what it holds, and what it refuses."""

import math
import weakref

import polars as pl
import pytest
import torch
from scipy.stats import norm
from torch import nn

import shaketable as st
from shaketable.bounds import bounds_by_scale, criticality_bound, stochastic, study_bound, study_corollary_bound
from shaketable.bounds.stochastic import _posterior
from shaketable.errors import InputError
from shaketable.evaluate import evaluate


def gaussians(examples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes in the plane, well apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(examples) % 2
    return torch.randn(examples, 2, generator=generator) + 2 * (2 * labels - 1).unsqueeze(1), labels


def linear(examples: int = 400) -> st.Study:
    """A linear classifier of the two classes, at twice the direction between them."""
    final = {"weight": torch.tensor([[-0.5, -0.5], [0.5, 0.5]])}
    network = nn.Linear(2, 2, bias=False).eval()
    init = {"weight": torch.zeros(2, 2)}
    return st.Study(network, init=init, final=final, train=gaussians(examples, 0), test=gaussians(200, 1))


def deep() -> st.Study:
    """A network with biases, all of whose parameters moved."""
    network = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    generator = torch.Generator().manual_seed(3)
    init = {name: torch.randn(t.shape, generator=generator) for name, t in st.snapshot(network).items()}
    final = {name: t + 0.5 * torch.randn(t.shape, generator=generator) for name, t in init.items()}
    return st.Study(network, init=init, final=final, train=gaussians(50, 0), test=gaussians(30, 1))


def test_the_mean_error_of_the_draws_is_the_expected_error_of_a_linear_classifier_within_three_standard_errors():
    study, sigma = linear(), 0.4
    inputs, labels = study.data("train").inputs, study.data("train").labels
    mean = (2 * labels - 1) * (inputs @ torch.tensor([1.0, 1.0])) * 0.8  # alpha = 0.8, of the difference of logits
    expected = norm.cdf(-mean.double() / (math.sqrt(2) * sigma * inputs.double().norm(dim=1))).mean()
    bound = study_bound(study, 0.8, sigma, draws=400)
    assert bound.term("error") == pytest.approx(expected, abs=3 * bound.term("error, stderr"))
    assert bound.term("error, stderr") < 0.01
    assert bound.term("error, upper") > expected


def test_the_value_is_theorem_3_2_on_the_upper_bound_of_the_draws():
    study = linear()
    bound = study_bound(study, 1.0, 0.3, draws=50, delta=0.1, delta_draws=0.04)
    arguments = ([4], [1.0], [0.3], [1.0], 400, 0.1)
    alone = criticality_bound(bound.term("error"), *arguments, form="inverse", draws=50, delta_draws=0.04)
    assert bound.value == alone.value
    assert bound.term("error") < bound.term("error, upper") < bound.value < 1
    assert bound.value > bound.term("test error") + 3 * bound.term("test error, stderr")


def test_all_layers_are_perturbed_at_once_by_noise_of_the_stated_size_around_the_stated_point():
    study = deep()
    posterior = _posterior(study, {"0": 0.5, "2": 1.0}, {"0": 0.1, "2": 0.3}, "module")
    draws = [posterior.draw(0, "test", draw) for draw in range(400)]
    assert set(draws[0]) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    for name, alpha, sigma in (("0.weight", 0.5, 0.1), ("0.bias", 0.5, 0.1), ("2.weight", 1.0, 0.3)):
        values = torch.stack([draw[name] for draw in draws]).double()
        centre = study.init[name] + alpha * (study.final[name] - study.init[name])
        assert ((values.mean(0) - centre).abs() < 5 * sigma / 20).all()
        count = values.numel()
        assert float((values - centre).square().mean()) == pytest.approx(sigma**2, rel=5 * math.sqrt(2 / count))


def test_the_errors_are_those_of_the_plain_loop_on_the_same_draws():
    study = deep()
    posterior = _posterior(study, 1.0, 0.5, "module")
    bound = study_bound(study, 1.0, 0.5, draws=7, seed=5)
    for split, term in (("train", "error"), ("test", "test error")):
        errors = [
            evaluate(study.network, {**study.final, **posterior.draw(5, "bound", draw)}, study.data(split)).error
            for draw in range(7)
        ]
        assert bound.term(term) == pytest.approx(sum(errors) / 7, abs=1e-12)
    final = evaluate(study.network, study.final, study.data("test")).error
    assert bound.term("test error, final") == pytest.approx(final)


def test_no_more_draws_are_held_at_a_time_than_fit_the_budget_twice(monkeypatch):
    study, alive, most = deep(), [], []
    draw = stochastic._Posterior.draw

    def watched(self, *words):
        found = draw(self, *words)
        alive.append(weakref.ref(found["0.weight"]))
        most.append(sum(one() is not None for one in alive))
        return found

    monkeypatch.setattr(stochastic._Posterior, "draw", watched)
    monkeypatch.setattr(stochastic, "AT_ONCE", 6 * sum(tensor.nbytes for tensor in study.final.values()))
    study_bound(study, 1.0, 0.5, draws=7)
    assert len(most) == 7
    assert max(most) == 3


def test_the_same_seed_gives_the_same_bound_and_the_global_random_state_is_left_alone():
    study, before = deep(), torch.random.get_rng_state()
    first, second, other = (study_bound(study, 1.0, 0.5, draws=20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.terms.equals(second.terms)
    assert not first.terms.equals(other.terms)


def test_of_several_scales_the_best_is_taken_and_its_error_is_estimated_by_fresh_draws():
    study, scales = linear(), [0.1, 1.0, 30.0]
    table = bounds_by_scale(study, 1.0, 0.3, scales, draws=10)
    assert table["scale"].to_list() == scales
    assert table["divergence"].is_sorted(descending=True)
    best = float(table.sort("estimate")["scale"][0])
    bound = study_bound(study, 1.0, 0.3, scales=scales, draws=30)
    assert bound.term("scale") == best == 1.0
    alone = study_bound(study, 1.0, 0.3, draws=30)
    assert bound.value == alone.value  # draws for the search are others
    noisiest = _posterior(study, 1.0, 1.0, "module")  # at most 1, and 30 x 0.3 is more
    errors = [
        evaluate(study.network, noisiest.draw(0, "search", draw), study.data("train")).error for draw in range(10)
    ]
    assert table["train_error"][2] == pytest.approx(sum(errors) / 10)
    assert table["train_error"][2] != study_bound(study, 1.0, 1.0, draws=10).term("error")


def test_noise_is_at_most_1_whatever_the_scale():
    assert study_bound(linear(), 1.0, 0.3, draws=5, scales=[100.0]).terms.filter(
        pl.col("name") != "scale"
    ).equals(study_bound(linear(), 1.0, 1.0, draws=5).terms.filter(pl.col("name") != "scale"))  # fmt: skip


def test_every_trained_parameter_has_noise_or_the_statement_says_that_this_is_no_bound():
    whole = study_bound(deep(), 1.0, 0.3, draws=5)
    assert {assumption.status for assumption in whole.assumptions} == {"holds", "checked", "not checked"}
    assert whole.statement().startswith(
        "With probability at least 0.95 over the choice of the 50 training examples and"
    )
    part = study_bound(deep(), 1.0, 0.3, draws=5, by={"first": "0", "second": "2.weight"})
    assert part.statement().startswith("This is no bound")
    assert "moved 2.bias" in part.assumptions[-1].how


def test_running_statistics_that_training_moved_make_it_no_bound():
    network = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    init = st.snapshot(network)
    final = {name: t + 0.1 if t.is_floating_point() else t + 7 for name, t in init.items()}
    study = st.Study(network, init=init, final=final, train=gaussians(20, 0))
    bound = study_bound(study, 1.0, 0.3, draws=3)
    assert "1.running_mean" in bound.assumptions[-1].how
    assert bound.statement().startswith("This is no bound")
    frozen = {**final, "1.running_mean": init["1.running_mean"], "1.running_var": init["1.running_var"]}
    kept = st.Study(network, init=init, final=frozen, train=gaussians(20, 0))
    assert study_bound(kept, 1.0, 0.3, draws=3).assumptions[-1].status == "checked"


def test_without_test_data_there_is_a_bound_and_no_test_error():
    study = linear()
    alone = st.Study(study.network, init=study.init, final=study.final, train=study.train)
    bound = study_bound(alone, 1.0, 0.3, draws=5)
    assert "test error" not in bound.terms["name"].to_list()
    assert bounds_by_scale(alone, 1.0, 0.3, [1.0], draws=2)["test_error"].to_list() == [None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alphas": {"0": 1.0}}, "alphas has no number for layer '2'"),
        ({"sigmas": {"0": 1.0, "2": 1.0, "9": 1.0}}, "sigmas has '9', which is no layer; the layers are 0, 2"),
        ({"sigmas": 0.0}, "sigmas of layer '0'=0.0: give a number above 0"),
        ({"alphas": 2.0}, "alphas has 2.0"),
        ({"draws": 0}, "draws=0"),
        ({"scales": ()}, "scales is empty"),
        ({"scales": (-1.0,)}, "scales=-1.0"),
        ({"delta": 2.0}, "delta=2.0"),
        ({"delta_draws": 0.5}, "delta_draws"),
        ({"form": "x"}, "form='x'"),
        ({"scales": (1.0, math.nan)}, "scales=nan"),
    ],
)
def test_what_is_out_of_range_is_one_sentence_before_anything_is_drawn(arguments, message):
    drawn = []
    with pytest.raises(InputError, match=message):
        study_bound(deep(), **{"alphas": 1.0, "sigmas": 0.3, "draws": 2, "advance": drawn.append, **arguments})
    assert drawn == []


def test_a_study_without_init_or_training_data_is_refused():
    study = deep()
    with pytest.raises(InputError, match="needs the initial weights"):
        study_bound(st.Study(study.network, train=study.train), 1.0, 0.3)
    with pytest.raises(InputError, match="no train data"):
        study_bound(st.Study(study.network, final=study.final, init=study.init), 1.0, 0.3)


def test_corollary_3_3_is_no_bound_where_running_statistics_moved_and_its_epsilon_was_searched():
    network = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    init = st.snapshot(network)
    final = {name: tensor + 0.1 if tensor.is_floating_point() else tensor + 7 for name, tensor in init.items()}
    data = (torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2)
    study = st.Study(network, init=init, final=final, train=data)
    bound = study_corollary_bound(study, 0.95)
    assert bound.statement().startswith("This is no bound")
    assert "1.running_mean" in bound.assumptions[-1].how
    assert bound.chance == 0.5
    assert any("found by a search" in assumption.how for assumption in bound.assumptions)
    assert not any("that the caller gave" in assumption.how for assumption in bound.assumptions)
