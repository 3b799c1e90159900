"""Experts taken apart: the same network, with a layer for each expert."""

import pytest
import torch
from torch import nn

from shaketable.errors import InputError
from shaketable.foreign import from_huggingface, unstacked
from shaketable.forward import forward
from shaketable.params import layers, snapshot, state
from shaketable.perturb import changed_tensors, fresh_params
from shaketable.probes import robustness, sensitivity
from shaketable.study import Study

EXPERTS, WIDTH = 3, 4


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up_proj = nn.Parameter(torch.randn(EXPERTS, 6, WIDTH, generator=torch.Generator().manual_seed(0)))
        self.down_proj = nn.Parameter(torch.randn(EXPERTS, WIDTH, 6, generator=torch.Generator().manual_seed(1)))

    def forward(self, x, chosen):
        return torch.stack([self.down_proj[e] @ (self.up_proj[e] @ row).relu() for e, row in zip(chosen, x)])


class Mixture(nn.Module):
    """Example n goes to the expert in its first column."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.head = Experts(), nn.Linear(WIDTH, 2)

    def forward(self, x):
        return self.head(self.experts(x, x[:, 0].long()))


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, 6), nn.Linear(6, WIDTH)) for _ in range(2))
        self.shared_expert = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        mixed = torch.stack([expert(x) for expert in self.experts], -1) @ self.gate(x).softmax(-1)[..., None]
        return mixed.squeeze(-1) + self.shared_expert(x)


def inputs() -> torch.Tensor:
    x = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(2))
    x[:, 0] = torch.tensor([0, 1, 2] * 3)
    return x


def test_experts_in_a_list_are_a_layer_each_and_the_router_and_shared_experts_are_modules():
    found = layers(Listed(), "expert", torch.zeros(2, WIDTH))
    assert {layer.name: len(layer.params) for layer in found} == {
        "experts.0": 4,
        "experts.1": 4,
        "gate": 2,
        "shared_expert": 2,
    }
    assert found[0].kind == "Sequential"


def test_experts_in_a_dict_are_a_layer_each_under_the_names_that_switch_transformers_give_them():
    network = Listed()
    network.experts = nn.ModuleDict({f"expert_{n}": expert for n, expert in enumerate(network.experts)})
    found = [layer.name for layer in layers(network, "expert")]
    assert found == ["gate", "experts.expert_0", "experts.expert_1", "shared_expert"]


def test_experts_taken_apart_give_the_same_outputs_and_share_their_weights():
    network = Mixture().eval()
    before = snapshot(network)
    apart = unstacked(network)
    assert torch.equal(apart(inputs()), network(inputs()))
    assert state(apart)["head.weight"].data_ptr() == network.head.weight.data_ptr()
    first = state(apart)["experts.parametrizations.up_proj.original0"]
    assert first.data_ptr() == network.experts.up_proj.data_ptr()
    assert type(network.experts) is Experts
    assert all(torch.equal(before[name], tensor) for name, tensor in state(network).items())


def test_resetting_one_expert_changes_the_examples_that_are_routed_to_it_and_no_others():
    apart = unstacked(Mixture().eval())
    found = {layer.name: layer for layer in layers(apart, "expert", inputs())}
    assert list(found) == ["experts.0", "experts.1", "experts.2", "head"]
    assert found["experts.1"].params == (
        "experts.parametrizations.up_proj.original1",
        "experts.parametrizations.down_proj.original1",
    )
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state(apart).items()}
    with torch.no_grad():
        change = forward(apart, inputs(), {**state(apart), **changed_tensors(found["experts.1"], zeros)}) != apart(
            inputs()
        )
    assert change.any(1).tolist() == [False, True, False] * 3


def test_experts_in_one_tensor_are_refused_with_what_to_do_and_a_network_without_experts_too():
    with pytest.raises(InputError, match="'experts' keeps its experts in one tensor.*unstacked"):
        layers(Mixture(), "expert")
    with pytest.raises(InputError, match="Linear has no experts"):
        layers(nn.Linear(2, 2), "expert")
    with pytest.raises(InputError, match="Linear stores no experts in one tensor"):
        unstacked(nn.Linear(2, 2))


def test_pruning_every_weight_of_an_expert_leaves_the_errors_of_the_others_alone():
    apart = unstacked(Mixture().eval())
    with torch.no_grad():
        labels = apart(inputs()).argmax(1)
    table = sensitivity(Study(apart, test=(inputs(), labels)), "expert", noise=(), pruning=(1.0,)).table
    bias = int(apart.head.bias.argmax())
    expected = [int((labels[e::EXPERTS] != bias).sum()) for e in range(EXPERTS)]
    assert table["errors"].to_list()[1:4] == expected


@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize("name", ["Mixtral", "Qwen2Moe"])
def test_a_mixture_of_transformers_comes_apart_and_each_expert_is_redrawn_by_the_models_own_rule(name):
    import transformers

    options = {"num_local_experts": 3} if name == "Mixtral" else {"num_experts": 3, "moe_intermediate_size": 8}
    config = getattr(transformers, f"{name}Config")(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_experts_per_tok=2,
        max_position_embeddings=16,
        **options,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    apart = unstacked(network)
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        assert torch.equal(apart(input_ids=ids).logits, network(input_ids=ids).logits)
    names = [layer.name for layer in layers(apart, "expert", {"input_ids": ids})]
    assert [n for n in names if ".experts." in n] == [f"model.layers.0.mlp.experts.{e}" for e in range(3)]
    study = from_huggingface(apart, {"input_ids": ids})
    fresh, sources = fresh_params(apart, 0, initialise=study.initialise)
    assert set(fresh) == set(state(apart))
    assert set(sources.values()) == {"initialiser"}
    drawn = fresh["model.layers.0.mlp.experts.parametrizations.gate_up_proj.original1"]
    assert abs(float(drawn.std()) / config.initializer_range - 1) < 3 / (2 * drawn.numel()) ** 0.5
    result = robustness(study, "expert", draws=1)
    assert set(result.table.filter(result.table["perturbation"] == "rerandomise")["status"]) == {"ok"}
