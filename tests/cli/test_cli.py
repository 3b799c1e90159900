"""The command line as a person and a machine see it: output, exit codes, resuming, one sentence per error."""

import importlib
import json
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from tests.cli.commands import TINY, answer, call, run

from shaketable import cli
from shaketable.training import Run

RESNET = ["--network", "resnet18", "--network-arg", "width=0.0625", "--data-arg", "train_examples=64"]
FOREIGN = [
    "robustness",
    "--network",
    "fcn-2x8",
    "--final",
    "final.safetensors",
    "--init",
    "init.pt",
    "--data",
    "data.npz",
]


def test_train_then_robustness_then_report_hand_over_to_each_other(trained, tmp_path, capsys):
    code, out, _ = call("robustness", trained, "--draws", 2, "--json", capsys=capsys)
    found = answer(out)
    assert code == 0
    assert [layer["layer"] for layer in found["layers"]] == ["layer1", "layer2", "layer3"]
    assert (trained / "report.html").stat().st_size <= 1_500_000
    code, out, _ = call(
        "report", trained, "--out", tmp_path / "r.html", "--figures", tmp_path / "f", "--json", capsys=capsys
    )
    assert code == 0
    assert answer(out)["report"] == str(tmp_path / "r.html")
    assert {path.suffix for path in (tmp_path / "f").iterdir()} == {".svg", ".png"}


def test_what_a_person_reads_names_the_layers_the_thresholds_and_the_report(trained, capsys):
    _, out, err = call("robustness", trained, "--draws", 1, capsys=capsys)
    for words in ("layer1", "drop in test accuracy", "re-randomised", "critical", "points", "report.html"):
        assert words in out
    assert err == ""


