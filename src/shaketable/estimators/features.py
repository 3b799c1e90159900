"""What an estimator looks at: the measures of a zoo as columns, those of one network, and the statistics of its margins."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from shaketable.errors import InputError
from shaketable.files import write_atomically
from shaketable.measures import MEASURES
from shaketable.measures.margins import STATISTICS, normalised_margins
from shaketable.measures.measure import Unavailable
from shaketable.measures.rows import measured_row
from shaketable.progress import progress
from shaketable.study import Study
from shaketable.training import Recipe
from shaketable.zoo import Zoo
from shaketable.zoo.verdicts import Column

PLACES = 4
"""Layers at whose input margins are taken: evenly spaced over the depth, the first of them the network's own input."""
MARGINS = tuple(f"margin{place}_{statistic}" for place in range(1, PLACES + 1) for statistic in STATISTICS)
"""The twenty statistics of the margins, by the names that they have among measures."""
MARGIN_VERSION = 1
NOT_ARCHITECTURE = ("dropout", "dropped", "init")
"""Arguments of networks that change how they are trained, and not what they are."""


@dataclass(frozen=True)
class Feature:
    """One measure that an estimator looks at.

    Attributes:
        measure: its name.
        version: of the measure that the zoo was measured with.
        arguments: that it was called with beside the study.
        logarithm: whether its log10 stands in its place: where values of the zoo span more than three powers of ten.
        low, high: the range in the zoo, of the logarithm where that stands in its place.
    """

    measure: str
    version: int
    arguments: dict[str, Any]
    logarithm: bool
    low: float
    high: float


def columns_of(
    table: pl.DataFrame, names: Sequence[str], target: str
) -> tuple[list[str], np.ndarray, np.ndarray, list[Feature]]:
    """The networks that have all of some measures and the target, the measures [n, p], the target [n], and the features."""
    if not names or len(set(names)) < len(names):
        raise InputError("give the names of one or more measures, each once.")
    for column in ("network", "measure", "value", target):
        if column not in table.columns:
            raise InputError(f"the table has no column {column!r}; give the table of a zoo, or one with its columns.")
    known = table["measure"].drop_nulls().unique(maintain_order=True).to_list()
    for name in names:
        if name in MEASURES and "test" in MEASURES[name].needs:
            raise InputError(f"{name} needs test data, and an estimate rests on training data alone; leave it out.")
        if name not in known:
            raise InputError(
                f"the zoo has no measure {name!r}; it has {', '.join(known) or 'none'}; take it with `shaketable zoo measure`."
            )
    table = table.filter(pl.col(target).is_not_null(), pl.col(target).is_not_nan())
    columns = [Column.of(table, name, target, []) for name in names]
    shared = [one for one in columns[0].networks if all(one in column.networks for column in columns)]
    if not shared:
        reasons = [column.why for column in columns if column.why]
        said = f" ({reasons[0].rstrip('.')})" if reasons else ""
        raise InputError(f"no network of the zoo has a {target} and all of {', '.join(names)}{said}.")
    values = [dict(zip(column.networks, column.value, strict=True)) for column in columns]
    x = np.array([[one[network] for one in values] for network in shared], dtype=np.float64)
    targets = dict(zip(columns[0].networks, columns[0].target, strict=True))
    y = np.array([targets[network] for network in shared], dtype=np.float64)
    features = [_feature(table, column, x[:, k]) for k, column in enumerate(columns)]
    return shared, x, y, features


def _feature(table: pl.DataFrame, column: Column, values: np.ndarray) -> Feature:
    """One measure with the version, the arguments and the range that it has in a zoo."""
    own = table.filter(pl.col("measure") == column.name)
    has = own["version"].drop_nulls().unique() if "version" in own.columns else pl.Series([], dtype=pl.Int64)
    texts = own["arguments"].drop_nulls().unique() if "arguments" in own.columns else pl.Series([], dtype=pl.String)
    if len(has) > 1 or len(texts) > 1:
        raise InputError(
            f"the networks of the zoo were measured by {column.name} in more than one way; measure them all anew with the same arguments."
        )
    version = has[0] if len(has) else _version(column.name)
    arguments = json.loads(texts[0]) if len(texts) else {}
    return Feature(column.name, version, arguments, bool(column.logarithm), float(values.min()), float(values.max()))


def _version(measure: str) -> int:
    """The version of a measure, or of the statistics of margins, here."""
    return MARGIN_VERSION if measure in MARGINS else MEASURES[measure].version if measure in MEASURES else 0


def check_features(features: Iterable[Feature], where: str) -> None:
    """Raise for a measure that there is not here, or that gives other numbers here than where the zoo was measured."""
    for feature in features:
        if feature.measure not in MEASURES and feature.measure not in MARGINS:
            raise InputError(
                f"{where}: it needs the measure {feature.measure!r}, which this version does not have; fit it anew with "
                "`shaketable zoo fit`, or use the version of shaketable that wrote it."
            )
        if feature.version != _version(feature.measure):
            raise InputError(
                f"{where}: it was fitted on version {feature.version} of {feature.measure}, and this is version "
                f"{_version(feature.measure)}; measure the zoo anew and fit again."
            )


