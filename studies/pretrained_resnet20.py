"""A network that others wrote and trained: which blocks of a CIFAR-10 ResNet-20 survive re-randomisation?

The weights are those of github.com/akamaster/pytorch_resnet_cifar10 (BSD-2), `resnet20-12fca82f.th`. It came without its
initial weights, so nothing can be re-initialised; fresh draws come from PyTorch's `reset_parameters`.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import pad, relu

from shaketable import plots
from shaketable.data import load
from shaketable.evaluate import evaluate
from shaketable.files import write_text
from shaketable.probes import robustness
from shaketable.study import Study
from studies.common import markdown, write_figure, write_table

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Block(nn.Module):
    """He et al. 2016, option A: the shortcut takes every second pixel and pads the channels with zeros."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.stride, self.missing = (1, 0) if before == width else (2, width - before)
        self.conv1 = nn.Conv2d(before, width, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        y += pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.missing // 2, self.missing // 2))
        return relu(y)


class ResNet20(nn.Module):
    """Module names as in the published file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16), Block(16, 16), Block(16, 16))
        self.layer2 = nn.Sequential(Block(16, 32), Block(32, 32), Block(32, 32))
        self.layer3 = nn.Sequential(Block(32, 64), Block(64, 64), Block(64, 64))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def study(weights: Path, data_root: Path | None, test_examples: int) -> tuple[Study, Study]:
    """The network on all test images of CIFAR-10, and on some of them, each class in proportion."""
    arguments = {"root": data_root, "normalise": [MEAN, STD], "train_examples": 10}
    whole, part = (load("cifar10", test_examples=count, **arguments).test for count in (None, test_examples))
    name = "ResNet-20 (akamaster) on CIFAR-10"
    made = [Study(ResNet20().eval(), final=weights, test=data, name=name) for data in (whole, part)]
    return made[0], made[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.pretrained_resnet20", description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="resnet20-12fca82f.th")
    parser.add_argument("--data-root", type=Path, help="where cifar10 lies; default $SHAKETABLE_DATA")
    parser.add_argument("--out", type=Path, default=Path("runs/pretrained_resnet20"), help="where results go")
    parser.add_argument("--test-examples", type=int, default=2000, help="images for the table (default 2000)")
    parser.add_argument("--draws", type=int, default=5, help="fresh draws per block (default 5)")
    chosen = parser.parse_args(arguments)
    whole, part = study(chosen.weights, chosen.data_root, chosen.test_examples)
    clean = evaluate(whole.network, whole.final, whole.data("test"))
    drops, seconds = {}, 0.0
    for statistics in ("keep", "rewind"):
        result = robustness(part, draws=chosen.draws, statistics=statistics, store=chosen.out / "cells")
        seconds += result.provenance["seconds"]
        drops[statistics] = result.verdicts()
        write_table(result.summary(), chosen.out / f"robustness-{statistics}.csv")
        heatmap = plots.robustness_heatmap(result.summary(), classes=10)
        write_figure(heatmap, chosen.out, f"heatmap-{statistics}")
    rows = [
        [
            a["layer"],
            *(f"{100 * r['rerandomise_drop']:.1f} ± {100 * r['rerandomise_drop_std']:.1f}" for r in (a, b)),
        ]
        for a, b in zip(drops["keep"].to_dicts(), drops["rewind"].to_dicts(), strict=True)
    ]
    command = shlex.join(
        ["python", "-m", "studies.pretrained_resnet20", *(sys.argv[1:] if arguments is None else arguments)]
    )
    text = f"Command: `{command}` (PyTorch {torch.__version__}, {seconds:.0f} s for the table)\n\n"
    text += f"Clean: {clean.errors} of {clean.examples} test images wrong, {100 * (1 - clean.error):.2f}% accuracy.\n\n"
    text += markdown(["block", "statistics kept", "statistics reset with the block"], rows)
    write_text(chosen.out / "table.md", text)


if __name__ == "__main__":
    main()
