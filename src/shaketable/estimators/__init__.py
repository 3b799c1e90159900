"""Estimators: the gap of a network from measures, fitted on a zoo, with an interval, kept as a plain file."""

from shaketable.estimators.estimate import Estimate
from shaketable.estimators.estimator import Estimator, fit
from shaketable.estimators.features import MARGINS, Feature, margin_statistics, with_margins
from shaketable.estimators.intervals import plus_interval, split_interval
from shaketable.estimators.models import fitted
from shaketable.estimators.splits import Splits, correlation, left_out, repeated_splits, whole_fit

__all__ = [
    "MARGINS",
    "Estimate",
    "Estimator",
    "Feature",
    "Splits",
    "correlation",
    "fit",
    "fitted",
    "left_out",
    "margin_statistics",
    "plus_interval",
    "repeated_splits",
    "split_interval",
    "whole_fit",
    "with_margins",
]
