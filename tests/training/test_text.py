"""Runs on text: labels for each token, the tokenizer kept with the run, robustness by block; what does not fit is refused."""

import math
import os

import polars as pl
import pytest
import torch

from shaketable.data import Tokenizer, load
from shaketable.errors import InputError
from shaketable.evaluate import evaluate, perplexity
from shaketable.networks import build
from shaketable.params import layers
from shaketable.probes import robustness
from shaketable.study import Study
from shaketable.training import Recipe, Run, train
from shaketable.training.checkpoints import load_plain
from shaketable.training.loop import Trainer

pytest.importorskip("sentencepiece")

LINE = "the cat sat on a mat and the rat ran to the hat while a bat and a man sang"
WORDS = LINE.split()
RECIPE = Recipe(
    network="decoder-2x16",
    network_args={"head_width": 8},
    data="text:story.txt",
    data_args={"tokens": 8, "vocabulary": 24},
    optimiser="adam",
    learning_rate=0.01,
    schedule="constant",
    epochs=3,
    batch_size=16,
    checkpoints=(0, 1, 3),
)


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """A folder with a text in which each line is the same: it can be learnt."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "story.txt").write_text((" ".join(WORDS) + "\n") * 60, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def run(root, tmp_path_factory):
    """A finished run on it, to read."""
    return train(RECIPE, out=tmp_path_factory.mktemp("runs"), data_root=root)


@pytest.fixture
def damaged(run, root, tmp_path):
    """A copy of the run, to damage."""
    target = tmp_path / run.path.name
    for file in run.path.rglob("*"):
        if file.is_file():
            (target / file.relative_to(run.path)).parent.mkdir(parents=True, exist_ok=True)
            (target / file.relative_to(run.path)).write_bytes(file.read_bytes())
    return Run(target)


def test_the_first_step_goes_down_the_gradient_of_the_mean_over_tokens(root):
    dataset = load(RECIPE.data, root=root, **RECIPE.data_args)
    part = dataset.train.subset(range(6))
    recipe = RECIPE.replace(optimiser="sgd", momentum=0.0, learning_rate=0.5, batch_size=6)
    network = fresh(dataset.classes)
    before = {name: p.detach().clone().double() for name, p in network.named_parameters()}
    double = fresh(dataset.classes).double()
    losses = [
        -double(part.inputs[n : n + 1])[0, t].log_softmax(0)[part.labels[n, t]] for n in range(6) for t in range(8)
    ]
    mean = sum(losses) / len(losses)
    mean.backward()
    loss = Trainer(recipe, network, part).epoch(1)
    assert loss == pytest.approx(float(mean.detach()), rel=1e-5)
    for name, parameter in double.named_parameters():
        step = dict(network.named_parameters())[name].detach().double() - before[name]
        torch.testing.assert_close(step, -0.5 * parameter.grad, rtol=1e-3, atol=1e-6)


def fresh(classes: int) -> torch.nn.Module:
    """The recipe's network with initial weights."""
    return build(RECIPE.network, (8,), classes, **RECIPE.network_args)


def test_a_text_of_equal_lines_is_learnt_and_the_history_is_per_token(run, root):
    history = run.history
    assert history["train_loss"][0] == pytest.approx(math.log(24), abs=1.5)
    assert history["test_error"][-1] < 0.5 < history["test_error"][0]
    dataset = run.dataset(root)
    sums = evaluate(run.network(), {}, dataset.test)
    assert sums.examples == dataset.test.labels.numel()
    assert sums.error == history["test_error"][-1]
    assert sums.perplexity == perplexity(history["test_loss"][-1])


def test_perplexity_is_the_geometric_mean_of_inverse_probabilities():
    probabilities = [0.5, 0.1, 0.9]
    loss = -sum(map(math.log, probabilities)) / 3
    assert perplexity(loss) == pytest.approx((1 / (0.5 * 0.1 * 0.9)) ** (1 / 3))
    assert perplexity(1e6) == math.inf


def test_the_batch_size_of_evaluation_changes_nothing_and_is_small_where_the_vocabulary_is_large(
    run, root, monkeypatch
):
    test = run.dataset(root).test
    expected = evaluate(run.network(), {}, test, batch_size=3)
    sizes = []
    batches = type(test).batches
    monkeypatch.setattr("shaketable.evaluate.LOGITS", 8 * 24 * 2)
    monkeypatch.setattr(
        type(test), "batches", lambda self, size, *rest: sizes.append(size) or batches(self, size, *rest)
    )
    found = evaluate(run.network(), {}, test)
    assert sizes == [2]
    assert found.errors == expected.errors
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)


