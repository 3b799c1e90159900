"""Tables 1 to 3, figures 8 and 9 of "Are all layers created equal?": recipes, and the studies on a toy."""

import json
from types import ModuleType, SimpleNamespace

import polars as pl
import pytest
import torch

from shaketable.data import SOURCES
from shaketable.networks import build, construct
from shaketable.probes import Robustness
from shaketable.removal import without
from studies import common, table1_frozen, table2_randomised, table3_variants
from studies import figure8_9_convolution_free as figure8_9

STUDIES = (table1_frozen, table2_randomised, table3_variants, figure8_9)
TOY = {"data": "digits", "data_args": {"train_examples": 300, "test_examples": 60}, "epochs": 1, "milestones": ()}
TOY |= {"checkpoints": (0,), "augmentation": (), "batch_size": 64}


def toy_options(folder):
    return common.Options("small", None, folder / "out", folder / "runs", "cpu", "a toy")


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.__name__)
@pytest.mark.parametrize("name", ["small", "full"])
def test_every_recipe_names_a_network_that_can_be_built_for_its_data_and_is_there_once(study: ModuleType, name: str):
    recipes = study.SETTINGS[name].recipes
    for recipe in recipes:
        source = SOURCES[recipe.data]
        construct(recipe.network, source.shape, source.classes, **recipe.network_args)
    assert len({recipe.digest for recipe in recipes}) == len(recipes)


@pytest.mark.parametrize("name", ["small", "full"])
def test_table_1_removes_and_freezes_all_but_the_first_block_of_each_stage_and_what_is_left_is_one_network(name):
    shapes, recipes = [], table1_frozen.SETTINGS[name].recipes
    for recipe, blocks in zip(recipes, (12, 29, 46), strict=True):
        group = table1_frozen.group(recipe)
        assert len(group) == blocks
        assert not [block for block in group if block.endswith("resblk1")]
        network = build(recipe.network, (3, 32, 32), 10, **recipe.network_args | {"width": 0.0625})
        left = without(network, group, torch.zeros(2, 3, 32, 32))
        shapes.append({key: parameter.shape for key, parameter in left.named_parameters()})
    assert shapes[0] == shapes[1] == shapes[2]
    assert [recipe.network for recipe in recipes] == list(table1_frozen.PRINTED)


def test_the_individual_column_of_table_1_is_mean_and_deviation_over_the_blocks_of_the_group_alone():
    recipe = table1_frozen.SETTINGS["full"].recipes[0]
    row = {"perturbation": "reinitialise", "checkpoint": 0}
    rows = [row | {"layer": layer, "error": 0.2} for layer in table1_frozen.group(recipe)]
    rows[0]["error"] = 0.2 + 12 * 0.01  # mean 0.21; deviation sqrt((0.11^2 + 11 x 0.01^2) / 11)
    rows += [row | {"layer": layer, "error": 0.9} for layer in ("stage0.conv", "stage1.resblk1", "final_linear")]
    rows += [row | {"layer": "stage1.resblk2", "error": 0.8, "checkpoint": 5}]
    history = pl.DataFrame({"test_error": [0.9, 0.1]})
    result = Robustness(pl.DataFrame(rows), pl.DataFrame(), 0.05, 0.25, {"recipe": recipe.to_dict()}, history)
    others = [SimpleNamespace(history=pl.DataFrame({"test_error": [error]})) for error in (0.12, 0.11)]
    table = table1_frozen.error_table([result], others[:1], others[1:])
    (found,) = table.to_dicts()
    assert found.pop("network") == "resnet50-v2"
    assert found == pytest.approx(
        {
            "blocks": 12,
            "full": 0.1,
            "individual": 0.21,
            "individual_std": (0.0132 / 11) ** 0.5,
            "frozen": 0.12,
            "removed": 0.11,
        }
    )
    assert table1_frozen.table_1(table).splitlines()[2] == (
        "| resnet50-v2 | 12 | 10.00 (8.40) | 21.00 ± 3.46 (9.77 ± 1.38) | 12.00 (11.74) | 11.00 (9.23) |"
    )


def test_table_2_in_full_is_that_of_the_paper():
    setting = table2_randomised.SETTINGS["full"]
    assert [recipe.network for recipe in setting.recipes] == list(table2_randomised.STAGES)
    assert (setting.examples, setting.repeats, setting.r) == (1000, 5, 4)
    stages = table2_randomised.STAGES.items()
    printed = {(name, model) for name, some in stages for model in ("baseline", *(f"r=4, s={s}" for s in some))}
    assert printed == set(table2_randomised.PRINTED)
    for recipe in setting.recipes:
        assert (recipe.epochs, recipe.milestones, recipe.weight_decay) == (100, (30, 60, 90), 0.0)


@pytest.mark.parametrize("name", ["small", "full"])
def test_table_3_has_each_network_four_times_and_these_differ_in_batch_norm_and_weight_decay_alone(name):
    recipes = table3_variants.SETTINGS[name].recipes
    for start in range(0, len(recipes), 4):
        four = recipes[start : start + 4]
        assert [table3_variants.variant(one) for one in four] == ["N/A", "+wd", "+bn", "+wd+bn"]
        plain = [one.replace(network=one.network.removesuffix("-bn"), weight_decay=0.0) for one in four]
        assert plain == [four[0]] * 4
    assert len(recipes) == {"small": 24, "full": 36}[name]


