"""Runs on disk: interrupted anywhere they end as if undisturbed; what is wrong with a folder is one clear error."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from shaketable import data, networks, params
from shaketable.errors import InputError, RunError
from shaketable.evaluate import evaluate
from shaketable.files import load_tensors
from shaketable.identity import fingerprint
from shaketable.training import Recipe, Run, train
from shaketable.training.checkpoints import HISTORY
from shaketable.training.loop import Trainer

SMALL = Recipe(network="fcn-1x8", data_args={"train_examples": 200, "test_examples": 50}, epochs=5, batch_size=64)

KINDS = {
    "sgd": SMALL,
    "adam": SMALL.replace(optimiser="adam", learning_rate=0.01, schedule="cosine"),
    "batch norm, augmentation, corruption": SMALL.replace(
        network="fcn-1x8-bn", augmentation=("shift:1", "cutout:2"), label_corruption=0.2, weight_decay=5e-4
    ),
    "frozen, few checkpoints": SMALL.replace(frozen=("layer1",), checkpoints=(2,), evaluate_every=3),
    "float16": SMALL.replace(precision="float16"),
    "sam": SMALL.replace(network="fcn-1x8-bn", sam_rho=0.1),
}


@pytest.fixture(scope="session")
def done(tmp_path_factory):
    """An undisturbed run of SMALL, to read."""
    return train(SMALL, out=tmp_path_factory.mktemp("runs"))


def copy_of(run, folder):
    """The run's files under another folder, to damage."""
    target = folder / run.path.name
    for file in run.path.rglob("*"):
        if file.is_file():
            (target / file.relative_to(run.path)).parent.mkdir(parents=True, exist_ok=True)
            (target / file.relative_to(run.path)).write_bytes(file.read_bytes())
    return Run(target)


def assert_same(run, other):
    """Equal checkpoints, bit for bit, and equal histories but for the seconds."""
    assert list(run.checkpoints) == list(other.checkpoints)
    for epoch in run.checkpoints:
        assert fingerprint(run.checkpoints[epoch]) == fingerprint(other.checkpoints[epoch]), epoch
    assert_frame_equal(run.history.drop("seconds"), other.history.drop("seconds"), check_exact=True)


def raising_at(epochs, error=KeyboardInterrupt):
    """A callback that raises once at each of these epochs."""
    left = set(epochs)

    def callback(record, step):
        if step in left:
            left.remove(step)
            raise error

    return callback


def test_checkpoint_0_is_the_initial_network_before_any_step(done):
    initial = networks.build("fcn-1x8", (1, 8, 8), 10, seed=0)
    assert fingerprint(done.checkpoints[0]) == fingerprint(params.state(initial))


def test_each_epoch_has_a_checkpoint_and_the_weights_differ(done):
    assert list(done.checkpoints) == [0, 1, 2, 3, 4, 5]
    assert len({fingerprint(done.checkpoints[epoch]) for epoch in done.checkpoints}) == 6
    assert all(done.checkpoints[epoch].keys() == done.checkpoints[0].keys() for epoch in done.checkpoints)


def test_chosen_checkpoints_are_kept_with_0_and_the_last(tmp_path):
    run = train(SMALL.replace(checkpoints=(2,), epochs=4), out=tmp_path)
    assert list(run.checkpoints) == [0, 2, 4]


def test_the_choice_of_checkpoints_does_not_change_the_weights(done, tmp_path):
    run = train(SMALL.replace(checkpoints=(), evaluate_every=100), out=tmp_path)
    assert fingerprint(run.checkpoints[5]) == fingerprint(done.checkpoints[5])


@pytest.mark.parametrize("recipe", KINDS.values(), ids=KINDS)
def test_a_run_interrupted_at_every_epoch_ends_with_the_same_weights_and_history(recipe, tmp_path):
    undisturbed = train(recipe, out=tmp_path / "undisturbed")
    callback, starts = raising_at(range(6)), 0
    while not (run := Run(tmp_path / "disturbed" / recipe.folder_name)).finished:
        starts += 1
        with pytest.raises(KeyboardInterrupt):
            train(recipe, out=tmp_path / "disturbed", callback=callback)
    assert starts == 6
    assert_same(run, undisturbed)
    assert len(json.loads((run.path / "environment.json").read_text())) == starts


