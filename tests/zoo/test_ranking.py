"""Which measures predict the gap: facts known in advance, and zoos that lack something."""

from itertools import product

import numpy as np
import polars as pl
import pytest

from shaketable.errors import InputError
from shaketable.statistics import conditional_mutual_information, cross_validated_r2, granulated_tau, kendall_tau, r2
from shaketable.zoo import Ranking, rank

GRID = list(product([1, 2, 3], [0.0, 0.1], [0, 1]))
"""Width, weight decay, seed."""


def made(**measures):
    """A table of twelve networks whose gap grows with the width, and otherwise at random; with some measures."""
    draws = np.random.default_rng(0)
    noise, rows = draws.normal(size=len(GRID)), []
    for number, (width, decay, seed) in enumerate(GRID):
        same = {"network": f"n{number}", "hp_width": width, "hp_weight_decay": decay, "hp_seed": seed}
        same |= {"gap": width + 0.1 * noise[number], "status": "ok", "reason": None}
        for name, measure in measures.items():
            value = measure(number, width, decay, seed, same["gap"])
            rows.append(same | {"measure": name, "value": value})
    return pl.DataFrame(rows, infer_schema_length=None)


def test_the_statistics_of_a_measure_are_those_of_the_arrays():
    draws = np.random.default_rng(1).normal(size=len(GRID))
    table = made(path_norm=lambda number, *_: draws[number] + 10)
    gap = table["gap"].to_numpy()
    every = {name: table[f"hp_{name}"].to_list() for name in ("width", "weight_decay", "seed")}
    free = {name: values for name, values in every.items() if name != "seed"}
    ranking = rank(table)
    (row,) = ranking.table.to_dicts()
    assert row["tau"] == kendall_tau(draws, gap)
    expected = granulated_tau(draws, gap, every, ["width", "weight_decay"])
    assert (row["psi"], row["psi_stderr"]) == (expected.psi, expected.psi_stderr)
    assert dict(ranking.axes.select("axis", "tau").rows()) == expected.axes
    assert row["information"] == conditional_mutual_information(draws, gap, free).value
    assert row["adjusted_r2"] == pytest.approx(r2(draws, gap, adjusted=True))
    assert row["cross_validated_r2"] == pytest.approx(cross_validated_r2(draws, gap, 10).value)
    assert (row["networks"], row["missing"], row["status"], row["reason"]) == (12, 0, "ok", None)


def test_a_measure_is_turned_by_its_direction_and_the_best_comes_first():
    ranking = rank(
        made(
            path_norm=lambda n, w, d, s, gap: -gap,
            normalised_margin=lambda n, w, d, s, gap: -gap,  # higher is better: this one predicts
            training_loss=lambda n, w, d, s, gap: w,
        )
    )
    assert ranking.table["measure"].to_list() == ["normalised_margin", "training_loss", "path_norm"]
    assert ranking.table["tau"].to_list()[::2] == [1.0, -1.0]
    assert ranking.relations.filter(measure="path_norm", other="normalised_margin")["tau"].item() == -1.0
    along = {(m, a): tau for m, a, tau in ranking.axes.select("measure", "axis", "tau").rows()}
    assert along["training_loss", "width"] == 1.0
    assert along["training_loss", "weight_decay"] == 0.0  # it cannot tell these apart


def test_a_measure_that_is_not_of_this_package_has_the_direction_that_the_table_says():
    table = made(mine=lambda n, w, d, s, gap: -gap)
    assert rank(table).table["tau"].item() == -1.0
    assert rank(table.with_columns(direction=pl.lit("higher"))).table["tau"].item() == 1.0


def test_the_gap_itself_is_no_measure_that_predicts_it_unless_asked_for():
    table = made(path_norm=lambda n, *_: float(n), generalization_error=lambda n, w, d, s, gap: gap)
    assert rank(table).table["measure"].to_list() == ["path_norm"]
    assert rank(table, ["generalization_error"]).table["tau"].item() == 1.0


def test_a_measure_missing_in_half_of_the_networks_is_ranked_on_the_others_and_says_so():
    def half(number, *rest):
        return None if number % 2 else rest[-1]

    table = made(path_norm=half, training_loss=lambda n, *_: float(n))
    table = table.with_columns(
        reason=pl.when(pl.col("value").is_null()).then(pl.lit("no such layer")).otherwise("reason")
    )
    row = rank(table, ["path_norm"]).table.row(0, named=True)
    assert (row["networks"], row["missing"], row["status"], row["tau"]) == (6, 6, "partial", 1.0)
    assert row["reason"].startswith("6 networks have no value: no such layer")
    assert rank(table).relations["networks"].to_list() == [6, 6]


