"""Which networks a plan has, and what is wrong with one."""

import re
from pathlib import Path

import pytest

from shaketable.errors import InputError
from shaketable.training import Recipe
from shaketable.zoo import Plan

GRID = """
recipe = "demogen"

[base]
network = "nin-{blocks}x{channels}-bn"
data = "digits"
network_args.dropout = 0.2

[axes]
blocks = [1, 2]
channels = [8, 16]
weight_decay = [0, 0.001]
network_args.init = ["kaiming-normal", "xavier-uniform"]
augmentation = [[], ["shift:1"]]
"""
LIST = """
[base]
epochs = 3

[[networks]]
network = "fcn-1x16"

[[networks]]
network = "fcn-1x16"
network_args.batch_norm = true
learning_rate = 0.05
"""


def from_text(text, tmp_path):
    (tmp_path / "plan.toml").write_text(text)
    return Plan.from_file(tmp_path / "plan.toml")


def test_a_grid_in_a_file_has_every_combination_each_with_the_identity_of_its_recipe(tmp_path):
    plan = from_text(GRID, tmp_path)
    assert len(plan) == 2**5
    assert plan.axes == ("blocks", "channels", "weight_decay", "network_args.init", "augmentation")
    last = plan.networks[-1]
    assert last.recipe.network == "nin-2x16-bn"
    assert last.recipe.network_args == {"dropout": 0.2, "init": "xavier-uniform"}
    assert (last.recipe.augmentation, last.recipe.epochs) == (("shift:1",), 380)
    assert last.name == last.recipe.folder_name
    assert last.hyperparameters == {
        "blocks": 2,
        "channels": 16,
        "weight_decay": 0.001,
        "network_args.init": "xavier-uniform",
        "augmentation": ["shift:1"],
    }


def test_the_plans_of_the_how_to_are_ones(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "how-to.md").read_text(encoding="utf-8")
    texts = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert [len(from_text(text, tmp_path)) for text in texts] == [2**5 * 3, 2 * 3]


def test_a_plan_in_python_and_the_same_in_a_file_have_the_same_networks(tmp_path):
    base = Recipe(network="fcn-{depth}x8")
    one = Plan.grid(base, {"depth": [1, 2], "seed": [0, 1]})
    other = from_text('[base]\nnetwork = "fcn-{depth}x8"\n[axes]\ndepth = [1, 2]\nseed = [0, 1]\n', tmp_path)
    assert one == other
    assert Plan.of_recipes(one.to_dict()) == one


def test_the_hyperparameters_of_a_list_are_the_fields_that_differ(tmp_path):
    plan = from_text(LIST, tmp_path)
    assert set(plan.axes) == {"network_args.batch_norm", "learning_rate"}
    assert [entry.hyperparameters["network_args.batch_norm"] for entry in plan.networks] == [None, True]
    assert [entry.recipe.epochs for entry in plan.networks] == [3, 3]


def test_a_name_in_braces_is_the_hyperparameter_of_a_list_and_not_the_network(tmp_path):
    plan = Plan.listed(Recipe(network="fcn-1x{width}"), [{"width": 4}, {"width": 8}])
    assert plan.axes == ("width",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[axes]\nseed = []\n", "axis 'seed' is empty; give at least one value"),
        ("[axes]\nseed = 3\n", "axis 'seed' is 3; give a list of values"),
        ("[axes]\n", "there is no axis"),
        ("[axes]\nseed = [1, 2, 1]\n", "networks 1 and 3 are the same one (seed = 1)"),
        ("[axes]\nweight_decay = [0, 0.0]\n", "networks 1 and 2 are the same one"),
        ("[axes]\nlearning_rte = [0.1]\n", "unknown field 'learning_rte'; did you mean 'learning_rate'?"),
        ("[axes]\ndata_args.pads = [1]\n", "data_args: unknown field 'pads'; did you mean 'pad'?"),
        ('[axes]\nnetwork_args.widht = [1]\nnetwork = ["resnet18"]\n', "Did you mean 'width'?"),
        ('[axes]\nnetwork = ["fnc-3x256"]\n', "Did you mean 'fcn-3x256'?"),
        ('[axes]\ndata = ["digit"]\n', "digits"),
        ("[axes]\nlearning_rate = [-1]\n", "learning_rate = -1.0 is not allowed"),
        ('[base]\nnetwork = "fcn-1x{width}"\n[axes]\nseed = [0]\n', "a name in braces that is no axis"),
        ("[base]\nseed = 1\n", "either [axes], or a list of [[networks]]"),
        ("[axes]\nseed = [0]\n[[networks]]\nseed = 1\n", "either [axes], or a list of [[networks]]"),
        ("networks = []\n", "there is no network in it"),
        ("networks = 3\n", "networks is no list"),
        ("networks = [3]\n", "3 is no table"),
        ("[axis]\nseed = [0]\n", "unknown field 'axis'; did you mean 'axes'?"),
        ('recipe = "demogne"\n[axes]\nseed = [0]\n', "did you mean 'demogen'?"),
        ("[axes\n", "this plan cannot be read"),
    ],
)
def test_what_is_wrong_with_a_plan_is_one_sentence_that_names_the_file(text, said, tmp_path):
    with pytest.raises(InputError) as error:
        from_text(text, tmp_path)
    assert said in str(error.value)
    assert "plan.toml" in str(error.value)
    assert "\n" not in str(error.value)
