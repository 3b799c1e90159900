"""The commands that give numbers about a whole network, and the report that gathers all results of a run."""

import json

import numpy as np
import pytest
from tests.cli.commands import answer, call

from shaketable import cli
from shaketable.measures import MEASURES
from shaketable.study import Study

QUICK = ["--only", "number_of_parameters", "squared_distance_to_init"]
BOUND = ["--draws", 3, "--search-draws", 1]


def test_every_measure_has_a_row_with_its_direction_and_a_number_or_a_reason(trained, capsys):
    code, out, _ = call("measure", trained, "--draws", 2, "--json", capsys=capsys)
    rows = answer(out)["measures"]
    assert code == 0
    assert [row["measure"] for row in rows] == list(MEASURES)
    assert all(row["direction"] in ("lower", "higher") for row in rows)
    assert all(row["reason"] or row["value"] is not None or row["log10"] is not None for row in rows)
    (searched,) = (row for row in rows if row["measure"] == "network_criticality")
    assert "the clean training error is" in searched["reason"], "this network has learnt next to nothing"


def test_measures_are_listed_with_needs_direction_and_paper(capsys):
    code, out, _ = call("measures", "--json", capsys=capsys)
    assert code == 0
    listed = answer(out)["measures"]
    assert list(listed) == list(MEASURES)
    one = listed["squared_distance_to_init"]
    assert (one["needs"], one["direction"]) == (["init"], "lower")
    _, told, _ = call("measures", capsys=capsys)
    assert all(kind.paper in told for kind in MEASURES.values())
    assert "shaketable[weightwatcher]" in told


def test_the_number_of_parameters_is_that_of_the_network(trained, capsys):
    _, out, _ = call("measure", trained, *QUICK, "--json", capsys=capsys)
    count = {row["measure"]: row["value"] for row in answer(out)["measures"]}["number_of_parameters"]
    assert count == (64 * 8 + 8) + (8 * 8 + 8) + (8 * 10 + 10)


def test_a_measure_that_needs_test_data_is_left_out_where_there_are_none(trained, tmp_path, monkeypatch, capsys):
    study = Study.from_run(trained)
    bare = Study(study.network, final=study.final, train=(study.data("train").inputs, study.data("train").labels))
    monkeypatch.setattr(cli.measures, "opened", lambda run, source: (bare, tmp_path))
    code, out, _ = call("measure", trained, "--draws", 2, "--json", capsys=capsys)
    assert code == 0
    rows = {row["measure"]: row for row in answer(out)["measures"]}
    assert set(rows) == set(MEASURES) - {"generalization_error"}
    assert "the study has no init" in rows["squared_distance_to_init"]["reason"]


def test_bounds_say_their_terms_and_what_they_rest_on(trained, capsys):
    code, out, _ = call("bounds", trained, *BOUND, "--margin", 1, "--json", capsys=capsys)
    first, second = answer(out)["bounds"]
    assert code == 0
    assert first["terms"]["error"] <= first["terms"]["error, upper"] <= first["value"]
    assert "theorem 3.2" in first["statement"]
    assert second["vacuous"]
    assert {one["status"] for one in first["assumptions"]} <= {"holds", "checked", "not checked", "fails"}
    _, told, _ = call("bounds", trained, *BOUND, "--margin", 1, capsys=capsys)
    assert " ".join(first["statement"].split()) in " ".join(told.split())


def test_corollary_3_3_stands_at_the_joint_criticality_and_names_its_conjecture(trained, capsys):
    code, out, _ = call("bounds", trained, "--sigma", 0.1, "--draws", 2, "--epsilon", 0.95, "--json", capsys=capsys)
    assert code == 0
    _, corollary = answer(out)["bounds"]
    assert corollary["terms"]["error"] == 0.95
    assert corollary["terms"]["complexity"] >= 0
    assert any("a conjecture of the paper" in one["how"] for one in corollary["assumptions"])


def test_one_sigma_is_not_searched_for(trained, capsys):
    _, out, _ = call("bounds", trained, "--sigma", 0.1, "--draws", 3, "--json", capsys=capsys)
    (bound,) = answer(out)["bounds"]
    assert bound["terms"]["scale"] == 0.1
    assert bound["draws"] == 3


def test_report_gathers_the_newest_result_of_each_kind(trained, tmp_path, capsys):
    asked = {
        "robustness": ["--draws", 1, "--split", "test"],
        "criticality": ["--threshold", "increase", "--epsilon", 0.2, "--draws", 2],
        "path": ["--points", 2, "--valley", "layer1", "--sigma", 0.1, "--draws", 1],
        "measure": QUICK,
        "bounds": BOUND,
    }
    for command, options in asked.items():
        assert call(command, trained, *options, "--out", tmp_path, "--json", capsys=capsys)[0] == 0
    code, out, _ = call("report", tmp_path, "--figures", tmp_path / "figures", "--json", capsys=capsys)
    assert code == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for heading in (
        "Verdict on each layer",
        "How critical each layer is",
        "On the way from initial to trained weights",
        "The valley around that way",
        "Measures of this network",
        "Bounds on the error on new examples",
    ):
        assert f"<h2>{heading}</h2>" in text
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {
        "heatmap-test",
        "criticality-0.2",
        "network-criticality",
        "path-test-error",
        "valley",
        "valley-grid",
    } <= drawn
    assert len(answer(out)["figures"]) == 2 * len(drawn)


def test_results_of_other_weights_are_left_out_of_a_report(trained, tmp_path, capsys):
    for command, options in (("measure", QUICK), ("bounds", BOUND)):
        assert call(command, trained, *options, "--out", tmp_path, "--json", capsys=capsys)[0] == 0
    (file,) = tmp_path.glob("measures/*/provenance.json")
    facts = json.loads(file.read_text())
    facts["provenance"]["weights"] = "0" * 16
    file.write_text(json.dumps(facts))
    assert call("bounds", trained, *BOUND, "--out", tmp_path, capsys=capsys)[0] == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Bounds on the error" in text
    assert "Measures of this network" not in text


def test_results_of_other_data_are_left_out_of_a_report(foreign, monkeypatch, capsys):
    monkeypatch.chdir(foreign)
    arrays = dict(np.load("data.npz"))
    arrays["train_inputs"] = arrays["train_inputs"] + 1
    np.savez("other.npz", **arrays)
    asked = ["--network", "fcn-2x8", "--final", "final.safetensors", "--init", "init.pt", "--out", "results", "--data"]
    valley = ["--valley", "layer1", "--sigma", 0.1, "--draws", 1, "--examples", 20]
    assert call("path", *asked, "data.npz", "--points", 2, *valley, capsys=capsys)[0] == 0
    for data, kept in (("other.npz", False), ("data.npz", True)):
        assert call("measure", *asked, data, *QUICK, capsys=capsys)[0] == 0
        text = (foreign / "results" / "report.html").read_text(encoding="utf-8")
        assert "Measures of this network" in text
        assert ("On the way from initial to trained weights" in text) == kept
        assert ("The valley around that way" in text) == kept


@pytest.mark.parametrize("command", ["criticality", "path", "bounds", "measure", "report"])
def test_every_command_has_help_with_an_example(command, capsys):
    code, out, _ = call(command, "--help", capsys=capsys)
    assert code == 0
    assert f"shaketable {command} runs/RUN" in out
