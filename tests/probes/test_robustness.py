"""Layer robustness against a hand-written loop that swaps weights in a real network."""

import copy
from types import SimpleNamespace

import polars as pl
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from shaketable.data import Data
from shaketable.engine import Engine
from shaketable.errors import InputError, RunError
from shaketable.files import locked
from shaketable.identity import generator_from
from shaketable.params import snapshot, state
from shaketable.probes import Robustness, distances, robustness
from shaketable.probes.result import SCHEMA
from shaketable.study import Study


def trained(norm: bool = True) -> tuple[nn.Sequential, dict[int, dict]]:
    """A small network that moved away from its init, with checkpoints 0, 1, 2."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16) if norm else nn.Identity(), nn.ReLU(), nn.Linear(16, 3)
        )
        x, y = data(200, 1)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
        checkpoints = {0: snapshot(network)}
        for epoch in (1, 2):
            for _ in range(20):
                optimiser.zero_grad()
                nn.functional.cross_entropy(network(x), y).backward()
                optimiser.step()
            checkpoints[epoch] = snapshot(network)
    return network.eval(), checkpoints


def data(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].argmax(1)


def study(**arguments) -> Study:
    network, checkpoints = trained()
    return Study(network, **({"checkpoints": checkpoints, "test": data(101, 2), "final_epoch": 2} | arguments))


def by_hand(network: nn.Module, changes: dict, x, y) -> tuple[int, float]:
    """The loop that everybody writes: swap the weights, run all the data."""
    copied = copy.deepcopy(network)
    copied.load_state_dict({**copied.state_dict(), **changes})
    with torch.no_grad():
        logits = copied(x)
    return int((logits.argmax(1) != y).sum()), float(nn.functional.cross_entropy(logits.double(), y))


def test_with_statistics_estimated_anew_each_reset_layer_has_the_errors_of_torchs_update_bn():
    network, checkpoints = trained()
    inputs, labels = data(300, 3)
    arguments = {"splits": ["test"], "checkpoints": [0, 2], "statistics": "reestimate", "statistics_batches": 2}
    table = robustness(study(train=(inputs, labels)), draws=0, **arguments).table
    order = torch.randperm(300, generator=generator_from(0, "statistics"))[:256]
    x, y = data(101, 2)
    for name, of in (("0", ("0.", "1.")), ("3", ("3.",))):
        swapped = copy.deepcopy(network)
        change = {key: tensor for key, tensor in checkpoints[0].items() if key.startswith(of) and "running" not in key}
        swapped.load_state_dict({**swapped.state_dict(), **change})
        update_bn([inputs[part] for part in order.split(128)], swapped)
        errors, loss = by_hand(swapped.eval(), {}, x, y)
        row = table.row(by_predicate=(pl.col("layer") == name) & (pl.col("checkpoint") == 0), named=True)
        assert row["errors"] == errors
        assert row["loss"] == pytest.approx(loss, rel=1e-5)
    whole = table.filter(layer="full model", checkpoint=2)["errors"].item()
    assert set(table.filter(checkpoint=2)["errors"]) == {whole} == {by_hand(network, {}, x, y)[0]}


def test_statistics_that_cannot_be_estimated_anew_are_refused():
    with pytest.raises(InputError, match="no train data"):
        robustness(study(), draws=0, statistics="reestimate")
    with pytest.raises(InputError, match="10 batches of 128 need 1280 examples, and there are 50"):
        robustness(study(train=data(50, 3)), draws=0, statistics="reestimate")


@pytest.mark.parametrize("statistics", ["keep", "rewind"])
def test_each_reset_layer_has_the_errors_and_loss_of_the_loop_that_swaps_weights(statistics):
    network, checkpoints = trained()
    x, y = data(101, 2)
    table = robustness(study(train=data(50, 3)), draws=0, statistics=statistics).table
    layers = {"0": ["0.weight", "0.bias", "1.weight", "1.bias"], "3": ["3.weight", "3.bias"]}
    if statistics == "rewind":
        layers["0"] += ["1.running_mean", "1.running_var"]
    for layer, names in layers.items():
        for epoch, weights in checkpoints.items():
            row = table.row(
                by_predicate=(pl.col("layer") == layer) & (pl.col("checkpoint") == epoch) & (pl.col("split") == "test"),
                named=True,
            )
            errors, loss = by_hand(network, {name: weights[name] for name in names}, x, y)
            assert row["errors"] == errors
            assert row["loss"] == pytest.approx(loss, rel=1e-5)
            assert row["error"] == errors / 101
            assert row["accuracy"] == 1 - errors / 101


def test_the_reference_rows_are_the_full_model_at_each_checkpoint_and_drops_are_against_the_final_one():
    network, checkpoints = trained()
    x, y = data(101, 2)
    table = robustness(study(), draws=0).table
    full = table.filter(pl.col("layer") == "full model")
    assert full["errors"].to_list() == [by_hand(network, weights, x, y)[0] for weights in checkpoints.values()]
    assert full["perturbation"].unique().to_list() == ["none"]
    final = full["accuracy"][-1]
    assert all(abs(final - a - d) < 1e-12 for a, d in table.select("accuracy", "accuracy_drop").iter_rows())


def test_a_layer_rewound_to_the_final_checkpoint_is_the_final_network():
    table = robustness(study(), draws=0).table.filter(pl.col("checkpoint") == 2)
    assert table["accuracy_drop"].to_list() == [0, 0, 0]
    assert table["loss"].n_unique() == 1


def test_draws_are_fresh_numbered_and_more_of_them_keep_the_earlier_ones():
    two, four = (
        robustness(study(), draws=draws).table.filter(pl.col("perturbation") == "rerandomise") for draws in (2, 4)
    )
    assert four.filter(pl.col("draw") < 2).equals(two)
    assert four.filter(pl.col("layer") == "0")["loss"].n_unique() == 4
    assert two["distribution"].unique().to_list() == ["reset_parameters"]


def test_the_summary_has_means_and_standard_deviations_over_draws():
    result = robustness(study(), draws=4)
    losses = result.table.filter((pl.col("layer") == "3") & (pl.col("perturbation") == "rerandomise"))[
        "loss"
    ].to_numpy()
    row = result.summary().row(
        by_predicate=(pl.col("layer") == "3") & (pl.col("perturbation") == "rerandomise"), named=True
    )
    assert row["draws"] == 4
    assert row["loss"] == pytest.approx(losses.mean())
    assert row["loss_std"] == pytest.approx(losses.std(ddof=1))
    assert result.summary().filter(pl.col("perturbation") == "reinitialise")["loss_std"].null_count() == 6


def test_the_verdict_follows_the_stated_thresholds():
    drops = {"calm": 0.05, "middle": 0.1, "vital": 0.25}
    rows = [
        dict.fromkeys(SCHEMA)
        | {
            "layer": name,
            "position": i,
            "perturbation": "reinitialise",
            "checkpoint": 0,
            "split": "test",
            "accuracy_drop": drop,
        }
        for i, (name, drop) in enumerate(drops.items())
    ]
    table = pl.DataFrame(rows, schema=SCHEMA)
    result = Robustness(table, pl.DataFrame(), robust=0.05, critical=0.25)
    assert result.verdicts()["reinitialise"].to_list() == ["robust", "between", "critical"]
    assert result.verdicts()["rerandomise"].to_list() == [None, None, None]
    assert result.layers_that_are("critical") == ["vital"]


def test_without_initial_weights_re_initialisation_is_unavailable_with_a_reason_and_the_rest_is_there():
    result = robustness(study(checkpoints={}, final_epoch=None), draws=1)
    rows = result.table.filter(pl.col("perturbation") == "reinitialise")
    assert rows["status"].unique().to_list() == ["unavailable"]
    assert "no initial weights" in rows["reason"][0]
    assert rows["error"].null_count() == len(rows) == 2
    assert result.verdicts()["reinitialise"].to_list() == [None, None]
    assert result.table.filter(pl.col("layer") == "full model")["checkpoint"].to_list() == [None]


def test_a_layer_of_unknown_distribution_is_unavailable_with_a_reason():
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Module()
            self.inner.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x[:, :3] * self.inner.scale

    result = robustness(Study(Scale().eval(), test=data(20, 0)), draws=2)
    rows = result.table.filter(pl.col("perturbation") == "rerandomise")
    assert set(rows["status"]) == {"unavailable"}
    assert "reset_parameters" in rows["reason"][0]


def test_weights_that_overflow_are_said_not_silently_averaged():
    network, checkpoints = trained()
    checkpoints[1] = {name: tensor * 1e38 if name == "3.weight" else tensor for name, tensor in checkpoints[1].items()}
    table = robustness(Study(network, checkpoints=checkpoints, test=data(101, 2), final_epoch=2), draws=0).table
    row = table.row(by_predicate=(pl.col("layer") == "3") & (pl.col("checkpoint") == 1), named=True)
    assert row["status"] == "not finite"
    assert row["loss"] is None
    assert "NaN or infinite logits" in row["reason"]


def test_the_network_and_the_global_random_state_are_left_as_they_were():
    made = study()
    before, random = copy.deepcopy(state(made.network)), torch.random.get_rng_state()
    robustness(made, draws=2)
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in state(made.network).items())
    assert not made.network.training


def test_the_result_does_not_depend_on_the_batch_size():
    one, other = (robustness(study(), draws=1, batch_size=size).table for size in (7, 1000))
    assert one.drop("loss").equals(other.drop("loss"))
    assert (one["loss"] - other["loss"]).abs().max() < 1e-6


def test_interrupted_work_goes_on_where_it_stopped_and_finished_work_is_not_computed_twice(tmp_path, monkeypatch):
    many = {"test": data(1000, 2), "train": data(300, 3)}
    undisturbed = robustness(study(**many), draws=2)
    monkeypatch.setattr("shaketable.probes.stored.SECTION", 0.0)  # sections of 256 examples
    real, calls = Engine.sums, []

    def counted(self, variants, data, **options):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(options["span"])
        return real(self, variants, data, **options)

    monkeypatch.setattr(Engine, "sums", counted)
    with pytest.raises(KeyboardInterrupt):
        robustness(study(**many), draws=2, store=tmp_path)
    assert calls == [(0, 256), (256, 512), (512, 768)]

    calls[:] = [(-1, -1)] * 4
    result = robustness(study(**many), draws=2, store=tmp_path)
    assert result.table.equals(undisturbed.table)
    assert calls[4:] == [(768, 1000), (0, 256), (256, 300)]
    count = len(calls)
    again = robustness(study(**many), draws=2, store=tmp_path, robust=0.1)
    assert len(calls) == count
    assert again.table.equals(result.table)
    assert again.robust == 0.1
    assert [p.suffix for p in tmp_path.iterdir()] == [""]


def test_a_result_comes_back_from_disk_as_it_was(tmp_path):
    result = robustness(study(), draws=2)
    loaded = Robustness.load(result.save(tmp_path / "result"))
    assert loaded.table.equals(result.table)
    assert loaded.distances.equals(result.distances)
    assert pl.read_csv(tmp_path / "result/robustness.csv").height == result.table.height
    assert loaded.provenance["weights"] == result.provenance["weights"]
    with pytest.raises(InputError, match="holds no robustness result"):
        Robustness.load(tmp_path)


BAD = [
    (dict(robust=0.5, critical=0.2), "need 0 <= robust < critical <= 1"),
    (dict(draws=-1), "draws must be at least 0"),
    (dict(checkpoints=[0, 7]), "there is no checkpoint 7; there are 0, 1, 2"),
    (dict(splits=["train"]), "has no train data"),
    (dict(by="blocks"), "unknown grouping"),
    (dict(statistics="reset"), "use 'keep' or 'rewind'"),
    (dict(splits="test"), "give a list of 'test' and 'train'"),
    (dict(splits=["valid"]), "give a list of 'test' and 'train'"),
    (dict(by={"a": []}), "give the names of its modules"),
    (dict(by={"full model": "0"}), "no layer may be called 'full model'"),
    (dict(checkpoints=0), "give a list of epochs"),
    (dict(checkpoints=["0"]), "give a list of epochs"),
    (dict(draws=2.5), "draws=2.5: give a whole number"),
    (dict(robust="0.1"), "robust='0.1': give a number"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_a_wrong_argument_is_one_clear_error(arguments, message):
    with pytest.raises(InputError, match=message):
        robustness(study(), **arguments)


def test_a_study_without_data_is_refused():
    with pytest.raises(InputError, match="the study has no data"):
        robustness(study(test=None))


def test_distances_are_those_of_a_closed_form():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False)).eval()
    final = snapshot(network)
    init = {name: tensor.clone() for name, tensor in final.items()}
    init["0.weight"][0, 0] -= 3.0
    init["0.bias"][1] += 4.0
    table = distances(Study(network, final=final, init=init), by="module")
    assert table["dimension"].to_list() == [6, 2]
    assert table["normalised_l2"].to_list() == pytest.approx([5 / 6**0.5, 0], abs=1e-6)
    assert table["linf"].to_list() == pytest.approx([4, 0], abs=1e-6)


def test_the_result_also_holds_the_distances_to_each_fresh_draw():
    result = robustness(study(), draws=2).distances
    assert result.filter(pl.col("perturbation") == "rerandomise")["draw"].to_list() == [0, 1, 0, 1]
    assert result.filter(pl.col("checkpoint") == 2)["linf"].to_list() == [0, 0]


def other_checkpoint() -> Study:
    _, checkpoints = trained()
    return study(checkpoints=checkpoints | {1: {name: tensor * 1.5 for name, tensor in checkpoints[1].items()}})


def other_initialiser() -> Study:
    return study(initialise=lambda net, g: [nn.init.normal_(p, 0, 2) for p in net.parameters()])


def other_forward() -> Study:
    network, checkpoints = trained()
    network[2] = nn.Tanh().eval()
    return Study(network, checkpoints=checkpoints, test=data(101, 2), final_epoch=2)


def other_final_epoch() -> Study:
    network, checkpoints = trained()
    del checkpoints[2]
    return Study(network, final=snapshot(network), checkpoints=checkpoints, test=data(101, 2), final_epoch=7)


@pytest.mark.parametrize("changed", [other_checkpoint, other_initialiser, other_forward, other_final_epoch])
def test_a_stored_result_is_never_taken_for_that_of_other_inputs(tmp_path, changed):
    first = robustness(study(), draws=1, store=tmp_path).table
    second = robustness(changed(), draws=1, store=tmp_path).table
    assert second.equals(robustness(changed(), draws=1).table)
    assert not second.equals(first)


def test_a_stored_result_is_told_with_the_command_and_the_thresholds_of_now(tmp_path):
    robustness(study(), draws=1, store=tmp_path, command="first")
    robustness(study(), draws=1, store=tmp_path, command="second", robust=0.1, critical=0.9)
    (folder,) = tmp_path.iterdir()
    loaded = Robustness.load(folder)
    assert (loaded.provenance["command"], loaded.robust, loaded.critical) == ("second", 0.1, 0.9)


def test_a_store_that_another_process_works_on_is_refused(tmp_path):
    robustness(study(), draws=1, store=tmp_path)
    (folder,) = tmp_path.iterdir()
    with locked(folder), pytest.raises(RunError, match="another process is working on this"):
        robustness(study(), draws=1, store=tmp_path)


def test_a_split_that_is_named_twice_is_measured_once():
    twice = robustness(study(), draws=2, splits=["test", "test"], level="replay")  # where losses are bit for bit
    assert twice.table.equals(robustness(study(), draws=2, splits=["test"], level="replay").table)


def test_no_mean_is_taken_over_some_of_the_draws():
    def initialise(net, generator):
        for parameter in net.parameters():
            parameter.fill_(3e38 if torch.rand(1, generator=generator) < 0.5 else 0.5)

    result = robustness(study(initialise=initialise), draws=6)
    drawn = result.table.filter((pl.col("perturbation") == "rerandomise") & (pl.col("layer") == "3"))
    assert 0 < drawn["loss"].null_count() < 6
    row = result.summary().row(
        by_predicate=(pl.col("perturbation") == "rerandomise") & (pl.col("layer") == "3"), named=True
    )
    assert row["loss"] is None
    assert row["loss_std"] is None
    assert row["status"] == "not finite"


def test_a_network_that_counts_its_calls_in_a_buffer_changes_nothing_of_the_study():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls += 1
            return self.fc(x) + self.calls

    network = Counts().eval()
    init = {name: tensor + 1 for name, tensor in snapshot(network).items()}
    made = Study(network, init=init, test=data(50, 0))
    first, second = (robustness(made, draws=1, batch_size=20).table for _ in range(2))
    assert first.equals(second)
    assert network.calls.item() == 0
    assert made.final["calls"].item() == 0
    assert init["calls"].item() == 1


def test_a_buffer_that_nothing_resets_stays_when_its_layer_is_redrawn_with_its_statistics():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)
            self.register_buffer("mask", torch.tensor([1.0, 0, 1, 0]))

        def forward(self, x):
            return self.fc(x * self.mask)

    network = Masked().eval()
    final, init = snapshot(network), {name: tensor + 1 for name, tensor in snapshot(network).items()}
    made = Study(
        network,
        init=init | {"mask": final["mask"]},
        test=data(50, 0),
        initialise=lambda net, g: net.load_state_dict(final),
    )
    result = robustness(made, {"all": ["fc", "mask"]}, draws=2, statistics="rewind")
    drops = result.table.filter(pl.col("perturbation") == "rerandomise")
    assert drops["loss"].n_unique() == 1
    assert drops["accuracy_drop"].to_list() == [0, 0]


def test_a_stored_result_keeps_the_versions_that_it_was_made_with(tmp_path, monkeypatch):
    first = robustness(study(), draws=1, store=tmp_path, command="first").provenance
    monkeypatch.setattr("shaketable.probes.stored.__version__", "9.9")
    assert robustness(study(), draws=1, store=tmp_path).provenance == first


def test_where_no_layer_has_a_verdict_asking_for_one_is_an_error_with_the_reason():
    result = robustness(study(checkpoints={}, final_epoch=None), draws=1)
    with pytest.raises(InputError, match="no layer has a verdict on 'reinitialise': the study has no initial weights"):
        result.layers_that_are("critical")
    assert result.layers_that_are("critical", "rerandomise") is not None


def test_dict_inputs_and_an_output_object_give_the_table_of_plain_tensors():
    class Named(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, left, right):
            return SimpleNamespace(loss=None, logits=self.inner(torch.cat([left, right], 1)))

    network, checkpoints = trained()
    x, y = data(101, 2)
    named = [{f"inner.{name}": tensor for name, tensor in checkpoints[epoch].items()} for epoch in (0, 2)]
    inputs = {"left": x[:, :1], "right": x[:, 1:]}
    made = Study(Named(network).eval(), init=named[0], final=named[1], test=Data(inputs, y, classes=3))
    plain = Study(network, init=checkpoints[0], test=(x, y))
    columns = ["perturbation", "checkpoint", "errors", "loss"]
    assert robustness(made, draws=0).table.select(columns).equals(robustness(plain, draws=0).table.select(columns))


def test_the_provenance_names_weights_data_versions_seed_and_arguments():
    facts = robustness(study(), draws=1, seed=3, command="by hand").provenance
    assert facts["seed"] == 3
    assert facts["command"] == "by hand"
    assert facts["torch"] == torch.__version__
    assert set(facts["data"]) == {"test"}
    assert len(facts["weights"]) == 16
    assert facts["statistics"] == "keep"


def test_checkpoints_may_come_from_any_iterable_in_any_order():
    one, other = (robustness(study(), draws=0, checkpoints=epochs) for epochs in ([0, 1], (e for e in (1, 0, 1))))
    assert one.table.equals(other.table)


def test_without_checkpoints_only_re_randomisation_is_measured():
    table = robustness(study(), draws=1, checkpoints=[]).table
    assert table["perturbation"].unique().sort().to_list() == ["none", "rerandomise"]


def test_a_precision_gives_intervals_around_the_exact_errors_from_fewer_examples():
    many = {"test": data(6000, 2)}
    exact = robustness(study(**many), draws=1).table
    rough = robustness(study(**many), draws=1, precision=0.02).table
    assert (rough["error_high"] - rough["error_low"]).max() <= 0.04
    assert (rough["error_low"] <= exact["error"]).all()
    assert (rough["error_high"] >= exact["error"]).all()
    assert rough["loss"].null_count() == len(rough)
    assert rough["examples"].mean() < 6000


@pytest.mark.parametrize("level", ["loop", "replay"])
@pytest.mark.parametrize("by", ["module", "block"])
def test_every_level_gives_the_same_table(level, by):
    auto, forced = (robustness(study(), by=by, draws=2, level=each).table for each in ("auto", level))
    assert auto.drop("loss").equals(forced.drop("loss"))
    assert (auto["loss"] - forced["loss"]).abs().max() < 1e-6
