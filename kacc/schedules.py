"""Schedules: pure functions from a training step to a value."""

from kacc.core.schedules import Constant, Cosine, PolynomialDecay

__all__ = ["Constant", "Cosine", "PolynomialDecay"]
