"""CKA: the estimators by their definitions, the probe against outputs computed by hand, and rows that say why not."""

from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from torch import nn

from shaketable.errors import InputError
from shaketable.identity import generator_from
from shaketable.params import snapshot
from shaketable.probes.similarity import cka, similarity
from shaketable.study import Study


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def u_statistic(x, y):
    """HSIC as the mean over all ordered quadruples of different examples (Song et al. 2012, theorem 5)."""
    k, el = (x @ x.T).tolist(), (y @ y.T).tolist()
    terms = [k[i][j] * (el[i][j] + el[q][r] - 2 * el[i][q]) for i, j, q, r in permutations(range(len(x)), 4)]
    return sum(terms) / len(terms)


def song(x, y):
    """HSIC by equation 5 of Song et al.: inner products with a zero diagonal."""
    n, one = len(x), np.ones(len(x))
    k, el = (np.asarray(z @ z.T) * (1 - np.eye(n)) for z in (x, y))
    total = (
        np.trace(k @ el) + (one @ k @ one) * (one @ el @ one) / (n - 1) / (n - 2) - 2 / (n - 2) * (one @ k @ el @ one)
    )
    return total / (n * (n - 3))


def test_the_unbiased_cka_is_that_of_the_u_statistic_for_few_and_for_many_features():
    for p, q in ((2, 3), (9, 2), (30, 40)):
        x, y = draw(7, p) + 1, draw(7, q, seed=1) + draw(7, 1)
        expected = u_statistic(x, y) / np.sqrt(u_statistic(x, x) * u_statistic(y, y))
        assert cka(x, y) == pytest.approx(expected, rel=1e-9)
        assert song(x, y) == pytest.approx(u_statistic(x, y), rel=1e-9)  # what the tests below stand on


def test_the_biased_cka_is_that_of_centred_inner_products_and_a_squared_correlation_for_single_features():
    x, y = draw(9, 4) + 3, draw(9, 12, seed=1)
    h = np.eye(9) - 1 / 9
    k, el = (h @ (z @ z.T).numpy() @ h for z in (x, y))
    assert cka(x, y, unbiased=False) == pytest.approx(
        (k * el).sum() / np.linalg.norm(k) / np.linalg.norm(el), rel=1e-12
    )
    a, b = draw(20, 1), draw(20, 1, seed=1) + draw(20, 1)
    correlation = np.corrcoef(a[:, 0], b[:, 0])[0, 1]
    assert cka(a, b, unbiased=False) == pytest.approx(correlation**2, rel=1e-12)


def test_rotation_scale_and_shift_change_nothing_and_other_linear_maps_do():
    x = draw(30, 2, 3)
    rotation = torch.linalg.qr(draw(6, 6, seed=1)).Q
    assert cka(x, 5 * x.flatten(1) @ rotation - 2) == pytest.approx(1, abs=1e-12)
    assert cka(x, x.flatten(1) @ torch.diag(torch.tensor([9.0, 1, 1, 1, 1, 1]).double())) < 0.9


def test_noise_with_more_features_than_examples_has_an_unbiased_cka_of_zero_and_a_biased_one_near_one():
    pairs = [(draw(20, 400, seed=2 * s), draw(20, 400, seed=2 * s + 1)) for s in range(100)]
    values = np.array([cka(x, y) for x, y in pairs])
    assert abs(values.mean()) < 3 * values.std() / 10
    assert min(cka(x, y, unbiased=False) for x, y in pairs) > 0.9


