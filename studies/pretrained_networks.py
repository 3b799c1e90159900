"""Networks that others wrote and trained: re-randomisation, noise and pruning, layer by layer.

Two ResNets for CIFAR-10 (github.com/akamaster/pytorch_resnet_cifar10, ResNet-32; github.com/amirgholami/PyHessian, ResNet-20
with 1x1 convolutions in its shortcuts), three LeNets that three strangers trained on it, and a Llama-style language model of
260,032 parameters (karpathy's stories260K, trained on TinyStories) on a children's novel and on Shakespeare. None has its initial
weights, so nothing can be re-initialised.
ResNet-20 of the first is in `studies.pretrained_resnet20`.
"""

import argparse
import os
import shlex
import struct
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import nn
from torch.nn.functional import max_pool2d, relu

from shaketable import plots
from shaketable.data import ROOT_VARIABLE, load
from shaketable.evaluate import evaluate
from shaketable.files import write_text
from shaketable.params import Grouping
from shaketable.probes import robustness, sensitivity
from shaketable.study import Study
from studies.common import markdown, write_figure, write_table
from studies.pretrained_resnet20 import MEAN, STD, Block, ResNet20

TEXTS = {"garden": "novels/Burnett_Garden_1911.txt", "shakespeare": "tinyshakespeare.txt"}
LENETS = {
    "captum": "pytorch+captum",
    "sparsegpt": "IST-DASLab+sparsegpt",
    "pytorch_learning": "BenjiDayan+pytorch_learning",
}
NETWORKS = (
    "resnet32",
    "pyhessian_resnet20",
    *(f"lenet-{who}" for who in LENETS),
    *(f"stories260k-{text}" for text in TEXTS),
)
LENGTH = 128
"""Tokens in a row of text."""


class ResNet32(ResNet20):
    """As ResNet-20, with five blocks in each stage."""

    def __init__(self) -> None:
        super().__init__()
        for stage, (before, width) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            setattr(
                self, f"layer{stage}", nn.Sequential(Block(before, width), *(Block(width, width) for _ in range(4)))
            )


class Projected(Block):
    """A block with a 1x1 convolution in its shortcut where the shape changes."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__(before, width)
        self.downsample: nn.Module = nn.Identity()
        if before != width:
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, self.stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))) + self.downsample(x))


class PyHessianResNet20(ResNet20):
    """Module names as in the published file."""

    def __init__(self) -> None:
        super().__init__()
        for stage, (before, width) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            blocks = (Projected(before, width), Projected(width, width), Projected(width, width))
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = self.linear
        del self.linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


class LeNet(nn.Module):
    """Module names as in the tutorial that the three strangers followed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = max_pool2d(relu(self.conv2(max_pool2d(relu(self.conv1(x)), 2))), 2)
        return self.fc3(relu(self.fc2(relu(self.fc1(x.flatten(1))))))