def test_a_run_killed_at_any_write_ends_with_the_same_weights(done, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    rename, kills, left = Path.replace, 0, 0

    def kill_before_or_after(path, target):
        nonlocal left
        left -= 1
        if left == 0 and before:
            raise Killed
        rename(path, target)
        if left == 0:
            raise Killed

    monkeypatch.setattr(Path, "replace", kill_before_or_after)
    for before in (True, False):
        for writes in range(1, 12):  # 2 files at the start, then 4 a save: each of them is cut off
            left = writes
            try:
                train(SMALL, out=tmp_path / str(before))
            except Killed:
                kills += 1
        left = 0
        assert_same(train(SMALL, out=tmp_path / str(before)), done)
    assert kills > 12


def test_a_run_interrupted_within_an_epoch_ends_with_the_same_weights(done, tmp_path, monkeypatch):
    whole = Trainer.epoch

    def broken(self, epoch):
        whole(self, epoch)  # the weights have moved on, and nothing of it must be kept
        if epoch == 3:
            raise KeyboardInterrupt
        return 0.0

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "epoch", broken)
        with pytest.raises(KeyboardInterrupt):
            train(SMALL, out=tmp_path)
    run = train(SMALL, out=tmp_path)
    assert fingerprint(run.checkpoints[5]) == fingerprint(done.checkpoints[5])


def test_progress_between_checkpoints_is_saved_once_the_seconds_have_passed(tmp_path):
    recipe = SMALL.replace(checkpoints=())
    for seconds, epoch in ((0.0, 3), (1000.0, 0)):
        out = tmp_path / str(seconds)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, out=out, callback=raising_at([3]), save_every_seconds=seconds)
        assert Run(out / recipe.folder_name).history["epoch"].max() == epoch


COMMAND = """
import sys, torch
torch.set_num_threads(1)
from shaketable.training import Recipe, train
train(Recipe.from_file(sys.argv[1]), out=sys.argv[2])
"""


@pytest.mark.slow
def test_a_run_killed_ten_times_at_random_moments_ends_with_the_same_weights(tmp_path):
    recipe = KINDS["batch norm, augmentation, corruption"].replace(
        optimiser="adam", learning_rate=0.001, epochs=300, checkpoints=tuple(range(0, 300, 5))
    )
    (tmp_path / "recipe.json").write_text(recipe.canonical())
    disturbed = Run(tmp_path / "disturbed" / recipe.folder_name)
    arguments = [sys.executable, "-c", COMMAND, tmp_path / "recipe.json", tmp_path / "disturbed"]
    moments, reached = random.Random(0), []
    for _ in range(10):
        before = saved_at(disturbed)
        with subprocess.Popen(arguments) as process:
            while saved_at(disturbed) == before and process.poll() is None:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        reached.append(disturbed.history["epoch"].max())
    assert sorted(set(reached)) == reached  # each start got further than the one before
    subprocess.run(arguments, check=True)
    assert_same(disturbed, train(recipe, out=tmp_path / "undisturbed"))
    assert not list(disturbed.path.rglob(".*.part*"))


def saved_at(run):
    return run.state_path.stat().st_mtime_ns if run.state_path.is_file() else 0


