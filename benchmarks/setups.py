"""What is evaluated: a network, its data, and its layers at checkpoints; real where data are at hand, else synthetic."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as Folder
from typing import Any

import torch
from torch import nn

from benchmarks.common import Options, first, say
from shaketable import networks
from shaketable.data import ROOT_VARIABLE, Data, load, status
from shaketable.errors import InputError
from shaketable.params import Layer, Params, layers, snapshot
from shaketable.study import Study
from shaketable.training import Recipe, Run, train
from studies import pretrained_resnet20 as published

Cell = tuple[int, int]
"""A layer and a checkpoint, by number."""
FCN = Recipe(network="fcn-3x256", data="mnist", learning_rate=0.05, schedule="cosine", epochs=20, evaluate_every=20)
RESNET = Recipe(
    network="resnet18-bn",
    network_args={"width": 0.25},
    data="cifar10",
    learning_rate=0.1,
    schedule="cosine",
    epochs=10,
    checkpoints=(0, 1, 2, 3, 4, 5, 6, 8),
    evaluate_every=10,
    precision="bfloat16",
)
SLICE = Recipe(
    data="cifar10",
    data_args={"train_examples": 5000, "test_examples": 1000},
    schedule="cosine",
    batch_size=32,
    epochs=8,
    checkpoints=(0,),
    evaluate_every=8,
    precision="bfloat16",
)
"""Full width on a slice of CIFAR-10: margins of a network that has learned something, in minutes."""
TRAINED: Mapping[str, Recipe] = {
    "fcn": FCN,
    "resnet18": RESNET,
    "wide-resnet18-bn": SLICE.replace(network="resnet18-bn", learning_rate=0.02),
    "wide-vgg16": SLICE.replace(network="vgg16", optimiser="adam", learning_rate=1e-4),
    "wide-resnet18": SLICE.replace(
        network="resnet18",
        network_args={"init": "xavier-uniform"},
        data_args={"train_examples": 1500, "test_examples": 200},
        learning_rate=0.01,
        epochs=5,
        evaluate_every=5,
    ),
    "joint-resnet50-bn": SLICE.replace(
        network="resnet50-bn",
        network_args={"width": 0.25},
        data_args={"train_examples": 4000, "test_examples": 1000},
        learning_rate=0.05,
        epochs=15,
        evaluate_every=15,
        precision="float32",
    ),
}
"""Networks for questions whose cost depends on errors or margins; ``python -m benchmarks train`` trains them."""


@dataclass(frozen=True)
class Case:
    """A network with its final weights, the layers that are rewound, and the checkpoints that they are rewound to."""

    name: str
    network: nn.Module
    layers: Sequence[Layer]
    checkpoints: Sequence[Params]
    data: Data
    source: str

    def cells(self, per_layer: int | None = None) -> list[Cell]:
        """Every layer at every checkpoint, or at so many of them, which differ from layer to layer so that all occur."""
        total = len(self.checkpoints)
        count = total if per_layer is None else min(per_layer, total)
        return [
            (layer, (layer + step * total // count) % total if count < total else step)
            for layer in range(len(self.layers))
            for step in range(count)
        ]

    def variants(self, cells: Sequence[Cell]) -> list[Params]:
        """The changed tensors of each cell."""
        return [{name: self.checkpoints[t][name] for name in self.layers[layer].params} for layer, t in cells]


class Path:
    """Checkpoints on the straight line from initial to final weights: they stand in for those of a training run."""

    def __init__(self, init: Params, final: Params, count: int) -> None:
        self._init, self._final, self._count = init, final, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, t: int) -> Params:
        return _Between(self._init, self._final, t / self._count)


@dataclass(frozen=True)
class _Between(Mapping):
    """Weights on the line, made when they are asked for."""

    init: Params
    final: Params
    alpha: float

    def __getitem__(self, name: str):
        return torch.lerp(self.init[name], self.final[name], self.alpha)

    def __iter__(self):
        return iter(self.final)

    def __len__(self) -> int:
        return len(self.final)


def operators(network: nn.Module) -> list[Layer]:
    """The modules of the papers: convolutions and linear layers."""
    return [layer for layer in layers(network) if any(kind in layer.kind for kind in ("Conv", "Linear"))]


def straight(name: str, source: str, checkpoints: int, examples: int, options: Options, **arguments: Any) -> Case:
    """A network of random weights, and its layers on the way from other random weights to these."""
    data, about = examples_of(source, examples, options)
    shape = tuple(data.inputs.shape[1:])  # pyright: ignore[reportAttributeAccessIssue]
    network = networks.build(name, shape, data.classes, seed=1, **arguments)
    init = snapshot(networks.build(name, shape, data.classes, seed=0, **arguments))
    path: Any = Path(init, snapshot(network), checkpoints)
    return Case(described(name, arguments), network, operators(network), path, data, about)


def table(name: str, source: str, checkpoints: int, examples: int, options: Options, **arguments: Any) -> Case:
    """A trained network, as users have, if ``python -m benchmarks train`` has made it; else one of random weights.

    The fully connected network has the checkpoints of its training, the others points on the line from initial to final
    weights: to evaluate each checkpoint of a wide network takes longer than to train it.
    """
    recipe = FCN if name == FCN.network else TRAINED.get(f"wide-{name}")
    run = finished(recipe, options)
    if recipe is None or run is None:
        return straight(name, source, checkpoints, examples, options, **arguments)
    if recipe is FCN:
        return trained("fcn", "test", examples, options)
    study = Study.from_run(run.path, options.data_root)
    data = load(source, root=options.data_root, **{**recipe.data_args, "test_examples": examples}).test
    path: Any = Path(study.checkpoint(0), study.final, checkpoints)
    network, error = run.network(), study.history.row(-1, named=True)["test_error"]
    about = f"{source} test, {len(data):,} images; trained on {recipe.data_args['train_examples']:,}, test error {error:.2f}"
    return Case(described(name, recipe.network_args), network, operators(network), path, data, about)


def finished(recipe: Recipe | None, options: Options) -> Run | None:
    """The run of a recipe if it is there, whole and with its data."""
    run = Run(options.runs / recipe.folder_name) if recipe else None
    if recipe is None or run is None or not run.finished or status(recipe.data, options.data_root)[0] != "ready":
        return None
    return run


def trained(name: str, split: str, examples: int, options: Options) -> Case:
    """A network after training, and its layers at the checkpoints of that training.

    Without the data, or before ``python -m benchmarks train``, one that is trained on scikit-learn's digits in seconds.
    """
    recipe = TRAINED[name]
    done = Run(options.runs / recipe.folder_name).finished
    note = ""
    if status(recipe.data, options.data_root)[0] != "ready":
        recipe, note = small(recipe), f" ({recipe.data} was not found)"
    elif name == "resnet18" and not done:
        recipe, note = small(recipe), " (no `python -m benchmarks train` has ended here)"
    run = train(recipe, out=options.runs, data_root=options.data_root)
    study = Study.from_run(run.path, options.data_root)
    whole = study.data(split)
    data = whole.subset(torch.arange(examples) % len(whole))
    repeated = f", repeated to {examples:,}" if examples > len(whole) else f", {examples:,} examples"
    error = study.history.row(-1, named=True)[f"{split}_error"]
    about = f"{recipe.data} {split}{repeated}; error {error:.4f} after {recipe.epochs} epochs{note}"
    network = run.network()
    kept = [study.checkpoint(t) for t in study.epochs[:-1]]
    return Case(described(recipe.network, recipe.network_args), network, operators(network), kept, data, about)


def pretrained(split: str, checkpoints: int, examples: int, options: Options) -> Case:
    """A ResNet-20 that others trained on CIFAR-10, and its layers on the way from a fresh draw to its weights.

    Raises:
        InputError: its file or the images are not there.
    """
    weights = Folder(os.environ.get("SHAKETABLE_NETWORKS", "")) / "resnet20-12fca82f.th"
    if not weights.is_file():
        raise InputError(f"there is no {weights}; set SHAKETABLE_NETWORKS to the folder of resnet20-12fca82f.th.")
    few = {"train_examples" if split == "test" else "test_examples": 100}
    dataset = load("cifar10", root=options.data_root, normalise=[published.MEAN, published.STD], **few)
    data = first(dataset.test if split == "test" else dataset.train, examples)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        init = snapshot(published.ResNet20())
    study = Study(published.ResNet20().eval(), final=weights, test=data)
    network = study.network
    network.load_state_dict(study.final)
    path: Any = Path(init, study.final, checkpoints)
    about = f"cifar10 {split}, {len(data):,} images"
    return Case(
        "resnet20 (github.com/akamaster/pytorch_resnet_cifar10)", network, operators(network), path, data, about
    )


def small(recipe: Recipe) -> Recipe:
    """The same network on scikit-learn's digits, padded to the size of its images."""
    pad = 10 if recipe.data == "mnist" else 12
    return recipe.replace(data="digits", data_args={"pad": pad})


def train_all(options: Options) -> None:
    """Train what is not trained yet: minutes for each, and an hour for the ResNet-18 on all of CIFAR-10."""
    for name, recipe in TRAINED.items():
        say(f"training {recipe.folder_name}")
        where = train(
            recipe, out=options.runs, data_root=options.data_root, callback=lambda r, step: say(f"epoch {step}")
        )
        say(f"{name} is in {where.path}")


def examples_of(source: str, count: int, options: Options) -> tuple[Data, str]:
    """Test images, or as many random ones where there are none; and a sentence about which."""
    root = options.data_root or os.environ.get(ROOT_VARIABLE)
    if root and status(source, root)[0] == "ready":
        return load(source, root=root, train_examples=100, test_examples=count).test, f"{source} test, {count:,} images"
    shape = (1, 28, 28) if source == "mnist" else (3, 32, 32)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, *shape, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    return Data(inputs, labels, 10), f"{count:,} synthetic images of the shape of {source} (not found under {root})"


def described(name: str, arguments: Mapping[str, Any]) -> str:
    """A network's name with its arguments."""
    return " ".join((name, *(f"{key}={value}" for key, value in arguments.items())))
