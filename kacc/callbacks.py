"""Callbacks for `model.fit`."""

from kacc.pruning.channels.callback import ChannelPruning
from kacc.quantization.callback import QuantizationAwareTraining

__all__ = ["ChannelPruning", "QuantizationAwareTraining"]
