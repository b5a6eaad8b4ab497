"""Transfer: a model that was trained on much data, for a task with little."""

from kacc.transfer.callback import Unfreezing
from kacc.transfer.pretrained import pretrained

__all__ = ["Unfreezing", "pretrained"]
