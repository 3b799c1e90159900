"""Alpha by the package weightwatcher: that it is the package's own, and what is said without it."""

import math
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from shaketable.errors import InputError
from shaketable.measures import heavy_tail_alpha
from shaketable.params import snapshot
from shaketable.study import Study

needs_it = pytest.mark.skipif(find_spec("weightwatcher") is None, reason="needs the extra weightwatcher")


def study() -> Study:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(90, 80), nn.ReLU(), nn.Linear(80, 70), nn.ReLU(), nn.Linear(70, 2)).eval()
    return Study(network, final={name: 2 * tensor for name, tensor in snapshot(network).items()})


@pytest.mark.skipif(find_spec("weightwatcher") is not None, reason="the extra weightwatcher is there")
def test_without_the_package_it_is_a_row_that_says_how_to_get_it():
    found = heavy_tail_alpha(study())
    assert (found.value, found.status) == (None, "unavailable")
    assert "pip install 'shaketable[weightwatcher]'" in str(found.reason)


@needs_it
def test_the_norms_of_its_table_are_those_of_the_final_weights():
    of = study()
    found = heavy_tail_alpha(of, metric="log_norm")
    assert found.layers is not None
    for row in found.layers.to_dicts():
        weight = of.final[f"{row['layer']}.weight"].double()
        assert row["value"] == pytest.approx(math.log10(float(weight.square().sum())), abs=1e-3)
    assert found.value == pytest.approx(sum(found.layers["value"]) / len(found.layers))


@needs_it
def test_alpha_is_above_1_and_repeats():
    found = heavy_tail_alpha(study())
    assert found.status == "ok"
    assert found.value is not None
    assert found.value > 1
    assert heavy_tail_alpha(study()).value == found.value


@needs_it
def test_a_network_with_nothing_to_analyse_is_a_row_and_an_unknown_metric_an_error():
    small = Study(nn.BatchNorm1d(3).eval())
    assert heavy_tail_alpha(small).status == "unavailable"
    with pytest.raises(InputError, match="metric='beta'"):
        heavy_tail_alpha(study(), metric="beta")
