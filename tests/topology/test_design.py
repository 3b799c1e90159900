"""Designs: the enumeration against brute force, the Pareto set, limits, files."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shaketable.errors import InputError, RunError
from shaketable.networks import build
from shaketable.topology import Cell, Limits, Space, cells_from, designs, export, pareto, topology
from shaketable.topology import space as room
from shaketable.training import Recipe, train

SHAPE = (1, 8, 8)
SPACE = Space((3, 4, 5), ((3, 5), (2, 4)), 2)


def every(space: Space) -> list:
    """All designs one by one."""
    return [
        topology([Cell(d, w, int(t)) for w, t in zip(widths, links, strict=True)], SHAPE, 3)
        for d in space.depths
        for widths in space.widths
        for links in product(*(space.links(d, w) for w in widths))
    ]


@pytest.mark.parametrize("chunk", [7, 1 << 20])
@pytest.mark.parametrize("limits", [Limits(), Limits(parameters=4100), Limits(parameters=4100, flops=380_000)])
def test_the_designs_are_those_of_brute_force_whatever_the_chunk(monkeypatch, chunk, limits):
    monkeypatch.setattr(room, "CHUNK", chunk)
    found = designs(14.0, SPACE, limits, tolerance=0.2, input_shape=SHAPE, classes=3)
    meets = [
        one
        for one in every(SPACE)
        if abs(one.nn_mass - 14) <= 0.2 * 14
        and one.parameters <= (limits.parameters or 1e9)
        and one.flops <= (limits.flops or 1e9)
    ]
    kept = {
        (a.parameters, a.flops)
        for a in meets
        if not any(
            b.parameters <= a.parameters and b.flops <= a.flops and (b.parameters, b.flops) != (a.parameters, a.flops)
            for b in meets
        )
    }
    assert set(found.table.select("parameters", "flops").rows()) == kept
    assert len(found.table) == len(kept)
    assert (found.candidates, found.matching) == (len(every(SPACE)), len(meets))
    for row in found.table.to_dicts():
        again = topology(cells_from(row["cells"]), SHAPE, 3)
        assert (again.parameters, again.flops) == (row["parameters"], row["flops"])
        assert again.nn_mass == pytest.approx(row["nn_mass"])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=25))
@settings(deadline=None)
def test_the_pareto_set_is_that_of_the_definition(points):
    one, other, tie = (np.array(column) for column in zip(*points, strict=True))
    found = pareto(one, other, tie)
    better = [any(c <= a and d <= b and (c, d) != (a, b) for c, d, _ in points) for a, b, _ in points]
    assert {points[i][:2] for i in found} == {
        point[:2] for point, beaten in zip(points, better, strict=True) if not beaten
    }
    assert len(found) == len({points[i][:2] for i in found})
    for i in found:
        assert tie[i] == min(t for a, b, t in points if (a, b) == points[i][:2])
    assert np.all(np.diff(one[found]) > 0)


def test_the_compressed_networks_of_table_1_are_within_reach_of_their_own_mass():
    widths = ((32, 64, 128),)
    reference = [Cell(20, 32, 50), Cell(20, 64, 100), Cell(20, 128, 150)]
    for depth, parameters in [(9, 3.82e6), (11, 4.69e6), (12, 5.02e6)]:
        found = designs(reference, Space((depth,), widths, 10), Limits(parameters=parameters))
        assert found.table["nn_mass"][0] == pytest.approx(622, rel=0.051)
        assert found.table["parameters"].max() <= parameters < 8.15e6


def test_limits_that_no_design_meets_offer_the_nearest_one():
    space = Space((4, 5), ((3, 5),))
    with pytest.raises(
        InputError, match="none of 237 designs has a mass within 5% of 14 and at most 100 parameters"
    ) as said:
        designs(14.0, space, Limits(parameters=100), input_shape=SHAPE, classes=3)
    least = min(max(abs(one.nn_mass / 14 - 1) / 0.05, one.parameters / 100) for one in every(space))
    found = topology(cells_from(str(said.value).split("nearest is ")[1].split(" ")[0]), SHAPE, 3)
    assert max(abs(found.nn_mass / 14 - 1) / 0.05, found.parameters / 100) == pytest.approx(least)
    with pytest.raises(InputError, match="nearest is 5x3t9-5x5t15 with mass 40"):
        designs(1000.0, Space((4, 5), ((3, 5),)), input_shape=SHAPE, classes=3)


def test_latency_is_measured_of_the_designs_found_and_refused_where_none_is_fast_enough():
    space, arguments = Space((4,), ((3, 5),), 3), {"tolerance": 0.2, "input_shape": SHAPE, "classes": 3}
    found = designs(14.0, space, Limits(latency=60.0, batch=2), **arguments)
    assert found.table["latency"].min() > 0
    with pytest.raises(RunError, match=r"none of \d+ designs takes at most 1e-09 s; the fastest is"):
        designs(14.0, space, Limits(latency=1e-9), **arguments)


def test_a_design_is_written_built_and_trained_with_the_usual_recipe(tmp_path: Path):
    path = tmp_path / "design.json"
    cells = cells_from("3x4t4-3x6t6")
    data = {"train_examples": 20, "test_examples": 20}
    recipe = export(cells, path, data="digits", data_args=data, epochs=1, augmentation=())
    assert (recipe.schedule, recipe.learning_rate) == ("cosine", 0.05)
    again = Recipe.from_file(path)
    assert again == recipe
    network = build(again.network, (1, 8, 8), 10)
    assert sum(p.numel() for p in network.parameters()) == topology(cells, (1, 8, 8), 10).parameters
    assert train(again, out=tmp_path / "runs").finished
    assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Space((), ((3,),)), "one depth and one tuple of widths"),
        (lambda: Space((2,), ((3,),)), "depth=2 in a space of designs"),
        (lambda: Space((4,), ((0,),)), "width=0"),
        (lambda: Space((4,), ((3,),), 0), "step=0"),
        (lambda: Space((4.5,), ((3,),)), "depth=4.5"),
        (lambda: Limits(flops=0), "the limit flops=0"),
        (lambda: designs(-1.0, SPACE), "a mass of -1 is wanted"),
        (lambda: designs([Cell(2, 3, 4)], SPACE), "every network has mass 0"),
        (lambda: designs(9.0, SPACE, tolerance=0), "tolerance=0"),
        (lambda: designs(9.0, Space((40,), ((4, 8, 16, 32, 64, 128),))), "4.09e\\+17 designs, too many to try each"),
        (lambda: designs(9.0, SPACE, input_shape=(3, 0, 8)), "whole numbers above 0"),
        (lambda: designs(9.0, SPACE, classes=-1), "classes must be a whole number of at least 2"),
        (lambda: Limits(batch=1.5), "batch=1.5: give a whole number"),  # pyright: ignore
        (lambda: export([], "design.json"), "at least one cell"),
    ],
)
def test_what_makes_no_sense_is_one_clear_error(make, said):
    with pytest.raises(InputError, match=said):
        make()
