"""Module criticality: against closed forms, against the whole grid by the plain loop, and in every corner."""

import json
import math
import warnings

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import norm
from torch import nn

import shaketable as st
from shaketable.engine import questions
from shaketable.errors import InputError
from shaketable.params import snapshot
from shaketable.probes import Criticality, criticality
from shaketable.probes.criticality import error_bound
from shaketable.probes.moves import move_of, moved_layers


def line(margin: float = 1.0, init: float = 0.0) -> st.Study:
    """One weight per class on one input: the margin is the difference of the two weights, and noise adds N(0, 2 sigma^2)."""
    network = nn.Linear(1, 2, bias=False).eval()
    final, first = (torch.tensor([[value / 2], [-value / 2]]) for value in (margin, init))
    return st.Study(network, final={"weight": final}, init={"weight": first}, train=(torch.ones(4, 1), [0, 0, 0, 0]))


class Net(nn.Module):
    """Two hidden layers, one of them with a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, inputs):
        x = self.one(inputs).relu()
        return self.three(x + self.two(x).relu())


def trained(seed: int = 0, count: int = 150) -> st.Study:
    """A small network trained to a small error on three noisy clusters."""
    generator = torch.Generator().manual_seed(seed)
    centres = 1.5 * torch.randn(3, 4, generator=generator)
    labels = torch.arange(count) % 3
    inputs = centres[labels] + 0.7 * torch.randn(count, 4, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Net()
        init = snapshot(network)
        optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(150):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(inputs), labels).backward()
            optimiser.step()
    return st.Study(network.eval(), init=init, train=(inputs, labels))


def test_the_criticality_of_a_line_is_that_of_its_closed_form():
    # P(error) = Phi(-alpha margin / (sqrt(2) sigma)) <= epsilon  <=>  alpha / sigma >= sqrt(2) z / margin
    margin, epsilon = 0.5, 0.1
    study = line(margin)
    sigmas = [step / 50 for step in range(1, 51)]
    found = criticality(study, epsilon=epsilon, draws=300, sigmas=sigmas, exact=True, pac_bayes=False).table
    row = found.row(0, named=True)
    squared_distance = 2 * (margin / 2) ** 2
    expected = 2 * (norm.isf(epsilon) / margin) ** 2 * squared_distance
    assert row["criticality"] == pytest.approx(expected, rel=0.35)
    assert abs(row["criticality"] - expected) <= 3 * row["criticality_stderr"] + 0.05 * expected  # and the grid
    assert row["distance"] == pytest.approx(math.sqrt(squared_distance))


def test_the_standard_error_is_that_of_repeated_searches():
    sigmas = [step / 50 for step in range(1, 51)]
    same = {"draws": 60, "sigmas": sigmas, "alphas": [0.5], "exact": True, "pac_bayes": False}
    rows = [criticality(line(0.5), seed=seed, **same).table.row(0, named=True) for seed in range(24)]
    spread = torch.tensor([row["criticality"] for row in rows]).std().item()
    typical = torch.tensor([row["criticality_stderr"] for row in rows if row["criticality_stderr"]]).median().item()
    assert 0.4 < typical / spread < 2.5


@pytest.mark.parametrize("guessed", [False, True])
def test_the_search_finds_the_optimum_of_the_whole_grid_by_the_plain_loop(guessed, monkeypatch):
    study = trained()
    if guessed:  # few pairs would be searched without
        monkeypatch.setattr("shaketable.probes.searches.MANY", 0)
        monkeypatch.setattr("shaketable.engine.search.GUESSED", 50)
    alphas, sigmas = [step / 8 for step in range(9)], [0.03 * 1.4**step for step in range(10)]
    draws, epsilon = 5, 0.12
    found = criticality(study, epsilon=epsilon, alphas=alphas, sigmas=sigmas, draws=draws, exact=True, seed=3).table
    assert study.init is not None
    assert found["monotone"].all()
    for row, (_, layer) in zip(found.to_dicts(), moved_layers(study, "module", "weight").items(), strict=True):
        (name,) = layer.params
        noise = [move_of(study, layer).noise(3, "criticality", layer.name, draw)[name] for draw in range(draws)]
        first, last = study.init[name], study.final[name]
        feasible = {}
        for alpha in alphas:
            for sigma in sigmas:
                errors = []
                for u in noise:
                    weight = (1 - alpha) * first + alpha * last + sigma * u
                    logits = torch.func.functional_call(study.network, {name: weight}, (study.data("train").inputs,))
                    errors.append((logits.argmax(1) != study.data("train").labels).double().mean().item())
                feasible[alpha, sigma] = sum(errors) / draws <= epsilon
        distance = (last - first).double().norm().item()
        values = {point: (point[0] * distance / point[1]) ** 2 for point, holds in feasible.items() if holds}
        assert row["criticality"] == pytest.approx(min(values.values()), rel=1e-6)
        assert row["pac_bayes"] == pytest.approx(min(v for (alpha, _), v in values.items() if alpha == 1), rel=1e-6)


def test_likely_answers_find_what_certain_ones_do_with_fewer_outcomes():
    study = trained(count=3000)
    sigmas = [0.02 * 1.3**step for step in range(15)]
    sure, likely = (criticality(study, draws=4, sigmas=sigmas, exact=exact).table for exact in (True, False))
    columns = ["layer", "criticality", "alpha", "sigma", "pac_bayes"]
    assert sure.select(columns).equals(likely.select(columns))
    assert likely["outcomes"].sum() < sure["outcomes"].sum()


def test_numbers_do_not_depend_on_batches_nor_on_the_level():
    study = trained(count=60)
    sigmas = [0.03 * 1.8**step for step in range(5)]
    tables = [
        criticality(study, draws=2, epsilon=0.2, sigmas=sigmas, **how).table  # pyright: ignore[reportArgumentType]
        for how in ({"batch_size": 7}, {"batch_size": 64}, {"level": "loop"}, {"level": "replay"})
    ]
    for other in tables[1:]:
        assert tables[0].equals(other)


def test_a_layer_that_did_not_move_has_criticality_0_and_a_warning():
    study = trained()
    assert study.init is not None
    init = study.init | {"two.weight": study.final["two.weight"]}
    still = st.Study(study.network, init=init, train=study.train)
    with pytest.warns(UserWarning, match="init equals final in two: the criticality there is 0"):
        found = criticality(still, draws=2)
    row = found.table.filter(pl.col("layer") == "two").row(0, named=True)
    assert (row["criticality"], row["alpha"], row["distance"], row["status"]) == (0, 0, 0, "ok")
    assert "did not move" in row["reason"]
    assert found.summary()["network_criticality"].item() is not None


def test_alpha_0_gives_0_and_a_layer_that_may_go_back_says_so():
    study = line(margin=1.0, init=3.0)  # the init is even better
    row = criticality(study, draws=3).table.row(0, named=True)
    assert (row["criticality"], row["alpha"]) == (0, 0)
    assert row["pac_bayes"] > 0


def test_a_bound_that_no_point_keeps_is_said_and_not_hidden():
    study = line(margin=1e-4)
    found = criticality(study, draws=50, epsilon=0.01, sigmas=[0.5, 1.0])
    row = found.table.row(0, named=True)
    assert (row["status"], row["criticality"], row["alpha"]) == ("infeasible", None, None)
    assert "at every alpha" in row["reason"]
    assert found.summary()["network_criticality"].item() is None
    assert found.summary()["without"].item() == 1


def test_weights_that_cannot_be_perturbed_are_a_row_with_the_reason():
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(2, 2, bias=False)
            self.codes = nn.Parameter(torch.tensor([[1, 0], [0, 1]], dtype=torch.int8), requires_grad=False)

        def forward(self, inputs):
            return self.one(inputs) @ self.codes.float()

    network = Quantised().eval()
    final = {"one.weight": torch.eye(2), "codes": network.codes.data}
    init = final | {"one.weight": -torch.eye(2)}
    study = st.Study(network, final=final, init=init, train=(torch.eye(2), [0, 1]))
    rows = {row["layer"]: row for row in criticality(study, draws=2, parameters="all").table.to_dicts()}
    assert rows["codes"]["status"] == "unavailable"
    assert "int8" in rows["codes"]["reason"]
    assert rows["one"]["criticality"] is not None


def test_grids_may_be_arrays_and_one_draw_has_no_standard_error():
    study = line(0.5)
    same = {"sigmas": [0.25, 0.5, 0.75], "alphas": [0.5, 1.0]}
    arrays = {name: np.array(values) for name, values in same.items()}
    one, other = (criticality(study, epsilon=np.float32(0.5), draws=1, **how) for how in (same, arrays))  # pyright: ignore[reportArgumentType]
    assert one.table.equals(other.table)
    row = one.summary().row(0, named=True)
    assert row["network_criticality"] > 0
    assert row["network_criticality_stderr"] is None


def test_the_failure_probability_is_shared_by_all_thresholds(monkeypatch):
    given = []

    def noted(*args, **kwargs):
        given.append(kwargs["failure"])
        return original(*args, **kwargs)

    from shaketable.probes import searches

    original = searches.run
    monkeypatch.setattr(searches, "run", noted)
    criticality(trained(count=60), epsilon=[0.2, 0.3, 0.4], draws=2, sigmas=[0.1, 0.5], failure=3e-3)
    assert given == pytest.approx([1e-3] * 3)


def test_a_quantised_layer_is_a_row_with_the_reason():
    network = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Identity())
    network[1]._packed_params = object()  # what torch's quantised operators have in the place of parameters
    weights = {"0.weight": torch.tensor([[1.0], [-1.0]])}
    study = st.Study(
        network.eval(), final=weights, init={"0.weight": torch.zeros(2, 1)}, train=(torch.ones(2, 1), [0, 0])
    )
    found = criticality(study, draws=2)
    rows = {row["layer"]: row for row in found.table.to_dicts()}
    assert rows["1"]["status"] == "unavailable"
    assert "quantised" in rows["1"]["reason"]
    assert found.summary()["network_criticality"].item() is None


def test_a_weight_that_is_computed_from_others_is_a_row_with_the_reason():
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)), nn.Linear(3, 2)).eval()
    init = {name: torch.zeros_like(tensor) for name, tensor in snapshot(network).items()}
    inputs = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = network(inputs).argmax(1)
    study = st.Study(network, init=init, train=(inputs, labels))
    rows = {row["layer"]: row for row in criticality(study, draws=2).table.to_dicts()}
    assert rows["0"]["status"] == "unavailable"
    assert "computes its weight" in rows["0"]["reason"]
    assert rows["1"]["criticality"] is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"epsilon": 1.5}, "epsilon=.*from 0 to 1"),
        ({"epsilon": []}, "epsilon="),
        ({"epsilon": [0.1, 0.1]}, "give each number once"),
        ({"threshold": "relative"}, "threshold='relative': use one of absolute, increase, ratio"),
        ({"quantity": "accuracy"}, "quantity='accuracy'"),
        ({"alphas": [0.5, 0.2]}, "alphas=.*ascending"),
        ({"alphas": [0, 1.2]}, r"alphas=.*\[0, 1\]"),
        ({"sigmas": [0, 0.5]}, r"sigmas=.*\(0, 1\] \(at sigma = 0 the criticality is infinite\)"),
        ({"sigmas": []}, "sigmas="),
        ({"sigmas": "wide"}, "sigmas='wide': give numbers"),
        ({"epsilon": None}, "epsilon=None: give numbers"),
        ({"epsilon": True}, "epsilon=True: give numbers"),
        ({"epsilon": float("nan")}, "epsilon=nan: give numbers"),
        ({"failure": "a"}, "failure=a must lie inside"),
        ({"draws": 0}, "draws=0"),
        ({"draws": 1.5}, "draws=1.5: give a whole number"),
        ({"seed": "x"}, "seed='x'"),
        ({"parameters": "bias"}, "parameters='bias'"),
        ({"split": "test"}, "the study has no test data"),
    ],
)
def test_bad_arguments_end_in_one_sentence(arguments, said):
    with pytest.raises(InputError, match=said):
        criticality(line(), **arguments)


def test_without_init_one_sentence_says_how_to_supply_it():
    study = st.Study(nn.Linear(1, 2).eval(), train=(torch.ones(2, 1), [0, 1]))
    with pytest.raises(InputError, match="no initial weights.*init=") as raised:
        criticality(study)
    assert str(raised.value).count(".") < 6


def test_a_clean_error_above_epsilon_is_an_error_with_both_numbers():
    network = nn.Linear(1, 2, bias=False).eval()
    weights = {"weight": torch.tensor([[1.0], [-1.0]])}
    study = st.Study(network, final=weights, init={"weight": torch.zeros(2, 1)}, train=(torch.ones(4, 1), [0, 0, 0, 1]))
    with pytest.raises(InputError, match="clean training error is 0.25, above the bound 0.1"):
        criticality(study)
    assert criticality(study, epsilon=0.1, threshold="increase", draws=2).table["bound"][0] == pytest.approx(0.35)
    assert error_bound(0.25, 0.2, "ratio") == pytest.approx(0.3)


def test_the_loss_within_a_hundredth_of_its_value_is_the_criterion_of_the_public_code():
    study = trained()
    sigmas = [0.01 * 1.4**step for step in range(12)]
    found = criticality(study, quantity="loss", threshold="ratio", epsilon=0.01, draws=3, sigmas=sigmas)
    data = study.data("train")
    clean = nn.functional.cross_entropy(study.network(data.inputs), data.labels).item()
    assert found.table["bound"][0] == pytest.approx(1.01 * clean)
    for row, layer in zip(found.table.to_dicts(), moved_layers(study, "module", "weight").values(), strict=True):
        move, (name,) = move_of(study, layer), layer.params
        losses = []
        for draw in range(3):
            noise = move.noise(0, "criticality", layer.name, draw)[name]
            assert study.init is not None
            weight = (1 - row["alpha"]) * study.init[name] + row["alpha"] * study.final[name] + row["sigma"] * noise
            logits = torch.func.functional_call(study.network, {name: weight}, (data.inputs,))
            losses.append(nn.functional.cross_entropy(logits, data.labels).item())
        assert sum(losses) / 3 <= 1.01 * clean * (1 + 1e-6)


def test_network_criticality_is_the_sum_and_falls_with_epsilon():
    found = criticality(trained(), epsilon=[0.08, 0.15, 0.3], draws=4, pac_bayes=True)
    summary = found.summary()
    for row in summary.to_dicts():
        part = found.table.filter(pl.col("epsilon") == row["epsilon"])
        assert row["network_criticality"] == pytest.approx(part["criticality"].sum())
        assert row["pac_bayes"] == pytest.approx(part["pac_bayes"].sum())
        assert row["network_criticality"] <= row["pac_bayes"]
    assert summary["network_criticality"].to_list() == sorted(summary["network_criticality"], reverse=True)


@pytest.mark.parametrize("guessed", [False, True])
def test_an_interrupted_search_goes_on_where_it_stopped(guessed, tmp_path, monkeypatch):
    study = trained()
    if guessed:
        monkeypatch.setattr("shaketable.probes.searches.MANY", 0)
    expected = criticality(study, draws=3).table
    asked = []
    original = questions.decide

    def counted(*args, **kwargs):
        asked.append(1)
        if len(asked) == 6 and len(list(tmp_path.rglob("provenance.json"))) == 0 and not resumed:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr("shaketable.engine.search.decide", counted)
    resumed = False
    with pytest.raises(KeyboardInterrupt):
        criticality(study, draws=3, store=tmp_path)
    (cells,) = tmp_path.rglob("cells.jsonl")
    kept = sum("round" in json.loads(line).get("key", "") for line in cells.read_text().splitlines())
    assert kept == 5
    asked.clear()
    resumed = True
    found = criticality(study, draws=3, store=tmp_path)
    rounds = len(asked)
    assert found.table.equals(expected)
    asked.clear()
    again = criticality(study, draws=3, store=tmp_path)
    assert again.table.equals(expected)
    assert not asked
    assert rounds > 0
    (folder,) = (path.parent for path in tmp_path.rglob("provenance.json"))
    assert Criticality.load(folder).table.equals(expected)


def test_the_network_and_the_random_state_are_left_alone():
    study = trained()
    before, state = snapshot(study.network), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = criticality(study, draws=2).table
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in snapshot(study.network).items())
    assert not any(module._forward_hooks or module.training for module in study.network.modules())
    assert first.equals(criticality(study, draws=2).table)
    assert not first.equals(criticality(study, draws=2, seed=1).table)