def test_the_mean_of_hsic_over_all_ways_to_halve_the_examples_is_that_of_the_whole():
    x, y = draw(8, 3), draw(8, 2, seed=1) + draw(8, 2)
    halves = [(list(half), sorted(set(range(8)) - set(half))) for half in combinations(range(8), 4)]
    means = [(song(x[a], y[a]) + song(x[b], y[b])) / 2 for a, b in halves]
    assert np.mean(means) == pytest.approx(song(x, y), rel=1e-9)  # what "unbiased over minibatches" means


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (torch.zeros(5, 2), torch.zeros(4, 2), "one number of examples"),
        (torch.zeros(5), torch.zeros(5), "give two tensors"),
        (torch.eye(3), torch.eye(3), "needs 4 or more"),
        (torch.ones(5, 2), torch.eye(5), "x is the same for every example"),
        (torch.eye(5), torch.eye(5) * float("inf"), "y has NaN or infinite"),
        (torch.tensor([[0.0], [0], [0], [0], [1]]), torch.eye(5), "x with itself is not positive"),
    ],
)
def test_what_has_no_cka_ends_in_one_sentence(x, y, sentence):
    with pytest.raises(InputError, match=sentence):
        cka(x, y)


class Net(nn.Module):
    """A convolution with work in place behind it, a normalisation, a hidden layer, a constant one, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.hidden = nn.Linear(12, 5)
        self.dead = nn.Linear(5, 4)
        self.scale = nn.Parameter(torch.ones(1))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = self.norm(self.conv(x).relu_()).flatten(1)
        x = torch.tanh(self.hidden(x)) * self.scale
        return self.head(x) + self.dead(x)[:, :3]


@pytest.fixture(scope="module")
def study():
    torch.manual_seed(0)
    network = Net().double()
    init = snapshot(network)
    final = {name: t + torch.randn(t.shape).to(t.dtype) if t.is_floating_point() else t for name, t in init.items()}
    final["norm.running_var"] = init["norm.running_var"]
    final["dead.weight"] = torch.zeros_like(final["dead.weight"])
    network.load_state_dict(final)
    inputs, labels = torch.randn(61, 1, 4, 4).double(), torch.arange(61) % 3
    labels[labels == 2] = torch.arange(20) % 2  # of the last class there are three
    labels[:3] = 2
    return Study(network.eval(), init=init, train=(inputs, labels))


def by_hand(params, x):
    """Outputs of the layers of Net, without its forward."""
    conv = nn.functional.conv2d(x, params["conv.weight"], params["conv.bias"])
    shape = (1, 3, 1, 1)
    mean, var, weight, bias = (
        params[f"norm.{name}"].reshape(shape) for name in ("running_mean", "running_var", "weight", "bias")
    )
    norm = (conv.relu() - mean) / (var + 1e-5).sqrt() * weight + bias
    hidden = norm.flatten(1) @ params["hidden.weight"].T + params["hidden.bias"]
    head = (hidden.tanh() * params["scale"]) @ params["head.weight"].T + params["head.bias"]
    return {"conv": conv, "norm": norm, "hidden": hidden, "head": head}


def values_of(table):
    return {(row["rewound"], row["layer"], row["class"]): row["cka"] for row in table.rows(named=True)}


def expected(study, which=slice(None)):
    """CKA by hand, by (rewound layer, layer)."""
    x = study.train.inputs[which]
    trained = by_hand(study.final, x)
    found = {}
    for rewound in ("conv", "norm", "hidden", "head"):
        change = {f"{rewound}.{name}": study.init[f"{rewound}.{name}"] for name in ("weight", "bias")}
        other = by_hand({**study.final, **change}, x)
        for layer in trained:
            u, v = trained[layer].flatten(1), other[layer].flatten(1)
            found[rewound, layer] = song(u, v) / np.sqrt(song(u, u) * song(v, v))
    return found


def test_it_is_the_full_batch_unbiased_cka_whatever_the_batch_size_and_the_memory(study):
    wanted = expected(study)
    for options in ({}, {"batch_size": 7}, {"memory": 1, "batch_size": 60}, {"examples": None, "minibatch": 61}):
        found = values_of(similarity(study, ["conv", "norm", "hidden", "head"], **options))
        for (rewound, layer), value in wanted.items():
            assert found[rewound, layer, None] == pytest.approx(value, rel=1e-9), (rewound, layer, options)
    assert found["conv", "head", None] < 0.99


def test_a_layer_in_front_of_the_rewound_one_has_exactly_one(study):
    found = values_of(similarity(study))
    assert found["hidden", "conv", None] == found["hidden", "norm", None] == found["scale", "hidden", None] == 1.0
    assert found["hidden", "hidden", None] < 0.99


def test_the_numbers_of_a_class_are_those_of_its_examples_alone(study):
    table = similarity(study, per_class=True)
    found = values_of(table)
    for label in (0, 1):
        for (rewound, layer), value in expected(study, study.train.labels == label).items():
            assert found[rewound, layer, label] == pytest.approx(value, rel=1e-9)
    few = table.filter(rewound="conv", layer="head")
    counts = torch.bincount(study.train.labels).tolist()
    assert few["examples"].to_list() == [61, counts[0], counts[1], 0]
    assert few["status"].to_list() == ["ok", "ok", "ok", "undefined"]


def test_over_minibatches_it_is_the_ratio_of_hsic_summed_over_them_with_their_sizes_as_weights(study):
    order = torch.randperm(61, generator=generator_from(0, "similarity", "train"))
    parts = [order[:16], order[16:31], order[31:46], order[46:]]  # 61 in four
    change = {name: study.init[name] for name in ("hidden.weight", "hidden.bias")}
    sums = np.zeros(3)
    for part in parts:
        u, v = (by_hand(p, study.train.inputs[part])["head"] for p in (study.final, {**study.final, **change}))
        sums += len(part) * np.array([song(u, v), song(u, u), song(v, v)])
    row = similarity(study, "hidden", minibatch=20).filter(layer="head").row(0, named=True)
    assert row["cka"] == pytest.approx(sums[0] / np.sqrt(sums[1] * sums[2]), rel=1e-9)
    assert row["examples"] == 61
    assert row["cka"] != pytest.approx(values_of(similarity(study, "hidden"))["hidden", "head", None], rel=1e-6)


def test_a_seed_draws_the_same_examples_again_and_another_seed_others(study):
    first, again, other = (similarity(study, "conv", examples=20, seed=seed) for seed in (0, 0, 1))
    assert first.equals(again)
    assert first.filter(layer="conv")["examples"].to_list() == [20]
    assert values_of(first)["conv", "head", None] != values_of(other)["conv", "head", None]


def test_a_constant_output_and_a_layer_without_output_are_rows_that_say_so(study):
    table = similarity(study, "conv")
    dead, scale = (table.filter(layer=name).row(0, named=True) for name in ("dead", "scale"))
    assert (dead["status"], dead["cka"]) == ("undefined", None)
    assert "same for every example in the trained network" in dead["reason"]
    assert (scale["status"], scale["cka"]) == ("unavailable", None)
    assert "no output" in scale["reason"]


@pytest.mark.parametrize("seed", range(8))
def test_an_output_that_is_constant_within_a_class_has_a_number_for_all_and_none_for_the_class(seed):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 50), nn.Linear(50, 2)).double().eval()
    init = {name: tensor + torch.rand_like(tensor) for name, tensor in snapshot(network).items()}
    kinds = torch.arange(99) % 3  # 33 each: a mean of so many equal numbers may be rounded
    inputs = torch.randn(3, 3).double() * torch.tensor([[1.0], [5.0], [1.0]])
    table = similarity(Study(network, init=init, train=(inputs[kinds], kinds % 2)), "0", per_class=True)
    first = table.filter(layer="0")
    assert first["status"].to_list() == ["ok", "ok", "undefined"]  # kinds 0 and 2 have the label 0
    assert "same for every example" in first["reason"][2]


def test_outputs_that_are_not_finite_are_a_row_that_says_so_and_leave_other_classes_alone():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)).eval()
    inputs, labels = draw(20, 2).float(), torch.arange(20) % 2
    first = int(torch.randperm(20, generator=generator_from(0, "similarity", "train"))[0])  # the first that is drawn
    inputs[first] = 1e30
    init = {name: tensor * 1e10 for name, tensor in snapshot(network).items()}
    study = Study(network, init=init, train=(inputs, labels))
    status = similarity(study, "1", per_class=True).filter(layer="1")["status"].to_list()
    assert status == ["not finite", *(["ok", "not finite"] if first % 2 else ["not finite", "ok"])]


def test_the_network_its_modes_its_hooks_and_the_random_state_are_left_alone(study):
    before, random = snapshot(study.network), torch.get_rng_state()
    similarity(study, "norm", statistics="rewind")
    assert all(torch.equal(before[name], tensor) for name, tensor in snapshot(study.network).items())
    assert torch.equal(random, torch.get_rng_state())
    assert not any(module._forward_hooks for module in study.network.modules())


class Failing(nn.Module):
    """Accepts two examples and no more."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        if len(x) > 2:
            raise RuntimeError("too many")
        return self.layer(x)


