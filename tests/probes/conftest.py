"""Tables of small networks, where the last digit of a loss would depend on which level was faster just then."""

import pytest


@pytest.fixture(autouse=True)
def _no_level_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """vmap is not tried: what is left is bit for bit the loop."""
    monkeypatch.setattr("shaketable.engine.levels.FOLDED", 10**9)
