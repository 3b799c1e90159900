"""Tables and figures of the exploration of NN-Mass: accuracy against what is known before training, lines, and unseen depths."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from shaketable.errors import InputError
from shaketable.statistics import kendall_tau, kendall_tau_stderr, r2, unseen_r2
from shaketable.topology import cells_from, topology
from studies.common import markdown

# Predictor: its name in tables, and whether its logarithm is fitted (NASWOT is one already).
PREDICTORS: Mapping[str, tuple[str, bool]] = {
    "nn_mass": ("NN-Mass", True),
    "number_of_parameters": ("parameters", True),
    "flops": ("FLOPs", True),
    "nn_density": ("NN-Density", False),
    "gradient_norm_at_init": ("gradient norm", True),
    "snip_at_init": ("SNIP", True),
    "synflow_at_init": ("SynFlow", True),
    "naswot_at_init": ("NASWOT", False),
}


def design_table(zoo: pl.DataFrame) -> pl.DataFrame:
    """A row a design: mean and spread of its test accuracy over seeds, what is known of it, and the mean of each proxy.

    Designs of which a network failed are there with those seeds that did not.
    """
    trained = zoo.filter(pl.col("test_error").is_not_null())
    networks = trained.unique("network").group_by("hp_network", maintain_order=True)
    accuracy = 1 - pl.col("test_error")
    table = networks.agg(
        accuracy.mean().alias("accuracy"), accuracy.std().alias("accuracy_std"), pl.len().alias("seeds")
    )
    value = pl.when(pl.col("value").is_null()).then(10 ** pl.col("log10")).otherwise(pl.col("value"))
    taken = trained.filter(pl.col("measure").is_in(list(PREDICTORS)), pl.col("status") == "ok").with_columns(
        value.alias("value")
    )
    wide = (
        taken.group_by("hp_network", "measure")
        .agg(pl.col("value").mean())
        .pivot("measure", index="hp_network", values="value")
    )
    rows = [known(name) for name in table["hp_network"]]
    found = pl.concat([table, pl.DataFrame(rows)], how="horizontal").join(wide, "hp_network", how="left")
    return found.sort("depth", "nn_mass_exact")


def known(name: str) -> dict[str, Any]:
    """What the name of a linked network says: layers by the paper's count, mass, density, FLOPs, all from the closed forms."""
    cells = cells_from(re.sub("^linked-", "", name))
    found = topology(cells)
    return {
        "depth": 3 * cells[0].depth + 4,
        "links": ", ".join(str(cell.links) for cell in cells),
        "nn_mass_exact": found.nn_mass,
        "density": found.nn_density,
        "parameters": found.parameters,
        "flops": found.flops,
    }


def verdict_table(designs: pl.DataFrame, unseen: Sequence[int], seconds: Mapping[str, float]) -> pl.DataFrame:
    """A row a predictor, the best R2 first: R2 of the line through it, tau with accuracy, R2 for unseen depths, seconds a network.

    Args:
        designs: of :func:`design_table`.
        unseen: depths by the paper's count that are predicted from all others; without any each depth in turn.
        seconds: of each measure, the mean over networks.
    """
    depths = designs["depth"].to_numpy()
    groups = np.where(np.isin(depths, unseen), 0, -1) if unseen else depths
    rows = []
    for name, (title, logarithm) in PREDICTORS.items():
        row: dict[str, Any] = {"predictor": title, "seconds": seconds.get(name)}
        column = designs[name] if name in designs.columns else pl.Series([None])
        if column.null_count():
            rows.append(row | {"reason": f"{column.null_count()} designs have no {title}"})
            continue
        values = np.log(column.to_numpy()) if logarithm else column.to_numpy()
        accuracy = designs["accuracy"].to_numpy()
        fitted = groups < 0 if unseen else np.ones(len(groups), bool)
        try:
            row |= {
                "r2": r2(values[fitted], accuracy[fitted]),
                "tau": kendall_tau(values, accuracy),
                "unseen_r2": unseen_r2(values, accuracy, groups)[0],
            }
        except InputError as error:
            row["reason"] = str(error)
        rows.append(row)
    schema = dict.fromkeys(("r2", "tau", "unseen_r2", "seconds"), pl.Float64)
    frame = pl.DataFrame(rows, {"predictor": pl.String, **schema, "reason": pl.String})
    return frame.sort("r2", descending=True, nulls_last=True)