def test_a_finished_run_is_returned_without_touching_data_or_files(done, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("data was touched")

    monkeypatch.setattr(data, "load", fail)
    before = {path: path.stat().st_mtime_ns for path in done.path.rglob("*")}
    assert train(SMALL, out=done.path.parent, device="cuda:99") == done
    assert {path: path.stat().st_mtime_ns for path in done.path.rglob("*")} == before


def test_the_history_holds_the_epochs_and_what_was_measured(done):
    history = done.history
    assert tuple(history.columns) == HISTORY
    assert history["epoch"].to_list() == [0, 1, 2, 3, 4, 5]
    assert history["learning_rate"].to_list() == [None, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert history["running_loss"].null_count() == 1
    assert history.drop("learning_rate", "running_loss").null_count().sum_horizontal().item() == 0
    assert history["seconds"].is_sorted()
    assert_frame_equal(pl.read_parquet(done.path / "history.parquet"), history)
    assert_frame_equal(pl.read_csv(done.path / "history.csv", schema=history.schema), history)


def test_the_history_is_what_the_kept_weights_give_on_the_kept_data(done):
    dataset = done.dataset()
    for epoch in (0, 5):
        row = done.history.row(epoch, named=True)
        network = done.network(epoch)
        for split, kept in (("train", dataset.train), ("test", dataset.test)):
            sums = evaluate(network, {}, kept)
            assert (sums.mean_loss, sums.error) == (row[f"{split}_loss"], row[f"{split}_error"])
        assert not network.training


def test_training_is_on_the_corrupted_labels_and_their_indices_are_kept(tmp_path):
    run = train(SMALL.replace(label_corruption=0.5, epochs=1), out=tmp_path)
    dataset = run.dataset()
    assert len(dataset.train.corrupted) == 100
    assert dataset.test.corrupted is None
    assert evaluate(run.network(), {}, dataset.train).mean_loss == run.history["train_loss"][-1]


def test_epochs_between_evaluations_are_null_but_checkpoints_and_the_last_are_evaluated(tmp_path):
    run = train(SMALL.replace(checkpoints=(1,), evaluate_every=3), out=tmp_path)
    evaluated = run.history.filter(pl.col("test_error").is_not_null())["epoch"].to_list()
    assert evaluated == [0, 1, 3, 5]
    assert run.history["running_loss"].null_count() == 1


def test_training_stops_after_the_first_epoch_with_a_loss_below_the_threshold(done, tmp_path):
    losses = done.history["train_loss"].to_list()
    assert losses[3] < min(losses[:3])
    run = train(SMALL.replace(stop_below=(losses[3] + min(losses[:3])) / 2), out=tmp_path)
    assert list(run.checkpoints) == [0, 1, 2, 3]
    assert run.finished
    assert fingerprint(run.checkpoints[3]) == fingerprint(done.checkpoints[3])


def test_torchs_global_random_state_is_left_alone(tmp_path):
    before = torch.get_rng_state()
    train(KINDS["batch norm, augmentation, corruption"], out=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_changes_the_initial_weights_and_not_the_examples(done, tmp_path):
    other = train(SMALL.replace(seed=1, epochs=1), out=tmp_path)
    assert fingerprint(other.checkpoints[0]) != fingerprint(done.checkpoints[0])
    assert other.dataset().train.fingerprint() == done.dataset().train.fingerprint()


def test_the_callback_gets_each_epochs_measured_values_once(tmp_path):
    calls = []
    run = train(SMALL, out=tmp_path, callback=lambda record, step: calls.append((step, record)))
    assert [step for step, _ in calls] == [0, 1, 2, 3, 4, 5]
    rows = [{name: value for name, value in row.items() if value is not None} for row in run.history.to_dicts()]
    assert [record for _, record in calls] == rows


def test_seconds_go_on_counting_where_a_stopped_run_left_off(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, out=tmp_path, callback=raising_at([2]))
    before = Run(tmp_path / SMALL.folder_name).history["seconds"].to_list()
    after = train(SMALL, out=tmp_path).history["seconds"].to_list()
    assert after[:3] == before
    assert sorted(after) == after


def test_a_frozen_layer_is_bit_identical_in_the_last_checkpoint(tmp_path):
    run = train(SMALL.replace(network="fcn-2x8-bn", frozen=("layer1",), weight_decay=0.1), out=tmp_path)
    first, last = run.checkpoints[0], run.checkpoints[5]
    frozen = {name for name in first if torch.equal(first[name], last[name])}
    assert frozen == {name for name in first if name.startswith(("layer1.", "bn1."))}


def test_a_network_is_trained_without_the_blocks_that_its_recipe_removes_and_the_others_start_as_beside_them(tmp_path):
    small = SMALL.replace(network="resnet18-v2", network_args={"width": 0.0625}, epochs=1, learning_rate=0.01)
    whole = train(small, out=tmp_path)
    run = train(small.replace(removed=("stage1.resblk2", "stage3.resblk2")), out=tmp_path)
    left = {name for name in whole.checkpoints[0] if not name.startswith(run.recipe.removed)}
    assert set(run.checkpoints[0]) == set(run.checkpoints[1]) == left
    assert all(torch.equal(run.checkpoints[0][name], whole.checkpoints[0][name]) for name in left)
    assert not torch.equal(run.checkpoints[0]["stage1.resblk1.conv1.weight"], run.network().stage1.resblk1.conv1.weight)


def test_a_loss_that_is_not_finite_names_epoch_and_rate_and_keeps_earlier_checkpoints(tmp_path):
    recipe = SMALL.replace(learning_rate=1e30)
    with pytest.raises(RunError, match=r"(nan|inf) in epoch \d.*1e\+30.*lower the learning rate"):
        train(recipe, out=tmp_path)
    run = Run(tmp_path / recipe.folder_name)
    assert 0 in run.checkpoints
    assert all(tensor.isfinite().all() for tensor in run.checkpoints[0].values())
    assert not run.finished


def test_two_processes_on_one_run_are_refused(tmp_path):
    folder = tmp_path / SMALL.folder_name
    folder.mkdir()
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process"):
            train(SMALL, out=tmp_path)
    assert train(SMALL, out=tmp_path).finished


def test_a_run_that_another_process_finished_meanwhile_is_not_trained_further(done, tmp_path, monkeypatch):
    recipe = SMALL.replace(stop_below=max(done.history["train_loss"][1:]) + 1e-6)
    load = data.load

    def slow_load(*args, **kwargs):
        monkeypatch.undo()
        train(recipe, out=tmp_path)
        return load(*args, **kwargs)

    monkeypatch.setattr(data, "load", slow_load)
    run = train(recipe, out=tmp_path)
    assert list(run.checkpoints) == [0, 1]


def test_a_folder_with_another_recipe_is_refused(done, tmp_path):
    run = copy_of(done, tmp_path)
    (run.path / "recipe.json").write_text(SMALL.replace(seed=9).canonical())
    with pytest.raises(InputError, match="another recipe"):
        train(SMALL, out=tmp_path)


def test_going_on_with_other_data_is_refused(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, out=tmp_path, callback=raising_at([2]))
    load = data.load

    def other(*args, **kwargs):
        dataset = load(*args, **kwargs)
        return replace(dataset, train=data.corrupt_labels(dataset.train, 0.1, 0))

    monkeypatch.setattr(data, "load", other)
    with pytest.raises(InputError, match="other data"):
        train(SMALL, out=tmp_path)


def cut(content):
    return content[: len(content) // 2]


def flip_last_bit(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [cut, flip_last_bit, lambda content: b"", lambda content: b"not a state" * 9])
def test_a_damaged_state_is_one_clear_error_that_names_the_file(damage, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, out=tmp_path, callback=raising_at([2]))
    run = Run(tmp_path / SMALL.folder_name)
    run.state_path.write_bytes(damage(run.state_path.read_bytes()))
    with pytest.raises(InputError, match=r"state\.safetensors: damaged.*delete"):
        train(SMALL, out=tmp_path)


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path):
    checkpoints = tmp_path / SMALL.folder_name / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / ".epoch-0003.safetensors.part123").write_text("half")
    run = train(SMALL, out=tmp_path)
    assert list(run.checkpoints) == [0, 1, 2, 3, 4, 5]
    assert not list(run.path.rglob("*.part*"))


def test_a_full_disk_is_an_error_that_says_how_to_go_on_and_the_run_goes_on(done, tmp_path, monkeypatch):
    sync = os.fsync

    def full(descriptor):
        nonlocal writes
        writes += 1
        if writes == 12:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    writes = 0
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left.*go on"):
        train(SMALL, out=tmp_path)
    assert_same(train(SMALL, out=tmp_path), done)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="not the folder of a run"):
        Run.open(tmp_path)


def test_an_unfinished_run_is_refused_with_the_command_that_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, out=tmp_path, callback=raising_at([2]))
    path = tmp_path / SMALL.folder_name
    with pytest.raises(InputError, match=f"epoch 2 .*shaketable train --recipe {path}/recipe.json --out {tmp_path}"):
        Run.open(path)
    train(SMALL, out=tmp_path)
    assert Run.open(path).recipe == SMALL


