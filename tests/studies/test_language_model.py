"""The study of figure 7: its settings name a network and a text that exist, and a tiny one runs from text to tables."""

import math
from pathlib import Path

import pytest
from studies.common import Options, Setting, probe

from shaketable import networks
from shaketable.data import TEXTS
from studies import language_model

pytest.importorskip("sentencepiece")


def test_the_full_setting_has_the_count_of_parameters_that_the_paper_prints():
    recipe = language_model.FULL
    network = networks.construct(recipe.network, (recipe.data_args["tokens"],), recipe.data_args["vocabulary"])
    assert sum(parameter.numel() for parameter in network.parameters()) == 112_242_480
    assert {language_model.FULL.data, language_model.SMALL.data} <= set(TEXTS)


def test_a_tiny_setting_runs_from_text_to_tables(tmp_path: Path):
    (tmp_path / "story.txt").write_text("the cat sat on a mat and the rat ran to the hat\n" * 60, encoding="utf-8")
    recipe = language_model.SMALL.changed(
        network="decoder-1x8",
        data=f"text:{tmp_path / 'story.txt'}",
        data_args={"vocabulary": 20, "tokens": 4, "train_examples": 40, "test_examples": 8},
        epochs=2,
        checkpoints=(0, 1, 2),
    )
    chosen = Options("small", None, tmp_path / "out", tmp_path / "runs", "cpu", "test")
    (result,) = probe(Setting([recipe], draws=1), chosen, "module")
    assert len(set(result.table["layer"])) == 1 + 1 + 8 + 2  # full model, embedding, a block, norm and prediction
    text = language_model.perplexities(result).splitlines()
    assert len(text) == 2 + 3
    loss = result.table.row(0, named=True)["loss"]
    assert text[2].split("|")[3].strip() == f"{math.exp(loss):.1f}"
