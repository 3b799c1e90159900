"""Cumulative unit ablation: curves, orders, turning points, and what is told of what is not there."""

import polars as pl
import pytest
import torch
from tests.engine.test_removals import Deciding
from torch import nn

from shaketable.engine.removals import Removals
from shaketable.errors import InputError, RunError
from shaketable.intervene import ablated, site_of
from shaketable.measures import kappa, zeta
from shaketable.params import snapshot
from shaketable.probes import Ablation, ablation
from shaketable.study import Study


def by_hand(classes: int = 2) -> Study:
    """Four units that are the inputs; class 0 wins where those left sum to more than 2.5, else class 1."""
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, classes)).eval()
    weight, bias = torch.zeros(classes, 4), torch.full((classes,), -100.0)
    weight[0], bias[0], bias[1] = 1, 0, 2.5
    final = {"0.weight": torch.eye(4), "2.weight": weight, "2.bias": bias}
    inputs = torch.tensor([[4.0, 3, 2, 1], [8, 0, 0, 0], [0, 0, 0, 1]])
    return Study(network, final=final, train=(inputs, [0, 0, 1]))


class Residual(nn.Module):
    """A convolution, a residual block, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.relu0 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        self.inner, self.relu1 = nn.Conv2d(6, 5, 3, padding=1), nn.ReLU()
        self.outer, self.relu2, self.head = nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        x = self.relu0(self.norm(self.stem(x)))
        return self.head(self.relu2(self.outer(self.relu1(self.inner(x))) + x).mean((2, 3)))


def residual() -> Study:
    """A residual network that is right on most of its labels; some are corrupted."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, inputs = Residual(), torch.randn(40, 1, 6, 6)
        with torch.no_grad():
            network.train()(inputs)
            logits = network.eval()(inputs)
    network.head.bias.data.sub_(logits.mean(0))  # no class is always ahead
    with torch.no_grad():
        labels = network(inputs).argmax(1)
    labels[::5] = (labels[::5] + 1) % 3
    return Study(network, train=(inputs, labels))


def curves(result: Ablation, group: int | None, layer: str | None = None) -> list[list[float]]:
    own = result.table.filter(pl.col("class").eq_missing(pl.lit(group, pl.Int64)))
    own = own if layer is None else own.filter(layer=layer)
    return [own.filter(order=order).sort("removed")["accuracy"].to_list() for order in ("most first", "least first")]


def naive(study: Study, layer: str, group: int | None) -> list[list[float]]:
    """The curves by the context manager alone, ranked by sums of absolute activations behind a hook of its own."""
    assert study.train is not None
    network, inputs, labels = study.network, study.train.inputs, study.train.labels
    rows = labels == group if group is not None else labels >= 0
    inputs, labels = inputs[rows], labels[rows]
    site, seen = site_of(network, layer, inputs), []
    handle = network.get_submodule(site.module).register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        network(inputs)
    handle.remove()
    norms = seen[0].abs().double().sum([d for d in range(seen[0].dim()) if d != 1])
    order = norms.argsort(descending=True, stable=True)
    found = []
    for ranked in (order, order.flip(0)):
        curve = []
        for n in range(site.units + 1):
            with torch.no_grad(), ablated(network, site, ranked[:n]):
                curve.append(float((network(inputs).argmax(1) == labels).double().mean()))
        found.append(curve)
    return found


def test_a_network_built_by_hand_has_the_turning_points_that_are_known_on_paper():
    result = ablation(by_hand())
    assert curves(result, 0) == [[1, 0.5, 0.5, 0, 0], [1, 1, 1, 1, 0]]
    assert curves(result, 1) == [[1] * 5, [1] * 5]
    rows = result.summary().select("class", "n_0", "n_0_r", "reached", "zeta", "kappa").rows()
    assert rows == [(0, 1, 3, 1, 0.25, 0.5), (1, 4, 4, 0, 0.5, 0), (None, 2.5, 3.5, 0.5, 0.375, 0.25)]
    assert result.table.filter(pl.col("class") == 0, order="most first")["unit"].to_list() == [None, 0, 1, 2, 3]
    first = result.summary(ties="first")
    assert first["n_0_r"].to_list() == [0, 0, 0]
    assert first["zeta"].to_list() == [5 / 8, 1, 6.5 / 8]
    code = result.summary("code")
    assert code.select("n_0", "n_0_r", "zeta", "kappa").rows()[:2] == [(1, 3, 0.25, 0.4), (0, 3, 0.125, 0)]


