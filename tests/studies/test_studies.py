"""The studies: their recipes, their machinery on a toy, their one formula, and that the results are those written."""

import io
import json
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
from tests.studies.pages import RESULTS, missing_tables, recipes_of

from shaketable.data import SOURCES
from shaketable.networks import construct
from shaketable.probes import Robustness
from shaketable.training import Recipe
from studies import common
from studies import figure1_fcn as figure1
from studies import figure2_width as figure2
from studies import figure3_4_convolutional as figure3_4

STUDIES = (figure1, figure2, figure3_4)
DIGITS = {"data": "digits", "epochs": 2, "milestones": (), "checkpoints": (0, 1)}


def toy_options(folder: Path) -> object:
    return common.Options("small", None, folder / "out", folder / "runs", "cpu", "a toy")


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.__name__)
@pytest.mark.parametrize("name", ["small", "full"])
def test_every_recipe_names_a_network_that_can_be_built_for_its_data_and_is_there_once(
    study: ModuleType, name: str
) -> None:
    recipes = study.SETTINGS[name].recipes
    for recipe in recipes:
        source = SOURCES[recipe.data]
        construct(recipe.network, source.shape, source.classes, **recipe.network_args)
    assert len({recipe.digest for recipe in recipes}) == len(recipes)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.__name__)
def test_the_full_setting_trains_100_epochs_on_all_the_data_with_the_milestones_of_the_paper(study: ModuleType) -> None:
    for recipe in study.SETTINGS["full"].recipes:
        assert (recipe.epochs, recipe.milestones, recipe.factor, recipe.batch_size) == (100, (30, 60, 90), 0.2, 128)
        assert (recipe.optimiser, recipe.momentum, recipe.weight_decay, recipe.data_args) == ("sgd", 0.9, 0.0, {})
        assert recipe.augmentation == (("pad-crop:4", "flip") if recipe.data == "cifar10" else ())


@pytest.mark.parametrize("name", ["small", "full"])
def test_figure_2_has_five_seeds_a_bar_and_each_bar_one_training(name: str) -> None:
    bars: dict[tuple[str, str], list[Recipe]] = {}
    for recipe in figure2.SETTINGS[name].recipes:
        bars.setdefault((recipe.data, recipe.network), []).append(recipe)
    for recipes in bars.values():
        assert [recipe.seed for recipe in recipes] == [0, 1, 2, 3, 4]
        assert len({recipe.replace(seed=0).digest for recipe in recipes}) == 1


def robustness_of(network: str, seed: int, final_error: float, reset_errors: list[float]) -> Robustness:
    """A result with these test errors: of the whole network, and with each of its layers reset to checkpoint 0."""
    whole = {"position": -1, "perturbation": "none", "checkpoint": 9, "split": "test", "error": final_error}
    rows = [whole, whole | {"checkpoint": 0, "error": 0.9}]
    for position, error in enumerate(reset_errors):
        row = whole | {"position": position, "perturbation": "reinitialise", "error": error}
        rows += [row | {"checkpoint": 0}, row | {"checkpoint": 9, "error": final_error}]
        rows += [row | {"checkpoint": None, "perturbation": "rerandomise", "error": 0.9}]
    table = pl.DataFrame(rows).with_columns((pl.col("error") - final_error).alias("accuracy_drop"))
    recipe = {"network": network, "data": "mnist", "seed": seed}
    return Robustness(table, pl.DataFrame(), 0.05, 0.25, {"final_checkpoint": 9, "recipe": recipe})


def test_a_bar_is_the_mean_over_seeds_of_the_mean_over_all_layers_but_the_first() -> None:
    # Without the first layer the drops are (0.10 + 0.30) / 2 = 0.20 and (0.10 + 0.10) / 2 = 0.10: mean 0.15, standard
    # deviation sqrt(2 x 0.05^2 / 1) = 0.0707; the networks' errors 0.1 and 0.3 have mean 0.2, deviation 0.1414.
    results = [
        robustness_of("fcn-2x8", 0, 0.1, [0.9, 0.2, 0.4]),
        robustness_of("fcn-2x8", 1, 0.3, [0.8, 0.4, 0.4]),
    ]
    (bar,) = figure2.bar_table(figure2.run_table(results)).to_dicts()
    assert (bar["data"], bar["depth"], bar["width"], bar["seeds"]) == ("mnist", 2, 8, 2)
    assert bar["average_drop"] == pytest.approx(0.15)
    assert bar["average_drop_std"] == pytest.approx(0.05 * 2**0.5)
    assert bar["final_error"] == pytest.approx(0.2)
    assert bar["final_error_std"] == pytest.approx(0.1 * 2**0.5)
    assert bar["reset_error"] == pytest.approx(0.35)