def test_a_network_of_an_epoch_without_checkpoint_is_refused(done):
    with pytest.raises(InputError, match="no checkpoint of epoch 9"):
        done.network(9)


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(device, tmp_path):
    with pytest.raises(InputError, match=device):
        train(SMALL, out=tmp_path, device=device)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "fnc-1x8"},
        {"network_args": {"batchnorm": True}},
        {"data": "digit"},
        {"data_args": {"train_examples": 10**6}},
        {"frozen": ("layer9",)},
        {"removed": ("layer9",)},
    ],
)
def test_a_recipe_that_cannot_run_is_refused_before_there_is_a_folder(changes, tmp_path):
    with pytest.raises(InputError, match=r"fnc|batchnorm|digit|1,?000,?000|layer9"):
        train(SMALL.replace(**changes), out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_augmentation_of_what_is_no_image_is_refused(tmp_path, monkeypatch):
    vectors = data.Data(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]), 2)
    monkeypatch.setattr(data, "load", lambda *args, **kwargs: data.Dataset("v", vectors, vectors, ("a", "b"), None))
    with pytest.raises(InputError, match="images"):
        train(SMALL.replace(data="v", data_args={}, augmentation=("flip",)), out=tmp_path)


def test_what_augmentation_moves_in_from_outside_is_black(tmp_path, monkeypatch):
    seen = []
    whole = data.Augmentation.__call__
    monkeypatch.setattr(data.Augmentation, "__call__", lambda self, *a: seen.append(self.fill) or whole(self, *a))
    run = train(SMALL.replace(augmentation=("shift:1",), epochs=1), out=tmp_path)
    normalisation = run.dataset().normalisation
    assert normalisation is not None
    assert set(seen) == {normalisation.black}
    assert normalisation.black[0] < -0.5


