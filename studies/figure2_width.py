"""Figure 2 of Zhang, Bengio, Singer, "Are All Layers Created Equal?": width against the robustness of the upper layers.

For each network: the mean over all layers but the first of the error with that layer re-initialised to checkpoint 0,
minus the error of the network as it is. For each data set, depth and width: mean and standard deviation over seeds.

The small setting has 5,000 training images and 20 epochs, its milestones in proportion; all test images.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import polars as pl

from shaketable.files import write_text
from shaketable.probes import Robustness
from shaketable.training import Recipe
from studies.common import Options, Setting, markdown, options, probe, write_facts, write_figure, write_table

TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
AUGMENTATION = {"mnist": (), "cifar10": ("pad-crop:4", "flip")}
RATES = {"mnist": 0.1, "cifar10": 0.01}  # the paper prints none


def recipes(data: str, widths: Iterable[int], **fields: Any) -> list[Recipe]:
    """Depths 3 and 5, these widths, five seeds; only the first and the last weights are kept."""
    common = {
        "data": data,
        "learning_rate": RATES[data],
        "augmentation": AUGMENTATION[data],
        "checkpoints": (0,),
        "evaluate_every": 100,
    }
    return [
        Recipe(network=f"fcn-{depth}x{width}", seed=seed, **common, **fields)
        for width in widths
        for depth in (3, 5)
        for seed in range(5)
    ]


SLICE = {"data_args": {"train_examples": 5000}, "epochs": 20, "milestones": (6, 12, 18)}
WIDTHS = (64, 128, 256, 512, 1024, 2048)  # the paper's text prints no list
SETTINGS = {
    "small": Setting(
        recipes("mnist", (8, 32, 128, 512), **SLICE) + recipes("cifar10", (8, 32, 128, 512), **SLICE),
        draws=0,
        checkpoints=(0,),
    ),
    "full": Setting(recipes("mnist", WIDTHS) + recipes("cifar10", WIDTHS), draws=0, checkpoints=(0,)),
}


def average_drop(result: Robustness) -> float:
    """The mean over all layers but the first of the error they add when re-initialised to checkpoint 0."""
    reset = (pl.col("perturbation") == "reinitialise") & (pl.col("checkpoint") == 0) & (pl.col("position") > 0)
    return float(result.table.filter(reset, pl.col("split") == "test")["accuracy_drop"].to_numpy().mean())


def final_error(result: Robustness) -> float:
    """The test error of the network as it was trained."""
    whole = (pl.col("position") < 0) & (pl.col("checkpoint") == result.provenance["final_checkpoint"])
    return result.table.filter(whole, pl.col("split") == "test")["error"].item()


def run_table(results: Iterable[Robustness]) -> pl.DataFrame:
    """One row a network: data, depth, width, seed, its test error, and what a reset adds on average."""
    rows = []
    for result in results:
        recipe = result.provenance["recipe"]
        depth, width = recipe["network"].removeprefix("fcn-").split("x")
        rows.append(
            {
                "data": recipe["data"],
                "depth": int(depth),
                "width": int(width),
                "seed": recipe["seed"],
                "final_error": final_error(result),
                "average_drop": average_drop(result),
            }
        )
    return pl.DataFrame(rows)


def bar_table(runs: pl.DataFrame) -> pl.DataFrame:
    """One row a bar: mean over seeds of the two numbers, and their standard deviations (divisor seeds - 1)."""
    means = [pl.col(name).mean() for name in ("final_error", "average_drop")]
    spreads = [pl.col(name).std(ddof=1).alias(f"{name}_std") for name in ("final_error", "average_drop")]
    bars = runs.group_by("data", "depth", "width").agg(pl.len().alias("seeds"), *means, *spreads)
    return bars.with_columns((pl.col("final_error") + pl.col("average_drop")).alias("reset_error")).sort(
        pl.col("data") != "mnist", "depth", "width"
    )


def bar_chart(bars: pl.DataFrame) -> alt.HConcatChart:
    """One panel a data set and depth: from the network's error up to the error with a layer reset."""
    panels = []
    for (data, depth), part in bars.group_by("data", "depth", maintain_order=True):
        base = alt.Chart(
            {"values": part.to_dicts()}, title=f"{TITLES.get(str(data), data)}, FCN {depth} x width"
        ).transform_calculate(
            low="datum.reset_error - datum.average_drop_std", high="datum.reset_error + datum.average_drop_std"
        )
        x = alt.X("width:O", title="width", axis=alt.Axis(labelAngle=0))
        scale = alt.Scale(domain=[0, 1])
        y = alt.Y("final_error:Q", title="test error", axis=alt.Axis(format="%"), scale=scale)
        bar = base.mark_bar(color="#56b4e9").encode(x=x, y=y, y2="reset_error:Q")
        spread = base.mark_rule(strokeWidth=1.5).encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q")
        panels.append(alt.layer(bar, spread).properties(width=40 * len(part), height=220))
    return alt.hconcat(*panels)


def study(setting: Setting, chosen: Options) -> None:
    """Train, probe, write."""
    results = probe(setting, chosen)
    runs = run_table(results)
    bars = bar_table(runs)
    write_table(runs, chosen.out / "runs.csv")
    write_table(bars, chosen.out / "bars.csv")
    write_figure(bar_chart(bars), chosen.out, "width")
    rows = [
        [
            TITLES.get(row["data"], row["data"]),
            *(str(row[name]) for name in ("depth", "width", "seeds")),
            _percent(row["final_error"], row["final_error_std"]),
            f"{100 * row['reset_error']:.1f}",
            _percent(row["average_drop"], row["average_drop_std"]),
        ]
        for row in bars.to_dicts()
    ]
    columns = ["data", "depth", "width", "seeds", "test error, %", "with one layer reset, %", "added by the reset, %"]
    write_text(chosen.out / "table.md", markdown(columns, rows))
    write_facts(results, chosen)


def _percent(mean: float, spread: float | None) -> str:
    return f"{100 * mean:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    chosen = options("figure2_width", __doc__.partition("\n")[0], arguments)
    study(SETTINGS[chosen.setting], chosen)


if __name__ == "__main__":
    main()
