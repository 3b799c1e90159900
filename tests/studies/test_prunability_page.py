"""The page of the prunability paper: its claims from tables whose answers are known, and that it has all tables."""

import json
from pathlib import Path

import polars as pl
import pytest
from studies.double_descent import MEASURES
from studies.prunability_margins import BEST, FITTED
from studies.prunability_tables import COMPARED

from studies import prunability_page, prunability_zoo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the two studies write, where the paper is right in everything."""
    taus = {FITTED: 0.8, BEST: 0.65, "prunability": 0.6, "sum_of_training_losses": 0.55, "random_prunability": 0.5}
    taus |= {"sum_of_frobenius_norms": -0.4}
    rows = [
        {
            "measure": name,
            "tau": taus.get(name, 0.1),
            "tau_stderr": 0.05,
            "information": 0.4 if name in (FITTED, BEST) else 0.1,
        }
        for name in COMPARED
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "ranking.csv")
    pl.DataFrame({"measure": ["sum_of_frobenius_norms"], "axis": [prunability_page.DROPOUT], "tau": [-0.9]}).write_csv(
        tmp_path / "axes.csv"
    )
    related = [
        {"measure": "prunability", "other": name, "information": 0.3 if name == prunability_page.FLAT else 0.2}
        for name in COMPARED
        if name != "prunability"
    ]
    pl.DataFrame(related).write_csv(tmp_path / "relations.csv")
    double = [{"measure": name, "tau": 0.4 if name == "prunability" else 0.2} for name in MEASURES]
    pl.DataFrame(double).write_csv(tmp_path / "double-descent-cnn5-ranking.csv")
    losses = {("pruning", 0.0): 1.0, ("pruning", 0.5): 0.9, ("noise", 0.5): 1.1}
    curve = [
        {
            "split": split,
            "sparsity": s,
            "perturbation": how,
            "loss": 2.0 if (split, how, s) == ("train", "pruning", 0.5) else loss,
        }
        for split in ("train", "test")
        for (how, s), loss in losses.items()
    ]
    pl.DataFrame(curve).write_csv(tmp_path / "pruning-cnn5.csv")
    pl.DataFrame({"gap": [0.1, 0.5], "train_error": [0.0, 0.5]}).write_csv(tmp_path / "networks.csv")
    pl.DataFrame({"measure": ["prunability"], "seconds": [12.0]}).write_csv(tmp_path / "seconds.csv")
    base = prunability_zoo.SMALL.to_dict()
    fit = {"variables": 15, "networks": 2, "best": "head median"}
    times = {"training_seconds": 600, "measuring_seconds": 300}
    zoo = {
        "base": base,
        "measuring_seconds": 300,
        "axes": {"blocks": ["2", "3"]},
        "arguments": {"x": {"draws": 3}},
        "left_out": [],
        "torch": "2",
        "threads": 1,
    }
    (tmp_path / "zoo.json").write_text(json.dumps(zoo | {"normalised_margins": fit}))
    cnn = {"base": base, "networks": 10, "compared": 16, **times}
    (tmp_path / "double-descent.json").write_text(json.dumps({"cnn5": cnn}))
    for name in prunability_page.PARTS:
        (tmp_path / f"{name}.md").write_text(f"| {name} |\n|---|\n| 1 |\n")
    return tmp_path


def test_every_claim_that_the_numbers_bear_out_agrees(folder: Path):
    assert {row[2] for row in prunability_page.claims(folder)} == {"yes"}


@pytest.mark.parametrize(
    ("file", "changes", "place"),
    [
        ("ranking.csv", {"prunability": {"tau": 0.05}}, (0, 1, 2, 4, 6)),
        ("ranking.csv", {FITTED: {"information": 0.0}}, (5,)),
        ("ranking.csv", {"sum_of_frobenius_norms": {"tau": 0.2}}, (7,)),
        ("double-descent-cnn5-ranking.csv", {"training_loss": {"tau": 0.5}}, (9,)),
    ],
)
def test_a_claim_that_they_do_not_bear_out_does_not(folder: Path, file, changes, place):
    table = pl.read_csv(folder / file)
    for name, values in changes.items():
        for column, value in values.items():
            new = pl.when(pl.col("measure") == name).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)
            table = table.with_columns(new)
    table.write_csv(folder / file)
    found = [number for number, row in enumerate(prunability_page.claims(folder)) if row[2] != "yes"]
    assert found == list(place)


def test_the_page_has_every_table(folder: Path):
    prunability_page.main(["--folder", str(folder)])
    text = (folder.parent / f"{folder.name}.md").read_text()
    assert all(f"| {name} |" in text for name in prunability_page.PARTS)
    assert "Gaps go from 0.10 to 0.50" in text


def test_the_page_that_is_there_is_what_the_studies_wrote():
    folder = Path(__file__).parents[2] / prunability_page.FOLDER
    path = folder.parent / f"{folder.name}.md"
    assert path.read_text(encoding="utf-8") == prunability_page.page(folder)
