"""Distillation: a small model learns from the outputs and features of a larger one."""

from kacc import support as _support  # noqa: F401  (fills the layer registry)
from kacc.distillation.callback import Distillation
from kacc.distillation.functional import feature_loss, soft_loss

__all__ = ["Distillation", "feature_loss", "soft_loss"]
