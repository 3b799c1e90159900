"""Statistics of measures over many networks, on plain arrays."""

from shaketable.statistics.bootstrap import Interval, bootstrap
from shaketable.statistics.columns import HyperParameters, Values
from shaketable.statistics.information import Information, conditional_mutual_information
from shaketable.statistics.ranks import Granulated, granulated_tau, kendall_tau, kendall_tau_stderr, tied_stderr
from shaketable.statistics.regression import (
    CrossValidated,
    cross_validated_r2,
    r2,
    standardised_coefficients,
    unseen_r2,
)
from shaketable.statistics.signs import SignError, hoeffding_weight, robust_sign_error

__all__ = [
    "CrossValidated",
    "Granulated",
    "HyperParameters",
    "Information",
    "Interval",
    "SignError",
    "Values",
    "bootstrap",
    "conditional_mutual_information",
    "cross_validated_r2",
    "granulated_tau",
    "hoeffding_weight",
    "kendall_tau",
    "kendall_tau_stderr",
    "r2",
    "robust_sign_error",
    "standardised_coefficients",
    "tied_stderr",
    "unseen_r2",
]