def test_hooks_are_gone_when_the_network_raises():
    network = Failing().eval()
    init = {name: tensor + 1 for name, tensor in snapshot(network).items()}
    with pytest.raises(RuntimeError, match="too many"):
        similarity(Study(network, init=init, train=(torch.eye(8, 2), [0, 1] * 4)))
    assert not network.layer._forward_hooks


def test_the_output_of_an_operator_with_its_normalisation_is_that_of_the_latter():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    init = snapshot(network)
    final = {name: t + torch.rand(t.shape).to(t.dtype) if t.is_floating_point() else t for name, t in init.items()}
    x = torch.randn(40, 3)
    study = Study(network, init=init, final=final, train=(x, [0, 1] * 20))
    table = similarity(study, "0", by="block")
    with torch.no_grad():
        changed = {name: init[name] for name in ("0.weight", "0.bias", "1.weight", "1.bias")}
        first = {name: tensor for name, tensor in final.items() if not name.startswith("2.")}
        u, v = (torch.func.functional_call(network[:2], {**first, **c}, x) for c in ({}, changed))
    assert table["layer"].to_list() == ["0", "2"]
    assert table["cka"][0] == pytest.approx(cka(u, v), abs=1e-5)


class Residual(nn.Module):
    """A block of two operators that gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return None, x + self.two(self.one(x).relu())


class Stack(nn.Module):
    """Two such blocks and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Residual(), Residual()])
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)[1]
        return self.head(x)