def test_the_tokenizer_lies_in_the_folder_and_the_data_come_back_with_it(run, root):
    tokenizer = Tokenizer.load(run.path / "tokenizer.model")
    assert run.tokenizer == tokenizer
    assert run.dataset(root).tokenizer == tokenizer
    about = load_plain(run.state_path)["about"]
    assert about["tokenizer"] == tokenizer.fingerprint
    assert about["input_shape"] == [8]


def test_a_stored_tokenizer_is_used_and_none_is_trained_again(run, root, monkeypatch):
    monkeypatch.setattr(Tokenizer, "trained", None)
    assert len(run.dataset(root).train) > 0
    with pytest.raises(TypeError):
        load(RECIPE.data, root=root, **RECIPE.data_args)


def test_another_tokenizer_or_a_damaged_one_in_the_folder_is_refused(damaged, root):
    path = damaged.path / "tokenizer.model"
    path.write_bytes(Tokenizer.trained([" ".join(WORDS)], 20).model)
    with pytest.raises(InputError, match=r"tokenizer\.model: not the tokenizer that this run was trained with"):
        damaged.dataset(root)
    path.write_bytes(b"junk")
    with pytest.raises(InputError, match="not a SentencePiece model"):
        damaged.dataset(root)
    os.remove(path)
    with pytest.raises(InputError, match="not the tokenizer that this run was trained with"):
        damaged.dataset(root)


def test_an_interrupted_run_on_text_goes_on_to_the_same_weights(run, root, tmp_path):
    class Stop(Exception):
        pass

    def stop(record, step):
        if step == 1:
            raise Stop

    with pytest.raises(Stop):
        train(RECIPE, out=tmp_path, data_root=root, callback=stop)
    again = train(RECIPE, out=tmp_path, data_root=root)
    for epoch in run.checkpoints:
        for name, tensor in run.checkpoints[epoch].items():
            assert torch.equal(tensor, again.checkpoints[epoch][name])


def test_other_text_than_the_one_trained_on_is_refused(run, tmp_path):
    (tmp_path / "story.txt").write_text((" ".join(reversed(WORDS)) + "\n") * 60, encoding="utf-8")
    with pytest.raises(InputError, match="has other train data now"):
        run.dataset(tmp_path)


def test_robustness_in_blocks_and_sub_layers_per_checkpoint_is_that_of_the_plain_loop(run, root):
    study = Study.from_run(run.path, root)
    assert study.task == "language modelling"
    for by in ("block", "module"):
        result = robustness(study, by=by, draws=1, splits=["test"])
        rows = result.table.filter(pl.col("perturbation") == "reinitialise")
        assert rows["status"].unique().to_list() == ["ok"]
        assert rows["examples"].unique().to_list() == [study.test.labels.numel()]
        found = {layer.name: layer for layer in layers(study.network, by)}
        assert set(rows["layer"]) == set(found)
        for row in rows.iter_rows(named=True):
            change = {name: study.checkpoint(row["checkpoint"])[name] for name in found[row["layer"]].params}
            sums = evaluate(study.network, {**study.final, **change}, study.test)
            assert row["errors"] == sums.errors
            assert row["loss"] == pytest.approx(sums.mean_loss, rel=1e-4)
    assert [name for name in found if name.startswith("blocks.01")][:2] == ["blocks.01.norm0", "blocks.01.query"]


def test_networks_of_images_on_text_and_of_text_on_images_are_refused(root, tmp_path):
    with pytest.raises(InputError, match="vgg11 does not take tokens, and text:story.txt is a text; give decoder-"):
        train(RECIPE.replace(network="vgg11", network_args={}), out=tmp_path, data_root=root)
    with pytest.raises(InputError, match="decoder-2x16 takes sequences of T tokens"):
        train(RECIPE.replace(data="digits", data_args={}), out=tmp_path, data_root=root)
    assert not list(tmp_path.iterdir())


def test_labels_of_tokens_cannot_be_corrupted(root, tmp_path):
    with pytest.raises(InputError, match="cannot be corrupted"):
        train(RECIPE.replace(label_corruption=0.5), out=tmp_path, data_root=root)


def test_recipes_with_other_arguments_of_a_text_are_other_runs():
    digests = {RECIPE.changed(data_args=change).digest for change in ({}, {"tokens": 9}, {"vocabulary": 23})}
    assert len(digests) == 3
