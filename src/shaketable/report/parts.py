"""What the parts of a report share."""

from typing import Any

import polars as pl

Part = dict[str, Any]
"""Everything that the template of a part shows."""


def network_facts(result: Any) -> list[tuple[str, str]]:
    """The network, where there is a name."""
    name = result.provenance.get("network") or result.provenance.get("name")
    return [("Network", str(name))] if name else []


def missing_rows(table: pl.DataFrame, size: int) -> list[dict[str, Any]]:
    """What has a status other than ok: one row per layer, what was done to it, and reason; ``where`` and splits together."""
    bad = table.filter(pl.col("status") != "ok")
    together = bad.group_by("layer", "what", "status", "reason", maintain_order=True)
    found = together.agg(pl.col("where").unique(maintain_order=True), pl.col("split").unique().sort())
    return found.head(size).to_dicts()
