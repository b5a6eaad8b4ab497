"""Restructuring: cheaper layers, other widths and heads, normalizations moved."""

from kacc import support as _support  # noqa: F401  (fills the layer registry)
from kacc.restructuring.config import (
    CHEAPER,
    CheaperActivations,
    FoldNormalization,
    GlobalPoolingHead,
    InsertBatchNormalization,
    RoundChannels,
    SeparableConvolutions,
    Width,
)
from kacc.restructuring.model import RestructuringPlan, plan, restructure
from kacc.restructuring.report import LayerReport

__all__ = [
    "CHEAPER",
    "CheaperActivations",
    "FoldNormalization",
    "GlobalPoolingHead",
    "InsertBatchNormalization",
    "LayerReport",
    "RestructuringPlan",
    "RoundChannels",
    "SeparableConvolutions",
    "Width",
    "plan",
    "restructure",
]
