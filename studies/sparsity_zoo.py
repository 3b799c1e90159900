"""The zoo of Zhao, Zhang, Hu (2021): VGG-16, MobileNet and ResNet-34 over a wide range of gaps, with their sparsity.

Run it with ``python -m studies.sparsity_zoo`` (small: 65 networks for two cores) or ``--setting full`` (the paper's, for a GPU). It
trains the zoo, takes the measures, and writes the zoo's table; ``studies.sparsity_figures`` makes figures and tables of it.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from shaketable import zoo
from shaketable.estimators import with_margins
from shaketable.files import write_atomically
from shaketable.identity import generator_from
from shaketable.measures import MEASURES
from shaketable.training import Recipe, named
from shaketable.zoo import Plan
from studies.common import Options, options

CORRUPTION = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""The fractions of corrupted labels of appendix D; every other axis is drawn beside them."""
MOMENTUM = (0.0, 0.5, 0.9)
WEIGHT_DECAY = (0.0, 1e-4)
AUGMENTATION = ((), ("pad-crop:4", "flip", "rotation:15"))
BATCHES, SMALL_BATCHES = (128, 256, 512), (16, 32, 64)
DROPOUT = (0.0, 0.3, 0.5)
SMALL_AUGMENTATION, SMALL_DROPOUT = ((), ("flip",)), (0.0, 0.1, 0.3)
"""With more than that, random labels are not learnt within the epochs of the small setting."""
SEED, SERIES = 0, 1000
"""Of the draw of the combinations, and of the networks that differ in corruption alone."""
FULL = {"vgg16": 80, "mobilenet": 40, "resnet34-bn": 40}
"""Networks of each architecture: 80 VGG-16 in the paper, which does not print how many of the other two."""
SMALL = {"vgg16": 36, "mobilenet": 12, "resnet34-bn": 12}
RECIPES = {"vgg16": "sparsity", "mobilenet": "sparsity-mobilenet", "resnet34-bn": "sparsity-resnet34"}
PLAIN_RATE = 0.01
"""The learning rate of VGG-16 without batch norm at a momentum of 0.9."""
SMALL_RATES = {"vgg16": 0.01, "mobilenet": 0.01, "resnet34-bn": 0.02}
"""The learning rates of the small setting at a momentum of 0.9: at 0.05 a VGG-16 of this width does not learn random labels."""
WIDTHS = {"vgg16": 0.125, "mobilenet": 0.125, "resnet34-bn": 0.0625}
"""Of the small setting: 64 units in the last convolution of VGG-16, 128 in that of MobileNet, 32 in that of ResNet-34."""
SLICE = {
    "data": "fashion-mnist",
    "data_args": {"train_examples": 500, "test_examples": 1000, "pad": 2},
    "epochs": 120,
    "schedule": "constant",
    "evaluate_every": 5,
    "stop_below": 0.05,
    "precision": "bfloat16",
}
"""What the small setting changes: 500 images of Fashion-MNIST, padded to 32x32, until the training loss is below 0.05 nats."""
WANTED = (
    *("zeta", "kappa", "generalization_error", "training_loss", "inverse_margin", "normalised_margin"),
    *("product_of_spectral_norms", "path_norm", "squared_distance_to_init"),
)
"""Measures of every network: the paper's two, the gap, and some that :mod:`shaketable.estimators` may take as well."""


