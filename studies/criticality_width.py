"""Tables 4 and 5 of Chatterji, Neyshabur, Sedghi (2020), appendix D: one ResNet-18 at four widths.

There every measure fails, the paper's own with the others: a wider network generalises better and has more of each. The
small setting has a quarter of these widths and a slice of CIFAR-10 (table 4 alone).
"""

from collections.abc import Sequence

from studies.common import Options, options
from studies.criticality import SMALL_SEARCH, Family, Search, paper, small, write_family
from studies.published import chatterji2020

WIDTHS = (1, 2, 4, 8)
ONE = 0.25
"""The multiplier of "1x width": 16, 16, 32, 64 and 128 channels."""
Setting = dict[int, Family]
SETTINGS: dict[str, Setting] = {
    "small": {4: Family({f"{x}x width": small("resnet18", x * ONE / 4) for x in WIDTHS}, SMALL_SEARCH)},
    "full": {
        number: Family({f"{x}x width": paper("resnet18", x * ONE, data=data) for x in WIDTHS}, Search())
        for number, data in ((4, "cifar10"), (5, "cifar100"))
    },
}


def study(setting: Setting, chosen: Options) -> None:
    """Train, measure, rank, write; files are named for the number of the table."""
    for number, family in setting.items():
        write_family(family, chatterji2020(number), f"table{number}", chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    chosen = options(
        "criticality_width", __doc__.partition("\n")[0], arguments, parts=tuple(f"{x}x width" for x in WIDTHS)
    )
    study(SETTINGS[chosen.setting], chosen)


if __name__ == "__main__":
    main()
