"""Joint criticality: what is found is feasible by the plain loop, and near the optimum where that can be searched whole."""

import itertools
import json

import polars as pl
import pytest
import torch
from tests.probes.test_criticality import line, trained
from torch import nn

import shaketable as st
from shaketable.errors import InputError
from shaketable.probes import JointCriticality, joint_criticality
from shaketable.probes.moves import move_of, moved_layers

SIGMAS = [0.02 * 1.5**step for step in range(9)]


def error_of(study: st.Study, setting: dict[str, tuple[float, float]], draws: int, seed: int = 0) -> float:
    """The mean error over draws with all layers perturbed, by torch alone."""
    data, errors = study.data("train"), []
    assert study.init is not None
    for draw in range(draws):
        weights = {}
        for layer in moved_layers(study, "module", "weight").values():
            (name,), (alpha, sigma) = layer.params, setting[layer.name]
            noise = move_of(study, layer).noise(seed, "criticality", layer.name, draw)[name]
            weights[name] = (1 - alpha) * study.init[name] + alpha * study.final[name] + sigma * noise
        logits = torch.func.functional_call(study.network, weights, (data.inputs,))
        errors.append((logits.argmax(1) != data.labels).double().mean().item())
    return sum(errors) / draws


def setting_of(found: JointCriticality) -> dict[str, tuple[float, float]]:
    return {row["layer"]: (row["alpha"], row["sigma"]) for row in found.table.to_dicts()}


def test_what_is_found_keeps_the_bound_and_is_the_sum_of_its_terms():
    study = trained()
    found = joint_criticality(study, epsilon=0.12, draws=4, sigmas=SIGMAS, exact=True)
    row = found.summary().row(0, named=True)
    error = error_of(study, setting_of(found), 4)
    assert error <= 0.12
    assert row["error"] == pytest.approx(error)
    terms = found.table.select((pl.col("alpha") * pl.col("distance") / pl.col("sigma")) ** 2).to_series()
    assert found.table["criticality"].to_list() == pytest.approx(terms.to_list())
    assert row["joint_criticality"] == pytest.approx(terms.sum())
    assert row["joint_criticality"] >= row["network_criticality"] * 0.99  # alone, each has the whole bound for itself


def test_a_sweep_over_the_layers_makes_the_value_smaller_or_leaves_it():
    study = trained()
    values = [
        joint_criticality(study, draws=3, epsilon=0.15, sigmas=SIGMAS, sweeps=sweeps).summary().row(0, named=True)
        for sweeps in (0, 1, 2)
    ]
    found = [row["joint_criticality"] for row in values]
    assert found == sorted(found, reverse=True)
    assert found[1] < found[0] == values[0]["shared"] == values[2]["shared"]


def test_it_is_near_the_optimum_of_the_whole_joint_grid():
    study = trained(count=60)
    network = nn.Sequential(study.network.one, nn.ReLU(), study.network.three).eval()
    keys = {"0.weight": "one.weight", "0.bias": "one.bias", "2.weight": "three.weight", "2.bias": "three.bias"}
    assert study.init is not None
    init = {new: study.init[old] for new, old in keys.items()}
    final = {new: study.final[old] for new, old in keys.items()}
    small = st.Study(network, init=init, final=final, train=study.train)
    clean = error_of(small, {"0": (1.0, 0.0), "2": (1.0, 0.0)}, 1)
    epsilon, alphas, sigmas, draws = clean + 0.1, [0.0, 0.25, 0.5, 0.75, 1.0], [0.05 * 1.6**k for k in range(6)], 3
    found = joint_criticality(small, epsilon=epsilon, alphas=alphas, sigmas=sigmas, draws=draws, sweeps=3, exact=True)
    distance = {row["layer"]: row["distance"] for row in found.table.to_dicts()}
    best = min(
        sum((alpha * distance[name] / sigma) ** 2 for name, (alpha, sigma) in setting.items())
        for points in itertools.product(itertools.product(alphas, sigmas), repeat=2)
        for setting in [dict(zip(("0", "2"), points, strict=True))]
        if error_of(small, setting, draws) <= epsilon
    )
    value = found.summary()["joint_criticality"].item()
    assert best * 0.75 <= value <= best * 1.5  # its sigmas lie between those of the grid, too: below is possible


def test_layers_that_may_all_go_back_together_have_value_0():
    found = joint_criticality(line(margin=1.0, init=3.0), draws=2)
    assert found.summary()["joint_criticality"].item() == 0


def test_a_bound_that_nothing_joint_keeps_is_an_error_that_says_so():
    study = trained()
    with pytest.raises(InputError, match="layer 'one' has no criticality: its error exceeds the bound"):
        joint_criticality(study, epsilon=0.0, threshold="increase", sigmas=[0.9, 1.0], draws=2)
    with pytest.raises(InputError, match="sweeps=-1"):
        joint_criticality(study, sweeps=-1)


def test_an_interrupted_search_goes_on_where_it_stopped(tmp_path, monkeypatch):
    study = trained(count=60)
    same = {"draws": 2, "epsilon": 0.2, "sigmas": SIGMAS}
    expected = joint_criticality(study, **same).table
    from shaketable.engine import questions

    original, asked = questions.decide, []

    def counted(*args, **kwargs):
        asked.append(1)
        if len(asked) == stop_at:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr("shaketable.engine.search.decide", counted)
    stop_at = -1
    joint_criticality(study, **same)
    total = len(asked)
    asked.clear()
    stop_at = total - 3
    with pytest.raises(KeyboardInterrupt):
        joint_criticality(study, **same, store=tmp_path)
    asked.clear()
    stop_at = -1
    found = joint_criticality(study, **same, store=tmp_path)
    assert len(asked) == 4  # the one that was interrupted, and the rest
    assert found.table.equals(expected)
    kinds = {json.loads(path.read_text())["provenance"]["seconds"] is not None for path in tmp_path.rglob("prov*.json")}
    assert kinds == {True}
