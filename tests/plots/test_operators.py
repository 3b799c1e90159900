"""Figures of spectra, operator norms and similarity as data, from the probes' own tables of a small network."""

from typing import Any

import polars as pl
import pytest
import torch
from tests.plots.test_robustness import domains, rows_of
from torch import nn

from shaketable import plots
from shaketable.errors import InputError
from shaketable.params import snapshot
from shaketable.probes import operator_norms, similarity, spectra
from shaketable.study import Study


@pytest.fixture(scope="module")
def study() -> Study:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
        init = snapshot(network)
        for parameter in network.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        inputs = torch.randn(40, 3)
    return Study(network, init=init, train=(inputs, [0, 1] * 20))


def test_spectra_have_a_panel_for_each_layer_and_a_curve_for_each_checkpoint(study: Study) -> None:
    table = spectra(study)
    spec = plots.spectrum_curves(table).to_dict()
    assert spec["facet"]["sort"] == ["0", "2"]
    assert spec["spec"]["encoding"]["color"]["scale"]["domain"] == ["0", "final"]
    drawn = {(row["layer"], row["column"], row["index"]): row["singular_value"] for row in rows_of(spec)}
    assert len(drawn) == len(table)
    assert drawn[("2", "final", 0)] == pytest.approx(float(torch.linalg.matrix_norm(study.final["2.weight"], 2)))
    with pytest.raises(InputError, match="no layer 'x'"):
        plots.spectrum_curves(table, "x")
    with pytest.raises(InputError, match="no layer of the table has a spectrum"):
        plots.spectrum_curves(table.with_columns(singular_value=pl.lit(None, pl.Float64)))


def test_operator_norms_are_those_of_the_table_over_checkpoints(study: Study) -> None:
    table = operator_norms(study)
    spec = plots.operator_norm_heatmap(table).to_dict()
    assert domains(spec) == (["0", "final"], ["0", "2"])
    drawn = {(row["layer"], row["column"]): row["operator_distance"] for row in rows_of(spec)}
    assert study.init is not None
    way = study.final["0.weight"] - study.init["0.weight"]
    assert drawn[("0", "0")] == pytest.approx(float(torch.linalg.matrix_norm(way, 2)), rel=1e-6)
    assert drawn[("2", "final")] == 0
    assert domains(plots.operator_norm_heatmap(table, transpose=True).to_dict()) == (["0", "2"], ["0", "final"])
    unknown: Any = "norm"
    with pytest.raises(InputError, match="'norm' is no norm"):
        plots.operator_norm_heatmap(table, unknown)


def test_a_layer_of_several_weights_has_a_row_for_each(study: Study) -> None:
    table = operator_norms(study, by={"all": ["*.weight"]})
    assert domains(plots.operator_norm_heatmap(table).to_dict())[1] == ["0.weight", "2.weight"]


def test_similarity_is_rewound_by_measured_layer_or_measured_layer_by_class(study: Study) -> None:
    table = similarity(study, per_class=True)
    spec = plots.similarity_heatmap(table).to_dict()
    assert domains(spec) == (["0", "2"], ["0", "2"])
    drawn = {(row["rewound"], row["layer"]): row["cka"] for row in rows_of(spec)}
    assert drawn[("2", "0")] == 1, "what comes before a rewound layer is as it was"
    assert drawn[("0", "2")] == table.filter(pl.col("class").is_null(), rewound="0", layer="2")["cka"][0]
    one = plots.similarity_heatmap(table, "0").to_dict()
    assert domains(one) == (["all", "0", "1"], ["0", "2"])
    labelled = {(row["layer"], row["label"]): row["cka"] for row in rows_of(one)}
    assert labelled[("2", "1")] == table.filter(pl.col("class") == 1, rewound="0", layer="2")["cka"][0]
    with pytest.raises(InputError, match="no rewound layer 'x'; it has 0, 2"):
        plots.similarity_heatmap(table, "x")
