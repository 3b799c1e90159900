"""Tables 2 and 3 of Chatterji, Neyshabur, Sedghi (2020): measures of nine architectures, and how well they rank them.

Each network is trained until its training loss falls below a threshold; then every measure of table 1 is taken, and
Kendall's tau of each with the generalization error stands next to the printed one. The small setting has an eighth of
the channels and a slice of CIFAR-10 (table 2 alone); the full one is that of appendix C, on CIFAR-10 and CIFAR-100.
"""

from collections.abc import Sequence

from studies.common import Options, options
from studies.criticality import SMALL_SEARCH, Family, Search, paper, small, write_family
from studies.published import chatterji2020

CONVOLUTIONAL = {
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "DenseNet121": "densenet121",
    "VGG11": "vgg11",
    "VGG16": "vgg16",
}
FULL = CONVOLUTIONAL | {"FCN (I)": "fcn-5000-1000-bn", "FCN (II)": "fcn-10000-2000-bn"}
SMALL = CONVOLUTIONAL | {"FCN (I)": "fcn-625-125-bn", "FCN (II)": "fcn-1250-250-bn"}
Setting = dict[int, Family]
"""By the number of the table in the paper."""
SETTINGS: dict[str, Setting] = {
    "small": {2: Family({name: small(network) for name, network in SMALL.items()}, SMALL_SEARCH)},
    "full": {
        2: Family({name: paper(network) for name, network in FULL.items()}, Search()),
        3: Family({name: paper(network, data="cifar100") for name, network in FULL.items()}, Search()),
    },
}


def study(setting: Setting, chosen: Options) -> None:
    """Train, measure, rank, write; files are named for the number of the table."""
    for number, family in setting.items():
        write_family(family, chatterji2020(number), f"table{number}", chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    chosen = options("criticality_tables", __doc__.partition("\n")[0], arguments, parts=tuple(FULL))
    study(SETTINGS[chosen.setting], chosen)


if __name__ == "__main__":
    main()
