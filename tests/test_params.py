"""Layers of a network: grouping, order, ties, buffers."""

import pytest
import torch
from torch import nn

from shaketable.errors import InputError
from shaketable.params import aliases, layers, linear_layers, snapshot, state


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x):
        return x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))


class Stage(nn.Module):
    """As in Hugging Face's ResNet and ConvNeXt: a down-sampling and a list of blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.downsampling = nn.Conv2d(width, width, 1)
        self.layers = nn.ModuleList([Residual(width), Residual(width)])

    def forward(self, x):
        x = self.downsampling(x)
        for layer in self.layers:
            x = layer(x)
        return x


class Staged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 10)  # registered first, runs last
        self.stem = nn.Conv2d(3, 4, 3)
        self.stem_norm = nn.BatchNorm2d(4)
        self.stages = nn.ModuleList([Stage(4), Stage(4)])

    def forward(self, x):
        x = self.stem_norm(self.stem(x))
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))


class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(8))
        self.embed = nn.Embedding(20, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.predict = nn.Linear(8, 20)
        self.predict.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens) + self.position
        return self.predict(x + self.attention(x, x, x)[0])


IMAGES = torch.zeros(2, 3, 8, 8)


def names(*args, **kwargs) -> list[str]:
    return [layer.name for layer in layers(*args, **kwargs)]


def test_modules_come_in_the_order_in_which_they_run_not_in_which_they_were_registered():
    network = Staged().eval()
    assert names(network)[0] == "head"
    ordered = names(network, inputs=IMAGES)
    assert ordered[:3] == ["stem", "stem_norm", "stages.0.downsampling"]
    assert ordered[-1] == "head"


def test_blocks_are_found_by_structure_and_a_norm_outside_of_them_joins_its_operator():
    found = layers(Staged().eval(), "block", IMAGES)
    assert [layer.name for layer in found] == [
        "stem",
        "stages.0.downsampling",
        "stages.0.layers.0",
        "stages.0.layers.1",
        "stages.1.downsampling",
        "stages.1.layers.0",
        "stages.1.layers.1",
        "head",
    ]
    assert found[0].params == ("stem.weight", "stem.bias", "stem_norm.weight", "stem_norm.bias")
    assert "stem_norm.running_mean" in found[0].buffers
    assert found[2].kind == "Residual"


def test_stages_hold_their_blocks_and_their_down_sampling():
    assert names(Staged().eval(), "stage", IMAGES) == ["stem", "stages.0", "stages.1", "head"]


def test_a_squeeze_and_excitation_inside_a_block_is_no_block_of_its_own():
    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)

    class Inverted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), Squeeze(), nn.Conv2d(4, 4, 1))

    network = nn.Sequential(nn.Sequential(Inverted(), Inverted()), nn.Linear(4, 2))
    assert names(network, "block") == ["0.0", "0.1", "1"]


def test_a_plain_chain_of_layers_has_no_residual_blocks():
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    )
    assert names(network, "block") == ["0.0", "1.0", "1.1"]


@pytest.mark.parametrize("by", ["module", "block", "stage"])
@pytest.mark.parametrize("network", [Staged(), TiedLanguageModel()], ids=["staged", "tied"])
def test_every_tensor_of_the_state_is_in_exactly_one_layer(network, by):
    found = layers(network, by)
    held = [name for layer in found for name in layer.params + layer.buffers]
    assert sorted(held) == sorted(state(network))


def test_tied_weights_are_one_layer_with_the_parameters_of_both_modules():
    found = layers(TiedLanguageModel().eval(), inputs=torch.zeros(2, 3, dtype=torch.long))
    assert [layer.name for layer in found] == ["position", "embed", "attention.in_proj", "attention.out_proj"]
    assert found[1].params == ("embed.weight", "predict.bias")
    assert aliases(TiedLanguageModel()) == {"predict.weight": "embed.weight"}


def test_a_mapping_groups_as_told_in_forward_order_and_reaches_tied_names_and_wild_cards():
    network = TiedLanguageModel()
    found = layers(network, {"attention": "attention.*", "words": ["predict.weight"]})
    assert [(layer.name, len(layer.params)) for layer in found] == [("words", 1), ("attention", 4)]


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("modules", "use 'module', 'block', 'stage'"),
        ({"a": "nowhere"}, "'nowhere' matches no parameter"),
        ({"a": "stem", "b": "stem.weight"}, "'stem.weight' is in two of your layers"),
        ({}, "mapping of layers is empty"),
        ({"a": "stem_norm.running_mean"}, "names buffers only"),
    ],
)
def test_a_wrong_grouping_is_one_clear_error(by, message):
    with pytest.raises(InputError, match=message):
        layers(Staged(), by)


def test_a_network_without_parameters_is_refused():
    with pytest.raises(InputError, match="has no parameters"):
        layers(nn.ReLU())


def test_a_parametrised_module_is_one_layer_with_its_own_name():
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), nn.Linear(2, 2))
    assert names(network) == ["0", "1"]


def test_looking_for_layers_leaves_no_hooks_and_no_changes():
    network = Staged().eval()
    before = snapshot(network)
    layers(network, "block", IMAGES)
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in state(network).items())


def test_a_snapshot_is_not_reached_by_later_training():
    network = nn.Linear(2, 2)
    kept = snapshot(network)
    with torch.no_grad():
        network.weight.add_(1)
    assert not torch.equal(kept["weight"], network.weight)
    assert state(network)["weight"].data_ptr() == network.weight.data_ptr()


def test_what_a_module_owns_beside_modules_is_a_layer_of_its_own_with_its_own_name():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.gamma = nn.Linear(4, 4), nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    network = nn.Sequential(Block(), Block())
    assert names(network)[:4] == ["0.gamma", "0.fc1", "0.fc2", "1.gamma"]
    assert names(network, "block") == ["0", "1"]


def test_linear_layers_are_convolutions_and_linear_layers_with_weights_alone_in_forward_order():
    found = linear_layers(Staged().eval(), IMAGES)
    assert [layer.name for layer in found][:3] == ["stem", "stages.0.downsampling", "stages.0.layers.0.conv1"]
    assert all(layer.params == (f"{layer.name}.weight",) and not layer.buffers for layer in found)
    assert {layer.kind for layer in found} == {"Conv2d", "Linear"}
    assert len(found) == 1 + 2 * (1 + 2 * 2) + 1


def test_linear_layers_know_tied_weights_recurrent_layers_and_the_joint_projection_of_an_attention():
    tied = linear_layers(TiedLanguageModel())
    assert [layer.params for layer in tied] == [
        ("embed.weight",),
        ("attention.in_proj_weight",),
        ("attention.out_proj.weight",),
    ]
    assert linear_layers(nn.LSTM(3, 4))[0].params == ("weight_ih_l0", "weight_hh_l0")


def test_tokens_positions_scales_and_normalisations_of_many_dimensions_are_no_linear_layers():
    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 4)), nn.Parameter(torch.zeros(1, 5, 4))
            self.scale = nn.Parameter(torch.ones(4, 1, 1))
            self.norm, self.head = nn.LayerNorm((5, 4)), nn.Linear(4, 1)

    assert [layer.params for layer in linear_layers(Transformer())] == [("head.weight",)]


def test_a_network_without_a_weight_matrix_has_no_linear_layers():
    with pytest.raises(InputError, match="no parameter of it has two dimensions"):
        linear_layers(nn.BatchNorm1d(3))