def test_figures_8_and_9_compare_each_network_with_itself_trained_by_sam():
    for setting in figure8_9.SETTINGS.values():
        for plain, sharp in zip(setting.recipes[::2], setting.recipes[1::2], strict=True):
            assert (plain.sam_rho, sharp.sam_rho) == (0.0, 0.05)
            assert sharp.replace(sam_rho=0.0) == plain


def test_the_table_of_attacks_is_mean_and_deviation_beside_what_is_printed():
    row = {"network": "resn-4-4", "eps": 0.1, "steps": None, "step_size": None, "examples": 10, "correct": 0}
    row |= {"clean_accuracy": 0.9, "status": "ok", "reason": None}
    rows = [
        row | {"model": model, "attack": attack, "gradient_draws": draws, "repeat": repeat, "accuracy": accuracy}
        for model in ("baseline", "r=4, s=1")
        for attack, draws, accuracies in (
            ("clean", None, (0.9, 0.7)),
            ("fgsm", 1, (0.5, 0.5)),
            ("pgd", 1, (0.2, 0.2)),
            ("fgsm", 4, (0.4, 0.4)),
            ("pgd", 4, (0.1, 0.3)),
        )
        for repeat, accuracy in enumerate(accuracies)
    ]
    text = table2_randomised.table_2(pl.DataFrame(rows, infer_schema_length=None)).splitlines()
    assert text[0].startswith("| network | model | clean | FGSM | PGD | FGSM, mean of 4 gradients | PGD, mean of 4")
    assert text[2] == (
        "| resn-4-4 | baseline | 80.00 ± 14.14 | 50.00 ± 0.00 | 20.00 ± 0.00 | 40.00 ± 0.00 | 20.00 ± 14.14 "
        "| 91.05 ± 0.00 | 12.75 ± 0.04 | 0.33 ± 0.16 |"
    )
    assert "r=4, s=1" in text[3]


@pytest.mark.slow
def test_table_1_runs_on_a_toy(tmp_path):
    one = table1_frozen.SETTINGS["small"].recipes[0].replace(**TOY, network_args={"width": 0.0625})
    table1_frozen.study(common.Setting([one], draws=1), toy_options(tmp_path))
    table = pl.read_csv(tmp_path / "out" / "table1.csv")
    assert table["blocks"].to_list() == [12]
    assert len((tmp_path / "out" / "table1.md").read_text().splitlines()) == 3
    networks = json.loads((tmp_path / "out" / "results.json").read_text())["networks"]
    group = list(table1_frozen.group(one))
    assert [(one["recipe"]["frozen"], one["recipe"]["removed"]) for one in networks] == [
        ([], []),
        (group, []),
        ([], group),
    ]
    assert table.row(0, named=True)["removed"] == pytest.approx(networks[2]["test_error"])


@pytest.mark.slow
def test_table_2_runs_on_a_toy(tmp_path):
    pytest.importorskip("captum")
    recipe = table2_randomised.SETTINGS["small"].recipes[0].replace(**TOY, network_args={"width": 0.1})
    setting = table2_randomised.Setting([recipe], examples=20, repeats=2, gradient_draws=(1, 2), steps=2)
    table2_randomised.study(setting, toy_options(tmp_path))
    table = pl.read_csv(tmp_path / "out" / "attacks.csv")
    assert len(table) == 2 * (3 * (1 + 2) + 2 * 2)  # nothing of the baseline to average
    assert (tmp_path / "out" / "table2.md").read_text().count("\n") == 2 + 3


@pytest.mark.slow
def test_table_3_runs_on_a_toy_and_re_estimates_where_there_is_batch_norm(tmp_path, monkeypatch):
    probe = common.probe
    fewer = lambda *a, **k: probe(*a, **k | ({"statistics_batches": 2} if k else {}))  # noqa: E731
    monkeypatch.setattr(table3_variants, "probe", fewer)
    recipe = table1_frozen.narrow("resnet50-v2").replace(**TOY, network_args={"width": 0.0625})
    setting = common.Setting([table3_variants.variants(recipe)[number] for number in (0, 3)], draws=1)
    table3_variants.study(setting, toy_options(tmp_path))
    text = (tmp_path / "out" / "table3.md").read_text().splitlines()
    assert text[0] == "| network | N/A | +wd | +bn | +wd+bn |"
    assert text[2].startswith("| resnet50-v2 |")
    assert "(8.4)" in text[2]
    assert "(5.0)" in text[2]
    names = {path.name for path in (tmp_path / "out").glob("robustness-*.csv")}
    assert names == {f"robustness-resnet50-v2{end}.csv" for end in ("", "-bn-wd", "-bn-wd-reestimated")}


@pytest.mark.slow
def test_figures_8_and_9_run_on_a_toy(tmp_path):
    recipes = [one.replace(**TOY | {"data_args": TOY["data_args"]}) for one in figure8_9.SETTINGS["small"].recipes[1:3]]
    figure8_9.study(common.Setting(recipes, draws=1), toy_options(tmp_path))
    names = {path.name for path in (tmp_path / "out").glob("heatmap-*.png")}
    assert names == {"heatmap-vit-4x64-sam.png", "heatmap-mixer-4x64.png"}
