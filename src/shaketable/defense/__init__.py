"""Randomised classifiers, and attacks on them. No defense: see docs/defense.md."""

from shaketable.defense.attacked import Attacks, attacked
from shaketable.defense.attacks import adversarial_examples, attack_summary, attack_table
from shaketable.defense.classifier import Normalised, RandomisedClassifier, pixels, randomised_accuracy

__all__ = [
    "Attacks",
    "Normalised",
    "RandomisedClassifier",
    "adversarial_examples",
    "attack_summary",
    "attack_table",
    "attacked",
    "pixels",
    "randomised_accuracy",
]
