"""Penalties on weights by callback, which prepare a model for pruning."""

from kacc import support as _support  # noqa: F401  (fills the layer registry)
from kacc.regularization.callback import Regularization
from kacc.regularization.functional import group_lasso, l1, l2

__all__ = ["Regularization", "group_lasso", "l1", "l2"]
