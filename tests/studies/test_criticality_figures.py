"""The figures of module criticality: what is trained for them, which modules they are about, and all of them on a toy."""

import json
from pathlib import Path

import polars as pl
import pytest
from studies.common import Options, options
from studies.criticality import Search

from shaketable.data import SOURCES
from shaketable.networks import construct
from shaketable.probes import Robustness
from shaketable.training import Recipe
from studies import criticality_figures as figures
from studies import criticality_tables as tables

DIGITS = {
    "data": "digits",
    "data_args": {"train_examples": 300, "test_examples": 100},
    "batch_size": 20,
    "learning_rate": 0.05,
    "epochs": 30,
    "milestones": (),
    "stop_below": 0.2,
    "checkpoints": (0, 1, 2),
}


def networks(setting: figures.Setting) -> list[Recipe]:
    return [setting.network, setting.corrupted, *setting.others.values(), *setting.architectures.values()]


@pytest.mark.parametrize("name", ["small", "full"])
def test_every_network_of_a_figure_can_be_built(name: str) -> None:
    for recipe in networks(figures.SETTINGS[name]):
        source = SOURCES[recipe.data]
        construct(recipe.network, source.shape, source.classes, **recipe.network_args)


@pytest.mark.parametrize("name", ["small", "full"])
def test_the_figures_share_their_networks_with_table_2(name: str) -> None:
    setting, table = figures.SETTINGS[name], tables.SETTINGS[name][2].networks
    assert setting.network == table["ResNet18"]
    assert all(recipe == table[network] for network, recipe in setting.architectures.items())


@pytest.mark.parametrize("name", ["small", "full"])
def test_corrupted_labels_are_trained_on_without_augmentation_and_weight_decay(name: str) -> None:
    setting = figures.SETTINGS[name]
    corrupted = setting.corrupted
    assert (corrupted.label_corruption, corrupted.weight_decay, corrupted.augmentation) == (0.2, 0.0, ())
    same = {"label_corruption": 0.0, "weight_decay": 5e-4, "augmentation": setting.network.augmentation}
    assert corrupted.replace(**same) == setting.network


@pytest.mark.parametrize("name", ["small", "full"])
def test_figure_7_changes_the_initial_distribution_or_the_optimiser_alone(name: str) -> None:
    setting = figures.SETTINGS[name]
    fixup, adam = setting.others["fixup"], setting.others["adam"]
    assert fixup.network_args["init"] == "fixup"
    assert fixup.replace(network_args=setting.network.network_args) == setting.network
    assert adam.optimiser == "adam"
    assert adam.replace(optimiser="sgd", learning_rate=setting.network.learning_rate) == setting.network


def rewinding(**drops: float) -> Robustness:
    """A result in which each layer costs this much training error at its init, and everything else much more."""
    row = {"perturbation": "reinitialise", "checkpoint": 0, "split": "train"}
    rows = []
    for position, (layer, drop) in enumerate(drops.items()):
        one = row | {"layer": layer, "position": position, "accuracy_drop": drop}
        rows.append(one)
        if position == 0:
            one = one | {"accuracy_drop": 1.0}
            rows += [one | {"split": "test"}, one | {"checkpoint": 1}, one | {"perturbation": "rerandomise"}]
    return Robustness(pl.DataFrame(rows), pl.DataFrame(), 0.05, 0.25, {})


def test_the_critical_module_is_the_one_that_costs_most_training_error_at_its_init_and_the_other_one_least() -> None:
    layers = ["a", "b", "c", "dead"]  # the head is not among those asked for
    assert figures.extremes(rewinding(a=0.2, b=0.7, c=0.2, dead=0.0, head=0.9), layers) == ("b", "a")
    assert figures.extremes(rewinding(a=0.0, b=0.0, c=0.1, dead=-0.1), layers) == ("c", "dead")


def test_some_figures_can_be_chosen_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parts = tuple(figures.FIGURES)
    assert options("figures", "", ["--only", "2", "5a"], parts).only == ("2", "5a")
    assert options("figures", "", [], parts).only == ()
    with pytest.raises(SystemExit):
        options("figures", "", ["--only", "11"], parts)
    assert "5a" in capsys.readouterr().err


@pytest.mark.slow
def test_every_figure_is_written_and_a_network_whose_error_is_above_all_thresholds_has_no_curve(tmp_path: Path) -> None:
    network = Recipe(network="fcn-2x24", **DIGITS)
    bad = network.replace(epochs=1, stop_below=None, learning_rate=1e-6, checkpoints=(0,))
    setting = figures.Setting(
        network,
        {"adam": network.replace(optimiser="adam", learning_rate=0.01), "wild": network.replace(learning_rate=1e30)},
        bad,
        {"one": network, "other": network.replace(seed=1)},
        Search(alphas=(0.0, 0.5, 1.0), sigmas=(0.01, 0.1, 1.0), draws=2, failure=0.1),
        draws=2,
        examples=60,
    )
    chosen = Options("small", None, tmp_path / "out", tmp_path / "runs", "cpu", "a toy")
    figures.study(setting, chosen)

    facts = json.loads((chosen.out / "figures.json").read_text())
    assert list(facts) == list(figures.FIGURES)
    assert "lower the learning rate" in facts["7"]["wild"]
    critical, other = facts["2"]["critical"], facts["2"]["other"]
    assert {critical, other} < {"layer1", "layer2", "layer3"}
    pictures = {path.stem for path in chosen.out.glob("*.png")}
    assert {f"figure{number}" for number in ("1", "10", "3", "5a", "5b", "8")} <= pictures
    assert {"figure4-train-error", "figure6-block-train-loss", "figure7-adam", "figure9-critical"} <= pictures
    reset = pl.read_csv(chosen.out / "figure6-module.csv").filter(
        (pl.col("perturbation") == "reinitialise") & (pl.col("checkpoint") == 0) & (pl.col("split") == "train")
    )
    errors = dict(reset.select("layer", "error").iter_rows())
    assert errors[critical] == max(errors.values())
    assert errors[other] <= min(
        error for layer, error in errors.items() if layer not in (critical, other, "full model")
    )
    along = pl.read_csv(chosen.out / "figure4.csv").filter(pl.col("split") == "train")
    assert set(along["layer"]) == {critical, other, "all layers"}
    ends = along.filter(pl.col("alpha") == 1)["error"].to_list()
    assert ends == pytest.approx([facts["5a"][figures.TRUE]["train_error"]] * 3, abs=1e-6)
    assert pl.read_csv(chosen.out / "figure5a.csv")["network"].unique().to_list() == [figures.TRUE]
    assert set(pl.read_csv(chosen.out / "figure9.csv")["rewound"]) == {critical, other}