def drawn(axes: Mapping[str, Sequence[Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """Combinations of values, so many that each value of an axis comes as often as any other, give or take one.

    The first axis goes round in order; the others are drawn, each by itself.
    """
    first, *others = axes
    columns = {first: [axes[first][number % len(axes[first])] for number in range(count)]}
    for name in others:
        order = torch.randperm(count, generator=generator_from(seed, name)).tolist()
        columns[name] = [axes[name][place % len(axes[name])] for place in order]
    return [{name: column[number] for name, column in columns.items()} for number in range(count)]


def start_of(network: str, small: bool) -> Recipe:
    """What all networks of an architecture have in common; VGG-16 has batch norm here."""
    start = named(RECIPES[network])
    if not small:
        return start
    return start.changed(**SLICE, learning_rate=SMALL_RATES[network], network_args={"width": WIDTHS[network]})


def step(rate: float, momentum: float, plain: bool) -> float:
    """The learning rate at a momentum that stands for ``rate`` at 0.9.

    Momentum m lengthens steps by 1 / (1 - m), and the rate makes up for it; by its square root for a VGG-16 without batch norm,
    which hardly learns at the whole of it.
    """
    longer = (1 - momentum) / (1 - MOMENTUM[-1])
    return round(rate * (longer**0.5 if plain else longer), 9)


def series(network: str, small: bool) -> list[Recipe]:
    """Six networks of an architecture that differ in the corruption of their labels alone (figures 2, 5A and 6A)."""
    return [start_of(network, small).replace(label_corruption=one, seed=SERIES) for one in CORRUPTION]


def varied(network: str, count: int, small: bool) -> list[Recipe]:
    """So many networks of an architecture over the values of appendix D; VGG-16 alone varies batch norm and dropout."""
    start = start_of(network, small)
    axes: dict[str, Sequence[Any]] = {
        "label_corruption": CORRUPTION,
        "momentum": MOMENTUM,
        "weight_decay": WEIGHT_DECAY,
        "batch_size": SMALL_BATCHES if small else BATCHES,
        "augmentation": SMALL_AUGMENTATION if small else AUGMENTATION,
    }
    if network == "vgg16":
        axes |= {"network": ("vgg16", "vgg16-bn"), "dropout": SMALL_DROPOUT if small else DROPOUT}
    made = []
    for number, values in enumerate(drawn(axes, count, SEED)):
        arguments = {"network_args": {"dropout": values.pop("dropout")}} if network == "vgg16" else {}
        plain = values.get("network") == "vgg16"
        rate = step(PLAIN_RATE if plain else start.learning_rate, values["momentum"], plain)
        made.append(start.changed(**values, **arguments, learning_rate=rate, seed=number))
    return made


def models(small: bool) -> list[Recipe]:
    """Models A to E of appendix D; small: on a slice of CIFAR-10, with the dropout of the small setting."""
    full = [named(f"sparsity-imagenet-{letter}") for letter in "abcde"]
    if not small:
        return full
    dropout = dict(zip(DROPOUT, SMALL_DROPOUT, strict=True))
    made = []
    for one in full:
        arguments = {"width": WIDTHS["vgg16"]}
        arguments |= {"dropout": dropout[one.network_args["dropout"]]} if "dropout" in one.network_args else {}
        rate = step(PLAIN_RATE, one.momentum, plain=True)
        changes = {"learning_rate": rate, "network_args": arguments, "batch_size": SMALL_BATCHES[1], "data": "cifar10"}
        data = {key: value for key, value in SLICE["data_args"].items() if key != "pad"}
        changes |= {"data_args": data, "augmentation": ("flip",) if one.augmentation else ()}
        made.append(one.changed(**SLICE | changes | {"epochs": 2 * SLICE["epochs"]}))
    return made


def plan(setting: str) -> Plan:
    """The plan of the small or the full setting."""
    small = setting == "small"
    made = models(small)
    for network, count in (SMALL if small else FULL).items():
        made += [*series(network, small), *varied(network, count - len(CORRUPTION), small)]
    return Plan.listed(named("sparsity"), [recipe.to_dict() for recipe in made])


def zoo_of(chosen: Options) -> zoo.Zoo:
    """The zoo of a setting, trained and measured; what is there already is not done again."""
    where = {"data_root": chosen.data_root, "device": chosen.device}
    found = zoo.run(plan(chosen.setting), chosen.runs / f"sparsity-zoo-{chosen.setting}", **where)
    print(f"{found.path}: trained, measuring", file=sys.stderr, flush=True)
    zoo.measure(found, [name for name in WANTED if name in MEASURES], **where)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = options("sparsity_zoo", __doc__ or "", arguments)
    table = with_margins(zoo_of(chosen), chosen.data_root, chosen.device)
    write_atomically(chosen.out / "zoo.parquet", table.write_parquet)
    print(chosen.out / "zoo.parquet")


if __name__ == "__main__":
    main()
