"""The transform that clusters a layer's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kacc.clustering import functional
from kacc.core import attach
from kacc.core.registry import Weight, matrix_weights
from kacc.core.transform import (
    CLUSTER,
    SPARSIFY,
    State,
    Transform,
    is_training,
    register_transform,
)

PER = ("tensor", "channel")


@dataclass(frozen=True)
class Clustered:
    """A weight that is clustered: its variable, its centroids, the axes kept apart."""

    variable: Any
    centroids: Any
    channels: tuple[int, ...]


@register_transform
class Cluster(Transform):
    """Replaces each weight by the nearest of a few centroids, which are trained.

    Args:
        clusters: values that the weights of a row have at most.
        start: how k-means starts.
        per: whether the whole tensor is a row, or each output channel.
        preserve_sparsity: whether zeros of a sparse layer stay zeros.
    """

    stage = CLUSTER
    weights_only = True

    def __init__(
        self,
        clusters: int,
        start: str = "kmeans++",
        per: str = "tensor",
        preserve_sparsity: bool = True,
    ) -> None:
        super().__init__()
        self.clusters = clusters
        self.start = start
        self.per = per
        self.preserve_sparsity = preserve_sparsity
        self.clustered: dict[str, Clustered] = {}
        self._operation: Any = None
        self._state: State | None = None

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the same transform again."""
        return {
            "clusters": self.clusters,
            "start": self.start,
            "per": self.per,
            "preserve_sparsity": self.preserve_sparsity,
        }

    def build(self, operation: Any, state: State, prefix: str) -> None:
        """Creates the centroids of a built layer; those that the state has are kept."""
        self._operation, self._state = operation, state
        existing = {variable.name: variable for variable in state.variables}
        for weight, variable in matrix_weights(operation):
            channels, shape = self._rows(weight, variable)
            name = f"{prefix}{weight.attribute}_centroids"
            # Attached anew with another count they are other variables.
            if name in existing and tuple(existing[name].shape) != shape:
                state.remove(existing.pop(name))
            if name not in existing:
                own = variable.constraint
                existing[name] = state.create(
                    name,
                    shape,
                    trainable=True,
                    constraint=own if holds_for_values(own) else None,
                )
            self.clustered[weight.attribute] = Clustered(
                variable, existing[name], channels
            )

    def _rows(self, weight: Weight, variable: Any) -> tuple[Any, tuple[int, int]]:
        rank = len(variable.shape)
        channels = weight.channels if self.per == "channel" else ()
        sizes = [variable.shape[axis % rank] for axis in channels]
        return channels, (int(np.prod(sizes, dtype=int)), self.clusters)

    def begin(self) -> None:
        """Sets the centroids for the present weights, by k-means."""
        for attribute, one in self.clustered.items():
            value = attach.weight_before(self._operation, attribute, CLUSTER)
            rows, _ = functional.to_rows(tf.cast(value, tf.float32), one.channels)
            one.centroids.assign(
                np.stack([self._centroids_of(row) for row in rows.numpy()])
            )

    def _centroids_of(self, row: np.ndarray) -> np.ndarray:
        zeros = row == 0
        if not self.preserve_sparsity or not (zeros.any() or self._is_pruned()):
            return functional.kmeans(row, self.clusters, self.start)
        if zeros.all():
            return np.zeros(self.clusters, "float32")
        rest = functional.kmeans(row[~zeros], self.clusters - 1, self.start)
        return np.concatenate([[np.float32(0)], rest])

    def _is_pruned(self) -> bool:
        present = attach.transforms_of(self._operation)
        return any(transform.stage == SPARSIFY for transform in present)

    @property
    def begun(self) -> bool:
        """Whether the centroids were set, here or in a file that was loaded."""
        return any(np.any(one.centroids.numpy()) for one in self.clustered.values())

    def weight(self, attribute: str, value: Any) -> Any:
        """The weight with the value of its centroid everywhere."""
        one = self.clustered.get(attribute)
        if one is None:
            return value
        rows, back = functional.to_rows(tf.cast(value, tf.float32), one.channels)
        centroids = tf.convert_to_tensor(one.centroids.value)
        return tf.cast(
            back(functional.replace_by_centroids(rows, centroids)), value.dtype
        )

    def count(self) -> int:
        """Different values in a row, at most."""
        most = 0
        for attribute, one in self.clustered.items():
            value = attach.weight_before(self._operation, attribute, CLUSTER + 1)
            rows, _ = functional.to_rows(value, one.channels)
            most = max(most, *(len(np.unique(row)) for row in np.asarray(rows)))
        return most

    def shares_scale(self, attribute: str) -> bool:
        """Whether integers must have one scale for all channels to be as few."""
        return self.enabled and self.per == "tensor" and attribute in self.clustered

    def settle(self) -> None:
        """Writes the centroids' values into the variables."""
        if not self.enabled:
            return
        for attribute, one in self.clustered.items():
            with keras.src.backend.AutocastScope(None):
                value = attach.weight_before(self._operation, attribute, CLUSTER)
            one.variable.assign(self.weight(attribute, value))

    def discard(self) -> None:
        """Removes the centroids from the state."""
        if self._state is not None:
            for one in self.clustered.values():
                self._state.remove(one.centroids)

    def idle(self, value: Any) -> Any:
        """The value itself; the centroids get gradients of zero."""
        if not is_training():
            return value
        for one in self.clustered.values():
            nothing = 0.0 * tf.reduce_sum(tf.convert_to_tensor(one.centroids.value))
            full = value + tf.cast(nothing, value.dtype)
            # Some layers put the mask of their output on the tensor.
            if getattr(value, "_keras_mask", None) is not None:
                full._keras_mask = value._keras_mask
            value = full
        return value


def holds_for_values(constraint: Any) -> bool:
    """Whether a constraint is one on each value, so that centroids can keep to it."""
    return isinstance(constraint, keras.constraints.NonNeg)


def cluster_of(operation: Any) -> Cluster | None:
    """The clustering attached to a layer, or None."""
    for transform in attach.transforms_of(operation):
        if isinstance(transform, Cluster):
            return transform
    return None
