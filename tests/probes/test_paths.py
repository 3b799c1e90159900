"""Paths against a hand-written loop, closed forms, and torch.func in float64."""

import copy
import math

import polars as pl
import pytest
import torch
from torch import nn

from shaketable.engine import Engine
from shaketable.errors import InputError
from shaketable.params import snapshot, state
from shaketable.probes import Paths, Robustness, path, robustness
from shaketable.probes.paths import SCHEMA, SUMMARY
from shaketable.study import Study

NAMES = {"0": ["0.weight"], "3": ["3.weight"]}


def data(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].argmax(1)


def trained() -> tuple[nn.Sequential, dict]:
    """A small network with batch norm that moved away from its init."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
        init = snapshot(network)
        x, y = data(200, 1)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
        for _ in range(40):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimiser.step()
    return network.eval(), init


def study(**arguments) -> Study:
    network, init = trained()
    return Study(network, **({"init": init, "test": data(101, 2), "train": data(60, 3)} | arguments))


def in_float64(network: nn.Module, params: dict, x, y) -> tuple[int, float]:
    """Errors and mean loss by torch.func, in double precision."""
    doubled = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in params.items()}
    logits = torch.func.functional_call(copy.deepcopy(network).double(), doubled, x.double())
    return int((logits.argmax(1) != y).sum()), float(nn.functional.cross_entropy(logits, y))


def between(init: dict, final: dict, names, alpha: float) -> dict:
    """All params, those of some names on the way from init to final, in double precision."""
    moved = {n: (1 - alpha) * init[n].double() + alpha * final[n].double() for n in names}
    return {**final, **moved}


@pytest.mark.parametrize("level", ["auto", "replay", "loop"])
@pytest.mark.parametrize("parameters", ["weight", "all"])
def test_each_point_of_a_path_has_the_errors_and_loss_of_the_mixed_weights(level, parameters):
    made = study()
    names = NAMES if parameters == "weight" else {k: [*v, f"{k}.bias"] for k, v in NAMES.items()}
    names["all layers"] = [name for name, _ in made.network.named_parameters()]
    table = path(made, alphas=4, parameters=parameters, level=level).table
    for split, seed, count in (("test", 2, 101), ("train", 3, 60)):
        for layer, moved in names.items():
            rows = table.filter((pl.col("layer") == layer) & (pl.col("split") == split))
            assert rows["alpha"].to_list() == [0, 1 / 3, 2 / 3, 1]
            for row in rows.iter_rows(named=True):
                mixed = between(made.init, made.final, moved, row["alpha"])
                errors, loss = in_float64(made.network, mixed, *data(count, seed))
                assert (row["errors"], row["examples"]) == (errors, count)
                assert row["error"] == errors / count
                assert row["loss"] == pytest.approx(loss, rel=2e-5)


def test_a_linear_network_has_the_error_and_the_loss_of_a_closed_form():
    network = nn.Linear(2, 2, bias=False).eval()
    made = Study(
        network,
        init={"weight": -2 * torch.eye(2)},
        final={"weight": 2 * torch.eye(2)},
        test=(torch.eye(2), [0, 1]),
    )
    table = path(made, alphas=[0, 0.25, 0.75, 1], together=False).table
    # the label's logit is c = 4 alpha - 2 and the other 0
    assert table["loss"].to_list() == pytest.approx([math.log(1 + math.exp(-c)) for c in (-2, -1, 1, 2)], rel=1e-6)
    assert table["error"].to_list() == [1, 1, 0, 0]


def test_the_ends_are_the_initial_layer_and_the_final_network_to_the_bit():
    made = study()
    ends = path(made, by="module", parameters="all", alphas=[0, 1]).table.filter(pl.col("position") >= 0)
    for alpha, epoch in ((0.0, 0), (1.0, None)):
        for split in ("test", "train"):
            rows = ends.filter((pl.col("alpha") == alpha) & (pl.col("split") == split))
            reset = robustness(made, by="module", draws=0).table.filter(pl.col("split") == split)
            if epoch == 0:
                expected = reset.filter(pl.col("checkpoint") == 0, pl.col("position") >= 0)
                assert rows["errors"].to_list() == expected["errors"].to_list()
                assert rows["loss"].to_list() == pytest.approx(expected["loss"].to_list(), rel=1e-6)
            else:
                assert rows["loss"].n_unique() == 1
                assert rows["loss"][0] == reset.filter(pl.col("checkpoint").is_null())["loss"][0]


def test_running_statistics_stay_or_move_as_told():
    made = study()
    x, y = data(101, 2)
    trained = [name for name, _ in made.network.named_parameters()]
    buffers = ["1.running_mean", "1.running_var"]
    for statistics, moved in (("keep", []), ("interpolate", buffers)):
        table = path(made, parameters="all", alphas=[0.5], statistics=statistics, splits=["test"]).table
        for layer, own in (("all layers", trained), ("1", ["1.weight", "1.bias"])):
            _, loss = in_float64(made.network, between(made.init, made.final, [*own, *moved], 0.5), x, y)
            assert table.filter(pl.col("layer") == layer)["loss"][0] == pytest.approx(loss, rel=2e-5)
    whole = path(made, alphas=[0], statistics="interpolate", splits=["test"]).table.filter(pl.col("position") == -1)
    errors, loss = in_float64(made.network, made.init, x, y)
    assert (whole["errors"][0], whole["loss"][0]) == (errors, pytest.approx(loss, rel=2e-5))


def test_the_modules_are_linear_operators_with_their_weights_alone_and_blocks_hold_theirs():
    made = study()
    rows = path(made, alphas=2, splits=["test"]).table.unique("layer", maintain_order=True)
    assert rows.select("layer", "position", "kind", "parameters").rows() == [
        ("all layers", -1, "Sequential", 163),
        ("0", 0, "Linear", 64),
        ("3", 1, "Linear", 48),
    ]
    whole = path(made, by={"both": ["0", "1"]}, alphas=2, splits=["test"], parameters="all", together=False).table
    assert (whole["layer"][0], whole["parameters"][0]) == ("both", 112)
    alone = path(made, by={"both": ["0", "3"]}, alphas=2, splits=["test"], together=False).table
    assert alone["parameters"][0] == 112


def test_a_layer_is_chosen_by_its_name_and_keeps_its_position():
    table = path(study(), alphas=2, layers="3", together=False, splits=["test"]).table
    assert table.select("layer", "position").unique().rows() == [("3", 1)]
    assert table.equals(path(study(), alphas=2, layers=["3"], together=False, splits=["test"]).table)


def curve(*values: float | None) -> Paths:
    rows = [
        {"layer": "a", "position": 0, "split": "test", "alpha": i / 10, "error": value, "loss": 1.0}
        for i, value in enumerate(values)
    ]
    return Paths(pl.DataFrame([dict.fromkeys(SCHEMA) | row for row in rows], schema=SCHEMA))


@pytest.mark.parametrize(
    ("values", "violation", "ends"),
    [
        ((0.9, 0.5, 0.5, 0.1), 0.0, (None, None)),
        ((0.9, 0.2, 0.4, 0.3, 0.5), 0.3, (0.1, 0.4)),
        ((0.3, 0.5, 0.1, 0.15), 0.2, (0.0, 0.1)),
        ((0.1, 0.9), 0.8, (0.0, 0.1)),
        ((0.9, None, 0.1), None, (None, None)),
    ],
)
def test_the_violation_is_the_largest_rise_on_the_way_to_the_final_weights(values, violation, ends):
    row = curve(*values).summary().filter(pl.col("quantity") == "error").row(0, named=True)
    assert row["violation"] == (None if violation is None else pytest.approx(violation))
    assert (row["from_alpha"], row["to_alpha"]) == ends
    assert row["monotone"] == (None if violation is None else violation == 0)
    assert (row["init"], row["final"]) == (values[0], values[-1])


def test_a_rise_within_the_tolerance_counts_as_monotone():
    assert curve(0.5, 0.4, 0.41).summary()["monotone"].to_list() == [False, True]
    assert curve(0.5, 0.4, 0.41).summary(tolerance=0.02)["monotone"].to_list() == [True, True]
    assert curve(0.5, 0.4).summary().schema == pl.Schema(SUMMARY)


def test_a_layer_of_integers_is_unavailable_with_a_reason_and_the_others_are_there():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Module(), nn.Linear(4, 3)
            self.first.weight = nn.Parameter(torch.eye(4).to(torch.int8), requires_grad=False)

        def forward(self, x):
            return self.last(x @ self.first.weight.to(x.dtype))

    network = Mixed().eval()
    init = snapshot(network) | {"last.weight": torch.zeros(3, 4)}
    table = path(Study(network, init=init, test=data(20, 0)), alphas=3).table
    stuck = table.filter(pl.col("layer") == "first")
    assert stuck["status"].to_list() == ["unavailable"] * 3
    assert "int8" in stuck["reason"][0]
    assert stuck["error"].null_count() == 3
    assert set(table.filter(pl.col("layer") != "first")["status"]) == {"ok"}


def test_weights_that_overflow_are_said():
    network, init = trained()
    init["3.weight"] = init["3.weight"].sign() * 3e38
    result = path(Study(network, init=init, test=data(50, 2)), alphas=2)
    row = result.table.filter((pl.col("layer") == "3") & (pl.col("alpha") == 0)).row(0, named=True)
    assert (row["status"], row["loss"]) == ("not finite", None)
    assert "NaN or infinite logits" in row["reason"]
    assert result.summary().filter((pl.col("layer") == "3") & (pl.col("quantity") == "loss"))["monotone"][0] is None


def test_the_result_does_not_depend_on_the_batch_size_and_the_network_is_left_alone():
    made = study()
    before, random = copy.deepcopy(state(made.network)), torch.random.get_rng_state()
    one, other = (path(made, alphas=5, batch_size=size).table for size in (7, 1000))
    assert one.drop("loss").equals(other.drop("loss"))
    assert (one["loss"] - other["loss"]).abs().max() < 1e-6
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in state(made.network).items())


def test_interrupted_work_goes_on_where_it_stopped_and_finished_work_is_read(tmp_path, monkeypatch):
    many = {"test": data(1000, 2), "train": data(300, 3)}
    undisturbed = path(study(**many), alphas=3, level="replay")
    monkeypatch.setattr("shaketable.probes.stored.SECTION", 0.0)  # sections of 256 examples
    real, calls = Engine.sums, []

    def counted(self, variants, data, **options):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(options["span"])
        return real(self, variants, data, **options)

    monkeypatch.setattr(Engine, "sums", counted)
    with pytest.raises(KeyboardInterrupt):
        path(study(**many), alphas=3, level="replay", store=tmp_path)
    assert calls == [(0, 256), (256, 512), (512, 768)]
    assert [p.name for p in tmp_path.glob("*/cells.jsonl")] == ["cells.jsonl"]

    calls[:] = [(-1, -1)] * 4
    result = path(study(**many), alphas=3, level="replay", store=tmp_path)
    assert calls[4:] == [(768, 1000), (0, 256), (256, 300)]
    assert result.table.drop("loss").equals(undisturbed.table.drop("loss"))
    assert (result.table["loss"] - undisturbed.table["loss"]).abs().max() < 1e-6
    count = len(calls)
    again = path(study(**many), alphas=3, store=tmp_path, command="again")
    assert len(calls) == count
    assert again.table.equals(result.table)
    assert again.provenance["command"] == "again"
    assert not list(tmp_path.glob("*/cells.jsonl"))


CHANGES = [
    dict(alphas=4),
    dict(parameters="all"),
    dict(statistics="interpolate"),
    dict(together=False),
    dict(layers="0"),
    dict(splits=["test"]),
    dict(by={"both": ["0", "3"]}),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_stored_result_is_never_taken_for_that_of_other_arguments(tmp_path, change):
    path(study(), alphas=3, store=tmp_path)
    other = path(study(), **({"alphas": 3, "store": tmp_path} | change))
    assert len(list(tmp_path.iterdir())) == 2
    assert other.table.drop("loss").equals(path(study(), **({"alphas": 3} | change)).table.drop("loss"))


def test_a_result_comes_back_from_disk_as_it_was_and_is_not_taken_for_another_probe_s(tmp_path):
    result = path(study(), alphas=3)
    loaded = Paths.load(result.save(tmp_path / "path"))
    assert loaded.table.equals(result.table)
    assert loaded.provenance == result.provenance
    assert result.table.schema == pl.Schema(SCHEMA)
    assert pl.read_csv(tmp_path / "path/path.csv").height == result.table.height
    assert pl.read_parquet(tmp_path / "path/summary.parquet").equals(result.summary())
    with pytest.raises(InputError, match="holds no path result"):
        Paths.load(tmp_path)
    with pytest.raises(InputError, match="holds a path result, not a robustness one"):
        Robustness.load(tmp_path / "path")
    with pytest.raises(InputError, match="holds a robustness result, not a path one"):
        Paths.load(robustness(study(), draws=0).save(tmp_path / "robustness"))


BAD = [
    (dict(alphas=1), "alphas=1: give a number of points, at least 2"),
    (dict(alphas=[0, 1.5]), "alphas: 1.5 is out of range; give numbers from 0 to 1"),
    (dict(alphas=[-0.1]), "out of range"),
    (dict(alphas=[math.nan]), "out of range"),
    (dict(alphas=["0"]), "out of range"),
    (dict(alphas=[]), "alphas is empty"),
    (dict(alphas=0.5), "alphas=0.5: give numbers from 0 to 1, as a list"),
    (dict(alphas=True), "alphas=True"),
    (dict(layers="00"), "there is no layer '00'; did you mean '0'\\?"),
    (dict(layers=[]), "no layer was chosen"),
    (dict(by="modules"), "unknown grouping"),
    (dict(by={"all layers": "0"}), "no layer may be called 'all layers'"),
    (dict(parameters="bias"), "parameters='bias': use 'weight'"),
    (dict(statistics="rewind"), "use 'keep' or 'interpolate'"),
    (dict(splits=["valid"]), "give a list of 'test' and 'train'"),
    (dict(level="fast"), "level='fast'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_a_wrong_argument_is_one_clear_error(arguments, message):
    with pytest.raises(InputError, match=message):
        path(study(), **arguments)


def test_without_init_or_data_there_is_one_sentence_that_says_what_to_give():
    with pytest.raises(InputError, match="no initial weights.*make it with init="):
        path(study(init=None))
    with pytest.raises(InputError, match="the study has no data"):
        path(study(test=None, train=None))
    with pytest.raises(InputError, match="has no train data"):
        path(study(train=None), splits=["train"])


class Block(nn.Module):
    """A residual block as in ResNets, with a down-sampling convolution."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.downsample = nn.Conv2d(width, out, 1) if width != out else nn.Identity()

    def forward(self, x):
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.downsample(x))


