"""Ensembles: several models as one, by the mean of their answers or a trained head."""

from kacc import support as _support  # noqa: F401  (fills the layer registry)
from kacc.ensembling.functional import mixture_weights
from kacc.ensembling.model import METHODS, ensemble

__all__ = ["METHODS", "ensemble", "mixture_weights"]
