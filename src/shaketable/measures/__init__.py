"""Measures: one number about a network each, to rank networks by how well they generalise."""

from shaketable.measures.criticality import network_criticality, pac_bayes
from shaketable.measures.gap import generalization_error
from shaketable.measures.measure import MEASURES, Measure, Measurement, measurements
from shaketable.measures.norms import (
    number_of_parameters,
    product_of_frobenius_norms,
    product_of_spectral_norms,
    squared_distance_to_init,
    sum_of_spectral_norms,
)

__all__ = [
    "MEASURES",
    "Measure",
    "Measurement",
    "generalization_error",
    "measurements",
    "network_criticality",
    "number_of_parameters",
    "pac_bayes",
    "product_of_frobenius_norms",
    "product_of_spectral_norms",
    "squared_distance_to_init",
    "sum_of_spectral_norms",
]
