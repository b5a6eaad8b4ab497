"""Callbacks for `model.fit`."""

from kacc.quantization.callback import QuantizationAwareTraining

__all__ = ["QuantizationAwareTraining"]
