"""Density, mass and counts of designs: the paper's example and tables, number by number, and the sampled graph."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from shaketable.errors import InputError
from shaketable.networks import build, construct
from shaketable.networks.cells import draw_links
from shaketable.topology import (
    Cell,
    cell_density,
    channel_graph,
    links_for_density,
    long_range_sources,
    nn_density,
    nn_mass,
    topology,
)

APPENDIX_D = [Cell(4, 2, 3), Cell(4, 3, 4), Cell(4, 4, 5)]
# Depth of a cell, links, parameters (millions), FLOPs (billions), mass: table 1 of the paper, truncated there.
TABLE_1 = [
    (20, (90, 170, 300), 11.89, 3.63, 1126),
    (20, (50, 100, 150), 8.15, 2.54, 622),
    (12, (60, 130, 170), 5.02, 1.59, 755),
    (11, (70, 140, 180), 4.69, 1.51, 813),
    (9, (70, 140, 200), 3.82, 1.20, 856),
]
# Table 2: links by depth of a cell, for the densities 0.1, 0.15, 0.2, 0.25, 0.3.
TABLE_2 = {
    9: ((10, 35, 50), (20, 45, 75), (30, 50, 100), (40, 60, 120), (50, 70, 145)),
    12: ((20, 40, 70), (30, 50, 100), (40, 80, 125), (50, 105, 150), (60, 130, 170)),
    15: ((25, 50, 90), (35, 80, 125), (50, 105, 150), (70, 130, 170), (90, 150, 210)),
    20: ((30, 80, 117), (50, 110, 150), (70, 140, 200), (90, 175, 250), (110, 215, 300)),
}
sizes = st.builds(Cell, st.integers(1, 9), st.integers(1, 8), st.integers(0, 40))


def paper(depth: int, links: tuple[int, ...]) -> list[Cell]:
    return [Cell(depth, width, t) for width, t in zip((32, 64, 128), links, strict=True)]


def test_the_example_of_appendix_d_has_the_printed_density_and_mass():
    assert math.floor(100 * nn_density(APPENDIX_D)) == 78
    assert math.floor(round(nn_mass(APPENDIX_D), 9)) == 28
    assert [cell_density(cell) for cell in APPENDIX_D] == pytest.approx([5 / 6, 7 / 9, 9 / 12])


@pytest.mark.parametrize(("depth", "links", "parameters", "flops", "mass"), TABLE_1)
def test_the_rows_of_table_1_are_as_printed(depth, links, parameters, flops, mass):
    found = topology(paper(depth, links))
    assert math.floor(found.parameters / 1e4) == round(100 * parameters)
    assert math.floor(found.flops / 1e7) == round(100 * flops)
    assert math.floor(found.nn_mass) == mass


def test_the_densities_of_table_2_come_near_the_printed_ones():
    for depth, rows in TABLE_2.items():
        found = [nn_density(paper(depth, links)) for links in rows]
        assert found == sorted(found)
        for density, wanted in zip(found, (0.1, 0.15, 0.2, 0.25, 0.3), strict=True):
            assert abs(density - wanted) <= 0.0201, (depth, density, wanted)


@given(sizes)
@settings(max_examples=80, deadline=None)
def test_links_of_the_sampled_graph_are_as_many_as_the_formula_says(cell: Cell):
    links = draw_links((cell.width,) * cell.depth, cell.sources, 1)
    graph = channel_graph(cell, links)
    long = [edge for edge in graph.edges if graph.edges[edge]["long"]]
    assert len(long) == cell.width * int(long_range_sources(cell.depth, cell.width, cell.links))
    possible = sum(1 for a in graph for b in graph if b[0] >= a[0] + 2)
    assert cell_density(cell) == pytest.approx(len(long) / possible if possible else 0.0)
    assert nn_mass([cell]) == pytest.approx(cell_density(cell) * graph.number_of_nodes())


@given(st.lists(sizes, min_size=1, max_size=3), st.sampled_from([(1, 7, 5), (3, 8, 8)]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_parameters_and_flops_are_those_of_the_built_network(cells, shape, mlp):
    name = ("linked-mlp-" if mlp else "linked-") + "-".join(map(str, cells))
    found = topology(cells, shape, 5, mlp)
    network = construct(name, shape, 5).eval()
    assert found.parameters == sum(parameter.numel() for parameter in network.parameters())
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, *shape, device="meta"))
    assert found.flops == counter.get_total_flops()


def test_cells_of_fewer_than_three_layers_and_without_links_have_mass_zero_and_say_why():
    found = topology([Cell(1, 4, 3), Cell(2, 4, 3), Cell(5, 4, 0)])
    assert (found.nn_mass, found.nn_density, found.cell_density) == (0.0, 0.0, (0.0, 0.0, 0.0))
    assert [note.partition(":")[0] for note in found.notes] == ["cell 1", "cell 2", "cell 3"]
    assert "joins layers two apart" in found.notes[0]
    assert "without long-range links" in found.notes[2]


def test_more_links_than_channels_are_capped_as_in_the_definition_and_it_is_said():
    most, more = topology([Cell(4, 3, 6)]), topology([Cell(4, 3, 60)])
    assert (most.nn_mass, most.cell_density) == (more.nn_mass, more.cell_density) == (12.0, (1.0,))
    assert not most.notes
    assert "60 links are more than the 6 earlier channels" in more.notes[0]


def test_the_links_for_a_density_are_the_nearest_there_are():
    for depth, width, wanted in [(9, 32, 0.1), (20, 16, 0.3), (4, 4, 0.5), (5, 3, 1.0), (5, 3, 0.0)]:
        links = links_for_density(depth, width, wanted)
        every = [abs(cell_density(Cell(depth, width, t)) - wanted) for t in range(width * (depth - 2) + 1)]
        assert every[links] == min(every)
    with pytest.raises(InputError, match="density=1.2: give a number from 0 to 1"):
        links_for_density(9, 32, 1.2)


def test_links_beyond_any_machine_number_are_capped_too():
    assert topology([Cell(4, 3, 10**30)]).nn_mass == 12.0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: topology([]), "at least one cell"),
        (lambda: topology([Cell(4, 2, 3)], (3, 32)), r"linked-4x2t3 takes images \[channels, height, width\]"),
        (lambda: topology([Cell(4, 2, 3)], (3, 0, 32)), "whole numbers above 0"),
        (lambda: topology([Cell(4, 2, 3)], (-3,), mlp=True), "linked-mlp-4x2t3: the input shape"),
        (lambda: topology([Cell(4, 2, 3)], classes=0), "classes must be a whole number of at least 2"),
        (lambda: Cell(10**9, 2, 3), "a cell's depth is 1000000000; give at most 1,000,000"),
        (lambda: long_range_sources(4, -2, 3), "width=-2: give whole numbers from 1"),
        (lambda: long_range_sources([4.7], 2, 3), r"depth=\[4.7\]: give whole numbers"),
        (lambda: long_range_sources(4, 2, [1, -3]), r"links=\[1, -3\]: give whole numbers from 0"),
        (lambda: links_for_density(4.5, 2, 0.1), "a cell's depth is 4.5"),  # pyright: ignore
        (lambda: channel_graph(Cell(4, 2, 3), ((), ())), "those of the cell 4x2t3 have"),
        (lambda: channel_graph(Cell(3, 2, 1), ((), (), ((1, 0),))), "not all from channels of layers up to 0"),
    ],
)
def test_what_is_no_design_is_one_clear_error(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_mass_is_that_of_the_built_networks_links():
    network = build("linked-6x5t7", (1, 6, 6), 2)
    there = sum(5 * len(links) for links in network.cell1.links)
    assert nn_mass([Cell(6, 5, 7)]) == pytest.approx(30 * there / (25 * 10))
