"""Quantization-aware training: fake quantization attached to a model's layers."""

from kacc import support as _support  # noqa: F401  (fills the layer registry)
from kacc.quantization.adaround import AdaRound
from kacc.quantization.calibration import Ranges
from kacc.quantization.callback import QuantizationAwareTraining
from kacc.quantization.config import SCHEMES, Scheme
from kacc.quantization.model import (
    calibrate,
    quantize,
    require_seen,
    scheme_of,
    skipped_by_rules,
    unseen_ranges,
)
from kacc.quantization.simulation import Simulation, simulate

__all__ = [
    "SCHEMES",
    "AdaRound",
    "QuantizationAwareTraining",
    "Ranges",
    "Scheme",
    "Simulation",
    "calibrate",
    "quantize",
    "require_seen",
    "scheme_of",
    "simulate",
    "skipped_by_rules",
    "unseen_ranges",
]
