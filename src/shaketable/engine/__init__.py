"""Evaluates variants of one network: which examples a set of weights gets wrong, and at what loss."""

from shaketable.engine.loop import Sums, evaluate

__all__ = ["Sums", "evaluate"]