def test_nan_is_a_missing_value_and_a_network_without_a_gap_is_left_out_and_counted():
    table = made(path_norm=lambda number, *rest: float("nan") if number == 3 else rest[-1])
    lacking = {"network": "n12", "gap": None, "status": "failed", "reason": "it diverged"}
    table = pl.concat([table, pl.DataFrame([lacking], schema_overrides={"gap": pl.Float64})], how="diagonal_relaxed")
    ranking = rank(table)
    row = ranking.table.row(0, named=True)
    assert (row["networks"], row["missing"], row["tau"]) == (11, 1, 1.0)
    assert ranking.provenance["left_out"] == {"it diverged": 1}
    assert ranking.provenance["networks"] == 12


def test_values_beyond_a_floats_range_and_zero_are_ranked_by_their_logarithms():
    table = made(path_norm=lambda number, *rest: None)
    logs = pl.Series("log10", [-float("inf") if n == 0 else 400.0 * table["gap"][n] for n in range(12)])
    row = rank(table.with_columns(logs)).table.row(0, named=True)
    assert row["logarithm"]
    assert (row["networks"], row["adjusted_r2"]) == (12, None)
    assert "infinite" in row["reason"]
    assert row["tau"] > 0.5


def test_a_constant_measure_has_no_tau_and_the_reason_is_told():
    row = rank(made(path_norm=lambda *_: 1.0)).table.row(0, named=True)
    assert row["tau"] is None
    assert "equal" in row["reason"]


def test_a_measure_of_one_network_has_no_verdict():
    row = rank(made(path_norm=lambda number, *_: 1.0 if number == 0 else None)).table.row(0, named=True)
    assert (row["status"], row["reason"]) == ("unavailable", "1 networks have a value")


def test_hyperparameters_that_some_networks_lack_are_compared_as_text():
    table = made(path_norm=lambda number, *rest: rest[-1])
    table = table.with_columns(hp_weight_decay=pl.when(pl.col("hp_weight_decay") > 0).then("hp_weight_decay"))
    assert set(rank(table).axes["axis"]) == {"width", "weight_decay"}


def test_a_table_whose_measure_nobody_has_is_ranked_as_unavailable():
    row = rank(made(path_norm=lambda *_: None)).table.row(0, named=True)
    assert (row["status"], row["networks"], row["missing"]) == ("unavailable", 0, 12)


def test_information_between_measures_is_there_when_asked_for():
    table = made(path_norm=lambda n, w, d, s, gap: gap, training_loss=lambda n, *_: (n * 7) % 12 * 1.0)
    assert rank(table).relations["information"].null_count() == 2
    free = {name: table.filter(measure="path_norm")[f"hp_{name}"].to_list() for name in ("width", "weight_decay")}
    x, y = (table.filter(measure=name)["value"].to_list() for name in ("path_norm", "training_loss"))
    row = rank(table, information=True).relations.filter(measure="path_norm").row(0, named=True)
    assert row["information"] == conditional_mutual_information(x, y, free).value


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        (lambda t: t.filter(pl.col("network") == "n0"), {}, "1 of 1 networks of this zoo have a gap, and two are the fewest"),
        (lambda t: t.with_columns(gap=pl.lit(float("nan"))), {}, "0 of 12 networks"),
        (lambda t: t.with_columns(measure=pl.lit(None, pl.String)), {}, "no measure to rank"),
        (lambda t: t.drop("gap"), {}, "no column 'gap'"),
        (lambda t: t.cast({"value": pl.String}), {}, "column 'value' of the table holds String"),
        (lambda t: t.cast({"gap": pl.String}), {}, "column 'gap' of the table holds String"),
        (lambda t: t.with_columns(direction=pl.lit("up")), {}, "holds 'up'; use 'lower' or 'higher'"),
        (lambda t: pl.concat([t, t]), {}, "more than one row of measure 'path_norm' for network 'n"),
        (lambda t: t, {"measures": ["path"]}, "no measure 'path'; it has path_norm"),
        (lambda t: t, {"axes": ["depth"]}, "axis 'depth' is no hyper-parameter of this zoo; it has width"),
        (lambda t: t, {"target": "test_accuracy"}, "target='test_accuracy': give one of gap"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_zoo_is_one_sentence(change, arguments, said):
    with pytest.raises(InputError) as error:
        rank(change(made(path_norm=lambda n, *_: float(n))), **arguments)
    assert said in str(error.value)


def test_a_ranking_is_saved_and_read_again(tmp_path):
    ranking = rank(made(path_norm=lambda n, *_: float(n), training_loss=lambda n, *_: -float(n)))
    ranking.save(tmp_path)
    again = Ranking.load(tmp_path)
    assert again.provenance == ranking.provenance
    for name in ("table", "axes", "relations", "points"):
        assert getattr(again, name).equals(getattr(ranking, name))
