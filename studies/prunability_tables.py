"""Tables 1 to 3 of Kuhn et al. (2021) of a ranking, as Markdown and CSV; the paper's numbers are not in the text that we have."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from shaketable.files import write_text
from shaketable.zoo import Ranking
from studies.common import Options, markdown, write_table
from studies.prunability_margins import FITTED

COMPARED = {
    "prunability": "prunability",
    "random_prunability": "random prunability",
    "magnitude_flatness_kuhn2021": "random perturbation robustness",
    "normalised_margins_fitted": "normalised margins",
    "best_margin_variable": "best margin variable",
    "sum_of_training_losses": "sum of training losses",
    "training_loss": "training loss",
    "sum_of_frobenius_norms": "sum of Frobenius norms",
    "sum_of_squared_spectral_norms": "sum of two-norms",
    "number_of_parameters": "number of parameters",
    "sum_of_frobenius_norms_pruned": "sum of Frobenius norms, pruned",
    "sum_of_squared_spectral_norms_pruned": "sum of two-norms, pruned",
    "number_of_parameters_pruned": "number of parameters, pruned",
    "effective_dimensionality": "effective dimensionality",
}
"""The measures of the paper's tables, as it calls them."""


def write_tables(ranking: Ranking, table: pl.DataFrame, fit: Mapping[str, Any], chosen: Options) -> None:
    """``table1.md``, ``table2.md`` and ``table3.md``; all rows as CSV, and the time of each measure."""
    own = pl.col("measure") == FITTED  # of which R2 is that of all its variables, not of the gap that they gave
    summary = ranking.table.with_columns(
        pl.when(own).then(pl.lit(fit[name])).otherwise(name).alias(name)
        for name in ("adjusted_r2", "cross_validated_r2")
    )
    seconds = table.group_by("measure", maintain_order=True).agg(
        pl.col("seconds").sum(), pl.col("seconds").max().alias("most")
    )
    for name, frame in (("ranking", summary), ("axes", ranking.axes), ("relations", ranking.relations)):
        write_table(frame, chosen.out / f"{name}.csv")
    write_table(seconds.drop_nulls("measure"), chosen.out / "seconds.csv")
    write_table(networks_of(table), chosen.out / "networks.csv")
    write_text(chosen.out / "table1.md", table1(summary))
    write_text(chosen.out / "table2.md", table2(summary, ranking.axes))
    write_text(chosen.out / "table3.md", table3(ranking.relations))


def networks_of(table: pl.DataFrame) -> pl.DataFrame:
    """A row a network: hyper-parameters, how it was trained, and the value of each measure."""
    about = [name for name in table.columns if name.startswith("hp_")]
    about += ["epochs", "train_loss", "train_error", "test_loss", "test_error", "gap", "training_seconds"]
    rows = table.unique("network", maintain_order=True).select("network", *about)
    values = table.drop_nulls("measure").pivot(on="measure", index="network", values="value")
    return rows.join(values, on="network", how="left", maintain_order="left").drop("network")


def table1(summary: pl.DataFrame) -> str:
    """All measures, the best first: tau, its error where it is due to chance, Psi, K, R2."""
    lines = []
    for row in summary.to_dicts():
        name = COMPARED.get(row["measure"])
        numbers = (row[key] for key in ("tau", "psi", "information", "adjusted_r2", "cross_validated_r2"))
        title = f"**{name}**" if name else row["measure"]
        lines.append([title, *map(_number, numbers), str(row["networks"])])
    columns = [
        "measure",
        "Kendall's tau-b",
        "Psi",
        "cond. mutual information K",
        "adjusted R2",
        "cross-validated R2",
        "networks",
    ]
    return markdown(columns, lines)


def table2(summary: pl.DataFrame, axes: pl.DataFrame) -> str:
    """The paper's measures: granulated tau along each hyper-parameter, its mean, and tau."""
    names = axes["axis"].unique(maintain_order=True).to_list()
    along = {(row["measure"], row["axis"]): row["tau"] for row in axes.to_dicts()}
    lines = []
    for row in summary.filter(pl.col("measure").is_in(COMPARED)).to_dicts():
        cells = [along.get((row["measure"], name)) for name in names] + [row["psi"], row["tau"]]
        lines.append([COMPARED[row["measure"]], *map(_number, cells)])
    titles = [name.removeprefix("network_args.").replace("_", " ") for name in names]
    return markdown(["measure", *titles, "Psi", "overall tau"], lines)


def table3(relations: pl.DataFrame, name: str = "prunability") -> str:
    """Each of the paper's measures beside prunability: conditional mutual information K between the two, and tau."""
    rows = relations.filter(pl.col("measure") == name, pl.col("other").is_in(COMPARED))
    rows = rows.sort("information", descending=True, nulls_last=True).to_dicts()
    lines = [[COMPARED[row["other"]], _number(row["information"]), _number(row["tau"])] for row in rows]
    return markdown(["measure", "K with prunability", "tau with prunability"], lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