def test_importing_training_imports_neither_polars_nor_sklearn():
    code = (
        "import sys, shaketable.training; print({'polars', 'sklearn', 'altair', 'rich', 'datasets'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_state_holds_weights_and_optimiser_and_no_random_state(done):
    names = load_tensors(done.state_path)
    weights = list(done.checkpoints[0])
    assert set(names) == {f"weights/{n}" for n in weights} | {f"optimiser/{n}/momentum_buffer" for n in weights}


def test_mnist_is_learned(data_root, tmp_path):
    recipe = Recipe(network="fcn-1x64", data="mnist", data_args={"train_examples": 5000}, epochs=3)
    history = train(recipe, out=tmp_path, data_root=data_root).history
    assert history["test_error"][0] > 0.7
    assert history["test_error"][3] < 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_run_on_cuda_is_near_the_run_on_the_cpu_and_goes_on_after_an_interrupt(done, precision, tmp_path):
    recipe = SMALL.replace(precision=precision)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, out=tmp_path, device="cuda", callback=raising_at([2]))
    run = train(recipe, out=tmp_path, device="cuda")
    assert fingerprint(run.checkpoints[0]) == fingerprint(done.checkpoints[0])
    assert run.history["train_loss"][5] == pytest.approx(done.history["train_loss"][5], rel=0.1)
