"""The commands about the way from initial to trained weights: what they say, and that they hand over to the report."""

import pytest
from tests.cli.commands import answer, call

LAYERS = ["layer1", "layer2", "layer3"]
LENIENT = ["--threshold", "increase", "--epsilon", 0.2, "--draws", 2]
FOREIGN = ["--network", "fcn-2x8", "--final", "final.safetensors", "--data", "data.npz"]


def test_criticality_has_a_row_for_each_layer_and_threshold_and_sums_for_each_threshold(trained, capsys):
    code, out, _ = call("criticality", trained, *LENIENT, "--epsilon", 0.1, "--json", capsys=capsys)
    found = answer(out)
    assert code == 0
    assert [(row["layer"], row["epsilon"]) for row in found["layers"]] == [(n, e) for e in (0.1, 0.2) for n in LAYERS]
    for total in found["networks"]:
        own = [row["criticality"] for row in found["layers"] if row["epsilon"] == total["epsilon"]]
        assert total["network_criticality"] == pytest.approx(sum(own))
    assert all(row["criticality"] <= row["pac_bayes"] for row in found["layers"])
    assert "How critical each layer is" in (trained / "report.html").read_text(encoding="utf-8")


def test_what_a_person_reads_about_criticality_is_the_number_its_error_and_what_it_does_not_say(trained, capsys):
    _, out, err = call("criticality", trained, *LENIENT, capsys=capsys)
    for words in ("layer1", "PAC-Bayes", "Network criticality, the sum over layers, is", "no bound", "report.html"):
        assert words in " ".join(out.split())
    assert err == ""


def test_a_finished_search_is_read_and_an_unfinished_one_goes_on(trained, tmp_path, monkeypatch, capsys):
    from shaketable.engine.engine import Engine

    asked = ["criticality", trained, *LENIENT, "--out", tmp_path, "--json"]
    counted = []
    sums = Engine.sums

    def interrupted(self, *args, **kwargs):
        counted.append(1)
        if len(counted) == 2:
            raise KeyboardInterrupt
        return sums(self, *args, **kwargs)

    monkeypatch.setattr(Engine, "sums", interrupted)
    code, _, err = call(*asked, capsys=capsys)
    assert code == 1
    assert "the same command goes on" in err
    (cells,) = tmp_path.glob("criticality/*/cells.jsonl")
    kept = len(cells.read_text().splitlines())
    assert kept >= 2, "the identity, and the clean error at least"
    code, out, _ = call(*asked, capsys=capsys)
    assert code == 0
    first, before = answer(out)["layers"], len(counted)
    code, out, _ = call(*asked, capsys=capsys)
    assert answer(out)["layers"] == first
    assert len(counted) == before, "nothing was measured again"


def test_path_gives_the_curves_and_the_valley_and_the_report_has_both(trained, capsys):
    arguments = ["path", trained, "--points", 3, "--valley", "layer2", "--sigma", 0, "--sigma", 0.1, "--draws", 2]
    code, out, _ = call(*arguments, "--json", capsys=capsys)
    found = answer(out)
    assert code == 0
    assert {row["layer"] for row in found["points"]} == {"all layers", *LAYERS}
    assert sorted({row["alpha"] for row in found["points"]}) == [0, 0.5, 1]
    assert {(row["layer"], row["sigma"]) for row in found["valley"]} == {("layer2", 0), ("layer2", 0.1)}
    at_end = {row["error"] for row in found["points"] if row["alpha"] == 1 and row["split"] == "train"}
    at_floor = {row["error"] for row in found["valley"] if row["alpha"] == 1 and row["sigma"] == 0}
    assert at_end == at_floor, "alpha 1 without noise is the trained network"
    text = (trained / "report.html").read_text(encoding="utf-8")
    assert "On the way from initial to trained weights" in text
    assert "The valley around that way" in text


def test_a_layer_can_be_chosen_and_all_together_left_out(trained, capsys):
    code, out, _ = call("path", trained, "--layer", "layer3", "--points", 2, "--no-together", "--json", capsys=capsys)
    assert code == 0
    assert {row["layer"] for row in answer(out)["points"]} == {"layer3"}
    code, out, _ = call("path", trained, "--layer", "layer3", "--points", 2, capsys=capsys)
    assert "test error at alpha" in out
    assert "all layers" in out


