"""Figures of layers that are reset together, as data."""

from typing import Any

import polars as pl
import pytest

from shaketable.errors import InputError
from shaketable.plots.layer_sets import joint_heatmap, trade_off_curve
from shaketable.probes.layer_sets import SCHEMA

LAYERS = ["a", "b", "c", "d"]
GROUPS = {"odd": ["b", "d"], "rest of odd": ["a", "c"], "last": ["c", "d"]}


def row(group: str, perturbation: str, checkpoint: int | None, error: float | None, **more: Any) -> dict[str, Any]:
    position = -1 if group == "full model" else list(GROUPS).index(group)
    numbers = {"error": error, "loss": error, "accuracy_drop": error}
    spread = {f"{name}_std": None for name in numbers}
    facts = {"group": group, "position": position, "layers": 2, "parameters": 10, "split": "test", "draws": 1}
    return facts | numbers | spread | {"perturbation": perturbation, "checkpoint": checkpoint, "reason": None} | more


def summary(removed: float | None = 0.3) -> pl.DataFrame:
    rows = [row("full model", "none", 0, 0.9), row("full model", "none", 5, 0.01)]
    for number, group in enumerate(GROUPS):
        rows += [row(group, "reinitialise", 0, 0.1 + number / 10), row(group, "reinitialise", 5, 0.01)]
        rows += [row(group, "rerandomise", None, 0.8), row(group, "remove", None, removed)]
    return pl.DataFrame(rows, infer_schema_length=None)


def values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return spec["datasets"][spec["data"]["name"]]


def test_every_layer_of_a_group_has_the_numbers_of_its_group_and_the_group_is_starred_and_blue():
    spec = joint_heatmap(summary(), GROUPS, LAYERS).to_dict()
    found = {(r["layer"], r["column"]): r["error"] for r in values(spec)}
    assert spec["encoding"]["y"]["scale"]["domain"] == ["a", "* b", "c", "* d", "full model"]
    assert spec["encoding"]["x"]["scale"]["domain"] == ["removed", "rand", "0", "5"]
    assert found["* b", "0"] == found["* d", "0"] == 0.1
    assert found["a", "0"] == found["c", "0"] == 0.2
    assert found["a", "removed"] == 0.3
    assert found["full model", "0"] == 0.9
    colour = spec["encoding"]["y"]["axis"]["labelColor"]["condition"]
    assert colour["value"] == "#0072b2"
    assert "datum.label" in colour["test"]


def test_layers_of_no_group_are_left_out_or_stand_alone_and_nothing_removed_has_no_column():
    spec = joint_heatmap(summary(None), GROUPS, LAYERS, group="last").to_dict()
    assert spec["encoding"]["y"]["scale"]["domain"] == ["* c", "* d", "full model"]
    assert "removed" not in spec["encoding"]["x"]["scale"]["domain"]
    alone = {"layer": "a", "position": 0, "kind": "Linear"}
    own = row("last", "reinitialise", 0, 0.77) | alone
    spec = joint_heatmap(
        summary(), GROUPS, LAYERS, group="last", individual=pl.DataFrame([own]), transpose=True
    ).to_dict()
    assert spec["encoding"]["x"]["scale"]["domain"] == ["a", "* c", "* d", "full model"]
    (found,) = [r for r in values(spec) if r["layer"] == "a"]
    assert (found["error"], found["alone"], found["group"]) == (0.77, True, "-")


def test_groups_that_share_a_layer_or_do_not_exist_are_refused():
    with pytest.raises(InputError, match="layer 'd' is in two groups, 'odd' and 'last'"):
        joint_heatmap(summary(), GROUPS, LAYERS, group=["odd", "last"])
    with pytest.raises(InputError, match="'even' is no group of this table"):
        joint_heatmap(summary(), GROUPS, LAYERS, group="even")


def test_the_trade_off_curve_has_every_set_that_was_counted_the_best_marked_and_the_tolerance():
    sets = [("", 0, 0.1), ("a", 1, 0.2), ("b", 1, 0.15), ("a + b", 2, 0.6)]
    rows = [
        dict.fromkeys(SCHEMA) | {"step": n, "layers": n, "size": n, "set": s, "error": e, "split": "test"}
        for s, n, e in sets
    ]
    rows.append(rows[-1] | {"set": "a + c", "error": None, "status": "given up"})
    table = pl.DataFrame(rows, schema=SCHEMA)
    spec = trade_off_curve(table, table.filter(~pl.col("set").is_in(["a", "a + c"])), tolerance=0.05).to_dict()
    assert {r["set"]: r["best"] for r in values(spec)} == {"": True, "a": False, "b": True, "a + b": True}
    (rule,) = [layer for layer in spec["layer"] if layer["mark"]["type"] == "rule"]
    assert rule["name"] == "tolerance 0.15"
    unknown: Any = "bytes"
    with pytest.raises(InputError, match="is no size"):
        trade_off_curve(table, table, size=unknown)
    with pytest.raises(InputError, match="has no row"):
        trade_off_curve(table.clear(), table.clear())