def test_a_finished_run_is_not_trained_again(trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*.safetensors")}
    assert call("train", *TINY, "--out", trained.parent, capsys=capsys)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*.safetensors")} == before


def test_the_report_of_a_stored_result_has_the_thresholds_of_the_last_command(trained, capsys):
    assert call("robustness", trained, "--draws", 1, capsys=capsys)[0] == 0
    assert call("robustness", trained, "--draws", 1, "--robust", 0.4, "--critical", 0.8, capsys=capsys)[0] == 0
    assert call("report", trained, capsys=capsys)[0] == 0
    assert "at most 40 points" in (trained / "report.html").read_text(encoding="utf-8")


def test_a_damaged_result_is_one_sentence(trained, tmp_path, capsys):
    (tmp_path / "provenance.json").write_text("{}")
    code, _, err = call("report", tmp_path, capsys=capsys)
    assert code == 2
    assert "is damaged" in err


def test_networks_and_data_list_what_there_is(capsys):
    code, out, _ = call("networks", capsys=capsys)
    assert code == 0
    assert "resnet" in out
    code, out, _ = call("networks", "resnet18", "--json", capsys=capsys)
    assert answer(out)["parameters"] > 1e7
    code, out, _ = call("data", "--json", capsys=capsys)
    assert answer(out)["digits"]["status"] == "bundled"


def test_weights_and_data_of_ones_own_need_no_run(foreign, monkeypatch, capsys):
    monkeypatch.chdir(foreign)
    code, out, _ = call(*FOREIGN, "--weights", "3=final.safetensors", "--draws", 1, "--json", capsys=capsys)
    assert code == 0
    assert answer(out)["report"].startswith("runs/fcn-2x8-")


MIXTURE = """
import torch
from torch import nn


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.router, self.head = nn.Linear(4, 2), nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(2))

    def forward(self, x):
        weights = self.router(x).softmax(-1)
        return self.head(sum(weights[:, k : k + 1] * expert(x) for k, expert in enumerate(self.experts)))
"""


def test_each_expert_of_a_mixture_is_a_layer_of_every_command_that_groups_layers(foreign, monkeypatch, capsys):
    (foreign / "mixture_for_a_test.py").write_text(MIXTURE)
    monkeypatch.chdir(foreign)
    monkeypatch.syspath_prepend(foreign)
    network = importlib.import_module("mixture_for_a_test").Mixture()
    torch.save(network.state_dict(), "mixture-init.pt")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    torch.save(network.state_dict(), "mixture.pt")
    options = ["--network", "mixture_for_a_test:Mixture", "--final", "mixture.pt", "--init", "mixture-init.pt"]
    options += ["--data", "data.npz", "--by", "expert", "--json"]
    layers = {"router", "experts.0", "experts.1", "head"}
    for command, more, table in (
        ("robustness", ["--draws", 1], "robustness"),
        ("joint", ["--how", "reinitialise", "--group", "both=experts.*"], "joint"),
        ("sensitivity", ["--draws", 1, "--noise", 0.1], "sensitivity"),
        ("criticality", ["--threshold", "increase", "--epsilon", 0.5, "--draws", 1], "criticality"),
        ("path", ["--points", 2], "path"),
    ):
        out = foreign / command
        code, _, err = call(command, *options, *more, "--out", out, capsys=capsys)
        assert (code, err) == (0, "")
        (facts,) = out.glob("*/*/provenance.json")
        (file,) = facts.parent.glob(f"{json.loads(facts.read_text())['probe']}.parquet")
        frame = pl.read_parquet(file)
        if table == "joint":
            assert set(json.loads(facts.read_text())["provenance"]["layers"]) == layers
            assert frame.filter(pl.col("group") == "both")["layers"].unique().to_list() == [2]
        else:
            assert layers <= set(frame["layer"])


def test_a_network_function_of_ones_own_is_imported_from_the_current_folder(foreign, monkeypatch, capsys):
    (foreign / "my_models_for_a_test.py").write_text(
        "from torch import nn\ndef small(width): return nn.Sequential(nn.Linear(4, width), nn.Dropout(), nn.Linear(width, 3))\n"
    )
    network = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Dropout(), torch.nn.Linear(5, 3))
    torch.save(network.state_dict(), foreign / "own.pt")
    monkeypatch.chdir(foreign)
    arguments = [
        "robustness",
        "--network",
        "my_models_for_a_test:small",
        "--network-arg",
        "width=5",
        "--final",
        "own.pt",
    ]
    code, out, _ = call(*arguments, "--data", "data.npz", "--json", capsys=capsys)
    assert code == 0
    assert answer(out)["perturbation"] == "rerandomise"  # no initial weights: nothing was re-initialised
    arrays = dict(np.load("data.npz"))
    np.savez("data.npz", **(arrays | {"test_labels": arrays["test_labels"] + 1}))
    code, _, err = call(*arguments, "--data", "data.npz", capsys=capsys)
    assert code == 2
    assert "is beyond the network's 3 classes" in err


def damage(foreign, what: str) -> None:
    """Change the user's files so that one thing is wrong."""
    weights = torch.load(foreign / "init.pt", weights_only=True)
    arrays = dict(np.load(foreign / "data.npz"))
    key = "layer1.weight"
    if what == "shape":
        weights[key] = torch.ones(8, 5)
    elif what == "missing":
        del weights[key]
    elif what == "extra":
        weights["other.weight"] = torch.ones(1)
    elif what == "nan":
        weights[key][0, 0] = float("nan")
    elif what == "infinite":
        weights[key][0, 0] = float("inf")
    elif what == "equal":
        weights = load_file(foreign / "final.safetensors")
    elif what == "empty":
        arrays |= {"test_inputs": arrays["test_inputs"][:0], "test_labels": arrays["test_labels"][:0]}
    elif what == "labels":
        arrays["test_labels"] = arrays["test_labels"] - 1
    elif what == "text":
        (foreign / "init.pt").write_text("no weights here")
    if what != "text":
        torch.save(weights, foreign / "init.pt")
    np.savez(foreign / "data.npz", **arrays)


BAD_FILES = {
    "shape": "'layer1.weight' has shape [8, 5], the network's has [8, 4]",
    "missing": "lacks 'layer1.weight'",
    "extra": "has 'other.weight', which the network does not have",
    "nan": "'layer1.weight' has 1 NaN or infinite values",
    "infinite": "'layer1.weight' has 1 NaN or infinite values",
    "equal": "init equals final",
    "empty": "no examples",
    "labels": "-1",
    "text": "cannot be read with weights_only=True",
}


