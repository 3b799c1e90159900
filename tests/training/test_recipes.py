"""Named recipes: the numbers that the papers print."""

from itertools import pairwise

import pytest

from shaketable import networks
from shaketable.data import SOURCES, TEXTS
from shaketable.errors import InputError
from shaketable.training import NAMED, learning_rate, named


@pytest.mark.parametrize("name", NAMED)
def test_a_named_recipe_has_data_and_a_network_that_exist(name):
    recipe = named(name)
    known = {name: (source.shape, source.classes) for name, source in SOURCES.items()}
    known |= dict.fromkeys(TEXTS, ((64,), 1000)) | {"imagenet.npz": ((3, 224, 224), 1000)}
    shape, classes = known[recipe.data]
    networks.construct(recipe.network, shape, classes, **recipe.network_args)


def test_all_layers_equal_is_appendix_a_of_zhang_et_al():
    recipe = named("all-layers-equal")
    assert (recipe.optimiser, recipe.momentum, recipe.epochs, recipe.batch_size) == ("sgd", 0.9, 100, 128)
    assert (recipe.schedule, recipe.milestones, recipe.factor, recipe.weight_decay) == ("stages", (30, 60, 90), 0.2, 0)


def test_all_layers_equal_text_has_the_optimiser_and_the_checkpoints_of_section_5_1_of_zhang_et_al():
    recipe = named("all-layers-equal-text")
    assert (recipe.optimiser, recipe.epochs) == ("adam", 20)
    assert recipe.checkpoints == (0, 1, 2, 5, 10, 15, 20)


def test_module_criticality_is_appendix_c_of_chatterji_et_al():
    recipe = named("module-criticality")
    assert (recipe.learning_rate, recipe.weight_decay, recipe.batch_size, recipe.stop_below) == (0.1, 5e-4, 128, 0.15)
    assert named("module-criticality-cifar100").stop_below == 0.25
    rates = [learning_rate(recipe, epoch) for epoch in (60, 61, 120, 121, 300)]
    assert rates == pytest.approx([0.1, 0.02, 0.02, 0.004, 0.1 * 0.2**4])
    fcn = named("module-criticality-fcn")
    assert [learning_rate(fcn, epoch) for epoch in (200, 201, 1000)] == pytest.approx([0.1, 0.02, 0.1 * 0.2**4])


def test_a_mistyped_name_is_answered_with_the_closest():
    with pytest.raises(InputError, match="did you mean 'module-criticality'"):
        named("module-critcality")


def test_arguments_change_a_named_recipe_key_by_key():
    recipe = named("module-criticality", network_args={"width": 0.25})
    assert recipe.network_args == {"init": "xavier-uniform", "width": 0.25}
    assert named("demo", data_args={"train_examples": 100}).data_args == {"normalise": False, "train_examples": 100}


def test_demogen_is_appendix_a_3_of_kuhn_et_al():
    recipe = named("demogen")
    assert (recipe.network, recipe.momentum, recipe.batch_size, recipe.epochs) == ("nin-3x192-bn", 0.9, 128, 380)
    rates = [learning_rate(recipe, epoch) for epoch in (1, 100, 101, 201, 301, 380)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4, 1e-5, 1e-5])
    changed = named("demogen", network="nin-4x384-bn", network_args={"dropout": 0.5}, weight_decay=0.005)
    assert changed.network_args == {"dropout": 0.5}
    assert named("demogen", network_args={"dropout": 0.0}).digest != recipe.digest


def test_double_descent_is_appendix_a_4_of_kuhn_et_al():
    recipe = named("double-descent")
    assert (recipe.data, recipe.momentum, recipe.weight_decay, recipe.batch_size) == ("cifar100", 0.9, 1e-4, 128)
    rates = [learning_rate(recipe, epoch) for epoch in (1, 101, 141, 181, 200)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-2 * (1 - 0.99 / 2), 1e-4, 1e-4])
    assert named("double-descent-resnet", network="resnet18k-8").network == "resnet18k-8"


def test_a_linear_schedule_needs_the_two_epochs_between_which_it_falls():
    with pytest.raises(InputError, match=r"give two epochs, between which the learning rate falls"):
        named("double-descent", milestones=(100,))


def test_sparsity_is_appendix_d_of_zhao_et_al():
    recipe = named("sparsity", weight_decay=1e-4, network_args={"dropout": 0.5})
    assert (recipe.network, recipe.data, recipe.batch_size, recipe.momentum) == ("vgg16-bn", "cifar100", 128, 0.9)
    assert recipe.network_args == {"dropout": 0.5}
    assert [named(f"sparsity{end}").network for end in ("-mobilenet", "-resnet34")] == ["mobilenet", "resnet34-bn"]


def test_each_of_the_models_a_to_e_on_imagenet_leaves_out_one_thing_more():
    models = [named(f"sparsity-imagenet-{letter}").to_dict() for letter in "abcde"]
    differing = [{key for key in one if one[key] != other[key]} for one, other in pairwise(models)]
    assert differing == [{"augmentation"}, {"momentum"}, {"network_args"}, {"network_args", "weight_decay"}]
    a, *_, e = models
    assert (a["learning_rate"], a["momentum"], a["weight_decay"], a["batch_size"], a["epochs"]) == (
        0.01,
        0.9,
        5e-4,
        256,
        74,
    )
    assert a["network_args"] == {"dropout": 0.5}
    assert (e["augmentation"], e["network_args"], e["momentum"], e["weight_decay"]) == ([], {}, 0, 0)


def test_nn_mass_is_appendix_g_of_its_paper():
    recipe = named("nn-mass")
    assert (recipe.schedule, recipe.learning_rate, recipe.epochs) == ("cosine", 0.05, 200)
    assert any(step.startswith("cutout") for step in recipe.augmentation)