def test_zeta_and_kappa_are_the_means_over_classes():
    study = by_hand()
    assert (zeta(study).value, kappa(study).value) == (0.375, 0.25)
    assert zeta(study).reason == "the accuracy of 1 of 2 classes never falls to chance"
    assert zeta(study, rule="code").value == (0.25 + 0.125) / 2


@pytest.mark.parametrize("layer", ["stem", "inner", "outer"])
def test_every_point_of_every_curve_is_the_naive_loops_and_over_all_data_too(layer):
    study = residual()
    result = ablation(study, layer, over=("class", "all"))
    for group in (0, 1, 2, None):
        assert curves(result, group) == naive(study, layer, group)
    summary = result.summary()
    assert summary["over"].to_list() == ["class"] * 3 + ["all", "mean of classes"]
    assert summary.filter(over="all")["examples"][0] == 40


def test_several_layers_are_one_table_in_the_order_asked_for_and_each_as_alone():
    study = residual()
    both = ablation(study, ["outer", "stem"])
    assert both.summary()["layer"].unique(maintain_order=True).to_list() == ["outer", "stem"]
    assert both.table["activation"].unique(maintain_order=True).to_list() == ["relu2", "relu0"]
    assert curves(both, 1, "stem") == curves(ablation(study, "stem"), 1)


@pytest.mark.parametrize("arguments", [{"batch_size": 7}, {"memory": 1}, {"way": "network"}, {"way": "suffix"}])
def test_the_curves_depend_neither_on_batches_nor_on_memory_nor_on_the_way(arguments):
    study = residual()
    expected = ablation(study, "inner", over=("class", "all")).table
    assert ablation(study, "inner", over=("class", "all"), **arguments).table.equals(expected)


def test_some_classes_have_the_curves_that_they_have_among_all():
    study = residual()
    some = ablation(study, "outer", classes=[2])
    assert some.table["class"].unique().to_list() == [2]
    assert curves(some, 2) == curves(ablation(study, "outer"), 2)


def test_units_are_ordered_by_selectivity_by_weight_or_by_a_seed():
    study = residual()
    orders = {}
    for attribute in ("activation", "selectivity", "weight", "random"):
        table = ablation(study, "stem", attribute=attribute, over=("class", "all")).table
        orders[attribute] = {
            group: rows.filter(order="most first")["unit"].to_list()[1:]
            for (group,), rows in table.group_by("class", maintain_order=True)
        }
        assert all(sorted(order) == list(range(6)) for order in orders[attribute].values())
    norms = study.final["stem.weight"].abs().flatten(1).sum(1)
    assert orders["weight"] == dict.fromkeys((0, 1, 2, None), norms.argsort(descending=True).tolist())
    assert orders["random"][0] != orders["random"][1]
    other = ablation(study, "stem", attribute="random", seed=1).table
    assert other.filter(pl.col("class") == 0, order="most first")["unit"].to_list()[1:] != orders["random"][0]
    assert orders["selectivity"][0] != orders["activation"][0]


def test_class_selectivity_is_the_index_of_means():
    result = ablation(by_hand(), attribute="selectivity")  # means 6, 1.5, 1, 0.5 on class 0; 0, 0, 0, 1 on class 1
    assert result.table.filter(pl.col("class") == 1, order="most first")["unit"].to_list()[1:] == [3, 0, 1, 2]


def test_a_class_without_examples_is_a_row_with_its_reason_and_not_in_the_mean():
    result = ablation(by_hand(3))
    missing = result.table.filter(status="unavailable")
    assert missing.select("class", "reason").rows() == [(2, "class 2 has no train examples")]
    assert result.summary().filter(over="class")["class"].to_list() == [0, 1]
    with pytest.raises(InputError, match="class 2 has no examples in these data"):
        ablation(by_hand(3), classes=[2])


