"""A zoo of twelve small networks, trained and measured once."""

import pytest
from tests.zoo.plans import LEARNT, tiny

from shaketable import zoo


@pytest.fixture(scope="session")
def small_zoo(tmp_path_factory):
    """Twelve fully connected networks, with three measures each."""
    found = zoo.run(tiny(widths=(8, 9), seeds=(0, 1, 2, 3, 5, 7), base=LEARNT), tmp_path_factory.mktemp("zoo"))
    return zoo.measure(found, ["training_loss", "squared_distance_to_init", "path_norm"])
