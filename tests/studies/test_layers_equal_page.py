"""The page docs/results/all-layers-equal.md and its folder: tables, pictures and recipes are those that the studies wrote."""

import pytest
from tests.studies.pages import PICTURES, RESULTS, missing_tables, recipes_of, shown_files

from studies import figure8_9_convolution_free as figure8_9
from studies import (
    joint_schemes,
    language_model,
    pretrained_networks,
    table1_frozen,
    table2_randomised,
    table3_variants,
)

PAGE = RESULTS / "all-layers-equal.md"
FOLDER = PAGE.with_suffix("")
STUDIES = {
    "table1": table1_frozen,
    "table2": table2_randomised,
    "table3": table3_variants,
    "joint": joint_schemes,
    "figure7": language_model,
    "figure8_9": figure8_9,
}
LONG = ("table.md", "stories260k-garden.md", "stories260k-shakespeare.md")
"""Tables of every layer of a network, too long for the page: it links to them."""


def test_the_folder_has_a_part_for_each_study_and_no_other():
    assert {path.name for path in FOLDER.iterdir()} == {*STUDIES, "pretrained"}


@pytest.mark.parametrize("name", STUDIES)
def test_the_committed_networks_are_those_of_the_small_setting(name):
    small = STUDIES[name].SETTINGS["small"].recipes
    kept = [one for one in recipes_of(FOLDER / name) if not (one.frozen or one.removed)]
    assert kept[: len(small)] == list(small)
    assert {one.digest for one in kept} == {one.digest for one in small}


def test_what_is_frozen_and_removed_in_table_1_is_all_but_the_first_block_of_each_stage():
    small = table1_frozen.SETTINGS["small"].recipes
    groups = [(one, table1_frozen.group(one)) for one in small]
    others = [one.replace(frozen=group) for one, group in groups] + [
        one.replace(removed=group) for one, group in groups
    ]
    assert recipes_of(FOLDER / "table1")[len(small) :] == others


def test_every_network_of_others_has_its_table():
    assert {path.stem for path in (FOLDER / "pretrained").glob("*.md")} == set(pretrained_networks.NETWORKS)


def test_the_tables_in_the_page_are_those_that_the_studies_wrote_and_the_long_ones_are_linked():
    written = sorted(FOLDER.rglob("*.md"))
    assert not missing_tables(PAGE, [path for path in written if path.name not in LONG])
    assert {path for path in written if path.name in LONG} <= shown_files(PAGE)


def test_every_file_that_the_page_names_is_there_and_every_picture_is_shown():
    named = shown_files(PAGE)
    assert all(path.exists() for path in named)
    assert {path for path in FOLDER.rglob("*") if path.suffix in PICTURES} <= named
