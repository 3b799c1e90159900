"""Figures, tables and page of the sparsity study: made of what was measured, and of nothing else."""

import json

import numpy as np
import polars as pl
import pytest
from studies.common import options
from studies.sparsity_zoo import models, plan

from shaketable import zoo
from shaketable.estimators import MARGINS
from shaketable.training import Recipe
from shaketable.zoo import Plan
from studies import sparsity_figures as study
from studies import sparsity_page


@pytest.fixture(scope="module")
def recipes():
    """The networks of the small zoo, by their names; none is trained."""
    return {entry.name: entry.recipe for entry in plan("small").networks}


@pytest.fixture(scope="module")
def table(recipes):
    """A table as the zoo's would be: the gap is 2 zeta - kappa and some noise; the second network did not learn its data."""
    generator = np.random.default_rng(0)
    rows = []
    for number, name in enumerate(recipes):
        values = {measure: generator.uniform() for measure in (*study.OTHERS, *MARGINS)}
        gap = 2 * values["zeta"] - values["kappa"] + 0.02 * generator.normal()
        facts = {"network": name, "gap": gap, "train_error": 0.5 if number == 6 else 0.01}
        rows += [facts | {"measure": measure, "value": value} for measure, value in values.items()]
    return pl.DataFrame(rows)


def options_in(folder):
    """The options of the study, for results in a folder."""
    return options("sparsity_figures", "", ["--out", str(folder / "sparsity"), "--runs", str(folder)], study.PARTS)


@pytest.fixture
def chosen(tmp_path):
    return options_in(tmp_path)


