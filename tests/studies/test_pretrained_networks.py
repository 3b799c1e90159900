"""Networks that nobody here wrote or trained: two ResNets for CIFAR-10, and a language model of 260,032 parameters."""

import polars as pl
import pytest

from shaketable.evaluate import evaluate
from shaketable.params import layers
from shaketable.probes import robustness
from studies import pretrained_networks as networks

TEXT = "Once upon a time, there was a little girl named Lily.\nShe ran."


def test_the_tokenizer_loses_nothing_and_merges_the_words_of_its_stories(pretrained):
    tokenizer = networks.Tokenizer(pretrained / "stories260K_hf" / "tok512.bin")
    tokens = tokenizer([TEXT, "日"])["input_ids"]
    letters = {number: piece for piece, number in tokenizer.pieces.items()} | {13: b"\n"}
    assert b"".join(letters[token] for token in tokens[0]).decode() == f" {TEXT}"
    assert [letters[token] for token in tokens[0][:4]] == [b" Once", b" upon", b" a", b" time"]
    assert tokens[1][-3:] == [byte + 3 for byte in "日".encode()]
    assert len(tokenizer) == 512


@pytest.mark.usefixtures("transformers")
def test_the_language_model_knows_the_english_of_children_better_than_shakespeares(pretrained, data_root):
    losses = {}
    for text in networks.TEXTS:
        study = networks.study(f"stories260k-{text}", pretrained, data_root, 8)
        losses[text] = evaluate(study.network, study.final, study.data("test")).mean_loss
    assert losses["garden"] < losses["shakespeare"] < 6.24  # ln 512, a guess
    names = [layer.name for layer in layers(study.network, "module", study.example_inputs())]
    assert len(names) == 5 * 9 + 2  # the embedding is tied to the output
    assert study.needs_init
    with_draws = robustness(study, {"norm": "model.norm", "down": "model.layers.0.mlp.down_proj"}, draws=1).table
    rows = with_draws.filter(pl.col("perturbation") == "rerandomise")
    assert rows["distribution"].to_list() == ["initialiser"] * 2
    missing = with_draws.filter(pl.col("perturbation") == "reinitialise")
    assert missing["reason"].unique().to_list() == ["the study has no initial weights; make it with init"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "errors"),
    [
        ("resnet32", 737),
        ("pyhessian_resnet20", 799),
        ("lenet-captum", 4093),
        ("lenet-sparsegpt", 4045),
        ("lenet-pytorch_learning", 4381),
    ],
)
def test_the_clean_error_is_that_of_its_readme(which, errors, pretrained, data_root):
    study = networks.study(which, pretrained, data_root, None)
    sums = evaluate(study.network, study.final, study.data("test"))
    assert (sums.examples, sums.errors) == (10_000, errors)
