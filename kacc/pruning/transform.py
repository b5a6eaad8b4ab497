"""The transform that prunes a layer's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kacc.core.registry import Weight, matrix_weights
from kacc.core.transform import SPARSIFY, State, Transform, register_transform
from kacc.pruning.config import method_named


@dataclass(frozen=True)
class Pruned:
    """A weight that is pruned: its row, its variable, and its mask of 0 and 1."""

    weight: Weight
    variable: Any
    mask: Any

    @property
    def zeros(self) -> np.ndarray:
        """Where the mask is zero."""
        return np.asarray(self.mask.numpy()) == 0


@register_transform
class Prune(Transform):
    """Multiplies weights by masks.

    Between steps the pruned weights of the variables themselves are zero, and so are
    their gradients. With `regrow` the variables stay dense and learn as if nothing were
    pruned, so that a later mask can bring a weight back (Lin et al. 2020,
    arXiv:2006.07253).

    Args:
        target: the sparsity to reach.
        method: name of the method.
        pooled: whether the layer shares its target with others, or has it for itself.
        regrow: whether pruned weights go on learning.
        wrapped: whether the layer was given to `PruneWrapper`: pruning the model leaves
            its target and method.
    """

    stage = SPARSIFY
    weights_only = True

    def __init__(
        self,
        target: float,
        method: str = "magnitude",
        pooled: bool = False,
        regrow: bool = False,
        wrapped: bool = False,
    ) -> None:
        super().__init__()
        self.target = target
        self.method = method_named(method)
        self.pooled = pooled
        self.regrow = regrow
        self.wrapped = wrapped
        self.pruned: dict[str, Pruned] = {}

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the same transform again."""
        return {
            "target": self.target,
            "method": self.method.name,
            "pooled": self.pooled,
            "regrow": self.regrow,
            "wrapped": self.wrapped,
        }

    def build(self, operation: Any, state: State, prefix: str) -> None:
        """Creates the masks of a built layer; those that the state has are kept."""
        existing = {variable.name: variable for variable in state.variables}
        for weight, variable in matrix_weights(operation):
            name = f"{prefix}{weight.attribute}_mask"
            if name not in existing:
                existing[name] = state.create(name, variable.shape, initializer="ones")
            self.pruned[weight.attribute] = Pruned(weight, variable, existing[name])

    def weight(self, attribute: str, value: Any) -> Any:
        """The weight with zeros where the mask has them."""
        mask = self.mask(attribute)
        if mask is None:
            return value
        kept = value * tf.cast(mask, value.dtype)
        return value + tf.stop_gradient(kept - value) if self.regrow else kept

    def mask(self, attribute: str) -> Any:
        """The mask of a weight, a float32 tensor, or None."""
        pruned = self.pruned.get(attribute)
        return None if pruned is None else tf.convert_to_tensor(pruned.mask.value)

    def settle(self) -> None:
        """Makes the pruned weights zero in the variables."""
        for one in self.pruned.values():
            with keras.src.backend.AutocastScope(None):
                value = tf.convert_to_tensor(one.variable.value)
            kept = tf.convert_to_tensor(one.mask.value) > 0
            # Not a product, which would make -0.0 of negative numbers.
            one.variable.assign(tf.where(kept, value, tf.zeros_like(value)))


def prune_of(operation: Any) -> Prune | None:
    """The pruning attached to a layer, or None."""
    for transform in getattr(operation, "_kacc_transforms", ()):
        if isinstance(transform, Prune):
            return transform
    return None
