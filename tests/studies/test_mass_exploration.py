"""The exploration of NN-Mass: its plans, tables by hand, and a toy from training to figures."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from studies.common import Options
from studies.mass_tables import design_markdown, design_table, scatter, unseen_scatter, verdict_markdown, verdict_table

from shaketable.statistics import kendall_tau, r2
from shaketable.topology import Cell, nn_density, nn_mass
from studies import mass_exploration, mass_page

DESIGNS = (
    "linked-4x4t2-4x8t3",
    "linked-4x4t8-4x8t16",
    "linked-5x4t2-5x8t4",
    "linked-5x4t9-5x8t20",
    "linked-6x4t8-6x8t8",
)


def zoo() -> pl.DataFrame:
    """Two seeds of each design, whose accuracy is a line in the logarithm of mass, a little off."""
    rows = []
    for number, name in enumerate(DESIGNS):
        mass = nn_mass([Cell(*map(int, part.replace("t", "x").split("x"))) for part in name.split("-")[1:]])
        for seed in (0, 1):
            common = {
                "network": f"{name}-{seed}",
                "hp_network": name,
                "hp_seed": seed,
                "test_error": 0.9 - 0.1 * math.log(mass) + 0.01 * seed,
                "training_seconds": 1.0,
                "seconds": 0.5,
                "status": "ok",
            }
            rows.append(common | {"measure": "nn_mass", "value": mass, "log10": math.log10(mass)})
            rows.append(common | {"measure": "synflow_at_init", "value": None, "log10": 2.0 + number})
    return pl.DataFrame(rows)


def test_the_full_setting_is_the_papers_and_the_small_one_is_large_enough():
    groups = {group.name: group for group in mass_exploration.SETTINGS["full"]}
    assert len(mass_exploration.plan(groups["CIFAR-10, width 2"])) == 3 * (20 + 20)
    assert [len(mass_exploration.plan(groups[f"CIFAR-10, width {w}"])) for w in (1, 3)] == [60, 60]
    recipe = groups["CIFAR-10, width 2"].base
    assert (recipe.schedule, recipe.learning_rate, recipe.epochs) == ("cosine", 0.05, 200)
    assert any(step.startswith("cutout") for step in recipe.augmentation)
    assert [math.floor(nn_mass(design)) for design in groups["CIFAR-10, table 1"].designs] == [1126, 622, 755, 813, 856]
    assert groups["CIFAR-10, table 1"].base.epochs == 600
    (small,) = mass_exploration.SETTINGS["small"]
    assert len(small.designs) >= 24
    assert len(mass_exploration.plan(small)) == 3 * len(small.designs)


def test_designs_of_other_widths_come_near_the_densities_of_table_2():
    for width in (1, 3):
        wanted = [density for _ in mass_exploration.TABLE_2 for density in mass_exploration.DENSITIES]
        found = [nn_density(design) for design in mass_exploration.printed(width)]
        assert np.abs(np.array(found) - wanted).max() < 0.01


def test_a_row_of_a_design_is_the_mean_over_seeds_with_its_closed_forms():
    found = design_table(zoo()).row(by_predicate=pl.col("hp_network") == DESIGNS[0], named=True)
    assert found["depth"] == 16
    assert found["seeds"] == 2
    assert found["accuracy"] == pytest.approx(1 - 0.9 + 0.1 * math.log(found["nn_mass_exact"]) - 0.005)
    assert found["nn_mass"] == pytest.approx(found["nn_mass_exact"])
    assert found["synflow_at_init"] == pytest.approx(100.0)


def test_predictors_are_judged_by_r2_tau_and_unseen_depths():
    designs = design_table(zoo())
    verdict = verdict_table(designs, (), {"nn_mass": 0.5})
    rows = {row["predictor"]: row for row in verdict.to_dicts()}
    assert verdict["predictor"][0] == "NN-Mass"
    assert rows["NN-Mass"]["r2"] == pytest.approx(1)
    assert rows["NN-Mass"]["unseen_r2"] == pytest.approx(1)
    assert (rows["NN-Mass"]["tau"], rows["NN-Mass"]["seconds"]) == (1.0, 0.5)
    flops, accuracy = np.log(designs["flops"].to_numpy()), designs["accuracy"].to_numpy()
    assert rows["FLOPs"]["r2"] == pytest.approx(r2(flops, accuracy))
    assert rows["FLOPs"]["tau"] == pytest.approx(kendall_tau(flops, accuracy))
    assert rows["NASWOT"]["r2"] is None
    assert "no NASWOT" in rows["NASWOT"]["reason"]
    assert len(verdict_markdown(verdict, 5).splitlines()) == 2 + len(verdict)
    assert len(design_markdown(designs).splitlines()) == 2 + len(designs)


def test_depths_that_were_not_fitted_on_are_predicted_by_the_others_alone():
    designs = design_table(zoo())
    verdict = verdict_table(designs, [16], {})
    fitted = designs.filter(pl.col("depth") != 16)
    expected = r2(np.log(fitted["flops"].to_numpy()), fitted["accuracy"].to_numpy())
    assert verdict.filter(predictor="FLOPs")["r2"].item() == pytest.approx(expected)
    drawn = unseen_scatter(designs, [16]).to_dict()
    assert {row["layers"] for rows in drawn["datasets"].values() for row in rows if "layers" in row} == {"16"}


def test_a_figure_has_a_point_a_design_and_its_line():
    drawn = scatter(design_table(zoo()), "nn_mass_exact", "NN-Mass", line=True).to_dict()
    assert sorted(len(rows) for rows in drawn["datasets"].values()) == [2, 5]


def test_the_page_is_what_the_study_writes_now():
    here = Path(__file__).parents[2] / "docs" / "results"
    slugs = [mass_exploration.slug(group) for groups in mass_exploration.SETTINGS.values() for group in groups]
    text = mass_page.page(here / "nn-mass", mass_exploration.TABLE_2, slugs)
    assert (here / "nn-mass.md").read_text(encoding="utf-8") == text
    for printed in ("1126.55 (1126)", "11.896 M (11.89 M)", "3.634 G (3.63 G)"):
        assert printed in text


@pytest.mark.slow
def test_a_toy_runs_from_training_to_figures(tmp_path, monkeypatch):
    base = mass_exploration.SMALL.changed(
        data="digits", data_args={"train_examples": 300, "test_examples": 100}, epochs=2, batch_size=10, augmentation=()
    )
    designs = tuple(mass_exploration.cells(d, (4, 8), one) for d in (4, 5, 6) for one in (0.3, 0.8))
    group = mass_exploration.Group("a toy", designs, base)
    monkeypatch.setattr(mass_exploration, "SEEDS", (0, 1))
    chosen = Options("small", None, tmp_path / "out", tmp_path / "runs", "cpu", "a toy")
    zoo = mass_exploration.zoo_of(group, chosen)
    mass_exploration.measure(zoo, mass_exploration.MEASURES)
    mass_exploration.write(group, zoo, chosen)
    text = mass_page.page(chosen.out, mass_exploration.TABLE_2, ["a-toy"])
    assert "6 designs, 2 seeds each; digits, 300 training and 100 test images, 2 epochs" in text
    assert "None yet" not in text
    out = tmp_path / "out" / "a-toy"
    found = pl.read_csv(out / "designs.csv")
    assert len(found) == 6
    assert found["nn_mass"].to_list() == pytest.approx(found["nn_mass_exact"].to_list())
    assert found["number_of_parameters"].to_list() != found["parameters"].to_list()  # digits are 8x8 and grey
    assert json.loads((out / "results.json").read_text())["networks"] == 12
    assert len(list(out.glob("*.png"))) == 6


@pytest.mark.slow
def test_contributions_are_compared_over_seeds(tmp_path, monkeypatch):
    base = mass_exploration.CONTRIBUTIONS["small"].changed(
        data="digits", data_args={"train_examples": 300, "test_examples": 100}, epochs=2, batch_size=10, augmentation=()
    )
    monkeypatch.setitem(mass_exploration.CONTRIBUTIONS, "small", base)
    chosen = Options("small", None, tmp_path / "out", tmp_path / "runs", "cpu", "a toy")
    mass_exploration.contributions(chosen)
    found = pl.read_csv(tmp_path / "out" / "contributions.csv")
    assert set(found["hp_network_args.contributions"]) == {"random", "constant", "ones"}
    assert found["seeds"].to_list() == [3, 3, 3]
