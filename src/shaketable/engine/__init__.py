"""Evaluate many variants of one network at a fraction of the cost of evaluating each whole, with the same answers."""

from shaketable.engine.engine import Engine
from shaketable.engine.variants import Combination, Variant

__all__ = ["Combination", "Engine", "Variant"]
