"""Figures of paths and valleys as data."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.plots.test_robustness import part, rows_of
from tests.tables import paths, valley

from shaketable import plots
from shaketable.errors import InputError


def test_path_curves_are_the_numbers_of_the_split_with_all_layers_apart() -> None:
    table = paths().table
    spec = plots.path_curves(table, "train", "loss").to_dict()
    drawn = {(row["layer"], row["alpha"]): row["loss"] for row in rows_of(spec)}
    wanted = table.filter(split="train")
    assert drawn == {(row["layer"], row["alpha"]): row["loss"] for row in wanted.to_dicts()}
    assert part(spec, "layers")["encoding"]["color"]["scale"]["domain"] == ["in", "mid", "out"]
    assert part(spec, "together")["encoding"]["color"]["scale"]["domain"] == ["all layers"]


def test_layers_of_the_path_can_be_chosen() -> None:
    spec = plots.path_curves(paths().table, layers=["out", "in"]).to_dict()
    assert part(spec, "layers")["encoding"]["color"]["scale"]["domain"] == ["in", "out"]
    assert [layer["name"] for layer in spec["layer"]] == ["layers"]
    with pytest.raises(InputError, match="no layer 'x'; it has all layers, in, mid, out"):
        plots.path_curves(paths().table, layers="x")
    with pytest.raises(InputError, match="'valid' is no split"):
        plots.path_curves(paths().table, "valid")


def test_many_layers_have_a_scale_of_colours_instead_of_dashes(tmp_path: Path) -> None:
    names = [f"encoder.layer.{index}.attention.output.dense" for index in range(60)]
    chart = plots.path_curves(paths(names).table)
    encoding = part(chart.to_dict(), "layers")["encoding"]
    assert encoding["color"]["scale"]["scheme"] == "viridis"
    assert "strokeDash" not in encoding
    assert plots.save(chart, tmp_path / "many.png").stat().st_size > 1000


def panels_of(spec: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The layer and the rows of each panel."""
    return [(one["title"]["text"], spec["datasets"][one["data"]["name"]]) for one in spec["concat"]]


def test_the_valley_is_drawn_over_alpha_and_signed_noise_the_side_of_init_above() -> None:
    surface = valley().surface()
    spec = plots.valley_surface(surface).to_dict()
    assert spec["encoding"]["x"]["scale"]["domain"] == ["0", "0.5", "1"]
    assert spec["encoding"]["y"]["scale"]["domain"] == ["1", "0.1", "0", "−0.1", "−1"]
    drawn = {(row["alpha"], row["noise"]): row["loss"] for row in rows_of(spec)}
    assert len(drawn) == 15
    assert drawn[("0.5", "−1")] == surface.filter(alpha=0.5, y=-1.0)["loss"][0]
    assert drawn[("0.5", "1")] > drawn[("0.5", "−1")], "as in the table"


def test_the_panels_of_several_valleys_share_their_colours() -> None:
    steep = (
        valley(("in", "out"))
        .surface()
        .with_columns(loss=pl.when(pl.col("layer") == "out").then(pl.col("loss") * 7).otherwise("loss"))
    )
    spec = plots.valley_surface(steep).to_dict()
    tops = {tuple(one["layer"][0]["encoding"]["color"]["scale"]["domain"]) for one in spec["hconcat"]}
    assert tops == {(0, steep["loss"].max())}


def test_the_grid_has_error_and_loss_of_each_layer_and_they_are_drawn(tmp_path: Path) -> None:
    other = (pl.col("layer") == "out") & (pl.col("sigma") == 1)
    summary = valley(("in", "out")).summary().with_columns(error=pl.when(other).then(0.123).otherwise("error"))
    chart = plots.valley_grid(summary)
    panels = panels_of(chart.to_dict())
    assert [name for name, _ in panels] == ["in", "in", "out", "out"]
    assert {row["error"] for row in panels[2][1] if row["noise"] == "1"} == {0.123}
    svg = plots.save(chart, tmp_path / "grid.svg").read_text()
    assert [svg.count(said) for said in ("; error: 12%", "; error: 12.30%")] == [3, 3], "in both panels of that layer"


def test_a_point_without_a_number_is_crossed(tmp_path: Path) -> None:
    lost = (pl.col("alpha") == 0.5) & (pl.col("sigma") == 1)
    surface = valley().surface().with_columns(loss=pl.when(~lost).then("loss"))
    svg = plots.save(plots.valley_surface(surface), tmp_path / "hole.svg").read_text()
    assert svg.split('cross0_marks"', 1)[1].split("</g>", 1)[0].count("<line") == 2
    unknown: Any = "f1"
    with pytest.raises(InputError, match="'f1' is no quantity"):
        plots.valley_surface(surface, unknown)
    with pytest.raises(InputError, match="no row"):
        plots.valley_grid(valley().summary().clear())
