"""Which measures predict the gap of the networks of a zoo, on which hyper-parameters they fail, and how they relate."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import polars as pl

from shaketable import __version__
from shaketable.errors import InputError
from shaketable.identity import digest
from shaketable.probes.stored import read_result, time_taken, write_result
from shaketable.zoo.store import PREFIX
from shaketable.zoo.verdicts import AXES, RELATIONS, SEED, SUMMARY, Column, relations, verdict

TARGETS = ("gap", "test_error", "loss_gap", "test_loss")
"""What a measure may be asked to predict: columns of the table."""


@dataclass(frozen=True)
class Ranking:
    """The verdict on the measures of a zoo.

    Attributes:
        table: a row for each measure, the best by tau first: ``tau`` (tau-b with the target, positive where the measure
            predicts in its own direction), ``psi`` (the mean over axes of granulated tau, with the same sign), ``information``
            (conditional mutual information, least over what is ``given``), adjusted and cross-validated R2 of a linear fit
            (on the ``logarithm``, where values span more than three powers of ten or are beyond a float's range), how many
            ``networks`` have it and how many lack it, ``status`` and ``reason``.
        axes: granulated tau of each measure along each hyper-parameter, with the same sign.
        relations: tau-b between any two measures, each turned so that larger should mean a larger gap, and their ``information``.
        points: of each measure and network, what was ranked: value (or its log10) and target, with their ranks.
        provenance: what was ranked, and what was left out.
    """

    table: pl.DataFrame
    axes: pl.DataFrame
    relations: pl.DataFrame
    points: pl.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Write the tables as Parquet and CSV, and ``provenance.json``, into a folder."""
        tables = {"ranking": self.table, "axes": self.axes, "relations": self.relations, "points": self.points}
        return write_result(Path(folder), "ranking", tables, {"provenance": self.provenance})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the folder holds no such result.
        """
        facts, tables = read_result(Path(folder), "ranking", ["ranking", "axes", "relations", "points"])
        return cls(tables["ranking"], tables["axes"], tables["relations"], tables["points"], facts["provenance"])


def rank(
    table: pl.DataFrame,
    measures: Iterable[str] | None = None,
    *,
    target: str = "gap",
    axes: Sequence[str] | None = None,
    information: bool = False,
    command: str | None = None,
) -> Ranking:
    r"""Which measures predict the gap: rank correlations, overall and along each hyper-parameter, information, and R2.

    .. math:: \tau_b(s \mu, g), \qquad \Psi(s \mu, g), \qquad K(\mu, g), \qquad \bar R^2(\mu, g)

    for a measure :math:`\mu`, the target :math:`g`, and :math:`s = -1` where a higher value of the measure should mean a smaller gap;
    see :mod:`shaketable.statistics` for each. What is not done: networks without the target, or without a measure (missing or NaN),
    are left out for that measure and counted, and nothing is put in their place; no correction for many measures.

    Args:
        table: of a zoo, as :func:`shaketable.zoo.read_table` gives it, or with the columns ``network``, ``measure``, ``value``,
            the target, and hyper-parameters with the prefix ``hp_``; ``log10``, ``reason`` and ``direction`` (``"lower"`` where nobody
            says) may be there.
        measures: names; all that the table has but the gap itself, without it.
        target: ``"gap"``, ``"test_error"``, ``"loss_gap"`` or ``"test_loss"``.
        axes: the hyper-parameters in :math:`\Psi`; all but the seed, without it.
        information: also K between any two measures.
        command: what the user typed.

    Returns: a :class:`Ranking`. A statistic that there is not is null, with the reason in the row.

    Raises:
        InputError: a table without what is needed, a measure or axis that it does not have, or fewer than two networks with a target.

    Cost: for each measure that of :func:`shaketable.statistics.conditional_mutual_information`, and as much for any two with
        ``information``.

    Deviates: signs are those of the direction that each measure states; the papers turn measures by hand. R2 is that of the
        logarithm of a measure whose values span many powers of ten; the papers do not say what they fit then. Seeds are no
        hyper-parameter in K.

    Example:
        >>> row = {"measure": "path_norm", "hp_width": 1}
        >>> zoo = pl.DataFrame([row | {"network": n, "value": v, "gap": g} for n, v, g in [("a", 1.0, 0.1), ("b", 2.0, 0.2)]])
        >>> rank(zoo).table.select("measure", "tau").row(0)
        ('path_norm', 1.0)

    References: Jiang, Neyshabur, Mobahi, Krishnan, Bengio, "Fantastic generalization measures and where to find them", 2020.
        Kuhn, Lyle, Gomez, Rothfuss, Gal, "Robustness to pruning predicts generalization in deep neural networks", 2021,
        tables 1 to 3.
    """
    started = time.monotonic()
    whole, known, every, left_out = _checked(table, target)
    names = [name for name in every if name != "generalization_error"] if measures is None else list(measures)
    for name in names:
        if name not in every:
            raise InputError(f"the zoo has no measure {name!r}; it has {', '.join(every) or 'none'}.")
    if not names:
        raise InputError("the zoo has no measure to rank; take some with `shaketable zoo measure`.")
    chosen = [axis for axis in known if axis != SEED] if axes is None else list(axes)
    for axis in chosen:
        if axis not in known:
            raise InputError(f"axis {axis!r} is no hyper-parameter of this zoo; it has {', '.join(known) or 'none'}.")
    columns = {name: Column.of(whole, name, target, known) for name in names}
    verdicts = sorted((verdict(column, chosen) for column in columns.values()), key=_best_first)
    columns = {row["measure"]: columns[row["measure"]] for row, _ in verdicts}
    summary = pl.DataFrame([row for row, _ in verdicts], schema=SUMMARY, orient="row")
    facts = {
        "name": f"{whole['network'].n_unique()} networks",
        "target": target,
        "axes": chosen,
        "hyperparameters": known,
        "networks": whole["network"].n_unique(),
        "left_out": left_out,
        "table": digest([digest(str(row)) for row in sorted(map(str, whole.rows()))]),
        "shaketable": __version__,
        "command": command,
    }
    return Ranking(
        summary,
        pl.DataFrame([row for _, rows in verdicts for row in rows], schema=AXES, orient="row"),
        pl.DataFrame(relations(columns, information), schema=RELATIONS, orient="row"),
        pl.concat([column.points() for column in columns.values()]),
        facts | time_taken(started),
    )


def _best_first(verdict: tuple[dict[str, Any], list[dict[str, Any]]]) -> float:
    """The place of a verdict: the largest tau first, none last."""
    tau = verdict[0].get("tau")
    return 2.0 if tau is None else -tau


def _checked(table: pl.DataFrame, target: str) -> tuple[pl.DataFrame, list[str], list[str], dict[str, int]]:
    """The rows with a target, hyper-parameters, names of measures, and how many networks were left out, by reason."""
    if target not in TARGETS:
        raise InputError(f"target={target!r}: give one of {', '.join(TARGETS)}.")
    for name in ("network", "measure", "value", target):
        if name not in table.columns:
            raise InputError(f"the table has no column {name!r}; give the table of a zoo, or one with its columns.")
    for name in {"value", "log10", target} & set(table.columns):
        if not (table.schema[name].is_numeric() or table.schema[name] == pl.Null):
            raise InputError(f"column {name!r} of the table holds {table.schema[name]}, and not numbers; convert it.")
        table = table.with_columns(pl.col(name).cast(pl.Float64))
    said = table["direction"].drop_nulls().unique().to_list() if "direction" in table.columns else []
    if not set(said) <= {"lower", "higher"}:
        raise InputError(
            f"column 'direction' of the table holds {', '.join(map(repr, said))}; use 'lower' or 'higher'."
        )
    has = pl.col(target).is_not_null() & pl.col(target).is_finite()
    without = table.filter(~has.fill_null(False)).unique("network", maintain_order=True)
    reasons = without["reason"] if "reason" in without.columns else pl.Series([None] * len(without), dtype=pl.String)
    left_out = dict(reasons.fill_null(f"no {target}").value_counts(sort=True).rows())
    whole = table.filter(has)
    if whole["network"].n_unique() < 2:
        raise InputError(
            f"{whole['network'].n_unique()} of {table['network'].n_unique()} networks of this zoo have a {target}, and two are the "
            "fewest that can be ranked; train more, and measure them."
        )
    twice = whole.filter(pl.col("measure").is_not_null()).group_by("network", "measure").len().filter(pl.col("len") > 1)
    if len(twice):
        network, measure, _ = twice.row(0)
        raise InputError(f"the table has more than one row of measure {measure!r} for network {network!r}; keep one.")
    known = [name.removeprefix(PREFIX) for name in table.columns if name.startswith(PREFIX)]
    return whole, known, whole["measure"].drop_nulls().unique(maintain_order=True).to_list(), left_out
