"""Table 2 of Zhang, Bengio, Singer, "Are All Layers Created Equal?": randomised classifiers under FGSM and PGD.

ResN(4^2) and ResN(4^4) on CIFAR-10, r = 4 weight sets a block, s stages randomised at each inference. The paper prints no
budget, number of steps, step size or learning rate: 8/255, 20, 2/255 and 0.01 are ours. Beside its attacker, who takes one
random answer for the network's own, each attack is run with gradients averaged over draws. This is no defense.

The small setting has a quarter of the channels, the strided first layers of ImageNet networks, a slice of the data and fewer
attacked examples and steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from shaketable.defense import attack_summary, attacked
from shaketable.files import write_text
from shaketable.study import Study
from shaketable.training import Recipe, Run
from studies.common import Options, markdown, options, trained, write_facts, write_table
from studies.figure3_4_convolutional import recipe
from studies.table1_frozen import narrow

STAGES = {"resn-4-4": (1, 2), "resn-4-4-4-4": (1, 2, 4)}
# Mean and standard deviation in per cent: clean, FGSM, PGD.
PRINTED: Mapping[tuple[str, str], tuple[str, str, str]] = {
    ("resn-4-4", "baseline"): ("91.05 ± 0.00", "12.75 ± 0.04", "0.33 ± 0.16"),
    ("resn-4-4", "r=4, s=1"): ("89.45 ± 0.13", "69.85 ± 1.60", "6.71 ± 0.37"),
    ("resn-4-4", "r=4, s=2"): ("87.70 ± 0.25", "71.18 ± 0.49", "9.65 ± 0.27"),
    ("resn-4-4-4-4", "baseline"): ("90.08 ± 0.00", "8.45 ± 0.00", "0.00 ± 0.00"),
    ("resn-4-4-4-4", "r=4, s=1"): ("89.64 ± 0.12", "62.76 ± 1.09", "2.60 ± 0.26"),
    ("resn-4-4-4-4", "r=4, s=2"): ("89.13 ± 0.13", "67.20 ± 0.63", "3.56 ± 0.48"),
    ("resn-4-4-4-4", "r=4, s=4"): ("88.24 ± 0.18", "69.09 ± 1.59", "5.60 ± 0.53"),
}


@dataclass(frozen=True)
class Setting:
    """What is trained, and how it is attacked."""

    recipes: Sequence[Recipe]
    examples: int = 1000
    repeats: int = 5
    gradient_draws: tuple[int, ...] = (1, 10)
    r: int = 4
    eps: float = 8 / 255
    steps: int = 20
    step_size: float = 2 / 255


SETTINGS = {
    "small": Setting(
        [narrow(name, width=0.25, checkpoints=(0,)) for name in STAGES], examples=200, gradient_draws=(1, 4), steps=10
    ),
    "full": Setting([recipe(name) for name in STAGES]),
}


def attack_rows(run: Run, setting: Setting, chosen: Options) -> pl.DataFrame:
    """All attacks on one trained network and on its randomised versions, a row per repeat."""
    result = attacked(
        Study.from_run(run.path, chosen.data_root, chosen.device),
        run.dataset(chosen.data_root).normalisation,
        r=setting.r,
        s=STAGES[run.recipe.network],
        eps=setting.eps,
        steps=setting.steps,
        step_size=setting.step_size,
        gradient_draws=setting.gradient_draws,
        examples=setting.examples,
        repeats=setting.repeats,
        store=run.path / "attack",
        command=chosen.command,
    )
    return result.table.select(pl.lit(run.recipe.network).alias("network"), pl.all())


def table_2(table: pl.DataFrame) -> str:
    """The table as the paper prints it, beside the paper's: accuracies in per cent."""
    parts = [
        attack_summary(part).with_columns(pl.lit(network).alias("network"))
        for (network,), part in table.group_by("network", maintain_order=True)
    ]
    cells = {
        (row["network"], row["model"], row["attack"], row["gradient_draws"]): f"{100 * row['accuracy']:.2f}"
        + ("" if row["accuracy_std"] is None else f" ± {100 * row['accuracy_std']:.2f}")
        + ("" if row["status"] == "ok" else f" ({row['status']})")
        for row in pl.concat(parts).to_dicts()
    }
    draws = sorted({key[3] for key in cells if key[3] is not None})
    columns = [(attack, k) for k in draws for attack in ("fgsm", "pgd")]
    titles = [f"{attack.upper()}, mean of {k} gradients" if k > 1 else attack.upper() for attack, k in columns]
    rows = []
    for network, model in dict.fromkeys(key[:2] for key in cells):
        own = [cells[network, model, "clean", None], *(cells.get((network, model, *column), "") for column in columns)]
        rows.append([network, model, *own, *PRINTED[network, model]])
    return markdown(["network", "model", "clean", *titles, "paper: clean", "paper: FGSM", "paper: PGD"], rows)


def study(setting: Setting, chosen: Options) -> None:
    """Train, attack, write ``attacks.csv``, ``table2.md`` and ``results.json``."""
    runs = trained(setting.recipes, chosen)
    table = pl.concat([attack_rows(run, setting, chosen) for run in runs])
    write_table(table, chosen.out / "attacks.csv")
    write_text(chosen.out / "table2.md", table_2(table))
    write_facts(runs, chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    chosen = options("table2_randomised", __doc__.partition("\n")[0], arguments)
    study(SETTINGS[chosen.setting], chosen)


if __name__ == "__main__":
    main()
