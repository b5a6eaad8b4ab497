"""Callbacks for `model.fit`."""

from kacc.augmentation.callback import DataAugmentation
from kacc.clustering.callback import WeightClustering
from kacc.distillation.callback import Distillation
from kacc.pruning.callback import Pruning
from kacc.pruning.channels.callback import ChannelPruning
from kacc.quantization.callback import QuantizationAwareTraining
from kacc.regularization.callback import Regularization
from kacc.transfer.callback import Unfreezing

__all__ = [
    "ChannelPruning",
    "DataAugmentation",
    "Distillation",
    "Pruning",
    "QuantizationAwareTraining",
    "Regularization",
    "Unfreezing",
    "WeightClustering",
]
