"""Sensitivity of layers against closed forms, torch's own pruning, and a loop that swaps weights."""

import copy

import polars as pl
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from shaketable.engine import Engine
from shaketable.errors import InputError
from shaketable.params import snapshot
from shaketable.probes import Sensitivity, sensitivity
from shaketable.probes.sensitivity import SCHEMA, scaled_noise
from shaketable.study import Study


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3)).eval()
        for parameter in made.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made


def data(count: int = 101) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    return x, x[:, :3].argmax(1)


def study(**arguments) -> Study:
    return Study(network(), **({"test": data()} | arguments))


def by_hand(made: nn.Module) -> tuple[int, float]:
    x, y = data()
    with torch.no_grad():
        logits = made(x)
    return int((logits.argmax(1) != y).sum()), float(nn.functional.cross_entropy(logits.double(), y))


def test_pruning_gives_the_errors_and_loss_of_torchs_own_magnitude_pruning():
    table = sensitivity(study(), noise=(), pruning=(0.25, 0.9)).table.filter(pl.col("perturbation") == "prune")
    for layer, module in (("0", 0), ("3", 3)):
        for sparsity in (0.25, 0.9):
            made = network()
            prune.l1_unstructured(made[module], "weight", sparsity)
            row = table.row(by_predicate=(pl.col("layer") == layer) & (pl.col("magnitude") == sparsity), named=True)
            assert row["errors"] == by_hand(made)[0]
            assert row["loss"] == pytest.approx(by_hand(made)[1], rel=1e-5)


def test_the_smallest_weights_are_those_of_the_whole_layer_not_of_each_tensor():
    table = sensitivity(study(), {"both": ["0", "3"]}, noise=(), pruning=(0.5,)).table
    made = network()
    parts = [(made[0], "weight"), (made[3], "weight")]
    prune.global_unstructured(parts, prune.L1Unstructured, amount=0.5)
    assert table.filter(pl.col("perturbation") == "prune")["loss"][0] == pytest.approx(by_hand(made)[1], rel=1e-5)


def test_noise_gives_the_errors_and_loss_of_the_loop_that_adds_it_to_one_layer():
    table = sensitivity(study(), noise=(0.5,), pruning=(), draws=2).table.filter(pl.col("perturbation") == "noise")
    for layer in ("0", "1", "3"):
        for draw in (0, 1):
            made = network()
            for name, parameter in made.named_parameters():
                if name.startswith(layer):
                    parameter.data += 0.5 * scaled_noise(parameter.data.clone(), 0, draw, name)
            row = table.row(by_predicate=(pl.col("layer") == layer) & (pl.col("draw") == draw), named=True)
            assert row["errors"] == by_hand(made)[0]
            assert row["loss"] == pytest.approx(by_hand(made)[1], rel=1e-4)


def test_noise_has_the_root_mean_square_of_its_tensor_as_standard_deviation_and_mean_zero():
    tensor = torch.linspace(-3, 5, 40_000).reshape(200, 200)
    noise = scaled_noise(tensor, 0, 0, "weight")
    scale = float(tensor.square().mean().sqrt())
    assert abs(float(noise.mean())) < 3 * scale / 200
    assert abs(float(noise.std()) - scale) < 3 * scale / (2 * 40_000) ** 0.5
    assert not torch.equal(noise, scaled_noise(tensor, 0, 1, "weight"))
    assert not torch.equal(noise, scaled_noise(tensor, 0, 0, "other"))


def test_the_distance_of_noise_is_proportional_to_its_magnitude_and_that_of_full_pruning_is_the_layers_norm():
    made = nn.Sequential(nn.Linear(4, 3, bias=False)).eval()
    table = sensitivity(Study(made, test=data()), noise=(0.1, 0.2), pruning=(1.0,), draws=1).table
    one, two = table.filter(pl.col("perturbation") == "noise")["normalised_l2"]
    assert two == pytest.approx(2 * one)
    pruned = table.filter(pl.col("perturbation") == "prune")["normalised_l2"][0]
    assert pruned == pytest.approx(float(made[0].weight.detach().norm()) / 12**0.5)


def test_the_reference_row_is_the_network_as_it_is_and_drops_are_against_it():
    result = sensitivity(study(train=data(50)), draws=2)
    table = result.table
    assert table.schema == pl.Schema(SCHEMA)
    full = table.filter(pl.col("layer") == "full model")
    assert full["perturbation"].to_list() == ["none", "none"]
    for split in result.splits():
        rows = table.filter(pl.col("split") == split, pl.col("status") == "ok")
        clean = rows.filter(pl.col("perturbation") == "none")["accuracy"][0]
        assert all(abs(clean - a - d) < 1e-12 for a, d in rows.select("accuracy", "accuracy_drop").iter_rows())
    assert full.filter(pl.col("split") == "test")["errors"][0] == by_hand(network())[0]


def test_what_cannot_be_pruned_or_given_relative_noise_is_a_row_with_the_reason():
    made = network()
    made[3].weight.data.zero_()
    made[3].bias.data.zero_()
    table = sensitivity(Study(made, test=data()), noise=(0.1,), pruning=(0.5,)).table
    missing = table.filter(pl.col("status") == "unavailable")
    assert missing.select("layer", "perturbation").rows() == [("1", "prune"), ("3", "noise")]
    assert "not pruned" in missing["reason"][0]
    assert "all its weights are zero" in missing["reason"][1]
    assert missing["error"].null_count() == 2


