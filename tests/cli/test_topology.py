"""The commands about networks before training."""

import json
from pathlib import Path

import pytest
from tests.cli.commands import answer, call

from shaketable.training import Recipe, train

EXAMPLE = ["--depth", "4", "--width", "2,3,4", "--links", "3,4,5"]
REFERENCE = ["design", "--reference", "6x4t6-6x8t12", "--shape", "3", "8", "8", "--step", "1"]


def test_mass_of_the_example_of_appendix_d_has_every_key(capsys):
    code, out, _ = call("mass", *EXAMPLE, "--json", capsys=capsys)
    found = answer(out)
    assert code == 0
    assert found["nn_mass"] == pytest.approx(28.0)
    assert found["nn_density"] == pytest.approx(0.787037, abs=1e-6)
    assert found["cell_density"] == pytest.approx([5 / 6, 7 / 9, 3 / 4])
    assert (found["parameters"], found["flops"]) == (2464, 2239568)
    code, out, _ = call("mass", "--depth", "4,4,4", *EXAMPLE[2:], "--json", capsys=capsys)
    assert answer(out) == found


def test_mass_of_a_design_is_told_and_its_cells_are_drawn(tmp_path, capsys):
    code, out, _ = call("mass", *EXAMPLE, "--report", tmp_path / "cells.html", capsys=capsys)
    assert code == 0
    assert "NN-Mass" in out
    assert "long-range links" in (tmp_path / "cells.html").read_text(encoding="utf-8")


def test_mass_of_any_network_is_that_of_its_graph_and_says_what_zero_means(capsys):
    code, out, _ = call("mass", "--network", "linked-4x2t3", "--shape", "1", "8", "8", "--json", capsys=capsys)
    assert (code, answer(out)["nn_mass"]) == (0, pytest.approx(8 * 5 / 6))
    code, out, _ = call("mass", "--network", "resnet18", "--network-arg", "width=0.05", "--json", capsys=capsys)
    found = answer(out)
    assert (code, found["nn_mass"], found["additions"]) == (0, 0.0, 8)
    assert "says nothing about how good" in found["notes"][0]
    more = ["--additive", "bhardwaj2021", "--json"]
    code, out, _ = call("mass", "--network", "resnet18", "--network-arg", "width=0.05", *more, capsys=capsys)
    assert answer(out)["nn_mass"] > 0


def test_a_run_of_a_linked_network_gets_its_cells_into_its_report(tmp_path, capsys):
    data = {"train_examples": 20, "test_examples": 20}
    run = train(Recipe(network="linked-3x4t4", data="digits", data_args=data, epochs=1), out=tmp_path)
    code, out, _ = call("mass", run.path, "--json", capsys=capsys)
    assert (code, answer(out)["nn_mass"]) == (0, pytest.approx(12.0))
    assert "Cells and their long-range links" in (run.path / "report.html").read_text(encoding="utf-8")
    drawn = ["--figures", tmp_path / "figures"]
    code, out, _ = call("report", run.path, "--out", tmp_path / "again.html", *drawn, "--json", capsys=capsys)
    figures = {f"cell-1-{what}.{suffix}" for what in ("links", "matrix") for suffix in ("svg", "png")}
    assert code == 0
    assert {path.name for path in (tmp_path / "figures").iterdir()} == figures
    assert {Path(path).name for path in answer(out)["figures"]} == figures
    assert "Cells and their long-range links" in (tmp_path / "again.html").read_text(encoding="utf-8")


def test_designs_of_the_reference_s_mass_are_listed_and_written(tmp_path, capsys):
    files = ["--out", tmp_path / "all.json", "--recipe", tmp_path / "small.json"]
    code, out, _ = call(*REFERENCE, "--depths", "4,5,6", *files, "--json", capsys=capsys)
    found = answer(out)
    assert (code, found["candidates"]) == (0, 9 * 17 + 13 * 25 + 17 * 33)
    best = found["designs"][0]
    assert abs(best["nn_mass"] / found["mass"] - 1) <= 0.05
    assert json.loads((tmp_path / "all.json").read_text())["designs"] == found["designs"]
    assert Recipe.from_file(tmp_path / "small.json").network == f"linked-{best['cells']}"
    code, out, _ = call(*REFERENCE, capsys=capsys)
    assert code == 0
    assert "and " in out
    assert "train it to know" in " ".join(out.split())


def test_a_file_in_the_place_of_the_folder_of_what_is_written_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for option in ("--out", "--recipe"):
        code, out, err = call(
            *REFERENCE, "--depths", "4", option, tmp_path / "file" / "x.json", "--json", capsys=capsys
        )
        assert (code, err.count("\n")) == (2, 1)
        assert "file: is a file, and a folder is needed there" in answer(out)["error"]


def test_depths_up_to_the_deepest_cell_of_the_reference_are_tried_without_others(capsys):
    code, out, _ = call("design", "--reference", "4x4t6-6x8t10", "--step", "2", "--json", capsys=capsys)
    assert (code, answer(out)["candidates"]) == (0, 7 * 13 + 9 * 17)


def test_a_latency_is_measured_where_it_is_limited(capsys):
    few = ["--depths", "4", "--step", "4"]
    code, out, _ = call(*REFERENCE[:-2], *few, "--tolerance", "0.3", "--max-latency", "60", "--json", capsys=capsys)
    assert code == 0
    assert all(0 < row["latency"] < 60 for row in answer(out)["designs"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mass"], "give one of these: --depth, --width and --links of a design"),
        (["mass", "--depth", "4", "--width", "2"], "--links is missing"),
        (["mass", "--depth", "4", "--width", "2,3", "--links", "1,2,3"], "--width has 2 numbers for 3 cells"),
        (["mass", "--depth", "4", "--width", "2.5", "--links", "3"], "--width 2.5: give whole numbers"),
        (["mass", "--depth", "-4", "--width", "2", "--links", "3"], "a cell's depth is -4"),
        (["mass", "--depth=4", "--width=2", "--links=-3"], "a cell's links is -3"),
        (["mass", "--depth", "4", "--width", "2", "--links", "3", "--shape", "3", "32"], "takes images"),
        (["mass", "--depth", "4", "--width", "2", "--links", "3", "--classes", "0"], "classes must be"),
        (["mass", "--depth", "4", "--width", "2", "--links", "3", "--additive", "bhardwaj2021"], "leave them out"),
        (["mass", "--network", "linked-4x2t3", "--mlp"], "--mlp is for --depth"),
        (["mass", "--network", "vit-2x16", "--network-arg", "patch=8"], "cannot be followed through"),
        (["design"], "give either --reference"),
        (["design", "--mass", "9"], "--mass needs --width and --depths"),
        (["design", "--mass", "0", "--width", "4", "--depths", "5"], "give one above 0"),
        (["design", "--reference", "6x4"], "'6x4' names no cells"),
        ([*REFERENCE, "--max-parameters", "-1"], "the limit parameters=-1.0 is not above 0"),
        ([*REFERENCE, "--shape", "3", "0", "8"], "whole numbers above 0"),
        ([*REFERENCE, "--depths", "2"], "depth=2 in a space of designs"),
        ([*REFERENCE, "--tolerance", "2"], "tolerance=2.0"),
        ([*REFERENCE, "--max-parameters", "500"], "the nearest is"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(arguments, said, capsys):
    code, _, err = call(*arguments, capsys=capsys)
    assert code in (1, 2)
    assert said in err
    assert len(err.strip().splitlines()) == 1
