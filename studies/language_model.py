"""Figure 7 of Zhang, Bengio, Singer, "Are All Layers Created Equal?": the sub-layers of a decoder-only language model.

The paper trains 112 million parameters on LM1B, a billion words, with 30,000 SentencePiece tokens and Adam, for 20 epochs, and
prints neither learning rate nor batch size. The full setting has its network on the novels of the data root; the small one is
a network that two cores train in minutes on a part of Tiny Shakespeare. The table says accuracies per token on the test text.
"""

from collections.abc import Sequence

import polars as pl

from shaketable import plots
from shaketable.evaluate import perplexity
from shaketable.files import write_text
from shaketable.probes import Robustness
from shaketable.training import named
from studies.common import Setting, options, probe, write_figure, write_robustness

SMALL = named(
    "all-layers-equal-text",
    data_args={"vocabulary": 500, "train_examples": 1500, "test_examples": 100},
    evaluate_every=5,
    precision="bfloat16",
)
FULL = named(
    "all-layers-equal-text",
    network="decoder-12x768",
    data="novels",
    data_args={"vocabulary": 30_000, "tokens": 128},
    learning_rate=3e-4,
)
SETTINGS = {"small": Setting([SMALL], draws=2), "full": Setting([FULL])}


def perplexities(result: Robustness) -> str:
    """The perplexity of the full model at each checkpoint, in Markdown."""
    rows = result.summary().filter(pl.col("perturbation") == "none").sort("checkpoint")
    lines = [
        f"| {row['checkpoint']} | {100 * (1 - row['error']):.1f} | {perplexity(row['loss']):.1f} |\n"
        for row in rows.iter_rows(named=True)
    ]
    return "".join(["| checkpoint | accuracy per token, % | perplexity |\n| --- | --- | --- |\n", *lines])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    chosen = options("language_model", __doc__.partition("\n")[0], arguments)
    (result,) = probe(SETTINGS[chosen.setting], chosen, "module")
    write_robustness([result], [""], chosen)
    write_text(chosen.out / "perplexity.md", perplexities(result))
    losses = plots.robustness_heatmap(result.summary(), "test", "loss")  # most tokens are wrong: errors look alike
    write_figure(losses, chosen.out, "heatmap-loss", svg=False)


if __name__ == "__main__":
    main()
