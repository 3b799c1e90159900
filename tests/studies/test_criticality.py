"""What the studies of module criticality share, and their tables: recipes, ranks, and the machinery on a toy."""

import dataclasses
import json
import math
from pathlib import Path

import polars as pl
import pytest
from studies.common import Options
from studies.published import COLUMNS, Published, chatterji2020
from tests.studies.pages import PICTURES, RESULTS, missing_tables, shown_files

from shaketable.data import SOURCES
from shaketable.networks import construct
from shaketable.training import Recipe
from studies import criticality as shared
from studies import criticality_tables as tables
from studies import criticality_width as width

SETTINGS = {
    f"{study.__name__}-{name}-{number}": family
    for study in (tables, width)
    for name, setting in study.SETTINGS.items()
    for number, family in setting.items()
}
TINY = {
    "data": "digits",
    "data_args": {"train_examples": 200, "test_examples": 100},
    "batch_size": 20,
    "checkpoints": (0,),
}


def options(folder: Path) -> Options:
    return Options("small", None, folder / "out", folder / "runs", "cpu", "a toy")


def measured(networks: pl.DataFrame) -> pl.DataFrame:
    """A printed table as the rows of a study."""
    rows = [
        {"network": row["network"], "measure": name, "value": row[name], "log10": math.log10(row[name]), "status": "ok"}
        for row in networks.to_dicts()
        for name in COLUMNS
    ]
    return pl.DataFrame([dict.fromkeys(shared.MEASURED) | row for row in rows], schema=shared.MEASURED)


@pytest.mark.parametrize("family", SETTINGS.values(), ids=SETTINGS)
def test_every_network_of_a_table_can_be_built_and_is_trained_once(family: shared.Family) -> None:
    for recipe in family.networks.values():
        construct(recipe.network, SOURCES[recipe.data].shape, SOURCES[recipe.data].classes, **recipe.network_args)
        assert recipe.stop_below is not None
    assert len({recipe.digest for recipe in family.networks.values()}) == len(family.networks)


@pytest.mark.parametrize("number", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["small", "full"])
def test_the_networks_of_a_table_are_those_that_the_paper_prints(name: str, number: int) -> None:
    family = {**tables.SETTINGS[name], **width.SETTINGS[name]}.get(number)
    if family is None:
        assert (name, number) in {("small", 3), ("small", 5)}  # no CIFAR-100 there
    else:
        assert list(family.networks) == chatterji2020(number).networks["network"].to_list()


@pytest.mark.parametrize("family", [family for key, family in SETTINGS.items() if "-full-" in key])
def test_the_full_setting_trains_as_appendix_c_says(family: shared.Family) -> None:
    for recipe in family.networks.values():
        connected = recipe.network.startswith("fcn")
        assert recipe.network.endswith("-bn") == connected
        assert recipe.milestones[:3] == ((200, 400, 600) if connected else (60, 120, 180))
        assert (recipe.optimiser, recipe.momentum, recipe.learning_rate, recipe.factor) == ("sgd", 0.9, 0.1, 0.2)
        assert (recipe.batch_size, recipe.weight_decay, recipe.augmentation) == (128, 5e-4, ("pad-crop:4", "flip"))
        assert recipe.stop_below == {"cifar10": 0.15, "cifar100": 0.25}[recipe.data]
        assert recipe.data_args == {}


def test_the_full_width_family_has_the_numbers_of_parameters_of_table_4_cut_off_at_two_digits() -> None:
    printed = dict(chatterji2020(4).networks.select("network", "number_of_parameters").iter_rows())
    for name, recipe in width.SETTINGS["full"][4].networks.items():
        network = construct(recipe.network, (3, 32, 32), 10, **recipe.network_args)
        size = sum(parameter.numel() for parameter in network.parameters())
        unit = 10 ** (len(str(size)) - 2)
        assert size // unit * unit == printed[name]


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_the_tau_of_a_printed_table_is_the_printed_tau_cut_off_at_two_decimals(number: int) -> None:
    printed = chatterji2020(number)
    found = shared.tau_table(measured(printed.networks), printed)
    assert found["measure"].to_list() == list(COLUMNS[1:])
    for row in found.to_dicts():
        assert math.trunc(100 * row["tau_b"] + math.copysign(1e-9, row["tau_b"])) == round(100 * row["printed_tau"])


def test_tied_pairs_are_counted_and_leave_the_denominator_of_tau_b_alone() -> None:
    # ResNet-18 and 34 have the same printed network criticality, and no two networks have the same error.
    (row,) = (
        shared.tau_table(measured(chatterji2020(2).networks), None).filter(measure="network_criticality").to_dicts()
    )
    assert (row["networks"], row["ties"], row["printed_tau"]) == (9, 1, None)
    assert row["tau_a"] * 36 == pytest.approx(row["tau_b"] * math.sqrt(35 * 36))


def test_a_network_without_a_number_is_left_out_of_tau_and_one_beyond_a_float_is_ranked_by_its_logarithm() -> None:
    values = measured(chatterji2020(4).networks)
    frobenius, first = pl.col("measure") == "product_of_frobenius_norms", pl.col("network") == "1x width"
    none = pl.when(frobenius & first).then(None)
    values = values.with_columns(none.otherwise("value").alias("value"), none.otherwise("log10").alias("log10"))
    # in table 4 the widest network has the smallest error; here it has by far the largest product as well
    last = frobenius & (pl.col("network") == "8x width")
    values = values.with_columns(
        pl.when(last).then(None).otherwise("value").alias("value"),
        pl.when(last).then(400.0).otherwise("log10").alias("log10"),
    )
    (row,) = shared.tau_table(values, None).filter(measure="product_of_frobenius_norms").to_dicts()
    assert (row["networks"], row["tau_b"]) == (3, -1.0)


