"""Tables that papers print, as they print them, to put next to ours."""

from dataclasses import dataclass

import polars as pl

COLUMNS = (
    "generalization_error",
    "product_of_frobenius_norms",
    "product_of_spectral_norms",
    "squared_distance_to_init",
    "number_of_parameters",
    "sum_of_spectral_norms",
    "pac_bayes",
    "network_criticality",
)
CHATTERJI_2020 = {
    2: (
        "Measuring complexity of different architectures trained on CIFAR10",
        """
        ResNet18    | 4.61%  1e22  4e14 3430  1.1e7 1.3e9 6.9e5 2.2e5
        ResNet34    | 4.52%  3e37  1e24 4804  2.1e7 3.7e9 9.7e5 2.2e5
        ResNet50    | 6.6%   4e56  4e20 10018 2.3e7 3.3e9 1.6e6 1.8e5
        ResNet101   | 6.4%   8e110 3e32 18730 4.2e7 9.8e9 2.8e6 6.3e5
        DenseNet121 | 8.7%   2e129 7e42 21340 6.8e6 2.0e9 1.6e6 6.0e5
        VGG11       | 8.82%  1e11  1e6  2113  2.8e7 1.3e9 1.0e6 2.71e5
        VGG16       | 7.47%  5e15  2e8  2341  3.4e7 2.1e9 1.2e6 2.70e5
        FCN (I)     | 29.83% 3e20  2e7  75221 2.0e7 4.6e8 9.0e6 5.7e6
        FCN (II)    | 29.56% 3e21  1e7  72605 5.0e7 1.8e9 8.4e6 6.8e6
        Kendall's tau | -    -0.27 -0.38 0.33 0.11  -0.59 0.47  0.53
        """,
    ),
    3: (
        "Measuring complexity of different architectures trained on CIFAR100",
        """
        ResNet18    | 30.6%  2e22  9e14 4855   1.1e7 1.4e9  3.4e6 1.6e6
        ResNet34    | 29.3%  1e37  1e22 6017   2.1e7 3.6e9  6.7e6 1.4e6
        ResNet50    | 31.1%  7e57  9e23 12715  2.3e7 4.1e9  5.8e6 1.9e6
        ResNet101   | 25.5%  2e112 5e36 21233  4.2e7 1.1e10 6.4e6 1.3e6
        DenseNet121 | 35.3%  1e131 1e49 23702  6.9e6 2.4e9  4.5e6 2.6e6
        VGG11       | 43.5%  6e13  1e8  5059   2.8e7 1.7e9  3.6e6 2.4e5
        VGG16       | 32.69% 8e19  4e12 7010   3.4e7 3.6e9  8.1e6 4.6e6
        FCN (I)     | 57.59% 8e27  1e10 246636 2.0e7 8.3e8  2.4e7 1.2e7
        FCN (II)    | 53.17% 1e29  1e10 329296 5.0e7 3.7e9  3.3e7 2.3e7
        Kendall's tau | -    -0.27 -0.47 0.33  0     -0.42  0.22  0.55
        """,
    ),
    4: (
        "Measuring complexity of different architectures trained on CIFAR10: ResNet18 of different channel widths",
        """
        1x width | 6.27% 4e17 1e12 1409 6.9e5 6.0e7 3.0e5 1.0e5
        2x width | 5.13% 8e19 4e13 2253 2.7e6 2.9e8 4.2e5 1.3e5
        4x width | 4.61% 1e22 4e14 3430 1.1e7 1.3e9 6.9e5 2.2e5
        8x width | 2.88% 1e24 2e15 5365 4.4e7 5.6e9 2.7e6 6.7e5
        Kendall's tau | - -1 -1 -1 -1 -1 -1 -1
        """,
    ),
    5: (
        "Measuring complexity of different architectures trained on CIFAR100: ResNet18 of different channel widths",
        """
        1x width | 30.4% 6e18 3e12 2650 7.1e5 7.3e7 3.2e6 1.5e6
        2x width | 31.8% 1e21 4e13 4248 2.8e6 3.4e8 2.7e6 1.3e6
        4x width | 30.6% 2e22 9e14 4855 1.1e7 1.4e9 3.4e6 1.6e6
        8x width | 28.4% 3e25 1e18 9269 4.4e7 8.0e9 6.9e6 2.8e6
        Kendall's tau | - -0.33 -0.33 -0.33 -0.33 -0.33 -0.66 -0.66
        """,
    ),
}
"""Tables 2 to 5 of "The intriguing role of module criticality in the generalization of deep networks" (2020)."""


@dataclass(frozen=True)
class Published:
    """A printed table: its caption, a row a network (columns named as our measures), the printed tau of each column."""

    caption: str
    networks: pl.DataFrame
    taus: dict[str, float]


def chatterji2020(table: int) -> Published:
    """Table 2, 3, 4 or 5 of Chatterji, Neyshabur and Sedghi (2020); the generalization error as a fraction.

    Example:
        >>> chatterji2020(2).networks.select("network", "generalization_error", "network_criticality").row(0)
        ('ResNet18', 0.0461, 220000.0)
        >>> chatterji2020(2).taus["network_criticality"]
        0.53
    """
    caption, text = CHATTERJI_2020[table]
    *lines, last = (line.split("|") for line in text.strip().splitlines())
    rows = [(name.strip(), *map(_number, values.split())) for name, values in lines]
    taus = dict(zip(COLUMNS[1:], map(float, last[1].split()[1:]), strict=True))
    return Published(caption, pl.DataFrame(rows, schema=["network", *COLUMNS], orient="row"), taus)


def _number(printed: str) -> float:
    """A printed number; a percentage as a fraction, rounded to what is printed."""
    return round(float(printed[:-1]) / 100, 6) if printed.endswith("%") else float(printed)
