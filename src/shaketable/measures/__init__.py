"""Measures: one number about a network each, to rank networks by how well they generalise."""

from shaketable.measures.criticality import network_criticality, pac_bayes
from shaketable.measures.curvature import (
    effective_dimensionality,
    fisher_rao_norm,
    gradient_noise_norm,
    hessian_largest_eigenvalue,
    hessian_spectrum,
    hessian_trace,
)
from shaketable.measures.flatness import pac_bayes_flatness, pac_bayes_from_init, pac_bayes_from_origin
from shaketable.measures.gap import generalization_error
from shaketable.measures.heavy_tails import heavy_tail_alpha
from shaketable.measures.magnitude_flatness import (
    magnitude_flatness_jiang2020,
    magnitude_flatness_kuhn2021,
    magnitude_from_init_jiang2020,
    magnitude_from_origin_jiang2020,
)
from shaketable.measures.margins import inverse_margin, normalised_margin, normalised_margins
from shaketable.measures.measure import MEASURES, Measure, Measurement, measurements
from shaketable.measures.norm_sums import (
    frobenius_norms_over_margin,
    spectral_complexity_from_init,
    spectral_complexity_from_origin,
    spectral_norms_over_margin,
    squared_parameter_norm,
    sum_of_frobenius_norms,
    sum_of_squared_spectral_norms,
    sum_of_stable_ranks,
)
from shaketable.measures.norms import (
    number_of_parameters,
    product_of_frobenius_norms,
    product_of_spectral_norms,
    squared_distance_to_init,
    sum_of_spectral_norms,
)
from shaketable.measures.path_norm import path_norm
from shaketable.measures.pruning import (
    number_of_parameters_pruned,
    prunability,
    random_prunability,
    sum_of_frobenius_norms_pruned,
    sum_of_squared_spectral_norms_pruned,
)
from shaketable.measures.sharpness import sharpness_keskar2017
from shaketable.measures.sparsity import kappa, zeta
from shaketable.measures.training import last_training_loss, sum_of_training_losses, training_loss
from shaketable.measures.zero_cost import (
    gradient_norm_at_init,
    naswot_at_init,
    nn_density,
    nn_mass,
    snip_at_init,
    synflow_at_init,
)

__all__ = [
    "MEASURES",
    "Measure",
    "Measurement",
    "effective_dimensionality",
    "fisher_rao_norm",
    "frobenius_norms_over_margin",
    "generalization_error",
    "gradient_noise_norm",
    "gradient_norm_at_init",
    "heavy_tail_alpha",
    "hessian_largest_eigenvalue",
    "hessian_spectrum",
    "hessian_trace",
    "inverse_margin",
    "kappa",
    "last_training_loss",
    "magnitude_flatness_jiang2020",
    "magnitude_flatness_kuhn2021",
    "magnitude_from_init_jiang2020",
    "magnitude_from_origin_jiang2020",
    "measurements",
    "naswot_at_init",
    "network_criticality",
    "nn_density",
    "nn_mass",
    "normalised_margin",
    "normalised_margins",
    "number_of_parameters",
    "number_of_parameters_pruned",
    "pac_bayes",
    "pac_bayes_flatness",
    "pac_bayes_from_init",
    "pac_bayes_from_origin",
    "path_norm",
    "product_of_frobenius_norms",
    "product_of_spectral_norms",
    "prunability",
    "random_prunability",
    "sharpness_keskar2017",
    "snip_at_init",
    "spectral_complexity_from_init",
    "spectral_complexity_from_origin",
    "spectral_norms_over_margin",
    "squared_distance_to_init",
    "squared_parameter_norm",
    "sum_of_frobenius_norms",
    "sum_of_frobenius_norms_pruned",
    "sum_of_spectral_norms",
    "sum_of_squared_spectral_norms",
    "sum_of_squared_spectral_norms_pruned",
    "sum_of_stable_ranks",
    "sum_of_training_losses",
    "synflow_at_init",
    "training_loss",
    "zeta",
]
