"""Figures are tested as data: the order of both axes, the rows, what a cell says, and the files that are written."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shaketable import plots
from shaketable.errors import InputError

EVIL = 'conv[0].weight"</script><script>alert(1)</script>'


def summary(layers: Sequence[str] = ("in", "mid", "out"), checkpoints: Sequence[int] = (10, 0, 2)) -> pl.DataFrame:
    """A summary in the probe's columns, in an order that no figure may rely on."""
    rows = []
    for split, base in (("train", 0.0), ("test", 0.01)):
        for position, layer in reversed(list(enumerate(layers))):
            for checkpoint in (*checkpoints, None):
                how = "rerandomise" if checkpoint is None else "reinitialise"
                rows.append(
                    _row(layer, position, how, checkpoint, split, base + (position + 1) / 100 + len(rows) / 1000)
                )
        rows += [
            _row("full model", -1, "none", checkpoint, split, base + checkpoint / 100) for checkpoint in checkpoints
        ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _row(layer: str, position: int, how: str, checkpoint: int | None, split: str, error: float) -> dict[str, Any]:
    names = {"layer": layer, "position": position, "parameters": 6, "perturbation": how, "checkpoint": checkpoint}
    spread = 0.002 if how == "rerandomise" else None
    numbers = {"error": error, "loss": 3 * error, "accuracy_drop": error - 0.01}
    deviations = {f"{name}_std": spread for name in numbers}
    return names | numbers | deviations | {"split": split, "draws": 5 if spread else 1, "status": "ok", "reason": None}


def domains(spec: dict[str, Any]) -> tuple[list[str], list[str]]:
    return spec["encoding"]["x"]["scale"]["domain"], spec["encoding"]["y"]["scale"]["domain"]


def rows_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    (rows,) = spec["datasets"].values()
    return rows


def part(spec: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (layer for layer in spec["layer"] if layer["name"] == name)
    return found


def test_columns_are_rand_then_checkpoints_in_order_and_the_full_model_is_the_last_row() -> None:
    across, down = domains(plots.robustness_heatmap(summary()).to_dict())
    assert across == ["rand", "0", "2", "10"]
    assert down == ["in", "mid", "out", "full model"]


def test_a_deep_network_is_transposed_and_a_shallow_one_is_not() -> None:
    for count, deep in ((12, False), (13, True)):
        layers = [f"layer{index}" for index in range(count)]
        across, down = domains(plots.robustness_heatmap(summary(layers)).to_dict())
        assert (across if deep else down) == [*layers, "full model"]
        assert (down if deep else across) == ["rand", "0", "2", "10"]
        assert domains(plots.robustness_heatmap(summary(layers), transpose=not deep).to_dict()) == (down, across)


@pytest.mark.parametrize("quantity", ["error", "loss", "accuracy_drop"])
@pytest.mark.parametrize("split", ["test", "train"])
def test_the_cells_are_the_numbers_of_the_table(split: str, quantity: Any) -> None:
    table = summary()
    spec = plots.robustness_heatmap(table, split, quantity).to_dict()
    drawn = {(row["layer"], row["column"]): row[quantity] for row in rows_of(spec)}
    labels = [
        "rand" if how == "rerandomise" else str(checkpoint)
        for how, checkpoint in table.filter(split=split).select("perturbation", "checkpoint").iter_rows()
    ]
    wanted = table.filter(split=split)
    assert drawn == dict(zip(zip(wanted["layer"], labels, strict=True), wanted[quantity], strict=True))
    assert len(drawn) == 3 * 4 + 3, "the full model has no cell for re-randomisation"
    assert part(spec, "cells")["encoding"]["color"]["field"] == quantity


def test_a_cell_says_layer_perturbation_numbers_draws_and_remark() -> None:
    spec = plots.robustness_heatmap(summary()).to_dict()
    said = [entry["title"] for entry in part(spec, "cells")["encoding"]["tooltip"]]
    assert said == [
        "layer",
        "perturbation",
        "test error",
        "test loss (nats)",
        "accuracy drop",
        "draws",
        "parameters",
        "remark",
    ]


def test_colours_go_from_zero_to_one_or_to_the_chance_level() -> None:
    def top(**arguments: Any) -> list[float]:
        colour = part(plots.robustness_heatmap(summary(), **arguments).to_dict(), "cells")["encoding"]["color"]
        assert colour["scale"]["clamp"]
        return colour["scale"]["domain"]

    assert top() == [0, 1]
    assert top(classes=10) == [0, 0.9]
    assert top(quantity="loss") == [0, summary().filter(split="test")["loss"].max()]


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
def test_a_cell_without_a_number_is_crossed_out_and_not_zero(nothing: float | None, tmp_path: Path) -> None:
    table = summary(("in", "out"), (0, 1))
    lost = (pl.col("layer") == "in") & (pl.col("perturbation") == "rerandomise")
    table = table.with_columns(error=pl.when(lost).then(pl.lit(nothing, pl.Float64)).otherwise("error"))
    chart = plots.robustness_heatmap(table)
    (hole,) = (row for row in rows_of(chart.to_dict()) if row["error"] is None)
    assert (hole["layer"], hole["column"]) == ("in", "rand")
    svg = plots.save(chart, tmp_path / "holes.svg").read_text()
    assert marks(svg, "cells") == 7
    assert [marks(svg, name) for name in ("unavailable", "cross0", "cross1")] == [1, 1, 1]


def marks(svg: str, name: str) -> int:
    """How many marks of a named part an SVG file has."""
    inside = svg.split(f'{name}_marks"', 1)[1].split("</g>", 1)[0]
    return inside.count("<path") + inside.count("<line")


def test_weights_of_an_unknown_epoch_stand_in_a_last_column() -> None:
    final = pl.DataFrame([_row("full model", -1, "none", None, "test", 0.01)], schema=summary().schema)
    spec = plots.robustness_heatmap(pl.concat([summary(), final])).to_dict()
    assert domains(spec)[0] == ["rand", "0", "2", "10", "final"]


def test_numbers_are_printed_in_a_small_heat_map_only() -> None:
    small = plots.robustness_heatmap(summary()).to_dict()
    large = plots.robustness_heatmap(summary([f"layer{index}" for index in range(40)])).to_dict()
    assert [[layer["name"] for layer in spec["layer"]].count("numbers") for spec in (small, large)] == [1, 0]


def test_curves_have_one_line_per_checkpoint_and_one_for_rand() -> None:
    spec = plots.robustness_curves(summary()).to_dict()
    lines = part(spec, "reinitialised")["encoding"]
    assert lines["x"]["scale"]["domain"] == ["in", "mid", "out"]
    assert lines["color"]["scale"]["domain"] == ["0", "2", "10"]
    assert part(spec, "rerandomised")["encoding"]["color"]["scale"]["domain"] == ["rand"]
    assert "datum.column === '10'" in part(spec, "final")["transform"][0]["filter"]


def test_curves_and_heat_map_are_drawn_from_the_same_rows() -> None:
    heat, curves = plots.robustness_heatmap(summary()).to_dict(), plots.robustness_curves(summary()).to_dict()
    assert heat["datasets"] == curves["datasets"]


def test_distances_are_those_of_the_table_with_the_mean_over_draws() -> None:
    rows = [("in", 0, "reinitialise", 0, None, 4, 0.5, 1.0), ("in", 0, "reinitialise", 3, None, 4, 0.0, 0.0)]
    rows += [("in", 0, "rerandomise", None, draw, 4, 0.2 + draw, 2.0) for draw in range(2)]
    names = ["layer", "position", "perturbation", "checkpoint", "draw", "dimension", "normalised_l2", "linf"]
    spec = plots.distance_heatmap(pl.DataFrame(rows, names, orient="row")).to_dict()
    assert domains(spec) == (["rand", "0", "3"], ["in"])
    drawn = {row["column"]: (row["normalised_l2"], row["linf"]) for row in rows_of(spec)}
    assert drawn == {"rand": (pytest.approx(0.7), 2.0), "0": (0.5, 1.0), "3": (0.0, 0.0)}


def test_the_history_leaves_out_what_was_not_recorded() -> None:
    history = pl.DataFrame(
        {"epoch": [0, 1], "train_error": [0.9, 0.1], "test_error": [0.9, None], "train_loss": [None, None]}
    )
    spec = plots.training_history(history).to_dict()
    (panel,) = spec["hconcat"]
    assert panel["encoding"]["y"]["title"] == "error"
    assert [(row["epoch"], row["curve"], row["value"]) for row in rows_of(spec)] == [
        (0, "train", 0.9),
        (1, "train", 0.1),
        (0, "test", 0.9),
    ]


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: plots.robustness_heatmap(summary(), "valid"), "'valid'; splits that it has: test, train"),
        (lambda: plots.robustness_heatmap(summary(), quantity="f1"), "'f1' is no quantity"),
        (lambda: plots.distance_heatmap(pl.DataFrame(), "l1"), "'l1' is no distance"),
        (lambda: plots.distance_heatmap(pl.DataFrame()), "no row"),
        (lambda: plots.training_history(pl.DataFrame({"epoch": [0]})), "no recorded"),
        (lambda: plots.save(plots.robustness_heatmap(summary()), "figure.bmp"), "figure.bmp"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(draw: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        draw()


def test_each_suffix_gives_a_file_of_its_kind(tmp_path: Path) -> None:
    chart = plots.robustness_heatmap(summary((EVIL, "naïve.層")))
    starts = {".svg": b"<svg", ".png": b"\x89PNG", ".pdf": b"%PDF"}
    for suffix, start in starts.items():
        assert plots.save(chart, tmp_path / f"new/figure{suffix}").read_bytes().startswith(start)
    assert json.loads(plots.save(chart, tmp_path / "new/figure.json").read_text(encoding="utf-8")) == chart.to_dict()
    page = plots.save(chart, tmp_path / "new/figure.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert page.count("</script>") == 2, "a name in the data ends no script"
    assert "naïve.層" in page
    assert {file.suffix for file in (tmp_path / "new").iterdir()} == {".svg", ".png", ".pdf", ".json", ".html"}


def test_a_name_from_outside_is_a_value_and_no_part_of_a_field_or_an_expression() -> None:
    spec = plots.robustness_heatmap(summary((EVIL, "a'b", "__proto__", "x[0].y"))).to_dict()
    assert domains(spec)[1] == [EVIL, "a'b", "__proto__", "x[0].y", "full model"]
    del spec["datasets"], spec["encoding"]["y"]["scale"]
    assert "script" not in json.dumps({key: value for key, value in spec.items() if key != "$schema"})