@pytest.fixture(scope="module")
def made(table, recipes, tmp_path_factory):
    """Figure 3 and the tables, made once, on few splits: the folder, and what was said of each."""
    where = options_in(tmp_path_factory.mktemp("results"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "SPLITS", 3)
        patch.setattr(study, "FEWER", 1)
        return where.out, {part: study.MADE[part](None, table, recipes, where) for part in ("3", "tables")}


def test_networks_that_did_not_learn_and_models_on_other_data_stay_out(table, recipes):
    own = study.learnt(table, recipes, "vgg16")
    assert own["network"].n_unique() == 36 - 1
    assert not set(own["network"]) & {recipe.folder_name for recipe in models(small=True)}
    assert study.learnt(table, recipes, "mobilenet")["network"].n_unique() == 12


def test_the_table_has_every_estimator_of_every_architecture_or_the_reason_why_not(table, recipes, made):
    folder, facts = made
    found = pl.read_csv(folder / "estimates.csv")
    assert len(found) == 3 * len(study.ESTIMATORS)
    vgg = found.row(
        by_predicate=(pl.col("architecture") == "vgg16") & (pl.col("estimator") == "zeta, kappa"), named=True
    )
    assert vgg["pearson"] > 0.99
    assert vgg["error"] == pytest.approx(0.02, rel=0.4)
    assert vgg["paper"].startswith("0.979; 0.023")
    reasons = found.filter(architecture="mobilenet", estimator="margins")["reason"]
    assert "11 networks are too few to fit 21 coefficients" in reasons[0]
    assert facts["tables"]["counts"]["vgg16"] == {
        "trained": 36, "learnt": 35,
        **dict(zip(("lowest", "highest"), study.learnt(table, recipes, "vgg16").select(pl.min("gap"), high=pl.max("gap")).row(0))),
        "error_of_the_mean": pytest.approx(study.learnt(table, recipes, "vgg16").unique("network")["gap"].std(), rel=0.03),
    }  # fmt: skip
    gaps = [0.1, 0.2, 0.6]
    missed = [gap - sum(other for other in gaps if other != gap) / 2 for gap in gaps]
    assert study.error_of_the_mean(gaps) == pytest.approx(np.sqrt(np.mean(np.square(missed))))


@pytest.mark.parametrize(
    ("zeta", "kappa", "said"),
    [
        (0.5, -0.5, "Both go the paper's way."),
        (0.5, 0.5, "**Only zeta goes the paper's way.**"),
        (-0.5, -0.5, "**Only kappa goes the paper's way.**"),
        (-0.5, 0.5, "**Both go against the paper.**"),
    ],
)
def test_the_page_says_whether_the_quantities_go_the_papers_way(zeta, kappa, said, tmp_path):
    facts = {"setting": "full", "shaketable": "0", "torch": "0", "3": {"networks": 9, "zeta": zeta, "kappa": kappa}}
    facts["2"] = {"means": [{"corruption": c, "zeta": c * zeta, "kappa": c * kappa} for c in (0.0, 1.0)]}
    (tmp_path / "sparsity").mkdir()
    (tmp_path / "sparsity" / "figures.json").write_text(json.dumps(facts))
    page = sparsity_page.write_page(tmp_path / "sparsity").read_text()
    assert f"From 0.0 to 1.0: {said}" in page
    assert f"Pearson with the gap zeta {zeta:.3f}, kappa {kappa:.3f}. {said}" in page


def test_the_page_names_the_best_estimator_and_where_margins_beat_the_two_quantities(tmp_path):
    one = {"architecture": "vgg16"}
    rows = [
        one | {"estimator": n, "error": e, "pearson": p}
        for n, e, p in (("zeta, kappa", 0.2, 0.6), ("margins", 0.1, 0.9))
    ]
    counts = {"vgg16": {"trained": 9, "learnt": 9, "lowest": 0.1, "highest": 0.9, "error_of_the_mean": 0.15}}
    (tmp_path / "sparsity").mkdir()
    (tmp_path / "sparsity" / "estimates.md").write_text("")

    def page() -> str:
        facts = {"setting": "full", "shaketable": "0", "torch": "0", "tables": {"counts": counts, "estimators": rows}}
        (tmp_path / "sparsity" / "figures.json").write_text(json.dumps(facts))
        return sparsity_page.write_page(tmp_path / "sparsity").read_text()

    assert "that of margins (0.100), below that of the mean gap (0.150). Margins have a higher Pearson" in page()
    assert "and a lower error on held-out networks." in page()
    rows[1] |= {"error": 0.3, "pearson": 0.5}
    assert (
        "that of zeta, kappa (0.200), **not below** that of the mean gap (0.150). Margins have a lower Pearson"
        in page()
    )


def test_figure_3_tells_the_correlation_of_each_quantity_with_the_gap(table, recipes, made):
    folder, facts = made
    points = study.wide(study.learnt(table, recipes, "vgg16"))
    assert facts["3"]["zeta"] == pytest.approx(np.corrcoef(points["zeta"], points["gap"])[0, 1])
    assert {file.stem for file in folder.glob("*.png")} == {
        *("figure3a", "figure3b-zeta", "figure3b-kappa", "figure3c", "figure3d", "figure3e")
    }


def test_curves_are_drawn_of_the_networks_that_there_are_and_the_others_left_out(chosen, tmp_path, capsys):
    base = Recipe(network="fcn-1x16", epochs=5, data_args={"train_examples": 200, "test_examples": 50})
    made = zoo.run(Plan.grid(base, {"seed": [0]}), tmp_path / "zoo")
    networks = {"there": base.replace(seed=0), "missing": base.replace(seed=1)}
    found = study.curves(made, chosen, networks, "9", "corruption")
    assert found["corruption"].unique().to_list() == ["there"]
    assert len(found) == 10
    assert found["zeta"].is_between(0, 1).all()
    assert (chosen.out / "figure9a-there.png").is_file()
    assert "corruption missing: left out" in capsys.readouterr().err


def test_the_page_has_what_was_made_and_nothing_else(made):
    folder, facts = made
    said = {part: one | {"command": "python -m it"} for part, one in facts.items()}
    (folder / "figures.json").write_text(json.dumps({**said, "2": {}, "setting": "small", **study.versions()}))
    text = sparsity_page.write_page(folder).read_text()
    assert (folder / "estimates.md").read_text().strip() in text
    assert "## Figure 3" in text
    assert "Figure 4: models" not in text
    assert "](sparsity/figure3b-kappa.png)" in text
    assert "- vgg16: 36 trained, 35 of them" in text
    assert text.count("python -m it") == 1
