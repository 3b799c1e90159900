"""The commands about layers together, sensitivity and attacks: what they say, keep and refuse."""

import pytest
import torch
from tests.cli.commands import answer, call
from torch import nn

from shaketable import cli
from shaketable.networks import build
from shaketable.probes import LayerSets

FOREIGN = ["--network", "fcn-2x8", "--final", "final.safetensors", "--data", "data.npz"]
RESN = ["--network", "resn-2-1", "--network-arg", "width=0.1"]


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    """A run of a small residual network."""
    folder = tmp_path_factory.mktemp("runs")
    few = ["--data-arg", "train_examples=120", "--data-arg", "test_examples=40", "--epochs", "1"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", *RESN, *few, "--out", str(folder)])
    assert not stopped.value.code
    (path,) = (p for p in folder.iterdir() if p.is_dir())
    return path


def test_groups_are_reset_in_every_way_with_the_rest_beside_them(residual, capsys):
    code, out, _ = call("joint", residual, "--group", "ends=stage0.conv,final*", "--draws", 2, "--json", capsys=capsys)
    found = answer(out)["groups"]
    assert code == 0
    assert {row["group"] for row in found} == {"ends", "rest of ends", "full model"}
    ends = [row for row in found if row["group"] == "ends"]
    assert ends[0]["layers"] == ["stage0.conv", "final_linear"]
    assert {row["perturbation"] for row in ends} == {"reinitialise", "rerandomise", "remove"}
    assert [row["draws"] for row in ends if row["perturbation"] == "rerandomise"] == [2, 2]
    assert all("shapes do not fit" in row["reason"] for row in ends if row["perturbation"] == "remove")
    assert "Layers reset together" in (residual / "report.html").read_text(encoding="utf-8")


def test_a_search_gives_its_steps_and_its_curve_and_measures_its_set_on_both_splits(residual, tmp_path, capsys):
    arguments = ["--how", "reinitialise", "--how", "remove", "--tolerance", 0.9, "--out", tmp_path, "--no-rest"]
    code, out, _ = call("joint", residual, "--search", *arguments, "--json", capsys=capsys)
    found = answer(out)
    assert code == 0
    init, removed = found["searches"]
    assert [one["how"] for one in (init, removed)] == ["reinitialise", "remove"]
    assert init["complete"]
    assert len(init["steps"]) == 2 ** len([row for row in init["steps"] if row["step"] == 1])
    assert len(removed["steps"]) == 2**3
    assert removed["largest"] == ["stage1.resblk1", "stage1.resblk2", "stage2.resblk1"]
    assert set(removed["left_out"]) == {"stage0.conv", "downsample2.conv", "final_linear"}
    assert [row["layers"] for row in removed["curve"]] == [0, 1, 2, 3]
    rows = [row for row in found["groups"] if row["layers"] == removed["largest"] and row["perturbation"] == "remove"]
    measured = {row["split"]: row["error"] for row in rows}
    assert measured["train"] == removed["curve"][-1]["error"]
    assert "test" in measured
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "What may be frozen, what may be dropped" in text
    code, out, _ = call("report", tmp_path, "--figures", tmp_path / "figures", capsys=capsys)
    assert code == 0
    names = {file.name for file in (tmp_path / "figures").glob("*.png")}
    assert names >= {"trade-off-remove.png", "trade-off-reinitialise.png", "joint-0-test.png"}
    again = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert again.count("The largest set of layers that can be") == text.count("The largest set of layers that can be")
    kept = [LayerSets.load(folder) for folder in (tmp_path / "layer_sets").iterdir()]
    assert sorted(one.provenance["how"] for one in kept) == ["reinitialise", "remove"]


def test_what_a_person_reads_is_the_curve_the_set_and_how_far_to_trust_it(trained, tmp_path, capsys):
    _, out, err = call("joint", trained, "--search", "--tolerance", 0.9, "--out", tmp_path, capsys=capsys)
    said = " ".join(out.split())
    for words in (
        "train error with the best sets of each size",
        "Every set of the candidates was tried (8)",
        "report:",
    ):
        assert words in said
    assert "What may be frozen: layer1, layer2 and layer3 may stay at their initial weights" in said
    assert err == ""
    _, out, _ = call("joint", trained, "--search", "--candidate", "all-but-first", "--out", tmp_path, capsys=capsys)
    assert "(4)" in out


def test_a_search_by_parameters_with_a_beam_says_that_not_all_was_tried(trained, tmp_path, capsys):
    arguments = [
        "--search",
        "--size",
        "parameters",
        "--beam",
        1,
        "--split",
        "test",
        "--tolerance",
        0.9,
        "--out",
        tmp_path,
    ]
    code, out, _ = call("joint", trained, *arguments, "--json", capsys=capsys)
    (found,) = answer(out)["searches"]
    assert code == 0
    assert (found["size"], found["split"], found["complete"]) == ("parameters", "test", False)


def test_sensitivity_tells_what_each_layer_bears_and_takes_one_kind_alone(trained, capsys):
    code, out, _ = call("sensitivity", trained, "--noise", 0.1, "--draws", 2, "--json", capsys=capsys)
    assert code == 0
    rows = answer(out)["layers"]
    assert {row["perturbation"] for row in rows} == {"none", "noise"}
    assert {row["magnitude"] for row in rows} == {None, 0.1}
    code, out, _ = call("sensitivity", trained, "--split", "test", "--draws", 1, capsys=capsys)
    said = " ".join(out.split())
    assert "noise, relative share removed" in said
    assert "the most sensitive layer" in said
    assert "Noise on one layer" in (trained / "report.html").read_text(encoding="utf-8")


FEW = ["--examples", 8, "--repeats", 1, "--steps", 2, "--step-size", 0.1, "--eps", 0.1]


def test_an_attack_has_its_table_with_averaged_gradients_and_says_that_it_is_no_defense(residual, capsys):
    code, out, _ = call("attack", residual, *FEW, "--s", 1, "--gradient-draws", 2, "--json", capsys=capsys)
    found = answer(out)
    assert code == 0
    assert found["defense"] is False
    models = {(row["model"], row["attack"], row["gradient_draws"], row["eps"], row["steps"]) for row in found["models"]}
    assert ("baseline", "clean", None, None, None) in models
    assert ("r=4, s=1", "pgd", 2, 0.1, 2) in models
    _, out, _ = call("attack", residual, *FEW, "--s", 1, "--gradient-draws", 2, capsys=capsys)
    assert "This is no defense." in out
    assert "eps 0.1; PGD: 2 steps of 0.1" in out
    assert "This is no defense." in (residual / "report.html").read_text(encoding="utf-8")


def test_a_network_without_residual_blocks_is_attacked_alone(trained, tmp_path, capsys):
    code, out, _ = call("attack", trained, *FEW, "--s", 0, "--out", tmp_path, "--json", capsys=capsys)
    assert code == 0
    assert {row["model"] for row in answer(out)["models"]} == {"baseline"}
    code, _, err = call("attack", trained, *FEW, "--out", tmp_path, capsys=capsys)
    assert code == 2
    assert "no residual blocks to randomise" in err


def test_networks_from_files_without_initial_weights_are_searched_by_re_randomisation(foreign, monkeypatch, capsys):
    monkeypatch.chdir(foreign)
    code, out, _ = call("joint", *FOREIGN, "--search", "--draws", 2, "--tolerance", 0.9, "--json", capsys=capsys)
    assert code == 0
    assert answer(out)["searches"][0]["how"] == "rerandomise"
    assert call("sensitivity", *FOREIGN, "--draws", 1, capsys=capsys)[0] == 0
    code, out, _ = call("joint", *FOREIGN, "--how", "reinitialise", capsys=capsys)
    assert code == 0
    assert "Not measured: the study has no initial weights" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["joint", "--group", "upper=stage1.resblk3"], "there is no layer 'stage1.resblk3'; near names: stage1.resblk"),
        (["joint", "--group", "upper"], "write NAME=LAYER,LAYER"),
        (["joint", "--group", "a=final*", "--group", "a=stage0*"], "there is a group 'a' already"),
        (["joint", "--group", "full model=final*"], "no group may be called 'full model'"),
        (["joint", "--scheme", "all-but-frist"], "did you mean 'all-but-first'?"),
        (["joint", "--scheme", "every-other:stage5"], "has no stage 'stage5'; there are stage1, stage2"),
        (["joint", "--checkpoint", 7], "there is no checkpoint 7"),
        (["joint", "--draws", -1], "draws must be at least 0"),
        (["joint", "--how", "rerandomise", "--draws", 0], "nothing is asked of the groups"),
        (["joint", "--how", "reset"], "reset"),
        (["joint", "--search", "--tolerance", 1.5], "give a drop in accuracy"),
        (["joint", "--search", "--beam", 0], "beam must be at least 1"),
        (["joint", "--candidate", "stage1.resblk1"], "add --search"),
        (["joint", "--search", "--candidate", "stage1.resblk9"], "near names: stage1.resblk"),
        (["joint", "--search", "--how", "remove", "--candidate", "downsample2.conv"], "shapes do not fit without it"),
        (["joint", "--statistics", "reestimate"], "give fewer batches"),
        (["joint", "--statistics", "reestimate", "--statistics-batches", 2], "2 batches of 128 need 256 examples"),
        (["robustness", "--statistics", "reestimate", "--statistics-batches", 2], "2 batches of 128 need 256 examples"),
        (["attack", "--eps", -0.1], "a budget must lie between 0 and 1, the range of the inputs"),
        (["attack", "--eps", 2], "a budget must lie between 0 and 1, the range of the inputs"),
        (["attack", "--step-size", 0], "give a finite number above 0"),
        (["attack", "--steps", 0], "steps=0"),
        (["attack", "--s", 3], "from 0 to 2"),
        (["attack", "--gradient-draws", 0], "gradient_draws=0"),
        (["sensitivity", "--noise", -1], "magnitudes must be above 0"),
        (["sensitivity", "--pruning", 2], "above 0 and at most 1"),
    ],
)
def test_wrong_use_is_one_sentence_before_anything_is_measured(
    arguments, message, residual, tmp_path, monkeypatch, capsys
):
    from shaketable.engine.engine import Engine

    monkeypatch.setattr(Engine, "sums", lambda *args, **kwargs: pytest.fail("something was measured"))
    command, *options = arguments
    code, out, err = call(command, residual, *options, "--out", tmp_path, "--json", capsys=capsys)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert message in answer(out)["error"]