def values_of(study: Study, features: Sequence[Feature]) -> np.ndarray:
    """The measures of one network [p], as the estimator looks at them.

    Raises:
        InputError: one that cannot be taken of this network, with the reason.
    """
    margins = margin_statistics(study) if any(one.measure in MARGINS for one in features) else {}
    found = []
    for feature in features:
        if feature.measure in margins:
            value = margins[feature.measure]
            row = {"value": value, "log10": math.log10(value) if value > 0 else None, "reason": None}
        else:
            row = measured_row(study, feature.measure, feature.arguments)
        value = row["log10"] if feature.logarithm else row["value"]
        if value is None or not math.isfinite(value):
            reason = row["reason"] or f"it came out as {value}"
            raise InputError(
                f"{feature.measure} of this network is not to be had, and without it there is no estimate: {reason}."
            )
        found.append(value)
    return np.array(found, dtype=np.float64)


def margin_statistics(study: Study) -> dict[str, float]:
    """The statistics of the normalised margins at four layers, :data:`MARGINS`; see :func:`shaketable.measures.normalised_margins`.

    Args:
        study: with training data.

    Returns: by name; ``margin1_...`` is at the network's input, ``margin4_...`` at that of its last linear layer.

    Raises:
        InputError: a network of which margins cannot be taken.

    Cost: a forward and a backward pass over 1,000 training examples.

    Deviates: Jiang et al. take hidden layers by hand; here they are evenly spaced over the linear layers.

    Example:
        >>> import torch
        >>> study = Study(torch.nn.Linear(2, 2).eval(), final={"weight": torch.eye(2), "bias": torch.zeros(2)},
        ...               train=(torch.tensor([[2.0, 0], [0, 2]]), [0, 1]))
        >>> round(margin_statistics(study)["margin1_median"], 6)
        1.0

    References: Jiang, Krishnan, Mobahi, Bengio, "Predicting the generalization gap in deep networks with margin
        distributions", 2019, section 3.
    """
    try:
        table = normalised_margins(study)
    except Unavailable as error:
        raise InputError(f"the margins of this network are not to be had: {error}.") from error
    places = np.linspace(0, len(table) - 1, PLACES).round().astype(int).tolist()
    rows = [table.row(place, named=True) for place in places]
    return {
        f"margin{number}_{statistic}": row[statistic] for number, row in enumerate(rows, 1) for statistic in STATISTICS
    }


def with_margins(zoo: Zoo, data_root: str | Path | None = None, device: str = "cpu") -> pl.DataFrame:
    """The table of a zoo with the statistics of margins of each network beside its measures.

    They are kept in the zoo's folder, for the weights that they are of, and not taken twice.

    Args:
        zoo: with trained networks.
        data_root, device: as for :func:`shaketable.zoo.measure`.

    Returns: the zoo's table with 20 rows more a network; where margins cannot be taken, one with the reason.
    """
    table, kept = zoo.table(), zoo.table_path.with_name("margins.parquet")
    own = ("network", "weights", "measure", "version", "value", "status", "reason")
    types = {name: table.schema[name] for name in own}
    found = pl.read_parquet(kept) if kept.is_file() else pl.DataFrame(schema=types)
    there = set(found.filter(pl.col("version") == MARGIN_VERSION).select("network", "weights").rows())
    networks = table.filter(pl.col("weights").is_not_null()).unique("network", maintain_order=True)
    left = [row for row in networks.select("network", "weights").rows() if row not in there]
    with progress("margins", len(networks), len(networks) - len(left)) as advance:
        for network, weights in left:
            facts = {"network": network, "weights": weights, "version": MARGIN_VERSION}
            try:
                values = margin_statistics(Study.from_run(zoo.runs / network, data_root, device))
                rows = [facts | {"measure": name, "value": value, "status": "ok"} for name, value in values.items()]
            except InputError as error:
                rows = [facts | {"measure": name, "status": "unavailable", "reason": str(error)} for name in MARGINS]
            found = pl.concat([found, pl.DataFrame(rows, schema=types)])
            write_atomically(kept, found.write_parquet)
            advance(1, network)
    added = found.join(networks.select("network", "weights"), on=["network", "weights"], how="semi")
    same = networks.drop(
        "weights", "measure", "version", "value", "status", "reason", "log10", "arguments", "direction"
    )
    return pl.concat([table, added.join(same, on="network").select(pl.exclude("result"))], how="diagonal")


def architecture(recipe: Recipe) -> str:
    """A network as text: its name, and the arguments that change what it is.

    Example:
        >>> architecture(Recipe(network="vgg16-bn", network_args={"width": 0.125, "dropout": 0.5}))
        'vgg16-bn (width 0.125)'
    """
    arguments = {key: value for key, value in sorted(recipe.network_args.items()) if key not in NOT_ARCHITECTURE}
    told = ", ".join(f"{key} {value}" for key, value in arguments.items())
    return f"{recipe.network} ({told})" if told else recipe.network


def data_set(recipe: Recipe) -> str:
    """The data of a recipe as text: the name, and how many examples it is trained on where that is not all.

    Example:
        >>> data_set(Recipe(data="cifar10", data_args={"train_examples": 1000}))
        'cifar10 (1000 training examples)'
    """
    count = recipe.data_args.get("train_examples")
    return f"{recipe.data} ({count} training examples)" if count else recipe.data


def covered(recipes: Mapping[str, Recipe], networks: Iterable[str]) -> dict[str, list[str]]:
    """The architectures and data sets of some networks, each once."""
    chosen = [recipes[network] for network in networks if network in recipes]
    return {
        "architectures": sorted({architecture(recipe) for recipe in chosen}),
        "data": sorted({data_set(recipe) for recipe in chosen}),
    }