def verdict_markdown(verdict: pl.DataFrame, networks: int) -> str:
    """The table of predictors in Markdown."""
    rows = [
        [row["predictor"], *("" if row[k] is None else f"{row[k]:.2f}" for k in ("r2", "tau", "unseen_r2")),
         "" if row["seconds"] is None else f"{row['seconds']:.2g}", row["reason"] or ""]
        for row in verdict.to_dicts()
    ]  # fmt: skip
    columns = [
        "predictor",
        "R2",
        f"tau (±{kendall_tau_stderr(networks):.2f} by chance)",
        "R2, unseen depths",
        "seconds",
        "note",
    ]
    return markdown(columns, rows)


def design_markdown(designs: pl.DataFrame) -> str:
    """The table of designs in Markdown."""
    rows = [
        [
            str(row["depth"]),
            row["links"],
            f"{row['density']:.3f}",
            f"{row['nn_mass_exact']:.1f}",
            f"{row['parameters']:,}",
            f"{row['flops'] / 1e6:.1f}",
            f"{100 * row['accuracy']:.1f}"
            + ("" if row["accuracy_std"] is None else f" ± {100 * row['accuracy_std']:.1f}"),
        ]
        for row in designs.to_dicts()
    ]
    return markdown(["layers", "links", "density", "mass", "parameters", "MFLOPs", "accuracy, %"], rows)


def scatter(designs: pl.DataFrame, name: str, title: str, line: bool = False) -> Any:
    """Accuracy against one predictor, a colour a depth, a bar for the spread over seeds; the fitted line of its logarithm."""
    values = designs[name].to_numpy()
    rows = designs.with_columns(
        (pl.col("accuracy") - pl.col("accuracy_std").fill_null(0)).alias("low"),
        (pl.col("accuracy") + pl.col("accuracy_std").fill_null(0)).alias("high"),
    ).select(pl.col(name).alias("x"), "accuracy", "low", "high", pl.col("depth").cast(pl.String).alias("layers"))
    scale = alt.Scale(type="log", zero=False, nice=False) if line else alt.Scale(zero=False)
    x = alt.X("x:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6, format="~s"))
    y = alt.Y("accuracy:Q", title="test accuracy", scale=alt.Scale(zero=False), axis=alt.Axis(format=".0%"))
    colour = alt.Color("layers:N", sort=sorted(set(rows["layers"]), key=int))
    base = alt.Chart(alt.InlineData(rows.to_dicts()))
    parts: list[Any] = [
        base.mark_rule(opacity=0.4).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour),
        base.mark_circle(size=45, opacity=1).encode(x=x, y=y, color=colour),
    ]
    if line:
        slope, offset = np.polyfit(np.log(values), designs["accuracy"].to_numpy(), 1)
        ends = [
            {"x": float(end), "accuracy": float(slope * np.log(end) + offset)} for end in (values.min(), values.max())
        ]
        parts.append(alt.Chart(alt.InlineData(ends)).mark_line(color="#595959").encode(x=x, y=y))
    return alt.layer(*parts).properties(width=300, height=220)


def unseen_scatter(designs: pl.DataFrame, unseen: Sequence[int]) -> Any:
    """Predicted against measured accuracy, each depth predicted by the line in log mass through depths that are not asked for."""
    depths = designs["depth"].to_numpy()
    groups = np.where(np.isin(depths, unseen), 0, -1) if unseen else depths
    accuracy = designs["accuracy"].to_numpy()
    _, predicted = unseen_r2(np.log(designs["nn_mass_exact"].to_numpy()), accuracy, groups)
    rows = [
        {"measured": float(a), "predicted": float(p), "layers": str(d)}
        for a, p, d in zip(accuracy, predicted, depths, strict=True)
        if np.isfinite(p)
    ]
    ends = [{"measured": end, "predicted": end} for end in (float(accuracy.min()), float(accuracy.max()))]
    x, y = (
        alt.X("measured:Q", title="test accuracy", scale=alt.Scale(zero=False), axis=alt.Axis(format=".0%")),
        alt.Y("predicted:Q", title="predicted by log mass", scale=alt.Scale(zero=False), axis=alt.Axis(format=".0%")),
    )
    colour = alt.Color("layers:N", sort=sorted({row["layers"] for row in rows}, key=int))
    dots = alt.Chart(alt.InlineData(rows)).mark_circle(size=45, opacity=1).encode(x=x, y=y, color=colour)
    diagonal = alt.Chart(alt.InlineData(ends)).mark_line(color="#595959", strokeDash=[4, 3]).encode(x=x, y=y)
    return alt.layer(diagonal, dots).properties(width=260, height=260)
