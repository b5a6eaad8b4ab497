"""Building the smaller model: the same layers, with fewer channels."""

from __future__ import annotations

import numpy as np

from kacc.core.channels.graph import DependencyGraph
from kacc.core.channels.resize import Resized


class Rebuild(Resized):
    """A model without some of its channels.

    Args:
        dependencies: of the model.
        remaining: for each class whether it remains.
    """

    def __init__(self, dependencies: DependencyGraph, remaining: np.ndarray) -> None:
        super().__init__(dependencies, remaining)
        self.remaining = remaining