@pytest.mark.parametrize(("what", "message"), BAD_FILES.items())
def test_a_bad_file_is_one_sentence_and_exit_code_2(foreign, monkeypatch, capsys, what, message):
    damage(foreign, what)
    monkeypatch.chdir(foreign)
    code, out, err = call(*FOREIGN, "--json", capsys=capsys)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("shaketable: ")
    assert message in answer(out)["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "nonsense"),
        (["train", "--epochs", "many"], "many"),
        (["train", "--network", "resnet19"], "resnet19"),
        (["train", "--data", "minst"], "minst"),
        (["train", "--data", "mnist"], "--data-root"),
        (["train", "--learning-rate", "-1"], "learning_rate"),
        (["train", "--network-arg", "width"], "write NAME=VALUE"),
        (["train", "--network", "fcn-2x8", "--network-arg", "wide=3"], "wide"),
        (["train", "--recipe", "nowhere.toml"], "nowhere.toml"),
        (["train", "--device", "abacus"], "abacus"),
        (["train", "--checkpoint", "900"], "beyond epochs"),
        (["train", *RESNET, "--remove", "stage2.resblk1"], "shapes do not fit without it"),
        (["train", *RESNET, "--remove", "stage2.resblk3"], "near names: stage2.resblk2"),
        (["train", *RESNET, "--freeze", "stage2.resblk"], "did you mean 'stage2.resblk"),
        (["train", *RESNET, "--freeze", "all-but-first:stage9"], "has no stage 'stage9'; there are stage1"),
        (["robustness"], "give either the folder of a run"),
        (["robustness", "nowhere"], "nowhere"),
        (["robustness", "--network", "fcn-2x8"], "--final"),
        (["robustness", "--network", "a:b", "--final", "x", "--data", "digits"], "a:b"),
        (["report", "nowhere"], "holds no robustness result"),
        (["robustness", "nowhere", "--device", "abacus"], "device 'abacus' is unknown"),
        (["robustness", "nowhere", "--data", "digits"], "--data goes with --network"),
        (["robustness", "--network", "fcn-2x8", "--final", "x", "--data", "digits", "--data-arg", "zork=1"], "zork"),
        (["networks", "vgg16", "--shape", "1", "8", "8"], "vgg16"),
        (["data", "fetch", "minst", "--data-root", "."], "minst"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHAKETABLE_DATA", raising=False)
    code, _, err = call(*arguments, capsys=capsys)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_thresholds_and_layers_are_checked_at_the_command_line_too(trained, capsys):
    assert "need 0 <= robust" in call("robustness", trained, "--robust", 0.9, capsys=capsys)[2]
    assert "blocks" in call("robustness", trained, "--by", "blocks", capsys=capsys)[2]
    assert "there is no checkpoint 7" in call("robustness", trained, "--checkpoint", 7, capsys=capsys)[2]


RESULTS = [
    "robustness",
    "joint",
    "sensitivity",
    "prune",
    "ablate",
    "criticality",
    "path",
    "measure",
    "bounds",
    "attack",
]
"""The commands that write results into the folder of a run."""


@pytest.mark.parametrize("below", ["", "deep/below"])
@pytest.mark.parametrize("command", [*RESULTS, "train", "demo", "zoo-run"])
def test_a_file_in_the_place_of_the_folder_for_results_is_one_sentence(command, below, trained, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "plan.toml").write_text('[base]\nnetwork = "fcn-1x2"\n[axes]\nseed = [0]\n')
    own = {
        "train": ["train", "--network", "fcn-1x4", "--epochs", "1"],
        "demo": ["demo"],
        "zoo-run": ["zoo", "run", tmp_path / "plan.toml"],
    }
    out = tmp_path / "file" / below
    code, printed, err = call(*own.get(command, [command, trained]), "--out", out, capsys=capsys)
    assert (code, printed, err.count("\n")) == (2, "", 1)
    assert f"{tmp_path / 'file'}: is a file, and a" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_an_unexpected_failure_is_one_sentence_and_exit_code_1(trained, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise MemoryError("out of memory")

    monkeypatch.setattr(cli.robustness, "_robustness", fail)
    code, out, err = call("robustness", trained, "--json", capsys=capsys)
    assert code == 1
    assert "MemoryError: out of memory" in err
    assert "Traceback" not in err
    assert "MemoryError" in answer(out)["error"]


@pytest.mark.parametrize("option", ["freeze", "remove"])
def test_a_scheme_freezes_or_removes_the_blocks_that_it_names(option, tmp_path, capsys):
    few = ["--data-arg", "test_examples=20", "--epochs", 1, "--out", tmp_path, "--json"]
    scheme = ["--" + option, "every-other:stage1,stage2", "--" + option, "stage4.resblk2"]
    code, out, _ = call("train", *RESNET, *scheme, *few, capsys=capsys)
    assert code == 0
    run = Run.open(answer(out)["run"])
    blocks = ("stage1.resblk2", "stage2.resblk2", "stage4.resblk2")
    assert getattr(run.recipe, {"freeze": "frozen", "remove": "removed"}[option]) == blocks
    start, end = run.checkpoints[0], run.checkpoints[1]
    same = {name.rpartition(".conv")[0] for name in start if ".conv" in name and torch.equal(start[name], end[name])}
    assert same == (set(blocks) if option == "freeze" else set())
    assert any(name.startswith(blocks) for name in start) == (option == "freeze")


def test_a_scheme_names_the_blocks_of_a_network_that_takes_no_images(tmp_path, capsys):
    (tmp_path / "foxes.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 30)
    data = ["--data", f"text:{tmp_path}/foxes.txt", "--data-arg", "vocabulary=30", "--data-arg", "tokens=8"]
    network = ["--network", "decoder-2x8", "--freeze", "all-but-first", "--epochs", 1]
    code, out, _ = call("train", *network, *data, "--out", tmp_path, "--json", capsys=capsys)
    assert code == 0
    assert Run.open(answer(out)["run"]).recipe.frozen == ("blocks.01",)


def test_every_field_of_a_recipe_has_an_option(capsys):
    from dataclasses import fields

    from shaketable.training import Recipe

    renamed = {"network_args": "network_arg", "data_args": "data_arg", "milestones": "milestone"}
    renamed |= {"augmentation": "augment", "frozen": "freeze", "removed": "remove", "checkpoints": "checkpoint"}
    code, out, _ = call("train", "--help", capsys=capsys)
    assert code == 0
    for field in fields(Recipe):
        assert "--" + renamed.get(field.name, field.name).replace("_", "-") in out


@pytest.mark.slow
def test_help_takes_at_most_half_a_second_of_processor_time():
    code = "import resource, sys, shaketable.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
    code += "r = resource.getrusage(resource.RUSAGE_SELF); print(r.ru_utime + r.ru_stime); assert 'torch' not in sys.modules"
    seconds = [
        float(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1]
        )
        for _ in range(3)
    ]
    assert min(seconds) <= 0.5


@pytest.mark.slow
def test_ctrl_c_leaves_what_is_done_and_the_same_command_goes_on(tmp_path):
    arguments = [
        sys.executable,
        "-m",
        "shaketable",
        "train",
        "--network",
        "fcn-3x256",
        "--epochs",
        "300",
        "--checkpoint",
        "1",
    ]
    process = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/state.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    (folder,) = tmp_path.glob("runs/*-*")
    assert "is not finished" in run("robustness", folder, cwd=tmp_path, code=2).stderr


@pytest.mark.slow
def test_the_demo_finds_that_the_first_layer_alone_is_critical_to_re_initialisation(tmp_path):
    found = answer(run("demo", "--json", cwd=tmp_path).stdout)
    assert found["critical_layers"] == ["layer1"]
    assert [layer["rerandomise"] for layer in found["layers"]] == ["critical"] * 4
    assert (tmp_path / found["report"]).stat().st_size <= 1_500_000
    assert found["seconds"] > 0
    again = answer(run("demo", "--json", cwd=tmp_path).stdout)
    assert again["layers"] == found["layers"]
    assert again["seconds"] < found["seconds"] / 2
