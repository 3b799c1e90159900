"""Joint robustness against the loop that swaps weights, and against a hook that skips blocks."""

import copy

import polars as pl
import pytest
import torch
from torch import nn

from shaketable.errors import InputError
from shaketable.networks import build
from shaketable.params import snapshot
from shaketable.probes import robustness
from shaketable.probes.joint_robustness import SCHEMA, JointRobustness, joint_robustness
from shaketable.study import Study


def data(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].argmax(1)


def trained() -> tuple[nn.Sequential, dict[int, dict]]:
    """Three linear layers with batch norm behind the first, at checkpoints 0, 1, 2."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)
        )
        x, y = data(200, 1)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.3)
        checkpoints = {0: snapshot(network)}
        for epoch in (1, 2):
            for _ in range(20):
                optimiser.zero_grad()
                nn.functional.cross_entropy(network(x), y).backward()
                optimiser.step()
            checkpoints[epoch] = snapshot(network)
    return network.eval(), checkpoints


def study(**arguments) -> Study:
    network, checkpoints = trained()
    given = {"checkpoints": checkpoints, "test": data(101, 2), "train": data(50, 3), "final_epoch": 2}
    return Study(network, **(given | arguments))


def residual() -> tuple[nn.Module, Study]:
    """A tiny ResNet-18 of random weights."""
    network = build("resnet18-bn", (3, 8, 8), 10, width=0.0625, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, 8, 8, generator=generator)
    return network, Study(network, test=(x, torch.randint(10, (60,), generator=generator)))


GROUPS = {"upper": ["3", "5"], "all": ["0", "3", "5"]}
NAMES = {
    "0": ["0.weight", "0.bias", "1.weight", "1.bias"],
    "3": ["3.weight", "3.bias"],
    "5": ["5.weight", "5.bias"],
}


@pytest.mark.parametrize("statistics", ["keep", "rewind"])
def test_each_group_has_the_errors_and_loss_of_the_loop_that_swaps_all_its_weights(statistics):
    network, checkpoints = trained()
    table = joint_robustness(study(), GROUPS, draws=0, remove=False, statistics=statistics).table
    for group, members in GROUPS.items():
        names = [name for layer in members for name in NAMES[layer]]
        if statistics == "rewind" and "0" in members:
            names += ["1.running_mean", "1.running_var"]
        for split, (x, y) in {"test": data(101, 2), "train": data(50, 3)}.items():
            for epoch, weights in checkpoints.items():
                copied = copy.deepcopy(network)
                copied.load_state_dict({**copied.state_dict(), **{name: weights[name] for name in names}})
                with torch.no_grad():
                    logits = copied(x)
                row = table.row(
                    by_predicate=(pl.col("group") == group)
                    & (pl.col("checkpoint") == epoch)
                    & (pl.col("split") == split),
                    named=True,
                )
                assert row["errors"] == int((logits.argmax(1) != y).sum())
                assert row["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits.double(), y)), rel=1e-5)
                assert row["layers"] == len(members)


@pytest.mark.parametrize("statistics", ["keep", "reestimate"])
def test_a_group_of_one_layer_has_the_rows_of_layer_robustness_draws_included(statistics):
    how: dict = {"draws": 2, "seed": 3, "statistics": statistics, "statistics_batches": 1}
    made = study(train=data(150, 3))
    wanted = robustness(made, **how).table
    found = joint_robustness(made, {name: [name] for name in NAMES}, remove=False, **how).table
    same = [name for name in SCHEMA if name in wanted.columns and name != "loss"]
    assert found.rename({"group": "layer"}).select("layer", *same).equals(wanted.select("layer", *same))
    assert found["loss"].to_list() == pytest.approx(wanted["loss"].to_list(), rel=1e-5)


def test_groups_may_share_layers_and_the_whole_network_at_a_checkpoint_is_a_reference_row():
    table = joint_robustness(study(), GROUPS, draws=0, remove=False, statistics="rewind").table
    rows = table.filter(pl.col("checkpoint") == 1)
    everything, reference = (rows.filter(pl.col("group") == group) for group in ("all", "full model"))
    assert everything.select("split", "errors").equals(reference.select("split", "errors"))
    assert everything["loss"].to_list() == pytest.approx(reference["loss"].to_list(), rel=1e-5)
    assert table.filter(pl.col("checkpoint") == 2)["accuracy_drop"].to_list() == [0.0] * 6


def test_removal_has_the_errors_of_skipping_the_blocks_and_says_which_cannot_be_dropped():
    network, made = residual()
    names = ["stage1.resblk2", "stage3.resblk2"]
    result = joint_robustness(made, {"two": names, "down": ["stage2.*"]}, draws=0)
    rows = {row["group"]: row for row in result.table.filter(pl.col("perturbation") == "remove").to_dicts()}
    hooks = [network.get_submodule(name).register_forward_hook(lambda m, args, out: args[0]) for name in names]
    with torch.no_grad():
        logits = network(made.data("test").inputs)
    for hook in hooks:
        hook.remove()
    assert rows["two"]["errors"] == int((logits.argmax(1) != made.data("test").labels).sum())
    assert rows["two"]["loss"] == pytest.approx(
        float(nn.functional.cross_entropy(logits.double(), made.data("test").labels)), rel=1e-5
    )
    assert rows["down"]["status"] == "unavailable"
    assert rows["down"]["error"] is None
    assert "stage2.resblk1: it makes [8, 4, 4] of [4, 8, 8]" in rows["down"]["reason"]
    missing = result.table.filter(pl.col("perturbation") == "reinitialise")
    assert missing["status"].to_list() == ["unavailable"] * 2
    assert "no initial weights" in missing["reason"][0]


def test_the_summary_has_means_and_deviations_over_draws():
    result = joint_robustness(study(), {"upper": ["3", "5"]}, draws=4, remove=False)
    where = (pl.col("perturbation") == "rerandomise") & (pl.col("split") == "test")
    errors = result.table.filter(where)["error"].to_numpy()
    row = result.summary().row(by_predicate=where, named=True)
    assert row["draws"] == 4
    assert row["error"] == pytest.approx(errors.mean())
    assert row["error_std"] == pytest.approx(errors.std(ddof=1))


def test_the_result_does_not_depend_on_batches_nor_on_a_store_and_is_read_back(tmp_path):
    first = joint_robustness(study(), GROUPS, draws=1)
    again = joint_robustness(study(), GROUPS, draws=1, batch_size=7, store=tmp_path)
    numbers = [name for name in SCHEMA if name != "loss"]
    assert first.table.select(numbers).equals(again.table.select(numbers))
    (folder,) = tmp_path.iterdir()
    loaded = JointRobustness.load(folder)
    assert loaded.table.equals(again.table)
    assert loaded.groups == {name: list(group) for name, group in GROUPS.items()}
    assert (
        joint_robustness(study(), GROUPS, draws=1, store=tmp_path).provenance["created"] == loaded.provenance["created"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": {"mine": ["4"]}}, "there is no layer '4'"),
        ({"groups": {"full model": ["3"]}}, "no group may be called 'full model'"),
        ({"groups": GROUPS, "draws": -1}, "draws must be at least 0"),
        ({"groups": GROUPS, "checkpoints": [7]}, "no checkpoint 7"),
        ({"groups": GROUPS, "checkpoints": [], "draws": 0, "remove": False}, "nothing is asked of the groups"),
        ({"groups": GROUPS, "statistics": "reset"}, "unknown statistics='reset'"),
        ({"groups": GROUPS, "splits": ["val"]}, "give a list of 'test' and 'train'"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message):
    with pytest.raises(InputError, match=message):
        joint_robustness(study(), **arguments)


def test_re_initialisation_that_was_not_asked_for_has_no_rows_where_there_are_no_initial_weights(tmp_path):
    _, bare = residual()
    arguments = {"draws": 1, "remove": False, "store": tmp_path}
    asked = joint_robustness(bare, "all-but-first", **arguments).table
    unasked = joint_robustness(bare, "all-but-first", checkpoints=[], **arguments).table
    assert set(asked["perturbation"]) == {"none", "rerandomise", "reinitialise"}
    assert set(unasked["perturbation"]) == {"none", "rerandomise"}
    assert asked.filter(pl.col("perturbation") != "reinitialise").equals(unasked)