def test_the_result_does_not_depend_on_batches_or_on_which_other_magnitudes_and_layers_are_measured():
    whole = sensitivity(study(), draws=2).table
    part = sensitivity(study(), {"3": "3"}, noise=(0.1,), pruning=(0.5,), draws=1, batch_size=7).table
    columns = ["layer", "perturbation", "magnitude", "draw", "errors", "normalised_l2"]
    assert part.filter(pl.col("layer") == "3").select(columns).rows() == (
        whole.filter(
            pl.col("layer") == "3",
            pl.col("magnitude").is_in([0.1, 0.5]),
            pl.col("draw").fill_null(0) == 0,
        )
        .select(columns)
        .rows()
    )


def test_layers_are_taken_one_by_one_where_memory_is_small_with_the_same_numbers(monkeypatch):
    whole = sensitivity(study(), draws=2).table
    alone_at_a_time = []
    sums = Engine.sums

    def noted(self, variants, *args, **kwargs):
        alone_at_a_time.append(len(variants))
        return sums(self, variants, *args, **kwargs)

    monkeypatch.setattr(Engine, "sums", noted)
    alone = sensitivity(study(), draws=2, memory=1).table
    assert alone_at_a_time == [1 + 12, 8, 12]  # the network itself with the first layer; a normalisation is not pruned
    assert alone.select("layer", "errors").equals(whole.select("layer", "errors"))
    assert alone.drop_nulls("loss")["loss"].to_list() == pytest.approx(whole.drop_nulls("loss")["loss"].to_list(), 1e-5)


def test_the_network_and_the_global_random_state_are_left_alone():
    made = network()
    before, random = snapshot(made), torch.get_rng_state()
    sensitivity(Study(made, test=data(), share=True), draws=1)
    assert all(torch.equal(before[name], tensor) for name, tensor in snapshot(made).items())
    assert torch.equal(random, torch.get_rng_state())


def test_a_finished_result_is_read_from_the_store_and_saved_ones_come_back(tmp_path):
    first = sensitivity(study(), draws=1, store=tmp_path)
    again = sensitivity(study(), draws=1, store=tmp_path)
    assert again.provenance["created"] == first.provenance["created"]
    assert again.table.equals(first.table)
    assert Sensitivity.load(first.save(tmp_path / "out")).table.equals(first.table)


def test_the_summary_has_means_and_standard_deviations_over_draws():
    result = sensitivity(study(), noise=(0.5,), pruning=(0.5,), draws=4)
    drawn = result.table.filter(pl.col("layer") == "0", pl.col("perturbation") == "noise")["loss"].to_numpy()
    row = result.summary().row(by_predicate=(pl.col("layer") == "0") & (pl.col("perturbation") == "noise"), named=True)
    assert (row["draws"], row["loss"]) == (4, pytest.approx(drawn.mean()))
    assert row["loss_std"] == pytest.approx(drawn.std(ddof=1))


def test_the_tolerated_magnitude_is_the_largest_before_the_first_that_is_too_much():
    row = {
        "layer": "a",
        "position": 0,
        "kind": "Linear",
        "parameters": 1,
        "split": "test",
        "status": "ok",
        "error": 0.1,
    }
    drops = {0.1: 0.0, 0.2: 0.04, 0.3: 0.2, 0.4: 0.0}
    rows = [row | {"perturbation": "prune", "magnitude": m, "accuracy_drop": d} for m, d in drops.items()]
    rows += [
        row | {"layer": "b", "position": 1, "perturbation": "prune", "magnitude": m, "accuracy_drop": 0.3}
        for m in drops
    ]
    rows += [row | {"layer": "c", "position": 2, "perturbation": "prune", "magnitude": 0.1, "status": "unavailable"}]
    found = Sensitivity(pl.DataFrame([dict.fromkeys(SCHEMA) | one for one in rows], schema=SCHEMA))
    assert found.tolerated("prune").select("layer", "tolerated").rows() == [("a", 0.2), ("b", 0.0), ("c", None)]
    with pytest.raises(InputError, match="no 'noise' rows"):
        found.tolerated("noise")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": (), "pruning": ()}, "both empty"),
        ({"noise": (-0.1,)}, "noise=-0.1: magnitudes must be above 0"),
        ({"noise": (float("inf"),)}, "noise=inf"),
        ({"pruning": (1.5,)}, "above 0 and at most 1"),
        ({"pruning": 0.5}, "give a list of numbers"),
        ({"noise": (float("nan"),)}, "noise=nan"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"by": {"full model": "0"}}, "no layer may be called"),
    ],
)
def test_wrong_arguments_are_one_clear_error(arguments, message):
    with pytest.raises(InputError, match=message):
        sensitivity(study(), **arguments)


def test_without_data_there_is_nothing_to_measure():
    with pytest.raises(InputError, match="the study has no data"):
        sensitivity(Study(copy.deepcopy(network())))
