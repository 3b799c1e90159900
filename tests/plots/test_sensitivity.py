"""The figure of sensitivity, as data."""

from typing import Any

import polars as pl
import pytest
from tests.tables import sensitivity

from shaketable import plots
from shaketable.errors import InputError


def test_a_column_for_each_size_of_noise_and_each_fraction_removed_and_a_cross_where_nothing_was_pruned():
    result = sensitivity(unpruned=("norm",))
    spec = plots.sensitivity_heatmap(result.summary(), "test").to_dict()
    rows = spec["datasets"][spec["data"]["name"]]
    found = {(row["layer"], row["column"]): row["error"] for row in rows}
    assert spec["encoding"]["x"]["scale"]["domain"] == ["noise 0.1", "noise 1.0", "pruned 0.5", "pruned 0.9"]
    assert spec["encoding"]["y"]["scale"]["domain"] == ["in", "norm", "out"]
    assert found["norm", "pruned 0.5"] is None
    mean = result.table.filter(layer="in", perturbation="noise", magnitude=0.1, split="test")["error"].mean()
    assert found["in", "noise 0.1"] == pytest.approx(mean)


def test_layers_are_columns_where_there_are_many_and_what_is_not_there_is_said():
    many = sensitivity(layers=[f"layer{i}" for i in range(13)])
    assert len(plots.sensitivity_heatmap(many.summary()).to_dict()["encoding"]["x"]["scale"]["domain"]) == 13
    with pytest.raises(InputError, match="no layer of the split 'train'"):
        plots.sensitivity_heatmap(many.summary().filter(pl.col("split") == "test"), "train")
    unknown: Any = "speed"
    with pytest.raises(InputError, match="is no quantity"):
        plots.sensitivity_heatmap(many.summary(), quantity=unknown)