def test_the_output_of_a_block_is_the_tensor_at_its_end():
    torch.manual_seed(0)
    network = Stack().eval()
    init = {name: tensor + torch.rand(tensor.shape) for name, tensor in snapshot(network).items()}
    x = torch.randn(40, 3)
    table = similarity(Study(network, init=init, train=(x, [0, 1] * 20)), "blocks.0", by="block")
    rewound = Stack().eval()
    rewound.load_state_dict(snapshot(network) | {name: init[name] for name in init if name.startswith("blocks.0")})
    with torch.no_grad():
        u, v = (net.blocks[1](net.blocks[0](x)[1])[1] for net in (network, rewound))
    assert table["layer"].to_list() == ["blocks.0", "blocks.1", "head"]
    assert table["cka"][1] == pytest.approx(cka(u, v), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rewound": "nothing"}, "there is no layer 'nothing'"),
        ({"rewound": []}, "rewound is empty"),
        ({"examples": 3}, "examples=3: give a whole number from 4"),
        ({"minibatch": 2.0}, "minibatch=2.0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"checkpoint": 5}, "there is no checkpoint 5"),
        ({"split": "test"}, "has no test data"),
        ({"statistics": "reset"}, "use 'keep' or 'rewind'"),
    ],
)
def test_wrong_arguments_end_in_one_sentence(study, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        similarity(study, **arguments)


def test_without_init_one_sentence_says_what_to_give():
    with pytest.raises(InputError, match="make it with init"):
        similarity(Study(nn.Linear(2, 2).eval(), train=(torch.eye(2), [0, 1])))
