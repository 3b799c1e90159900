"""The two margin baselines of Kuhn et al. (2021), which are fitted on a zoo: normalised margins, and the best margin variable.

The five statistics of the normalised margins of Jiang et al. (2019) are taken at the input of the first two blocks and of the head:
three layers that networks of every depth have. Normalised margins is the gap that a linear fit on all fifteen gives, on the very
networks that it is then ranked on, as in the paper; best margin variable is the one with the largest standardised coefficient.
"""

import sys
from typing import Any

import numpy as np
import polars as pl

from shaketable.files import write_atomically
from shaketable.measures.margins import STATISTICS, normalised_margins
from shaketable.measures.measure import Unavailable
from shaketable.statistics import cross_validated_r2, r2, standardised_coefficients
from shaketable.study import Study
from shaketable.zoo import Zoo
from studies.common import Options

LAYERS = ("block1.conv1", "block2.conv1", "head")
FITTED, BEST = "normalised_margins_fitted", "best_margin_variable"
EXAMPLES = 1000


def margin_variables(zoo: Zoo, chosen: Options) -> pl.DataFrame:
    """A row a network: fifteen statistics; written beside the zoo's table. A network without margins is left out."""
    rows = []
    for entry in zoo.plan.networks:
        record = zoo.record(entry.name)
        if record is None or record["status"] != "ok":
            continue
        study = Study.from_run(zoo.runs / entry.name, chosen.data_root, chosen.device)
        try:
            found = normalised_margins(study, EXAMPLES)
        except Unavailable as error:
            print(f"{entry.name}: {error}", file=sys.stderr)
            continue
        layers = {row["layer"]: row for row in found.to_dicts()}
        rows.append(
            {"network": entry.name} | {f"{layer} {one}": layers[layer][one] for layer in LAYERS for one in STATISTICS}
        )
    table = pl.DataFrame(rows)
    write_atomically(zoo.table_path.parent / "margins.parquet", table.write_parquet)
    return table


def with_margins(table: pl.DataFrame, variables: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Any]]:
    """A zoo's table with rows of the two measures; and of the fit: R2 with its fifteen variables, and which one is best."""
    networks = table.unique("network", maintain_order=True).join(variables, on="network", maintain_order="left")
    names = variables.columns[1:]
    x, gap = networks.select(names).to_numpy(), networks["gap"].to_numpy()
    weights = standardised_coefficients(x, gap)
    fitted = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1) @ weights * gap.std() + gap.mean()
    best = int(np.abs(weights).argmax())
    facts = {
        "networks": len(networks),
        "variables": len(names),
        "best": names[best],
        "adjusted_r2": r2(x, gap, adjusted=True),
        "cross_validated_r2": cross_validated_r2(x, gap).value,
    }
    added = [
        networks.select(table.columns).with_columns(
            pl.lit(name).alias("measure"),
            pl.lit(direction).alias("direction"),
            pl.Series("value", value),
            pl.lit(None, pl.Float64).alias("log10"),
            pl.lit("ok").alias("status"),
            pl.lit(None, pl.String).alias("reason"),
        )
        for name, direction, value in (
            (FITTED, "lower", fitted),
            (BEST, "lower" if weights[best] > 0 else "higher", x[:, best]),
        )
    ]
    return pl.concat([table, *added]), facts
