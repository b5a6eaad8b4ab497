"""Callbacks for `model.fit`."""

from kacc.clustering.callback import WeightClustering
from kacc.pruning.callback import Pruning
from kacc.pruning.channels.callback import ChannelPruning
from kacc.quantization.callback import QuantizationAwareTraining

__all__ = ["ChannelPruning", "Pruning", "QuantizationAwareTraining", "WeightClustering"]
