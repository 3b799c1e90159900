"""A network that nobody here wrote or trained: ResNet-20 for CIFAR-10 with parameter-free shortcuts."""

import polars as pl
import pytest
import torch
from torch import nn
from torch.nn.functional import pad, relu

from shaketable.data import load
from shaketable.evaluate import evaluate
from shaketable.probes import robustness
from shaketable.study import Study

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

    def forward(self, x):
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        y += pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.missing // 2, self.missing // 2))
        return relu(y)


class ResNet20(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16), Block(16, 16), Block(16, 16))
        self.layer2 = nn.Sequential(Block(16, 32), Block(32, 32), Block(32, 32))
        self.layer3 = nn.Sequential(Block(32, 64), Block(64, 64), Block(64, 64))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


@pytest.mark.slow
def test_the_clean_error_is_the_published_one_and_re_randomisation_shows_which_blocks_hold_it_up(data_root, pretrained):
    dataset = load("cifar10", root=data_root, normalise=[MEAN, STD], train_examples=100)
    weights = pretrained / "resnet20-12fca82f.th"
    study = Study(ResNet20().eval(), final=weights, test=dataset.test)
    sums = evaluate(study.network, study.final, study.data("test"))
    assert (sums.examples, sums.errors) == (10_000, 827)  # the published 91.73% accuracy

    part = Study(ResNet20().eval(), final=weights, test=dataset.test.subset(torch.arange(2000)))
    result = robustness(part, draws=2)
    verdicts = result.verdicts()
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]
    assert verdicts["layer"].to_list() == ["conv1", *blocks, "linear"]
    assert result.table.filter(pl.col("perturbation") == "rerandomise")["distribution"].unique().to_list() == [
        "reset_parameters"
    ]
    assert set(verdicts["reinitialise"]) == {None}  # it came without initial weights
    assert set(result.table.filter(pl.col("perturbation") == "reinitialise")["status"]) == {"unavailable"}
    drop = dict(zip(verdicts["layer"], verdicts["rerandomise_drop"]))
    assert drop["linear"] > 0.5
    assert drop["conv1"] > 0.5
    assert (
        min(drop.values()) < 0.25
    )  # some residual block is not critical, as the paper finds for blocks with identity skips