def test_a_network_from_files_has_its_criticality_measured_by_the_same_options(foreign, monkeypatch, capsys):
    monkeypatch.chdir(foreign)
    lenient = ["--threshold", "increase", "--epsilon", 0.1, "--draws", 2]
    code, out, _ = call("criticality", *FOREIGN, "--init", "init.pt", *lenient, "--json", capsys=capsys)
    assert code == 0
    assert answer(out)["report"].startswith("runs/fcn-2x8-")


@pytest.mark.parametrize("command", ["criticality", "path", "bounds"])
def test_without_initial_weights_one_sentence_says_how_to_give_them(command, foreign, monkeypatch, capsys):
    monkeypatch.chdir(foreign)
    code, _, err = call(command, *FOREIGN, capsys=capsys)
    assert code == 2
    assert "--init FILE" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["criticality", "--epsilon", "0.001"], "raise epsilon above"),
        (["criticality", "--epsilon", "2"], "from 0 to 1"),
        (["criticality", "--draws", "0"], "draws must be at least 1"),
        (["path", "--layer", "layer9"], "did you mean 'layer"),
        (["path", "--valley", "layr1"], "did you mean 'layer1'?"),
        (["path", "--points", "1"], "at least 2"),
        (["path", "--data", "digits"], "--data goes with --network"),
        (["bounds", "--sigma", "2"], "above 0, up to 1"),
        (["bounds", "--delta", "3"], "inside (0, 1)"),
        (["measure", "--only", "network_critical"], "did you mean 'network_criticality'?"),
        (["measure", "--only", "x"], "there are"),
        (["measure", "--epsilon", "nan"], "--epsilon nan: give a number from 0 to 1"),
        (["measure", "--epsilon", "inf"], "--epsilon inf: give"),
        (["bounds", "--alpha", "nan"], "--alpha nan: give a number from 0 to 1"),
        (["bounds", "--alpha", "inf"], "--alpha inf: give"),
        (["bounds", "--epsilon", "nan"], "--epsilon nan: give"),
        (["bounds", "--margin", "nan"], "--margin nan: give a number of logits above 0"),
        (["bounds", "--sigma", "nan"], "above 0, up to 1"),
        (["bounds", "--delta", "nan"], "inside (0, 1)"),
        (["criticality", "--epsilon", "nan"], "epsilon=[nan]: give numbers"),
        (["criticality", "--epsilon", "inf"], "from 0 to 1"),
        (["path", "--valley", "layer1", "--sigma", "nan"], "nan is out of range"),
        (["path", "--valley", "layer1", "--sigma", "inf"], "inf is out of range"),
    ],
)
def test_wrong_use_is_one_sentence(arguments, message, trained, capsys):
    command, *options = arguments
    code, out, err = call(command, trained, *options, "--json", capsys=capsys)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert message in answer(out)["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["path", "--valley", "layer1", "--sigma", "-1"], "-1.0 is out of range"),
        (["path", "--valley", "layer1", "--draws", "0"], "draws must be at least 1"),
        (["path", "--valley", "layer1", "--examples", "0"], "examples must be at least 1"),
        (["path", "--valley", "layer1", "--examples", "1000"], "give at most so many"),
        (["bounds", "--margin", "-1"], "--margin -1: give"),
        (["bounds", "--epsilon", "2"], "--epsilon 2: give"),
    ],
)
def test_wrong_numbers_are_said_before_anything_is_measured(arguments, message, trained, tmp_path, monkeypatch, capsys):
    from shaketable.engine.engine import Engine

    monkeypatch.setattr(Engine, "sums", lambda *args, **kwargs: pytest.fail("something was measured"))
    command, *options = arguments
    code, _, err = call(command, trained, *options, "--out", tmp_path, capsys=capsys)
    assert code == 2
    assert message in err


def test_a_clean_error_above_epsilon_is_said_with_both_numbers(trained, capsys):
    from shaketable.training import Run

    clean = Run.open(trained).history["train_error"][-1]
    _, _, err = call("criticality", trained, "--epsilon", 0.001, capsys=capsys)
    assert f"{clean:.4g}, above the bound 0.001" in err
