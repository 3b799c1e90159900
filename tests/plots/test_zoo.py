"""The figures of a zoo, as data."""

import polars as pl
import pytest
from tests.zoo.test_ranking import made

from shaketable import plots
from shaketable.errors import InputError
from shaketable.zoo import rank


@pytest.fixture(scope="module")
def ranking():
    return rank(made(path_norm=lambda n, w, d, s, gap: gap, training_loss=lambda n, *_: float(n % 5) - 2))


def rows(spec):
    (data,) = spec["datasets"].values()
    return data


def test_the_scatter_has_a_point_for_each_network_with_its_value_and_its_gap(ranking):
    spec = plots.measure_scatter(ranking.points, "path_norm").to_dict()
    found = rows(spec)
    assert len(found) == 12
    assert all(row["value"] == row["target"] for row in found)
    assert spec["layer"][0]["encoding"]["y"]["title"].startswith("gap")


def test_the_ranks_of_a_measure_that_is_the_gap_lie_on_the_diagonal(ranking):
    found = rows(plots.rank_plot(ranking.points, "path_norm").to_dict())
    assert all(row["rank"] == row["target_rank"] for row in found)
    assert sorted(row["rank"] for row in found) == list(range(1, 13))


def test_the_heat_map_has_a_cell_for_each_measure_and_axis_and_grey_where_there_is_none(ranking):
    spec = plots.tau_heatmap(ranking.axes).to_dict()
    assert {(row["measure"], row["axis"]) for row in rows(spec)} == {
        (measure, axis) for measure in ("path_norm", "training_loss") for axis in ("width", "weight_decay")
    }
    assert spec["layer"][0]["encoding"]["color"]["scale"]["domain"] == [-1, 1]
    related = rows(plots.tau_heatmap(ranking.relations, across="other").to_dict())
    assert [row["tau"] is None for row in related] == [True, False, False, True]


def test_a_measure_that_there_is_not_and_an_empty_table_are_errors(ranking):
    with pytest.raises(InputError, match="no measure of these points"):
        plots.measure_scatter(ranking.points, "path")
    with pytest.raises(InputError, match="nothing to draw"):
        plots.tau_heatmap(pl.DataFrame(schema={"measure": pl.String, "axis": pl.String, "tau": pl.Float64}))
