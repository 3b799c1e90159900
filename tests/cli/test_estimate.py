"""The commands about estimators: a zoo is fitted, a run is estimated, and the report opens with it."""

import json

import pytest
from tests.cli.commands import answer, call
from tests.zoo.plans import LEARNT, tiny

from shaketable import zoo

PLAIN = ("--only", "training_loss", "--coverage", "0.8")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A zoo of twelve small networks."""
    found = zoo.run(tiny(widths=(8, 9), seeds=(0, 1, 2, 3, 5, 7), base=LEARNT), tmp_path_factory.mktemp("zoo"))
    return zoo.measure(found, ["training_loss", "path_norm"])


@pytest.fixture
def gap(made, tmp_path, capsys):
    """The file of an estimator of it."""
    assert call("zoo", "fit", made.path, *PLAIN, "--out", tmp_path / "gap.json", capsys=capsys)[0] == 0
    return tmp_path / "gap.json"


def test_a_zoo_is_fitted_and_tried_on_networks_held_out(made, tmp_path, capsys):
    arguments = (*PLAIN, "--out", tmp_path / "gap.json", "--figures", tmp_path / "figures", "--json")
    code, out, _ = call("zoo", "fit", made.path, *arguments, capsys=capsys)
    found = answer(out)
    assert code == 0
    assert (found["networks"], found["left_out"]) == (12, 0)
    assert found["error"] > 0
    assert 0 <= found["splits"]["coverage"] <= 1
    assert (tmp_path / "figures" / "estimates.svg").is_file()
    assert json.loads((tmp_path / "gap.json").read_text())["features"][0]["measure"] == "training_loss"
    code, out, _ = call("zoo", "fit", made.path, *PLAIN, "--out", tmp_path / "gap.json", capsys=capsys)
    said = " ".join(out.split())
    assert "Fitted on 12 networks (0 left out)" in said
    assert "training_loss" in said


def test_networks_that_did_not_learn_are_left_out_and_counted(made, tmp_path, capsys):
    errors = made.table().unique("network")["train_error"].sort()
    most = errors[8]
    learnt = (errors <= most).sum()
    arguments = ("--only", "training_loss", "--coverage", "0.5", "--train-error", most, "--out", tmp_path / "gap.json")
    found = answer(call("zoo", "fit", made.path, *arguments, "--json", capsys=capsys)[1])
    assert (found["networks"], found["left_out"]) == (learnt, 12 - learnt)
    assert 0 < learnt < 12


@pytest.mark.parametrize("model", ["ridge", "boosting"])
def test_other_models_and_the_table_alone_will_do(made, tmp_path, capsys, model):
    arguments = ("--only", "training_loss", "path_norm", "--model", model, "--coverage", "0.5", "--repeats", "2")
    code, out, _ = call(
        "zoo", "fit", made.table_path, *arguments, "--out", tmp_path / "gap.json", "--json", capsys=capsys
    )
    assert (code, answer(out)["networks"]) == (0, 12)


def test_margins_are_taken_from_the_folder_of_a_zoo_and_not_from_its_table(made, tmp_path, capsys):
    arguments = ("--margins", "--coverage", "0.5", "--model", "ridge", "--out", tmp_path / "gap.json")
    code, _, err = call("zoo", "fit", made.path, *arguments, capsys=capsys)
    assert code == 2
    assert "12 networks are too few to fit 21 coefficients" in err
    code, _, err = call("zoo", "fit", made.table_path, *arguments, capsys=capsys)
    assert code == 2
    assert "this table has no margins; give the folder of the zoo" in err


def test_a_run_is_estimated_and_its_report_opens_with_gap_interval_and_what_it_rests_on(made, gap, tmp_path, capsys):
    run = made.runs / made.plan.networks[0].name
    code, out, _ = call("estimate", run, "--with", gap, "--out", tmp_path, "--json", capsys=capsys)
    found = answer(out)
    assert code == 0
    assert found["low"] < found["value"] < found["high"]
    assert (found["coverage"], found["warnings"]) == (0.8, [])
    page = (tmp_path / "report.html").read_text()
    head = page[page.index("<h1>") : page.index("<section>")]
    assert (
        f"The estimated gap is {found['value']:.3f}, between {found['low']:.3f} and {found['high']:.3f} for 80%" in head
    )
    assert "It rests on 12 trained networks of known gap" in head
    assert "training_loss" in head
    again = answer(call("estimate", run, "--with", gap, "--out", tmp_path, "--json", capsys=capsys)[1])
    assert again == found


def test_a_network_outside_of_the_zoo_is_warned_of_and_with_strict_refused(trained, gap, tmp_path, capsys):
    code, out, _ = call("estimate", trained, "--with", gap, "--out", tmp_path, capsys=capsys)
    assert code == 0
    assert "The zoo had no network of the architecture fcn-2x8; it had fcn-1x8, fcn-1x9." in " ".join(out.split())
    assert "Do not rely on it" in (tmp_path / "report.html").read_text()
    code, _, err = call("estimate", trained, "--with", gap, "--out", tmp_path, "--strict", capsys=capsys)
    assert code == 2
    assert err.startswith("shaketable: no estimate: The zoo had no network of the architecture fcn-2x8")


def test_a_network_from_files_is_estimated_and_said_to_be_of_an_unknown_architecture(foreign, gap, capsys):
    arguments = ("--network", "fcn-2x8", "--final", foreign / "final.safetensors", "--data", foreign / "data.npz")
    code, out, _ = call("estimate", *arguments, "--with", gap, "--out", foreign / "out", "--json", capsys=capsys)
    assert code == 0
    assert "Whether the zoo had this architecture is not known." in answer(out)["warnings"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "magic"), "the zoo has no measure 'magic'; it has training_loss, path_norm"),
        ((), "the zoo has no measure 'zeta'"),
        (("--only", "training_loss", "--coverage", "0.99"), "12 networks are too few for an interval of coverage 0.99"),
        (("--only", "training_loss", "--coverage", "2"), "give a share between 0 and 1"),
        (("--only", "training_loss", "--train-error", "0"), "no network of this zoo has a training error of at most 0"),
        (("--only", "training_loss", "--train-error", "nan"), "--train-error nan: give a share from 0 to 1"),
        (("--only", "training_loss", "--repeats", "0"), "repeats must be at least 1"),
    ],
)
def test_what_cannot_be_fitted_is_one_sentence(made, tmp_path, capsys, arguments, message):
    code, out, err = call("zoo", "fit", made.path, *arguments, "--out", tmp_path / "gap.json", capsys=capsys)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not out


def test_a_place_that_cannot_be_written_is_one_sentence_before_anything_is_fitted(made, tmp_path, capsys):
    (tmp_path / "file").touch()
    for arguments, message in (
        (("--out", tmp_path), f"--out {tmp_path}: is a folder"),
        (("--out", tmp_path / "file" / "gap.json"), f"{tmp_path / 'file'}: is a file"),
        (("--out", tmp_path / "gap.json", "--figures", tmp_path / "file"), f"{tmp_path / 'file'}: is a file"),
    ):
        code, out, err = call("zoo", "fit", made.path, *PLAIN, *arguments, capsys=capsys)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
    assert not (tmp_path / "gap.json").exists()


def test_a_table_without_its_columns_is_one_sentence(made, tmp_path, capsys):
    for column in ("measure", "train_error"):
        made.table().drop(column).write_parquet(tmp_path / "table.parquet")
        arguments = (tmp_path / "table.parquet", *PLAIN, "--margins", "--out", tmp_path / "gap.json")
        code, _, err = call("zoo", "fit", *arguments, capsys=capsys)
        assert code == 2
        assert f"this table has no column '{column}'" in err


def test_the_file_of_an_estimator_may_be_in_the_home_folder(made, gap, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = made.runs / made.plan.networks[0].name
    code, _, err = call("estimate", run, "--with=~/gap.json", "--out", tmp_path, capsys=capsys)
    assert code == 0, err


def test_a_coverage_is_told_as_it_is_and_the_target_by_its_name(made, tmp_path, capsys):
    arguments = ("--only", "training_loss", "--target", "test_error", "--coverage", "0.475")
    code, out, _ = call("zoo", "fit", made.path, *arguments, "--out", tmp_path / "x.json", capsys=capsys)
    said = " ".join(out.split())
    assert code == 0
    assert "test error from 0." in said
    assert "intervals of 47.5% held" in said
    run = made.runs / made.plan.networks[0].name
    said = call("estimate", run, "--with", tmp_path / "x.json", "--out", tmp_path, capsys=capsys)[1]
    said = " ".join(said.split())
    assert "for 47.5% of networks like those" in said
    assert "trained networks of known test error" in said
    assert "about 47.5% lie within, and never less than 0% on average" in said


def test_fewer_networks_than_coefficients_and_a_single_gap_are_one_sentence_each(made, tmp_path, capsys):
    import polars as pl

    table = made.table()
    names = table["network"].unique(maintain_order=True)
    nan = pl.lit(float("nan"))
    frames = {
        "2 networks are too few to fit 2 coefficients": table.filter(pl.col("network").is_in(names[:2].implode())),
        "all 12 networks have the same gap, 0.25": table.with_columns(gap=pl.lit(0.25)),
        "no network of the zoo has a gap and all of training_loss": table.with_columns(value=nan, log10=nan),
    }
    for message, frame in frames.items():
        frame.write_parquet(tmp_path / "table.parquet")
        code, _, err = call(
            "zoo", "fit", tmp_path / "table.parquet", *PLAIN, "--out", tmp_path / "x.json", capsys=capsys
        )
        assert code == 2
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema": 1', '"schema": 7', "this version reads an estimator of schema 1"),
        ('"measure": "training_loss"', '"measure": "magic"', "it needs the measure 'magic'"),
        ("{", "", "cannot be read"),
    ],
)
def test_a_file_that_is_no_estimator_of_this_version_is_one_sentence(made, gap, capsys, old, new, message):
    gap.write_text(gap.read_text().replace(old, new, 1))
    code, out, err = call("estimate", made.runs / made.plan.networks[0].name, "--with", gap, capsys=capsys)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not out
