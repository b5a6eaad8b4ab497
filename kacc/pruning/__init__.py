"""Pruning: sparsity by masks while a model trains; `channels` removes channels."""

from kacc import support as _support  # noqa: F401  (fills the layer registry)
from kacc.pruning.callback import Pruning
from kacc.pruning.config import Block, Method, NOfM, SoftThreshold
from kacc.pruning.masks import sparsity, update_masks
from kacc.pruning.model import freeze_masks, prune
from kacc.pruning.scan import Sensitivity, sensitivity

__all__ = [
    "Block",
    "Method",
    "NOfM",
    "Pruning",
    "Sensitivity",
    "SoftThreshold",
    "freeze_masks",
    "prune",
    "sensitivity",
    "sparsity",
    "update_masks",
]
