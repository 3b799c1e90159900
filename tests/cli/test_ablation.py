"""The command ablate: what it says, and that it hands over to the report."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.cli.commands import answer, call

from shaketable.networks import build
from shaketable.params import snapshot


def test_ablate_gives_turning_points_and_the_report_has_them(trained, capsys):
    code, out, err = call("ablate", trained, "--over", "class", "--over", "all", "--json", capsys=capsys)
    found = answer(out)
    assert code == 0, err
    over = [row["over"] for row in found["summary"]]
    assert over == [*["class"] * 10, "all", "mean of classes"]
    assert all(0 <= row["zeta"] <= 1 and 0 <= row["kappa"] < 1 for row in found["summary"])
    assert {(row["layer"], row["units"]) for row in found["summary"]} == {("layer2", 8)}
    assert "How few units do the work" in (trained / "report.html").read_text(encoding="utf-8")
    code, again, _ = call("ablate", trained, "--over", "class", "--over", "all", "--json", capsys=capsys)
    assert answer(again)["summary"] == found["summary"]


def test_what_a_person_reads_is_the_table_and_what_it_says_and_does_not_say(trained, capsys):
    code, out, err = call("ablate", trained, "--layer", "layer1", "--class", 3, "--rule", "code", capsys=capsys)
    text = " ".join(out.split())
    assert code == 0, err
    for said in ("class 3", "mean of classes", "Of the 8 units of layer1", "Nothing was retrained", "no bound"):
        assert said in text


def test_the_figures_are_written(trained, tmp_path, capsys):
    call("ablate", trained, capsys=capsys)
    code, out, _ = call("report", trained, "--figures", tmp_path, "--json", capsys=capsys)
    assert code == 0
    assert any(name.endswith("ablation-0-0.svg") for name in answer(out)["figures"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--layer", "relu1"],
            "layer 'relu1' has no units: it is no convolution or linear layer that runs; give one of",
        ),
        (["--layer", "nothing"], "layer 'nothing' is not there"),
        (["--class", "10"], "class 10 is not there: the network has 10 classes"),
        (["--batch-size", "0"], "batch_size must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(trained, arguments, message, capsys):
    code, _, err = call("ablate", trained, *arguments, capsys=capsys)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


@pytest.fixture
def files(tmp_path):
    """A network with a layer of one unit that always answers class 1, and data without class 2."""
    network = build("fcn-1-4", (4,), 3)
    weights = {name: torch.zeros_like(tensor) for name, tensor in snapshot(network).items()}
    last = [name for name in weights if name.endswith("bias")][-1]
    weights[last][1] = 1
    save_file(weights, tmp_path / "final.safetensors")
    arrays = {f"{split}_inputs": np.ones((8, 4), dtype="float32") for split in ("train", "test")}
    np.savez(
        tmp_path / "data.npz", **arrays, train_labels=np.array([0, 0, 0, 0, 0, 0, 0, 1]), test_labels=np.arange(8) % 3
    )
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--layer", "layer1"], 2, "layer 'layer1' has one unit; ablation needs two or more."),
        (["--class", "2"], 2, "class 2 has no examples in these data"),
        (
            [],
            1,
            "the network gets 1 of 8 train examples right, no more than guessing among 3 classes would",
        ),
    ],
)
def test_one_unit_no_examples_and_a_network_at_chance_are_one_sentence(
    files, arguments, code, message, monkeypatch, capsys
):
    monkeypatch.chdir(files)
    asked = ["--network", "fcn-1-4", "--final", "final.safetensors", "--data", "data.npz", *arguments]
    found, _, err = call("ablate", *asked, capsys=capsys)
    assert (found, message in err, "Traceback" in err) == (code, True, False), err
