"""Figures 3 and 4 of Zhang, Bengio, Singer, "Are All Layers Created Equal?": VGG and ResNet on CIFAR-10.

The paper prints neither a learning rate nor the initial distribution ("the default initialization schemes used in open
source deep learning libraries"). Here all start from Xavier-uniform, the default of Keras and TensorFlow: without batch
norm a Kaiming-normal VGG stayed at chance or diverged in short trials, and a ResNet doubles its variance at each block.
The trials, and how the learning rate was chosen, are in docs/results/figure3_4/README.md.

The small setting has one network of each figure with a quarter of the channels and a slice of the data.
"""

from collections.abc import Sequence
from typing import Any

from shaketable.training import Recipe
from studies.common import Options, Setting, label, options, probe, write_robustness


def recipe(network: str, width: float = 1.0, **fields: Any) -> Recipe:
    """The paper's training of one network, with what it does not print."""
    defaults = {
        "data": "cifar10",
        "network_args": {"init": "xavier-uniform", "width": width},
        "augmentation": ("pad-crop:4", "flip"),
        "learning_rate": 0.01,
        "checkpoints": (0, 1, 2, 5, 10, 20, 50, 100),
    }
    return Recipe(network=network, **defaults | fields)


def small(network: str, train_examples: int, **fields: Any) -> Recipe:
    """A quarter of the channels, a slice of the data, each class in proportion, and smaller batches for more steps."""
    data = {"train_examples": train_examples, "test_examples": 2000}
    return recipe(network, width=0.25, data_args=data, batch_size=32, evaluate_every=10, **fields)


SETTINGS = {
    "small": Setting(
        [
            small("vgg11", 10_000, epochs=30, milestones=(9, 18, 27), checkpoints=(0, 1, 2, 5, 10, 20)),
            small("resnet18-v2", 5_000, epochs=20, milestones=(6, 12, 18), checkpoints=(0, 1, 5, 10)),
        ],
        draws=3,
    ),
    "full": Setting(
        [
            *(recipe(f"vgg{depth}") for depth in (11, 13, 16, 19)),
            *(recipe(f"resnet{depth}-v2") for depth in (18, 34, 50, 101, 152)),
        ]
    ),
}


def study(setting: Setting, chosen: Options) -> None:
    """Train, probe, write: files are named for the networks."""
    results = probe(setting, chosen)
    write_robustness(results, [label(result) for result in results], chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    chosen = options("figure3_4_convolutional", __doc__.partition("\n")[0], arguments)
    study(SETTINGS[chosen.setting], chosen)


if __name__ == "__main__":
    main()
