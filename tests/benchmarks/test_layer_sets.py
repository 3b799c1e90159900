"""The benchmark of the joint search: the naive loop counts what the search counted."""

from pathlib import Path

import pytest

from benchmarks import common, layer_sets


@pytest.mark.parametrize("how", ["reinitialise", "remove"])
def test_the_joint_search_is_measured_with_identical_answers(how) -> None:
    work = layer_sets.Work("resnet18-bn", "", how=how, examples=40, batches=(20,), arguments={"width": 0.0625})
    found = layer_sets.compare("toy", work, common.Options(repeats=1, data_root=Path("nowhere")))
    assert found.identical
    assert found.variants == 1 + 4 + 3 + 2 + 1
    assert found.sampled
    assert found.more["candidates"] == 4
    assert found.ratio