class Tokenizer:
    """The pieces and scores of llama2.c's `tok512.bin`: byte-pair encoding, the best-scored neighbours merged first."""

    def __init__(self, path: Path) -> None:
        content, at = path.read_bytes(), 4  # the length of the longest piece comes first
        self.pieces: dict[bytes, int] = {}
        self.scores: list[float] = []
        while at < len(content):
            score, length = struct.unpack("fi", content[at : at + 8])
            self.pieces.setdefault(content[at + 8 : at + 8 + length].strip(b"\n") or b"\n", len(self.scores))
            self.scores.append(score)
            at += 8 + length
        self.known: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.scores)

    def __call__(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        """As transformers' tokenizers are called; no special tokens are added."""
        return {
            "input_ids": [
                [token for word in f" {text}".split(" ")[1:] for token in self._word(f" {word}")] for text in texts
            ]
        }

    def _word(self, word: str) -> list[int]:
        """The tokens of one word with the space before it."""
        if word not in self.known:
            parts = [character.encode() for character in word]
            while True:
                ranks = [self.pieces.get(a + b) for a, b in pairwise(parts)]
                best = max((self.scores[r], -i) for i, r in enumerate(ranks) if r is not None) if any(ranks) else None
                if best is None:
                    break
                place = -best[1]
                parts[place : place + 2] = [parts[place] + parts[place + 1]]
            bytes_of = lambda part: [byte + 3 for byte in part]  # noqa: E731  # after <unk>, <s>, </s>
            self.known[word] = [t for p in parts for t in ([self.pieces[p]] if p in self.pieces else bytes_of(p))]
        return self.known[word]


def cifar10(
    network: nn.Module, weights: dict[str, torch.Tensor] | Path, name: str, normalise: list[list[float]]
) -> Callable:
    """What makes the study of a network on so many test images of CIFAR-10, each class in proportion."""

    def made(data_root: Path | None, examples: int | None) -> Study:
        data = load("cifar10", test_examples=examples, root=data_root, normalise=normalise, train_examples=10)
        return Study(network.eval(), final=weights, test=data.test, name=name)

    return made


def study(which: str, networks: Path, data_root: Path | None, examples: int | None) -> Study:
    """One of the networks with its test data: images, or rows of text."""
    if which.startswith("stories"):
        folder = networks / "stories260K_hf"
        about = which.partition("-")[2]
        text = (data_folder(data_root) / "text" / TEXTS[about]).read_text(encoding="utf-8")
        characters = None if examples is None else 4 * LENGTH * examples  # more than rows of tokens need
        found = Study.from_huggingface(
            folder, text[-characters:] if characters else text, Tokenizer(folder / "tok512.bin"), length=LENGTH
        )
        test = found.data("test")
        part = test.subset(range(min(examples or len(test), len(test))))
        return Study(
            found.network, test=part, initialise=found.initialise, name=f"stories260K on {Path(TEXTS[about]).stem}"
        )
    if which == "resnet32":
        file, name = networks / "resnet32-d509ac18.th", "ResNet-32 (akamaster) on CIFAR-10"
        return cifar10(ResNet32(), file, name, [MEAN, STD])(data_root, examples)
    if which.startswith("lenet"):
        who = which.partition("-")[2]
        weights = arrays(networks / "cifar_lenet_population.npz", f"{LENETS[who]}/")
        return cifar10(LeNet(), weights, f"LeNet ({who}) on CIFAR-10", [[0.5] * 3] * 2)(data_root, examples)
    normalise = [[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]]
    weights = arrays(networks / "pyhessian_resnet20.npz")
    return cifar10(PyHessianResNet20(), weights, "ResNet-20 (PyHessian) on CIFAR-10", normalise)(data_root, examples)


def arrays(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """The arrays of a file whose names begin with this."""
    with np.load(path) as file:
        return {key.removeprefix(prefix): torch.from_numpy(file[key]) for key in file.files if key.startswith(prefix)}


def data_folder(given: Path | None) -> Path:
    """Where data lie: the folder given, or that of the environment."""
    return given or Path(os.environ.get(ROOT_VARIABLE, "."))


def table(which: str, made: Study, out: Path, draws: int) -> tuple[str, float]:
    """The table of one network in Markdown, and the seconds that it took; tables and the heat map go to ``out``."""
    by: Grouping = "module" if which.startswith("stories") else "block"
    columns, seconds = {}, 0.0
    normed = any(name.endswith("running_mean") for name, _ in made.network.named_buffers())
    for statistics in ("keep", "rewind") if normed else ("keep",):
        result = robustness(made, by, draws=draws, statistics=statistics, store=out / "cells")  # type: ignore[arg-type]
        seconds += result.provenance["seconds"]
        rows = result.summary().filter(pl.col("perturbation") == "rerandomise")
        columns["re-randomised" + f", statistics {statistics}" * normed] = [_spread(row) for row in rows.to_dicts()]
        losses = [f"{row['loss']:.2f}" for row in rows.to_dicts()]
        write_table(result.summary(), out / f"{which}-robustness-{statistics}.csv")
        heatmap = plots.robustness_heatmap(result.summary(), classes=made.classes)
        write_figure(heatmap, out, f"{which}-{statistics}", svg=False)
        if which.startswith("stories"):
            columns["loss then, nats"] = losses
    noisy = sensitivity(made, by, noise=(0.1, 0.3, 1.0), pruning=(0.5, 0.9), draws=draws, store=out / "cells")
    seconds += noisy.provenance["seconds"]
    write_table(noisy.summary(), out / f"{which}-sensitivity.csv")
    summary = noisy.summary().filter(pl.col("position") >= 0)
    for perturbation, magnitude in (("noise", 0.1), ("noise", 0.3), ("noise", 1.0), ("prune", 0.5), ("prune", 0.9)):
        rows = summary.filter(pl.col("perturbation") == perturbation, pl.col("magnitude") == magnitude)
        columns[f"{perturbation} {magnitude:g}"] = [_spread(row) for row in rows.to_dicts()]
    layers = summary["layer"].unique(maintain_order=True).to_list()
    return markdown(["layer", *columns], [list(row) for row in zip(layers, *columns.values(), strict=True)]), seconds


def _spread(row: dict) -> str:
    """Points of accuracy lost, with their standard deviation over draws."""
    if row["accuracy_drop"] is None:
        return "-"
    spread = row["accuracy_drop_std"]
    return f"{100 * row['accuracy_drop']:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.pretrained_networks", description=__doc__)
    parser.add_argument("--networks", type=Path, required=True, help="the folder with the published weights")
    parser.add_argument("--data-root", type=Path, help="where cifar10 and text lie; default $SHAKETABLE_DATA")
    parser.add_argument("--out", type=Path, default=Path("runs/pretrained_networks"), help="where results go")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS, help="some of the networks")
    parser.add_argument("--test-examples", type=int, default=1000, help="images for the tables (default 1000)")
    parser.add_argument("--rows", type=int, default=64, help=f"rows of {LENGTH} tokens for the tables (default 64)")
    parser.add_argument("--draws", type=int, default=3, help="fresh draws a layer (default 3)")
    chosen = parser.parse_args(arguments)
    given = shlex.join(sys.argv[1:] if arguments is None else arguments)
    for which in chosen.only:
        count = chosen.rows if which.startswith("stories") else chosen.test_examples
        whole, part = (study(which, chosen.networks, chosen.data_root, examples) for examples in (None, count))
        clean = evaluate(whole.network, whole.final, whole.data("test"))
        numbers, seconds = table(which, part, chosen.out, chosen.draws)
        text = f"# {part.name}\n\nCommand: `python -m studies.pretrained_networks {given}` "
        text += f"(PyTorch {torch.__version__}, {seconds:.0f} s for the tables)\n\n"
        text += f"Clean: {clean.errors:,} of {clean.examples:,} wrong, {100 * (1 - clean.error):.2f}% accuracy, loss "
        text += f"{clean.loss / clean.examples:.3f} nats. Points of accuracy lost, mean ± standard deviation over draws ({chosen.draws}), "
        text += f"on {count:,} {'rows' if which.startswith('stories') else 'images'}:\n\n"
        write_text(chosen.out / f"{which}.md", text + numbers)


if __name__ == "__main__":
    main()
