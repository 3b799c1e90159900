"""Recipes: validation, identity, reading, and the schedule in closed form."""

import dataclasses
import json
import math

import msgspec
import pytest

from shaketable.errors import InputError
from shaketable.training import Recipe, learning_rate

OTHER = {
    "network": "fcn-2x32",
    "network_args": {"batch_norm": True},
    "data": "mnist",
    "data_args": {"train_examples": 100},
    "optimiser": "adam",
    "learning_rate": 0.2,
    "momentum": 0.5,
    "weight_decay": 5e-4,
    "sam_rho": 0.05,
    "schedule": "cosine",
    "milestones": (10,),
    "factor": 0.1,
    "batch_size": 64,
    "epochs": 101,
    "stop_below": 0.15,
    "label_corruption": 0.2,
    "augmentation": ("pad-crop:4", "flip"),
    "frozen": ("layer1",),
    "removed": ("stage1.resblk2",),
    "checkpoints": (0, 7),
    "evaluate_every": 3,
    "precision": "bfloat16",
    "seed": 1,
}

BAD = [
    ("network", ""),
    ("network", 3),
    ("network_args", {"width": math.nan}),
    ("network_args", {"width": object()}),
    ("network_args", {"seed": 1}),
    ("data", ""),
    ("data_args", {"train_example": 10}),
    ("data_args", {"root": "/data"}),
    ("optimiser", "sdg"),
    ("learning_rate", 0.0),
    ("learning_rate", -0.1),
    ("learning_rate", math.nan),
    ("learning_rate", math.inf),
    ("learning_rate", "0.1"),
    ("learning_rate", True),
    ("momentum", 1.0),
    ("momentum", -0.1),
    ("momentum", math.nan),
    ("weight_decay", -5e-4),
    ("weight_decay", math.nan),
    ("sam_rho", -0.05),
    ("sam_rho", math.inf),
    ("schedule", "step"),
    ("milestones", (30, 30)),
    ("milestones", (60, 30)),
    ("milestones", (0, 30)),
    ("milestones", "30"),
    ("factor", 0.0),
    ("factor", 1.5),
    ("factor", math.nan),
    ("batch_size", 0),
    ("batch_size", 12.5),
    ("epochs", 0),
    ("epochs", True),
    ("stop_below", 0.0),
    ("stop_below", math.nan),
    ("label_corruption", -0.1),
    ("label_corruption", 1.1),
    ("label_corruption", math.nan),
    ("augmentation", ("flop",)),
    ("augmentation", ("pad-crop",)),
    ("augmentation", "flip"),
    ("frozen", ("layer1", "layer1")),
    ("frozen", ("",)),
    ("removed", ("stage1.resblk2", "stage1.resblk2")),
    ("removed", ("",)),
    ("checkpoints", (3, 2)),
    ("checkpoints", (-1,)),
    ("checkpoints", (101,)),
    ("evaluate_every", 0),
    ("precision", "float64"),
    ("seed", -1),
    ("seed", 2**63),
    ("seed", 0.5),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{name}={value!r:.20}" for name, value in BAD])
def test_a_bad_value_is_one_sentence_that_names_its_field(name, value):
    with pytest.raises(InputError, match=name) as caught:
        Recipe(**{name: value})
    assert "\n" not in str(caught.value)


def test_the_canonical_form_holds_every_field():
    names = {field.name for field in dataclasses.fields(Recipe)}
    assert json.loads(Recipe().canonical()).keys() == names == OTHER.keys()


@pytest.mark.parametrize("name", OTHER)
def test_every_field_is_part_of_the_identity(name):
    assert Recipe(**{name: OTHER[name]}).digest != Recipe().digest


def test_recipes_have_the_digests_that_they_had_before_fields_were_added():
    assert Recipe().digest == "dd09d97c01a4005a"
    assert Recipe(frozen=("a",)).digest == "d948a0b5c8662238"


def test_a_value_written_in_two_ways_is_one_recipe():
    one = Recipe(learning_rate=1, milestones=[5, 6], network_args={"widths": (1, 2)}, frozen=["layer1"])
    two = Recipe(learning_rate=1.0, milestones=(5, 6), network_args={"widths": [1, 2]}, frozen=("layer1",))
    assert one == two
    assert one.digest == two.digest
    assert hash(one) == hash(two)


def test_a_recipe_keeps_what_it_was_given_when_the_callers_dict_changes():
    arguments = {"batch_norm": True}
    recipe = Recipe(network_args=arguments)
    digest = recipe.digest
    arguments["batch_norm"] = False
    recipe.to_dict()["network_args"]["batch_norm"] = False
    assert recipe.digest == digest


def test_the_run_folder_is_named_for_network_data_and_digest_and_is_one_folder():
    recipe = Recipe(network="fcn-1x8", data="someone/their data")
    assert recipe.folder_name == f"fcn-1x8-someone_their_data-{recipe.digest}"


def test_a_recipe_reads_back_from_its_plain_values():
    assert Recipe.from_dict(Recipe(**OTHER).to_dict()) == Recipe(**OTHER)


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_a_recipe_reads_from_a_file(tmp_path, suffix):
    path = tmp_path / f"recipe.{suffix}"
    encode = msgspec.json.encode if suffix == "json" else msgspec.toml.encode
    path.write_bytes(b"epochs = 7\n" if suffix == "toml" else encode(OTHER))
    assert Recipe.from_file(path) == (Recipe(epochs=7) if suffix == "toml" else Recipe(**OTHER))


def test_an_unknown_field_is_refused_with_the_closest_name(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("learning_rat = 0.1\n")
    with pytest.raises(InputError, match=r"recipe\.toml.*'learning_rat'.*'learning_rate'"):
        Recipe.from_file(path)
    with pytest.raises(InputError, match=r"unknown field 'batchsize'.*'batch_size'"):
        Recipe().replace(batchsize=3)


@pytest.mark.parametrize(
    ("name", "text"), [("recipe.json", "{"), ("recipe.toml", "epochs = "), ("recipe.json", "[]"), ("recipe.yaml", "")]
)
def test_a_file_that_is_no_recipe_is_one_clear_error(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="recipe"):
        Recipe.from_file(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        Recipe.from_file(tmp_path / "absent.toml")


def test_the_stages_of_the_paper_change_after_30_60_and_90_epochs():
    rates = [learning_rate(Recipe(learning_rate=0.5), epoch) for epoch in range(1, 101)]
    assert rates == [0.5] * 30 + [0.5 * 0.2] * 30 + [0.5 * 0.2**2] * 30 + [0.5 * 0.2**3] * 10


def test_the_cosine_halves_in_the_middle_and_falls_to_zero_at_the_end():
    recipe = Recipe(schedule="cosine", learning_rate=0.4, epochs=4)
    root = math.sqrt(0.5)
    expected = [0.4, 0.2 * (1 + root), 0.2, 0.2 * (1 - root)]
    assert [learning_rate(recipe, epoch) for epoch in range(1, 5)] == pytest.approx(expected, rel=1e-12)


def test_a_constant_schedule_ignores_milestones():
    assert {learning_rate(Recipe(schedule="constant"), epoch) for epoch in range(1, 101)} == {0.1}


@pytest.mark.parametrize("epoch", [0, 101])
def test_there_is_no_learning_rate_outside_of_the_epochs(epoch):
    with pytest.raises(InputError, match="1 to 100"):
        learning_rate(Recipe(), epoch)
