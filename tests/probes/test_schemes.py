"""Groups of layers by name: the sets of the paper, written out by hand."""

import pytest
import torch

from shaketable.errors import InputError
from shaketable.networks import build
from shaketable.params import Layer, layers
from shaketable.probes.schemes import SCHEMES, layer_groups, scheme_group


def blocks(name: str) -> tuple[Layer, ...]:
    with torch.device("meta"):
        return layers(build(name, (3, 32, 32), 10), "block")


def test_the_schemes_of_a_fully_connected_network_are_those_of_figure_11():
    found = blocks("fcn-5x16")
    assert [layer.name for layer in found] == [f"layer{i}" for i in range(1, 7)]
    assert scheme_group(found, "all-but-first") == ("layer2", "layer3", "layer4", "layer5", "layer6")
    assert scheme_group(found, "two-in-three") == ("layer2", "layer3", "layer5", "layer6")
    assert scheme_group(found, "every-other") == ("layer2", "layer4", "layer6")


def test_the_schemes_of_a_resnet_count_the_blocks_of_each_stage_and_leave_out_stem_and_classifier():
    found = blocks("resnet50")
    stages = {1: 3, 2: 4, 3: 6, 4: 3}
    numbers = {
        "all-but-first": [2, 3, 4, 5, 6],
        "two-in-three": [2, 3, 5, 6],
        "every-other": [2, 4, 6],
    }
    for scheme, chosen in numbers.items():
        wanted = tuple(f"stage{s}.resblk{j}" for s, count in stages.items() for j in chosen if j <= count)
        assert scheme_group(found, scheme) == wanted
    assert set(numbers) == set(SCHEMES)


@pytest.mark.parametrize(("depth", "size"), [(18, 4), (50, 12), (101, 29), (152, 46)])
def test_all_but_the_first_block_of_each_stage_are_the_identity_skip_blocks_of_table_1(depth, size):
    assert len(scheme_group(blocks(f"resnet{depth}"), "all-but-first")) == size


def test_chosen_stages_keep_the_scheme_inside_of_them():
    found = blocks("resnet50")
    assert scheme_group(found, "all-but-first:stage1,stage4") == (
        "stage1.resblk2",
        "stage1.resblk3",
        "stage4.resblk2",
        "stage4.resblk3",
    )
    assert scheme_group(found, "every-other:stage3") == ("stage3.resblk2", "stage3.resblk4", "stage3.resblk6")


def test_a_group_and_its_rest_are_all_layers_each_once():
    found = blocks("resnet18")
    groups = layer_groups(found, ["every-other", "two-in-three"], rest=True)
    assert list(groups) == ["every-other", "rest of every-other", "two-in-three", "rest of two-in-three"]
    both = groups["every-other"] + groups["rest of every-other"]
    assert sorted(both) == sorted(layer.name for layer in found)


def test_groups_of_your_own_name_layers_wild_cards_or_schemes_in_forward_order():
    groups = layer_groups(
        blocks("resnet18"),
        {"ends": ["final_linear", "stage0*"], "last": "stage4.*", "some": "every-other:stage1"},
    )
    assert groups == {
        "ends": ("stage0.conv", "final_linear"),
        "last": ("stage4.resblk1", "stage4.resblk2"),
        "some": ("stage1.resblk2",),
    }


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("every-othr", "no scheme 'every-othr'; did you mean 'every-other'"),
        (["every-other:stage7"], "no stage 'stage7'; there are stage1, stage2, stage3, stage4"),
        ({"mine": ["stage1.resblk9"]}, "group 'mine': there is no layer 'stage1.resblk9'; near names: stage1.resblk"),
        ({"mine": []}, "group 'mine' is empty"),
        ({"mine": ["stage1.*", "stage1.resblk2"]}, "names layer 'stage1.resblk2' twice"),
        ({"mine": 3}, "group 'mine': give names of layers"),
        ({}, "give a scheme"),
        ({"mine": ["*"]}, "holds all layers"),
        ({"mine": "stage1.*", "rest of mine": "stage2.*"}, "'rest of mine' is the name of a group and of the rest of"),
    ],
)
def test_a_group_that_cannot_be_is_one_sentence(groups, message):
    with pytest.raises(InputError, match=message):
        layer_groups(blocks("resnet18"), groups, rest=True)


def test_a_scheme_without_layers_or_stages_says_so():
    found = blocks("fcn-5x16")
    with pytest.raises(InputError, match="gives an empty group"):
        scheme_group(found[:1], "all-but-first")
    with pytest.raises(InputError, match="no stage 'stage1'; it has no stages"):
        scheme_group(found, "all-but-first:stage1")
