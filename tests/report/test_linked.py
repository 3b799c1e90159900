"""What the report says and draws about the cells of a linked network."""

from pathlib import Path

import pytest
from tests.report.test_page import Browser
from tests.report.test_page import browser as browser

from shaketable.networks import construct
from shaketable.report import Cells, write_report
from shaketable.report.linked import cells_paragraphs, cells_part
from shaketable.topology import cells_from, nn_mass

EXAMPLE = "4x2t3-4x3t4-4x4t5"


def cells(name: str = EXAMPLE, **arguments: object) -> Cells:
    found = Cells.of(construct(f"linked-{name}", (3, 8, 8), 3, **arguments), name, "shaketable mass")
    assert found is not None
    return found


def test_mass_and_links_of_the_example_of_appendix_d_are_told():
    found = cells()
    assert found.provenance["nn_mass"] == pytest.approx(nn_mass(cells_from(EXAMPLE)))
    assert found.provenance["linked"] == [5, 7, 9]
    assert len(found.links) == 21
    said = " ".join(cells_paragraphs(found))
    assert "3 cells" in said
    assert "21 times in all" in said
    assert "78.7%" in said
    assert "NN-Mass, 28" in said


def test_links_that_are_too_many_to_be_drawn_are_told_by_number_and_cells_without_say_so():
    part = cells_part(cells("12x8t60-2x4t3"), 6000)
    assert "cell-1-links" not in part["figures"]
    assert "cell-1-matrix" in part["figures"]
    assert part["notes"] == ["Cell 1: its 404 links are told by number alone; the result's own tables have each."]
    assert any("says nothing about how good" in text for text in cells_paragraphs(cells("5x4t0")))


def test_a_network_that_is_not_linked_has_no_cells():
    assert Cells.of(construct("fcn-2x4", (3, 8, 8), 3), "fcn-2x4") is None


def test_one_cell_over_groups_counts_the_channels_of_each_layer():
    found = cells("3x4t9-3x6t9", one_cell=True)
    possible = sum(w * sum([4, 4, 4, 6, 6, 6][: max(0, i - 1)]) for i, w in enumerate([4, 4, 4, 6, 6, 6]))
    linked = [0, 0, 4, 8, 9, 9]
    density = sum(w * n for w, n in zip([4, 4, 4, 6, 6, 6], linked, strict=True)) / possible
    assert found.provenance["linked"] == [sum(linked)]
    assert found.provenance["nn_mass"] == pytest.approx(30 * density)


def test_what_was_saved_is_read_again(tmp_path: Path):
    cells().save(tmp_path)
    again = Cells.load(tmp_path)
    assert again.links.equals(cells().links)
    assert again.table.equals(cells().table)
    assert again.provenance == cells().provenance


def test_the_cells_are_drawn_in_the_page_without_a_complaint(tmp_path: Path, browser: Browser):
    path = write_report(cells(), tmp_path / "report.html")
    found, console = browser(
        path, "return [...document.querySelectorAll('.chart')].map(each => [each.id, !!each.querySelector('svg')])"
    )
    assert [name for name, _ in found] == [f"cell-{c}-{what}" for c in (1, 2, 3) for what in ("links", "matrix")]
    assert all(drawn for _, drawn in found)
    assert console == []
    assert "How are the channels of 4x2t3-4x3t4-4x4t5 linked?" in path.read_text(encoding="utf-8")
