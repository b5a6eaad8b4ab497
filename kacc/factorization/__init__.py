"""Factorization: a layer as two or three smaller ones, by singular vectors."""

from kacc.factorization.model import FactorizationPlan, factorize, plan
from kacc.factorization.report import LayerReport

__all__ = ["FactorizationPlan", "LayerReport", "factorize", "plan"]
