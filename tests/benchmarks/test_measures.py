"""The benchmarks of measures: both sides of the statistics, and what a row of a small network says."""

import pytest
import torch
from benchmarks.common import Options

from benchmarks import measures
from shaketable.training import Recipe


def test_both_sides_of_the_statistics_give_the_same_numbers():
    assert measures.ours(*measures.zoo(60, 0)) == pytest.approx(measures.loops(*measures.zoo(60, 0)), abs=1e-9)


def test_answers_that_differ_are_noticed(monkeypatch):
    monkeypatch.setattr(measures, "LOOPED", 30)
    monkeypatch.setattr(measures, "NETWORKS", 40)
    monkeypatch.setattr(measures, "COLUMNS", 2)
    (row,) = measures.statistics("statistics", Options(repeats=1))
    assert row.identical
    assert row.sampled
    monkeypatch.setattr(measures, "loops", lambda *columns: [0.0, 0.0, 0.0])
    (row,) = measures.statistics("statistics", Options(repeats=1))
    assert not row.identical


def test_prunability_and_flatness_are_compared_with_the_naive_loop(tmp_path, monkeypatch):
    recipe = Recipe(network="fcn-1x16", epochs=3, data_args={"train_examples": 300, "test_examples": 20})
    monkeypatch.setattr(measures, "EXAMPLES", 400)
    monkeypatch.setattr(measures, "NIN", recipe)
    monkeypatch.setattr(measures, "SEARCHES", {measures.RESNET: type("Work", (), {"recipe": recipe})})
    monkeypatch.setattr(measures, "best_batch", lambda network, data: 64)
    for benchmark in (measures.prune, measures.flatness):
        rows = benchmark("a toy", Options(repeats=1, runs=tmp_path))
        assert rows
        assert all(row.identical and row.examples == 400 for row in rows)


def test_the_share_of_the_longest_measure_is_told(tmp_path, monkeypatch):
    recipe = Recipe(network="fcn-1x4", epochs=1, data_args={"train_examples": 100, "test_examples": 20})
    monkeypatch.setattr(measures, "NIN", recipe)
    few = {name: measures.MEASURES[name] for name in ("path_norm", "prunability", "number_of_parameters")}
    monkeypatch.setattr(measures, "MEASURES", few)
    (row,) = measures.every_measure("a toy", Options(repeats=1, runs=tmp_path))
    assert row.variants == 3
    assert row.more["longest"] in few
    assert row.ratio is not None
    assert 1 / 3 <= row.ratio <= 1


def test_training_data_are_repeated_to_what_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "EXAMPLES", 250)
    recipe = Recipe(network="fcn-1x4", epochs=1, data_args={"train_examples": 100, "test_examples": 20})
    labels = measures.study_of(recipe, Options(runs=tmp_path)).data("train").labels
    assert torch.equal(labels[:100], labels[100:200])
    assert len(labels) == 250
