"""Valleys against closed forms, torch.func in float64, and statistics over draws."""

import copy
import gc
import math
import weakref

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from shaketable.engine import Engine
from shaketable.errors import InputError
from shaketable.identity import generator_from
from shaketable.params import snapshot, state
from shaketable.probes import Paths, Valley, path, valley
from shaketable.probes.moves import Move
from shaketable.probes.valleys import KEYS, SCHEMA, SURFACE
from shaketable.study import Study

GRID = dict(alphas=[0, 0.5, 1], sigmas=[0, 0.1, 0.5], draws=3)
ROW = ["alpha", "sigma", "draw", "sign"]


def data(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].argmax(1)


def study(**arguments) -> Study:
    """A small network with biases and batch norm, away from its init, with data to train and to test."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).eval()
        init = snapshot(network)
        final = {n: t + 0.3 * torch.randn_like(t) if t.is_floating_point() else t for n, t in init.items()}
        final["1.running_var"] = init["1.running_var"] + 0.5
    return Study(network, **({"init": init, "final": final, "train": data(101, 2), "test": data(50, 3)} | arguments))


def noise_of(layer: str, draw: int, shape, seed: int = 0) -> torch.Tensor:
    """The documented noise: standard normal from (seed, "valley", layer, draw)."""
    return torch.randn(shape, generator=generator_from(seed, "valley", layer, draw)).double()


@pytest.mark.parametrize("level", ["auto", "replay", "loop"])
@pytest.mark.parametrize("layer", ["0", "3"])
def test_each_row_has_the_errors_and_loss_of_its_weights_plus_its_noise(layer, level):
    made = study()
    x, y = data(101, 2)
    name = f"{layer}.weight"
    init, final = made.init[name].double(), made.final[name].double()
    table = valley(made, layer, **GRID, level=level).table
    assert len(table) == 3 * (1 + 2 * 3 * 2)
    network = copy.deepcopy(made.network).double()
    for row in table.iter_rows(named=True):
        weight = (1 - row["alpha"]) * init + row["alpha"] * final
        if row["sigma"]:
            z = noise_of(layer, row["draw"], init.shape)
            u = row["sigma"] * z * (row["sign"] * torch.sign((z * init).sum()))
            weight = weight + u
            assert row["inner"] == pytest.approx(float((u * init).sum()), rel=1e-6)
            assert row["norm"] == pytest.approx(float(u.norm()), rel=1e-6)
            assert row["sign"] == (1 if row["inner"] > 0 else -1)
        else:
            assert (row["draw"], row["sign"], row["norm"]) == (None, None, 0)
        params = {n: t.double() if t.is_floating_point() else t for n, t in made.final.items()}
        logits = torch.func.functional_call(network, {**params, name: weight}, x.double())
        assert row["errors"] == int((logits.argmax(1) != y).sum())
        assert row["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, y)), rel=2e-5)
        assert row["distance"] == pytest.approx(float((final - init).norm()), rel=1e-6)
        assert (row["split"], row["examples"], row["parameters"]) == ("train", 101, init.numel())


def test_the_mean_error_of_a_linear_network_is_the_normal_tail_of_a_closed_form():
    # one weight row: the margin of each example is c + sigma sqrt(2) g with g ~ N(0, 1): error = Phi(-c / (sigma sqrt 2))
    network = nn.Linear(1, 2, bias=False).eval()
    ends = {"init": torch.tensor([[-0.5], [0.5]]), "final": torch.tensor([[0.5], [-0.5]])}
    made = Study(network, **{k: {"weight": w} for k, w in ends.items()}, train=(torch.ones(4, 1), [0] * 4))
    means = valley(made, "linear", [0.25, 0.75, 1], [0.6, 1.0], draws=400, antithetic=False).summary()
    for row in means.iter_rows(named=True):
        margin = 2 * row["alpha"] - 1
        expected = 0.5 * math.erfc(margin / (row["sigma"] * math.sqrt(2)) / math.sqrt(2))
        assert row["draws"] == 400
        assert row["error_stderr"] == pytest.approx(math.sqrt(expected * (1 - expected) / 400), rel=0.25)
        assert abs(row["error"] - expected) < 3 * row["error_stderr"]


def test_a_draw_and_its_negative_cancel_what_is_odd_in_the_noise():
    # error of one example is 1 or 0 by the sign of its margin: at margin 0 exactly one of the pair is wrong
    network = nn.Linear(1, 2, bias=False).eval()
    made = Study(
        network,
        init={"weight": torch.tensor([[-1.0], [1.0]])},
        final={"weight": torch.tensor([[1.0], [-1.0]])},
        train=(torch.ones(1, 1), [0]),
    )
    row = valley(made, "linear", [0.5], [0.7], draws=6).summary().row(0, named=True)
    assert (row["error"], row["error_stderr"], row["draws"]) == (0.5, 0.0, 6)
    alone = valley(made, "linear", [0.5], [0.7], draws=6, antithetic=False).summary().row(0, named=True)
    assert alone["error_stderr"] > 0.1


def test_means_and_standard_errors_are_over_draws_of_which_a_pair_is_one():
    result = valley(study(), "0", **GRID)
    row = result.summary().row(by_predicate=(pl.col("alpha") == 0.5) & (pl.col("sigma") == 0.5), named=True)
    rows = result.table.filter((pl.col("alpha") == 0.5) & (pl.col("sigma") == 0.5))
    losses = np.array([rows.filter(pl.col("draw") == draw)["loss"].to_numpy() for draw in range(3)])
    assert losses.shape == (3, 2)
    assert row["loss"] == pytest.approx(losses.mean())
    assert row["loss_stderr"] == pytest.approx(losses.mean(1).std(ddof=1) / math.sqrt(3))
    still = result.summary().filter(pl.col("sigma") == 0)
    assert still["draws"].to_list() == [0, 0, 0]
    assert still["loss_stderr"].null_count() == 3
    single = valley(study(), "0", alphas=[1], sigmas=[0.1], draws=1).summary()
    assert (single["draws"][0], single["loss_stderr"][0]) == (1, None)


def test_without_noise_the_valley_is_the_path():
    made = study()
    still = valley(made, ["0", "3"], **GRID, split="test").table.filter(pl.col("sigma") == 0)
    along = path(made, alphas=[0, 0.5, 1], together=False, splits=["test"]).table
    columns = ["layer", "position", "alpha", "errors"]
    assert still.select(columns).equals(along.select(columns))
    assert still["loss"].to_list() == pytest.approx(along["loss"].to_list(), rel=1e-6)


def test_the_surface_has_both_signs_of_every_sigma_and_the_means_of_their_draws():
    result = valley(study(), "0", **GRID)
    surface = result.surface()
    assert surface.columns == SURFACE
    for alpha in (0, 0.5, 1):
        assert surface.filter(pl.col("alpha") == alpha)["y"].to_list() == [-0.5, -0.1, 0, 0.1, 0.5]
    assert surface.filter(pl.col("y") != 0)["draws"].to_list() == [3] * 12
    for row in surface.filter(pl.col("y") != 0).iter_rows(named=True):
        own = (pl.col("alpha") == row["alpha"]) & (pl.col("sigma") == row["sigma"]) & (pl.col("sign") == row["sign"])
        assert row["loss"] == pytest.approx(result.table.filter(own)["loss"].mean())
        assert row["error"] == pytest.approx(result.table.filter(own)["error"].mean())
        assert row["y"] == row["sign"] * row["sigma"]
    norms = result.surface(y="norm").filter((pl.col("sigma") == 0.5) & (pl.col("alpha") == 0))
    mean = sum(0.5 * float(noise_of("0", draw, (16, 4)).norm()) for draw in range(3)) / 3
    assert norms["y"].to_list() == pytest.approx([-mean, mean], rel=1e-6)


def test_without_antithetic_draws_a_sign_that_no_draw_has_is_not_there():
    result = valley(study(), "0", alphas=[1], sigmas=[0.1], draws=1, antithetic=False)
    sign = result.table["sign"][0]
    assert sign == (1 if float((noise_of("0", 0, (16, 4)) * study().init["0.weight"].double()).sum()) > 0 else -1)
    assert result.surface()["y"].to_list() == [sign * 0.1]


def test_the_surface_is_symmetric_where_the_loss_is_even_in_the_noise():
    # the loss depends on the square of the only weight; at weight 0 it is even
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(1, 1, bias=False)

        def forward(self, x):
            return torch.cat([self.fc(x) ** 2, torch.zeros_like(x)], 1)

    made = Study(
        Square().eval(),
        init={"fc.weight": torch.tensor([[-1.0]])},
        final={"fc.weight": torch.tensor([[1.0]])},
        train=(torch.ones(2, 1), [0, 1]),
    )
    surface = valley(made, "fc", [0, 0.5], [0.2, 0.4], draws=4).surface()
    even = surface.filter(pl.col("alpha") == 0.5)["loss"].to_list()
    assert even == pytest.approx(even[::-1], rel=1e-6)
    odd = surface.filter(pl.col("alpha") == 0)["loss"].to_list()
    assert odd != pytest.approx(odd[::-1], rel=1e-3)


def test_a_layer_whose_init_is_zero_takes_its_signs_from_the_path():
    made = study()
    init = made.init | {"3.weight": torch.zeros(3, 16)}
    table = valley(study(init=init), "3", alphas=[1], sigmas=[0.1], draws=8, antithetic=False).table
    final = made.final["3.weight"].double()
    inner = [float((0.1 * noise_of("3", draw, (3, 16)) * final).sum()) for draw in range(8)]
    assert table["inner"].to_list() == pytest.approx(inner, rel=1e-6)
    assert table["sign"].to_list() == [1 if value > 0 else -1 for value in inner]
    assert len(set(table["sign"])) == 2
    still = made.init | {"3.weight": torch.zeros(3, 16)}, made.final | {"3.weight": torch.zeros(3, 16)}
    pair = valley(study(init=still[0], final=still[1]), "3", alphas=[1], sigmas=[0.1], draws=1).table
    assert pair["sign"].to_list() == [-1, 1]
    assert pair["inner"].to_list() == [0, 0]
    assert pair["loss"].n_unique() == 2


def test_more_draws_keep_the_earlier_ones_and_another_seed_has_others():
    few, many, other = (
        valley(study(), "0", **GRID | dict(draws=draws), seed=seed).table for draws, seed in ((2, 0), (4, 0), (2, 1))
    )
    kept = many.filter((pl.col("draw") < 2) | pl.col("draw").is_null())
    assert kept.drop("loss").equals(few.drop("loss"))
    assert not other["norm"].equals(few["norm"])
    assert other.filter(pl.col("sigma") == 0)["errors"].equals(few.filter(pl.col("sigma") == 0)["errors"])


def test_layers_have_noise_of_their_own_and_the_same_alone_or_with_others():
    both = valley(study(), ["3", "0"], **GRID).table
    assert both["layer"].unique(maintain_order=True).to_list() == ["0", "3"]
    alone = valley(study(), "3", **GRID).table
    assert both.filter(pl.col("layer") == "3").drop("loss").equals(alone.drop("loss"))


def test_all_parameters_of_a_layer_move_and_get_noise_if_asked_for():
    made = study()
    table = valley(made, "3", alphas=[0.5], sigmas=[0.2], draws=1, parameters="all").table
    stream = generator_from(0, "valley", "3", 0)
    z = {name: torch.randn(made.init[name].shape, generator=stream).double() for name in ("3.weight", "3.bias")}
    x, y = data(101, 2)
    params = {n: t.double() if t.is_floating_point() else t for n, t in made.final.items()}
    losses = []
    for side in (1, -1):
        moved = {n: 0.5 * (made.init[n].double() + params[n]) + side * 0.2 * z[n] for n in z}
        logits = torch.func.functional_call(copy.deepcopy(made.network).double(), {**params, **moved}, x.double())
        losses.append(float(nn.functional.cross_entropy(logits, y)))
    assert sorted(table["loss"]) == pytest.approx(sorted(losses), rel=2e-5)
    assert table["parameters"].to_list() == [51, 51]


def test_some_examples_are_drawn_once_from_the_seed():
    made = study()
    some = valley(made, "0", **GRID, examples=40)
    assert some.table["examples"].unique().to_list() == [40]
    chosen = torch.randperm(101, generator=generator_from(0, "valley", "examples"))[:40].sort().values
    x, y = data(101, 2)
    expected = valley(study(train=(x[chosen], y[chosen])), "0", **GRID)
    assert some.table.drop("loss").equals(expected.table.drop("loss"))
    assert some.table["loss"].to_list() == pytest.approx(expected.table["loss"].to_list(), rel=1e-6)
    assert some.provenance["examples"] == 40


def test_noise_that_overflows_is_said_and_no_mean_is_taken_over_the_rest():
    result = valley(study(), "3", alphas=[1], sigmas=[0.1, 3e38], draws=3)
    rows = result.table.filter(pl.col("sigma") > 1)
    assert set(rows["status"]) == {"not finite"}
    row = result.summary().filter(pl.col("sigma") > 1).row(0, named=True)
    assert (row["loss"], row["loss_stderr"], row["status"]) == (None, None, "not finite")
    assert "NaN or infinite logits" in row["reason"]
    assert result.summary().filter(pl.col("sigma") < 1)["status"].to_list() == ["ok"]
    assert result.surface().filter(pl.col("sigma") > 1)["status"].to_list() == ["not finite"] * 2


def test_a_layer_of_integers_is_unavailable_with_a_reason():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Module(), nn.Linear(4, 3)
            self.first.weight = nn.Parameter(torch.eye(4).to(torch.int8), requires_grad=False)

        def forward(self, x):
            return self.last(x @ self.first.weight.to(x.dtype))

    network = Mixed().eval()
    made = Study(network, init=snapshot(network) | {"last.weight": torch.zeros(3, 4)}, train=data(20, 0))
    result = valley(made, "first", **GRID)
    assert set(result.table["status"]) == {"unavailable"}
    assert "int8" in result.summary()["reason"][0]
    assert result.surface()["loss"].null_count() == len(result.surface())


def test_the_result_does_not_depend_on_the_batch_size_and_the_network_is_left_alone():
    made = study()
    before, random = copy.deepcopy(state(made.network)), torch.random.get_rng_state()
    one, other = (valley(made, "0", **GRID, batch_size=size).table for size in (7, 1000))
    assert one.drop("loss").equals(other.drop("loss"))
    assert (one["loss"] - other["loss"]).abs().max() < 1e-6
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in state(made.network).items())


def test_a_linear_operator_with_a_bias_runs_once_a_term_and_not_once_a_variant(monkeypatch):
    made, calls = study(), []
    monkeypatch.setattr(
        nn.functional, "linear", lambda x, w, b=None: calls.append(tuple(w.shape)) or x @ w.T + (0 if b is None else b)
    )
    valley(made, "0", **GRID, level="replay", batch_size=1000)
    assert calls.count((16, 4)) < 20  # 2 + 3 terms, and the engine's checks; there are 39 variants
    assert calls.count((3, 16)) > 30  # what lies behind runs for each


def test_the_noise_of_one_layer_alone_is_in_memory(monkeypatch):
    alive, most = [], []
    draw = Move.noise

    def watched(self, *words):
        found = draw(self, *words)
        alive.append(weakref.ref(found[self.names[0]]))
        gc.collect()
        most.append(sum(one() is not None for one in alive))
        return found

    monkeypatch.setattr(Move, "noise", watched)
    both = valley(study(), ["0", "3"], **GRID, level="replay").table
    assert len(most) == 6
    assert max(most) == 3
    monkeypatch.undo()
    alone = pl.concat([valley(study(), layer, **GRID, level="replay").table for layer in ("0", "3")])
    assert both.equals(alone)


def test_interrupted_work_goes_on_where_it_stopped_and_finished_work_is_read(tmp_path, monkeypatch):
    many = {"train": data(1000, 2)}
    undisturbed = valley(study(**many), "0", **GRID, level="replay")
    monkeypatch.setattr("shaketable.probes.stored.SECTION", 0.0)  # sections of 256 examples
    real, calls = Engine.sums, []

    def counted(self, variants, data, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(options["span"])
        return real(self, variants, data, **options)

    monkeypatch.setattr(Engine, "sums", counted)
    with pytest.raises(KeyboardInterrupt):
        valley(study(**many), "0", **GRID, level="replay", store=tmp_path)
    calls[:] = [(-1, -1)] * 3
    result = valley(study(**many), "0", **GRID, level="replay", store=tmp_path)
    assert calls[3:] == [(512, 768), (768, 1000)]
    assert result.table.drop("loss").equals(undisturbed.table.drop("loss"))
    assert valley(study(**many), "0", **GRID, store=tmp_path).table.equals(result.table)
    assert len(calls) == 5


CHANGES = [dict(seed=1), dict(draws=2), dict(antithetic=False), dict(split="test"), dict(examples=50), dict(layer="3")]
CHANGES += [dict(alphas=[0, 1]), dict(sigmas=[0, 0.1]), dict(parameters="all")]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_stored_result_is_never_taken_for_that_of_other_arguments(tmp_path, change):
    valley(study(), "0", **GRID, store=tmp_path)
    valley(study(), **({"layer": "0", **GRID, "store": tmp_path} | change))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_result_comes_back_from_disk_as_it_was(tmp_path):
    result = valley(study(), "0", **GRID)
    loaded = Valley.load(result.save(tmp_path))
    assert loaded.table.equals(result.table)
    assert loaded.provenance == result.provenance
    assert result.table.schema == pl.Schema(SCHEMA)
    assert result.summary().columns[: len(KEYS)] == KEYS
    assert pl.read_csv(tmp_path / "valley.csv").height == result.table.height
    with pytest.raises(InputError, match="holds a valley result, not a path one"):
        Paths.load(tmp_path)


BAD = [
    (dict(sigmas=[-0.1]), "sigmas: -0.1 is out of range; give numbers from 0"),
    (dict(sigmas=[math.inf]), "out of range"),
    (dict(sigmas=[math.nan]), "out of range"),
    (dict(sigmas=5), "sigmas=5: give numbers from 0, as a list"),
    (dict(sigmas=[]), "sigmas is empty"),
    (dict(alphas=[2]), "alphas: 2 is out of range; give numbers from 0 to 1"),
    (dict(draws=0), "draws=0: draws must be at least 1"),
    (dict(draws=2.5), "draws=2.5: give a whole number"),
    (dict(seed="0"), "seed='0': give a whole number"),
    (dict(layer="33"), "there is no layer '33'; did you mean '3'\\?"),
    (dict(layer=[]), "no layer was chosen"),
    (dict(split="valid"), "give a list of 'test' and 'train'"),
    (dict(examples=0), "examples must be at least 1"),
    (dict(examples=102), "examples=102: the train data have 101"),
    (dict(parameters="bias"), "parameters='bias'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_a_wrong_argument_is_one_clear_error(arguments, message):
    with pytest.raises(InputError, match=message):
        valley(study(), **({"layer": "0"} | arguments))


def test_without_init_or_data_there_is_one_sentence_that_says_what_to_give():
    with pytest.raises(InputError, match="no initial weights.*make it with init="):
        valley(study(init=None), "0")
    with pytest.raises(InputError, match="has no train data"):
        valley(study(train=None), "0")
    with pytest.raises(InputError, match="use 'sigma' or 'norm'"):
        valley(study(), "0", alphas=[1], sigmas=[0]).surface("size")


def test_the_figure_has_a_cell_for_each_point_of_the_surface():
    result = valley(study(), "0", **GRID)
    (rows,) = result.plot().to_dict()["datasets"].values()
    assert len(rows) == len(result.surface())
