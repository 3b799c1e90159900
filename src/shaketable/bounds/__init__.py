"""Upper bounds on the error on new examples, a file a theorem, each with what it rests on."""

from shaketable.bounds.bound import Assumption, Bound
from shaketable.bounds.criticality import (
    corollary_bound,
    criticality_bound,
    criticality_kl,
    prior_indices,
    prior_sigma,
)
from shaketable.bounds.deterministic import deterministic_bound, perturbation_sigmas, study_deterministic_bound
from shaketable.bounds.dropout import dropout_bound, dropout_divergence, study_dropout_bound
from shaketable.bounds.mcallester import error_upper_bound, kl_inverse, mcallester_bound
from shaketable.bounds.stochastic import bounds_by_scale, study_bound, study_corollary_bound

__all__ = [
    "Assumption",
    "Bound",
    "bounds_by_scale",
    "corollary_bound",
    "criticality_bound",
    "criticality_kl",
    "deterministic_bound",
    "dropout_bound",
    "dropout_divergence",
    "error_upper_bound",
    "kl_inverse",
    "mcallester_bound",
    "perturbation_sigmas",
    "prior_indices",
    "prior_sigma",
    "study_bound",
    "study_corollary_bound",
    "study_deterministic_bound",
    "study_dropout_bound",
]