def test_the_network_and_the_random_state_are_left_alone_and_a_result_is_found_again(tmp_path):
    study = residual()
    before, state = snapshot(study.network), torch.get_rng_state()
    first = ablation(study, store=tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(study.network).items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in study.network.modules())
    again = ablation(study, store=tmp_path)
    assert again.provenance["created"] == first.provenance["created"]
    assert again.table.equals(first.table)
    assert again.summary().equals(first.summary())
    assert len(list(tmp_path.glob("*/provenance.json"))) == 1
    assert "zeta" in repr(again)


def test_a_network_that_cannot_be_traced_has_its_curves_too():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network, inputs = Deciding().eval(), torch.randn(12, 3)
    with torch.no_grad():
        labels = network(inputs).argmax(1)
    result = ablation(Study(network, train=(inputs, labels)), "one", over="all")
    assert result.provenance["ways"] == {"one": "network"}
    assert result.table["accuracy"][0] == 1


class Steps(nn.Module):
    """Sequences [N, T, 3], whose steps come first, or are put together with the examples."""

    def __init__(self, together: bool) -> None:
        super().__init__()
        self.together = together
        self.step, self.relu, self.head = nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        if self.together:
            return self.head(self.relu(self.step(x.flatten(0, 1))).view(*x.shape[:2], -1).mean(1))
        return self.head(self.relu(self.step(x.transpose(0, 1))).mean(0))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("count", [1, 4, 30])
def test_an_activation_without_a_row_for_each_example_is_one_clear_error(together, count):
    network, inputs = Steps(together).eval(), torch.ones(count, 4, 3)
    study = Study(network, train=(inputs, network(inputs).argmax(1)))
    with pytest.raises(InputError, match="layer 'step': its activation .* has no row for each of them"):
        ablation(study, "step")


def test_a_network_at_chance_is_one_sentence():
    study = residual()
    assert study.train is not None
    wrong = (study.network(study.train.inputs).argmax(1) + 1) % 3
    with pytest.raises(
        RunError,
        match="the network gets 0 of 40 train examples right, no more than guessing among 3 classes",
    ):
        ablation(Study(study.network, train=(study.train.inputs, wrong)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"layers": "norm"}, "layer 'norm' has no units"),
        ({"layers": ["stem", "nothing"]}, "layer 'nothing' is not there"),
        ({"layers": []}, "name at least one layer"),
        ({"classes": [3]}, "class 3 is not there: the network has 3 classes"),
        ({"classes": []}, "name at least one class"),
        ({"over": "everything"}, "give 'class', 'all' or both"),
        ({"attribute": "beauty"}, "use one of activation, selectivity, weight, random"),
        ({"rule": "mine"}, "use rule='paper' or 'code'"),
        ({"split": "test"}, "the study has no test data"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"precision": "float64"}, "use 'auto' or 'float32'"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, said):
    with pytest.raises(InputError, match=said):
        ablation(residual(), **arguments)


def test_decisions_in_bfloat16_can_be_done_without(monkeypatch):
    generator, rounds, right = torch.Generator().manual_seed(0), [], Removals.right
    monkeypatch.setattr(Removals, "_rounding_pays", lambda self, base: True)
    monkeypatch.setattr(Removals, "right", lambda self, *given: [right(self, *given), rounds.append(self.rounds)][0])
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    inputs = torch.randn(20, 4, generator=generator)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.normal_(generator=generator)
        study = Study(network, train=(inputs, network(inputs).argmax(1)))
    exact, rough = (ablation(study, "0", precision=precision) for precision in ("float32", "auto"))
    assert rounds == [False, True]
    assert exact.table.equals(rough.table)


def test_one_unit_and_a_language_model_are_one_clear_error():
    network = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 2)).eval()
    with pytest.raises(InputError, match="layer '0' has one unit"):
        ablation(Study(network, train=(torch.randn(4, 3), [0, 1, 0, 1])), "0")
    tokens = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)).eval()
    inputs = torch.randint(0, 5, (3, 6), generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="this study is of a language model"):
        ablation(Study(tokens, train=(inputs, inputs)))
