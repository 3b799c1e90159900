"""The command prune: what it says, and that it hands over to the report."""

import pytest
from tests.cli.commands import answer, call

QUICK = ["--sparsity", 0, "--sparsity", 0.5, "--steps", 20]


def test_prune_gives_the_fraction_every_test_and_the_curve_and_the_report_has_them(trained, capsys):
    code, out, _ = call(
        "prune", trained, *QUICK, "--method", "magnitude", "--method", "random", "--draws", 2, "--json", capsys=capsys
    )
    found = answer(out)
    assert code == 0
    assert [(row["method"], row["draws"]) for row in found["summary"]] == [("magnitude", 1), ("random", 2)]
    magnitude = found["summary"][0]
    held = [row["kept"] for row in found["tests"] if row["method"] == "magnitude" and row["holds"]]
    assert magnitude["prunability"] == min([*held, 1.0])
    assert magnitude["bound"] == pytest.approx(1.1 * found["clean"])
    assert {(row["split"], row["sparsity"]) for row in found["curve"]} == {
        (s, x) for s in ("train", "test") for x in (0, 0.5)
    }
    assert "How much can be pruned" in (trained / "report.html").read_text(encoding="utf-8")


def test_what_a_person_reads_is_the_curve_and_what_it_says_and_does_not_say(trained, capsys):
    code, out, err = call("prune", trained, *QUICK, "--beta", 0.5, "--tolerance", "absolute", capsys=capsys)
    text = " ".join(out.split())
    assert code == 0
    for said in (
        "pruned by magnitude",
        "train loss",
        "50%",
        "0.5 nats above its value",
        "Every answer is certain",
        "no bound",
    ):
        assert said in text
    assert err == ""


def test_noise_of_the_same_size_is_asked_for_by_its_draws(trained, capsys):
    _, out, _ = call("prune", trained, *QUICK, "--noise", 2, "--json", capsys=capsys)
    kinds = {(row["perturbation"], row["noise_draw"]) for row in answer(out)["curve"]}
    assert kinds == {("pruning", None), ("noise", 0), ("noise", 1)}


def test_the_figures_of_pruning_are_written(trained, tmp_path, capsys):
    call("prune", trained, *QUICK, capsys=capsys)
    code, out, _ = call("report", trained, "--figures", tmp_path, "--json", capsys=capsys)
    assert code == 0
    assert any(name.endswith("pruning-magnitude-loss.svg") for name in answer(out)["figures"])


def test_weights_of_ones_own_need_no_initial_ones(foreign, monkeypatch, capsys):
    monkeypatch.chdir(foreign)
    asked = ["--network", "fcn-2x8", "--final", "final.safetensors", "--data", "data.npz", *QUICK]
    code, out, err = call("prune", *asked, "--json", capsys=capsys)
    assert code == 0, err
    assert answer(out)["summary"][0]["parameters"] == 4 * 8 + 8 * 8 + 8 * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--beta", "-1"], "beta=-1"),
        (["--steps", "0"], "steps=0"),
        (["--sparsity", "2"], "sparsities: 2.0 is out of range"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(trained, arguments, message, capsys):
    code, _, err = call("prune", trained, *arguments, capsys=capsys)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
