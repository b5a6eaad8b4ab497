"""Callbacks for `model.fit`."""

from kacc.augmentation.callback import DataAugmentation
from kacc.pruning.callback import Pruning
from kacc.pruning.channels.callback import ChannelPruning
from kacc.quantization.callback import QuantizationAwareTraining

__all__ = ["ChannelPruning", "DataAugmentation", "Pruning", "QuantizationAwareTraining"]