def resnet() -> Study:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.Sequential(Block(4, 4), Block(4, 6)), nn.Flatten(), nn.Linear(96, 3)
        )
        init = snapshot(network)
        final = {name: tensor + 0.2 * torch.randn_like(tensor) for name, tensor in init.items()}
        x, y = torch.randn(40, 1, 4, 4), torch.arange(40) % 3
    return Study(network.eval(), init=init, final=final, train=(x, y), test=(x[:15].flip(0), y[:15].flip(0)))


def test_rewinding_gives_train_error_train_loss_and_test_error_of_each_module_and_each_block():
    made = resnet()
    modules = ["0", "1.0.conv1", "1.0.conv2", "1.1.conv1", "1.1.conv2", "1.1.downsample", "3"]
    for by, names in (("module", modules), ("block", ["0", "1.0", "1.1", "3"])):
        table = robustness(made, by=by, draws=0, checkpoints=[0]).table.filter(pl.col("position") >= 0)
        assert sorted(table["layer"].unique()) == sorted(names)
        for row in table.iter_rows(named=True):
            own = [name for name in made.final if name.startswith(f"{row['layer']}.")]
            rewound = {**made.final, **{name: made.init[name] for name in own}}
            split = made.data(row["split"])
            errors, loss = in_float64(made.network, rewound, split.inputs, split.labels)
            assert (row["error"], row["examples"]) == (errors / len(split), len(split))
            assert row["loss"] == pytest.approx(loss, rel=2e-5)
        assert set(table["split"]) == {"train", "test"}


def test_the_path_of_a_down_sampling_convolution_and_of_a_block_s_weights_is_that_of_the_mixed_weights():
    made = resnet()
    for by, layer, kernels in (
        ("module", "1.1.downsample", ["1.1.downsample.weight"]),
        ("block", "1.1", [f"1.1.{part}.weight" for part in ("conv1", "conv2", "downsample")]),
    ):
        table = path(made, by=by, layers=layer, alphas=[0.3, 0.6], together=False).table
        for row in table.iter_rows(named=True):
            split = made.data(row["split"])
            mixed = between(made.init, made.final, kernels, row["alpha"])
            errors, loss = in_float64(made.network, mixed, split.inputs, split.labels)
            assert row["errors"] == errors
            assert row["loss"] == pytest.approx(loss, rel=2e-5)


def test_the_figure_has_a_curve_for_each_layer_of_the_split_that_was_measured():
    result = path(study(), alphas=2, splits=["train"])
    (rows,) = result.plot().to_dict()["datasets"].values()
    assert {row["layer"] for row in rows} == set(result.table["layer"])
    with pytest.raises(InputError, match="train"):
        result.plot(split="test")