def test_a_bar_stands_on_the_networks_error_and_ends_at_the_error_after_the_reset() -> None:
    results = [robustness_of("fcn-2x8", seed, 0.1, [0.9, 0.2, 0.4 + seed / 10]) for seed in (0, 1)]
    (panel,) = figure2.bar_chart(figure2.bar_table(figure2.run_table(results))).to_dict()["hconcat"]
    bar, spread = panel["layer"]
    assert (bar["encoding"]["y"]["field"], bar["encoding"]["y2"]["field"]) == ("final_error", "reset_error")
    assert (spread["encoding"]["y"]["field"], spread["encoding"]["y2"]["field"]) == ("low", "high")


def test_a_picture_is_made_smaller_and_stays_the_same_to_the_pixel(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    drawn = io.BytesIO()
    bars = figure2.bar_chart(figure2.bar_table(figure2.run_table([robustness_of("fcn-2x8", 0, 0.1, [0.9, 0.2])] * 2)))
    bars.save(drawn, format="png", scale_factor=1)
    common.write_figure(bars, tmp_path, "bars", svg=False)
    smaller = (tmp_path / "bars.png").read_bytes()
    assert 3 * len(smaller) < len(drawn.getvalue())
    with image.open(drawn) as before, image.open(io.BytesIO(smaller)) as after:
        assert (before.mode, before.size, before.tobytes()) == (after.mode, after.size, after.tobytes())


@pytest.mark.slow
def test_figure_1_writes_its_pictures_tables_and_facts_and_a_second_time_does_nothing_anew(tmp_path: Path) -> None:
    setting = common.Setting([Recipe(network="fcn-2x8", learning_rate=rate, **DIGITS) for rate in (0.1, 0.01)], draws=2)
    chosen = toy_options(tmp_path)
    figure1.study(setting, chosen)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"heatmap.svg", "heatmap.png", "robustness.csv", "heatmap-rate-0.01.png", "table.md"} <= written
    facts = json.loads((tmp_path / "out" / "results.json").read_text())
    assert facts["command"] == "a toy"
    assert [network["recipe"]["learning_rate"] for network in facts["networks"]] == [0.1, 0.01]
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    figure1.study(setting, chosen)
    assert trained == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    # Seconds and dates of training and probing are those of the first time.
    assert json.loads((tmp_path / "out" / "results.json").read_text())["networks"] == facts["networks"]


@pytest.mark.slow
def test_figure_2_writes_one_bar_a_width(tmp_path: Path) -> None:
    recipes = [Recipe(network=f"fcn-2x{width}", seed=seed, **DIGITS) for width in (4, 8) for seed in (0, 1)]
    figure2.study(common.Setting(recipes, draws=0, checkpoints=(0,)), toy_options(tmp_path))
    bars = pl.read_csv(tmp_path / "out" / "bars.csv")
    assert bars["width"].to_list() == [4, 8]
    assert bars["seeds"].to_list() == [2, 2]
    assert (tmp_path / "out" / "table.md").read_text().count("\n") == 4


@pytest.mark.slow
def test_figures_3_and_4_write_a_heat_map_a_network(tmp_path: Path) -> None:
    tiny = DIGITS | {
        "data_args": {"pad": 12, "train_examples": 100, "test_examples": 50},
        "network_args": {"width": 0.0625},
        "learning_rate": 0.01,
    }
    recipes = [Recipe(network=network, **tiny) for network in ("vgg11", "resnet18-v2")]
    figure3_4.study(common.Setting(recipes, draws=1), toy_options(tmp_path))
    for network, layers in (("vgg11", 11), ("resnet18-v2", 10)):
        assert (tmp_path / "out" / f"heatmap-{network}.svg").stat().st_size > 0
        table = pl.read_csv(tmp_path / "out" / f"robustness-{network}.csv")
        assert table.filter(pl.col("perturbation") == "rerandomise").height == layers


FOLDERS = {RESULTS / name: study for name, study in zip(("figure1", "figure2", "figure3_4"), STUDIES)}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_tables_in_a_committed_page_are_those_that_the_study_wrote(folder: Path) -> None:
    assert not missing_tables(folder / "README.md", [folder / "table.md"])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_committed_results_are_those_of_the_small_setting(folder: Path) -> None:
    assert recipes_of(folder) == list(FOLDERS[folder].SETTINGS["small"].recipes)


def test_the_committed_results_are_small() -> None:
    for path in RESULTS.rglob("*"):
        assert path.is_dir() or path.stat().st_size < (150_000 if path.suffix in (".png", ".svg") else 200_000), path
