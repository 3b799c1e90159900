"""Evaluate many variants of one network at a fraction of the cost of evaluating each whole, with the same answers."""

from shaketable.engine.controlled import largest_magnitude
from shaketable.engine.engine import Engine
from shaketable.engine.levels import Level, Precision
from shaketable.engine.questions import Decision, Estimate, decide, errors
from shaketable.engine.search import Found, critical_magnitude, guesses, minimum_ratio, minimum_value, run
from shaketable.engine.variants import Combination, Variant

__all__ = [
    "Combination",
    "Decision",
    "Engine",
    "Estimate",
    "Found",
    "Level",
    "Precision",
    "Variant",
    "critical_magnitude",
    "decide",
    "errors",
    "guesses",
    "largest_magnitude",
    "minimum_ratio",
    "minimum_value",
    "run",
]