def test_a_text_that_does_not_fit_is_one_sentence(tmp_path, monkeypatch, capsys):
    """A tokenizer larger than the embedding, labels beyond the logits, and text that is empty."""
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "text"
    text.mkdir()
    (text / "long.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    (text / "empty.txt").write_text(" \n \n")
    torch.save(build("decoder-1x8", (8,), 20).state_dict(), "small.pt")
    (tmp_path / "my_decoders.py").write_text(
        "from torch import nn\nfrom shaketable.networks import build\n"
        "def small(): return build('decoder-1x8', (8,), 20)\n"
        "def narrow(): return nn.Sequential(nn.Embedding(60, 4), nn.Linear(4, 20))\n"
    )
    torch.save(nn.Sequential(nn.Embedding(60, 4), nn.Linear(4, 20)).state_dict(), "narrow.pt")
    data = ["--data", "text:long.txt", "--data-root", text, "--data-arg", "vocabulary=30", "--data-arg", "tokens=8"]
    code, _, err = call("robustness", "--network", "my_decoders:small", "--final", "small.pt", *data, capsys=capsys)
    assert code == 2
    assert "embedding" in err
    assert err.count("\n") == 1
    code, _, err = call("robustness", "--network", "my_decoders:narrow", "--final", "narrow.pt", *data, capsys=capsys)
    assert code == 2
    assert "classes" in err or "logits" in err
    assert err.count("\n") == 1
    empty = ["--data", "text:empty.txt", "--data-root", text]
    code, _, err = call("train", "--network", "decoder-1x8", *empty, capsys=capsys)
    assert code == 2
    assert "empty" in err
    assert err.count("\n") == 1
