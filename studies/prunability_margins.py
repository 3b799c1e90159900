"""The two margin baselines of Kuhn et al. (2021), which are fitted on a zoo: normalised margins, and the best margin variable.

The variables are the five statistics of the normalised margins of Jiang et al. (2019) at four layers, evenly spaced. Normalised margins
is the gap that a linear fit on all of them gives, on the very networks that it is then ranked on, as in the paper; best margin variable
is the one with the largest standardised coefficient.
"""

from typing import Any

import numpy as np
import polars as pl

from shaketable.estimators.features import MARGINS
from shaketable.statistics import cross_validated_r2, r2, standardised_coefficients

FITTED, BEST = "normalised_margins_fitted", "best_margin_variable"


def fitted_margins(table: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Any]]:
    """A zoo's table with rows of the two measures in place of the variables; and of the fit: R2, and which variable is best.

    Args:
        table: of a zoo, with the variables, as :func:`shaketable.estimators.features.with_margins` gives it. Networks that lack
            one of them have no row of the two.
    """
    own = pl.col("measure").is_in(MARGINS)
    variables = table.filter(own).pivot(on="measure", index="network", values="value").drop_nulls()
    networks = table.filter(own).unique("network", maintain_order=True)
    networks = networks.join(variables, on="network", maintain_order="left")
    names = [name for name in MARGINS if name in variables.columns]
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
    return pl.concat([table.filter(~own.fill_null(False)), *added]), facts
