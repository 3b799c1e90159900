"""The commands about a zoo."""

import pytest
from tests.cli.commands import answer, call

PLAN = """
[base]
network = "fcn-1x{width}"
epochs = 1
data_args = {train_examples = 40, test_examples = 30}

[axes]
width = [2, 3]
seed = [0, 1]
"""


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path / "plan.toml"


def test_a_plan_is_run_measured_and_ranked_and_each_command_says_what_it_did(plan, tmp_path, capsys):
    code, out, _ = call("zoo", "plan", plan, "--json", capsys=capsys)
    assert code == 0
    assert answer(out)["networks"][0]["hyperparameters"] == {"width": 2, "seed": 0}
    folder = tmp_path / "zoo"
    code, out, _ = call("zoo", "run", plan, "--out", folder, "--json", capsys=capsys)
    assert (code, answer(out)["trained"], answer(out)["failed"]) == (0, 4, {})
    only = ["--only", "path_norm", "--only", "squared_distance_to_init"]
    chosen = [*only, "--arg", 'squared_distance_to_init.parameters="all"']
    code, out, _ = call("zoo", "measure", folder, *chosen, "--json", capsys=capsys)
    assert (code, answer(out)["measured"], answer(out)["not_measured"]) == (0, 8, 0)
    code, out, _ = call("zoo", "rank", folder, "--figures", tmp_path / "figures", "--json", capsys=capsys)
    found = answer(out)
    assert code == 0
    assert {row["measure"] for row in found["measures"]} == {"path_norm", "squared_distance_to_init"}
    assert {row["axis"] for row in found["axes"]} == {"width"}
    assert (tmp_path / "figures" / "axes.svg").is_file()
    assert (folder / "ranking" / "report.html").is_file()
    code, out, _ = call("zoo", "rank", folder / "table" / "zoo.parquet", "--out", tmp_path / "again", capsys=capsys)
    assert code == 0
    assert "measures of 4 networks" in " ".join(out.split())
    assert (tmp_path / "again" / "ranking.parquet").is_file()


def test_what_could_not_be_measured_is_told_with_its_reason(plan, tmp_path, capsys):
    folder = tmp_path / "zoo"
    call("zoo", "run", plan, "--out", folder, capsys=capsys)
    command = ["zoo", "measure", folder, "--only", "prunability", "--arg", "prunability.beta=-1"]
    code, out, _ = call(*command, "--json", capsys=capsys)
    assert (code, answer(out)["not_measured"]) == (0, 4)
    assert answer(out)["lacking"] == {"prunability": {"beta=-1: give a tolerance from 0": 4}}
    _, out, _ = call(*command, capsys=capsys)
    assert "not measured: prunability, 4 times: beta=-1: give a tolerance from 0" in out


def test_a_number_that_was_not_replaced_is_told_with_what_was_tried(plan, tmp_path, capsys):
    folder = tmp_path / "zoo"
    call("zoo", "run", plan, "--out", folder, capsys=capsys)
    call("zoo", "measure", folder, "--only", "prunability", capsys=capsys)
    command = ["zoo", "measure", folder, "--only", "prunability", "--arg", "prunability.beta=-1"]
    _, out, _ = call(*command, "--json", capsys=capsys)
    said = 'with {"beta": -1} there is no number (beta=-1: give a tolerance from 0); that of {} stays'
    assert (answer(out)["measured"], answer(out)["refused"]) == (4, {"prunability": {said: 4}})
    _, out, _ = call(*command, capsys=capsys)
    assert f"not replaced: prunability, 4 times: {said}" in out


def test_a_plan_of_one_network_is_trained_and_cannot_be_ranked(tmp_path, capsys):
    (tmp_path / "plan.toml").write_text(PLAN.replace("[2, 3]", "[2]").replace("[0, 1]", "[0]"))
    folder = tmp_path / "zoo"
    call("zoo", "run", tmp_path / "plan.toml", "--out", folder, capsys=capsys)
    call("zoo", "measure", folder, "--only", "path_norm", capsys=capsys)
    code, _, err = call("zoo", "rank", folder, capsys=capsys)
    assert code == 2
    assert "1 of 1 networks of this zoo have a gap, and two are the fewest that can be ranked" in err


def test_where_every_network_fails_that_is_the_error_and_the_reason_of_the_first_is_told(tmp_path, capsys):
    (tmp_path / "plan.toml").write_text(PLAN.replace("epochs = 1", "epochs = 3\nlearning_rate = 1e38"))
    code, _, err = call("zoo", "run", tmp_path / "plan.toml", "--out", tmp_path / "zoo", capsys=capsys)
    assert code == 1
    assert "none of the 4 networks could be trained; the first, fcn-1x2-digits-" in err
    assert "lower the learning rate" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "nowhere.toml"], "nowhere.toml: this plan cannot be read"),
        (["measure", "nowhere"], "nowhere: not the folder of a zoo"),
        (["rank", "nowhere"], "nowhere: this table cannot be read"),
        (["measure", "nowhere", "--arg", "epsilon=1"], "write MEASURE.NAME=VALUE"),
        (["run", "plan.toml", "--executor", "loky", "--executor-arg", "x=1"], "takes no options"),
        (["run", "plan.toml", "--cpus", "0"], "cpus=0: give a whole number from 1"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments, said, plan, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = call("zoo", *arguments, capsys=capsys)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