def test_the_printed_tau_is_also_that_of_the_networks_at_hand() -> None:
    # VGG11, VGG16, FCN (I): printed errors 8.82, 7.47, 29.83; criticality 2.71, 2.70, 57 (e5); parameters 28, 34, 20 (e6).
    printed = chatterji2020(2)
    few = printed.networks.filter(pl.col("network").is_in(["VGG11", "VGG16", "FCN (I)"]))
    rows = {row["measure"]: row for row in shared.tau_table(measured(few), printed).to_dicts()}
    assert rows["network_criticality"]["printed_tau_here"] == 1
    assert rows["number_of_parameters"]["printed_tau_here"] == -1
    assert rows["number_of_parameters"]["printed_tau"] == 0.11


def test_a_column_that_cannot_be_ranked_says_why() -> None:
    row = shared.tau_table(measured(chatterji2020(4).networks.head(1)), None).row(0, named=True)
    assert row["tau_b"] is None
    assert "two or more" in row["reason"]


def test_numbers_are_printed_as_in_the_paper() -> None:
    for log10, text in ((400.31, "2e400"), (400.99, "1e401")):
        assert shared._number({"value": None, "log10": log10}, "product_of_frobenius_norms") == text
    assert shared._number({"value": 2.2e5, "log10": 5.34}, "network_criticality") == "2.2e5"
    assert shared._number({"value": 0.0461, "log10": -1.3}, "generalization_error") == "4.61%"
    assert shared._number({"value": 0.0, "log10": -math.inf}, "network_criticality") == "0.0e0"
    assert shared._number(None, "pac_bayes") == "-"


@pytest.mark.slow
def test_a_table_is_written_and_names_the_networks_that_diverged_or_did_not_reach_the_loss(tmp_path: Path) -> None:
    recipe = Recipe(network="fcn-1x16", epochs=60, milestones=(), stop_below=0.3, learning_rate=0.05, **TINY)
    networks = {
        "narrow": recipe,
        "wide": recipe.replace(network="fcn-1x32"),
        "deep": recipe.replace(network="fcn-2x16"),
        "late": recipe.replace(epochs=1, stop_below=1e-9),
        "wild": recipe.replace(learning_rate=1e30),
    }
    search = shared.Search(alphas=(0.0, 0.5, 1.0), sigmas=(0.001, 0.01, 0.1, 1.0), draws=2, failure=0.1)
    chosen = options(tmp_path)
    family = shared.Family(networks, search)
    printed = Published("a toy", pl.DataFrame(schema={"network": pl.String}), dict.fromkeys(COLUMNS[1:], 0.5))
    shared.write_family(family, printed, "toy", chosen)

    runs = pl.read_csv(chosen.out / "toy-runs.csv")
    assert runs["converged"].to_list() == [True, True, True, False, False]
    assert runs["train_loss"].head(3).max() < 0.3
    assert "not below 1e-09" in runs["reason"][3]
    assert "lower the learning rate" in runs["reason"][4]
    taus = pl.read_csv(chosen.out / "toy-tau.csv")
    assert taus["networks"].to_list() == [3] * 7
    modules = pl.read_csv(chosen.out / "toy-modules.csv")
    assert modules.group_by("network", maintain_order=True).len()["len"].to_list() == [2, 2, 3]
    values = pl.read_csv(chosen.out / "toy.csv")
    total = values.filter((pl.col("network") == "deep") & (pl.col("measure") == "network_criticality"))["value"].item()
    assert total == pytest.approx(modules.filter(pl.col("network") == "deep")["criticality"].sum(), rel=1e-4)
    bayes = values.filter(measure="pac_bayes")["value"].to_numpy()
    assert (bayes >= values.filter(measure="network_criticality")["value"].to_numpy()).all()
    assert json.loads((chosen.out / "toy.json").read_text())["recipes"]["wild"]["learning_rate"] == 1e30

    weights = {path: path.stat().st_mtime_ns for path in chosen.runs.rglob("*.safetensors")}
    chosen = dataclasses.replace(chosen, only=("narrow", "wide", "deep"))
    shared.write_family(family, printed, "toy", chosen)
    assert json.loads((chosen.out / "toy.json").read_text())["left_out"] == ["late", "wild"]
    assert weights == {path: path.stat().st_mtime_ns for path in chosen.runs.rglob("*.safetensors")}
    assert pl.read_csv(chosen.out / "toy.csv").equals(values)


PAGE = RESULTS / "module-criticality.md"


def test_the_tables_in_the_committed_page_are_those_that_the_studies_wrote() -> None:
    assert not missing_tables(PAGE, sorted(PAGE.with_suffix("").glob("*.md")))


def test_every_picture_in_the_committed_page_is_there_and_no_other() -> None:
    folder = PAGE.with_suffix("")
    shown = {path for path in shown_files(PAGE) if path.suffix in PICTURES and path.parent == folder}
    assert shown == {path for path in folder.iterdir() if path.suffix in PICTURES}


def test_the_committed_tables_are_those_of_the_small_setting() -> None:
    known = {
        f"table{number}": family for study in (tables, width) for number, family in study.SETTINGS["small"].items()
    }
    for path in PAGE.with_suffix("").glob("table*.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        recipes = {name: Recipe.from_dict(recipe) for name, recipe in facts["recipes"].items()}
        assert facts["left_out"] == [name for name in known[path.stem].networks if name not in recipes]
        assert all(recipe == known[path.stem].networks[name] for name, recipe in recipes.items())
        assert facts["search"] == json.loads(json.dumps(vars(known[path.stem].search)))
