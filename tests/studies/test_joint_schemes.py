"""The study of figures 6 and 11 to 13: its groups, its table by hand, and a toy from training to figures."""

import json

import polars as pl
import pytest
from studies.common import Options, Setting

from shaketable.data import SOURCES
from shaketable.networks import construct
from shaketable.params import layers
from shaketable.probes import Robustness
from shaketable.probes.joint_robustness import JointRobustness
from shaketable.probes.schemes import layer_groups
from studies import joint_schemes


@pytest.mark.parametrize("name", ["small", "full"])
def test_every_network_has_its_schemes_and_each_gives_a_group(name):
    recipes = joint_schemes.SETTINGS[name].recipes
    assert [recipe.network for recipe in recipes] == list(joint_schemes.FIGURES)
    for recipe in recipes:
        source = SOURCES[recipe.data]
        network = construct(recipe.network, source.shape, source.classes, **recipe.network_args)
        groups = layer_groups(layers(network, "block"), list(joint_schemes.FIGURES[recipe.network]))
        assert len({len(members) for members in groups.values()}) == len(groups)


def test_the_table_sets_the_mean_of_the_layers_alone_beside_the_group_together():
    whole = {"group": "full model", "position": -1, "perturbation": "none", "checkpoint": 9, "draw": None, "error": 0.1}
    group = {"group": "all-but-first", "position": 0, "checkpoint": None, "draw": None}
    rows = [
        whole,
        whole | {"checkpoint": 0, "error": 0.9},
        group | {"perturbation": "reinitialise", "checkpoint": 0, "error": 0.5},
        group | {"perturbation": "reinitialise", "checkpoint": 9, "error": 0.1},
        *(group | {"perturbation": "rerandomise", "draw": draw, "error": 0.6 + 0.2 * draw} for draw in (0, 1)),
        group | {"perturbation": "remove", "error": 0.3},
    ]
    other = {"layers": 2, "parameters": 4, "split": "test", "loss": 1.0, "accuracy_drop": 0.0}
    other |= {"distribution": None, "status": "ok", "reason": None}
    table = pl.DataFrame([row | other for row in rows], infer_schema_length=None)
    groups = {scheme: ["b", "c"] for scheme in joint_schemes.FIGURES["resnet18-v2"]}
    together = JointRobustness(table, {"groups": groups, "layers": ["a", "b", "c"], "final_checkpoint": 9})
    cells = [("a", 0.9), ("b", 0.2), ("c", 0.4)]
    alone = [
        {"layer": layer, "perturbation": how, "checkpoint": checkpoint, "error": error + more}
        for layer, error in cells
        for how, checkpoint, more in (("reinitialise", 0, 0.0), ("reinitialise", 9, 0.5), ("rerandomise", None, 0.1))
    ]
    single = Robustness(pl.DataFrame(alone), pl.DataFrame(), 0.05, 0.25, {"recipe": {"network": "resnet18-v2"}})
    found = joint_schemes.group_table(together, single).row(0, named=True)
    assert (found["layers"], found["of"], found["figure"]) == (2, 3, "12")
    numbers = {"full": 0.1, "alone_reinitialised": 0.3, "reinitialised": 0.5, "alone_rerandomised": 0.4}
    numbers |= {"rerandomised": 0.7, "rerandomised_std": 0.2 / 2**0.5, "removed": 0.3}
    assert {name: found[name] for name in numbers} == pytest.approx(numbers)


@pytest.mark.slow
def test_a_toy_runs_from_training_to_figures(tmp_path):
    common = {
        "data": "digits",
        "data_args": {"train_examples": 200, "test_examples": 50},
        "epochs": 1,
        "checkpoints": (),
    }
    common |= {"milestones": (), "augmentation": (), "learning_rate": 0.01}
    one, two = (joint_schemes.SETTINGS["small"].recipes[number] for number in (0, 1))
    setting = Setting([one.replace(**common), two.replace(**common, network_args={"width": 0.0625})], draws=2)
    chosen = Options("small", None, tmp_path / "out", tmp_path / "runs", "cpu", "a toy")
    joint_schemes.study(setting, chosen)
    table = pl.read_csv(tmp_path / "out" / "joint.csv")
    assert table["layers"].to_list() == [5, 4, 3, 4]
    assert table["removed"].is_null().to_list() == [True] * 3 + [False]  # no layer of an FCN is a residual block
    assert table["rerandomised_std"].null_count() == 0
    assert len((tmp_path / "out" / "joint.md").read_text().splitlines()) == 2 + 4
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert len(pictures) == 4
    assert "joint-resnet18-v2-all-but-first.png" in pictures
    networks = json.loads((tmp_path / "out" / "results.json").read_text())["networks"]
    assert [network["recipe"]["network"] for network in networks] == ["fcn-5x256", "resnet18-v2"]
