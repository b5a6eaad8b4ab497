"""Weight clustering as a callback of `model.fit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from kacc.clustering.model import (
    attach_clustering,
    begin_missing,
    clustered_layers,
    clusters,
    settings_of,
    start_clustering,
)
from kacc.core.arguments import whole
from kacc.core.rules import Rule


class WeightClustering(keras.callbacks.Callback):
    """Clusters the weights of a model, from inside `model.fit`.

    It attaches before the first step, so that checkpoints, early stopping and resuming
    see the same variables from start to end; until `start_epoch` the model computes as
    before. Then k-means finds the values that weights share, and the steps that follow
    train them. After the fit, training without the callback keeps weights clustered. At
    the end of each epoch `logs` gets "clusters", the largest number of different values
    in a layer.

    Together with `kacc.callbacks.Pruning` pruned weights stay zero, which is one of the
    values; together with `kacc.callbacks.QuantizationAwareTraining` the integers of a
    layer are as few as its clusters.

    Args:
        clusters: values that the weights of a layer have at most, 2 to 256.
        start: where k-means starts: "kmeans++" or "linear".
        start_epoch: the first epoch (from 0) that trains clustered.
        rules: exceptions by layer path; the last that matches wins.
        per: "tensor", or "channel" for values of each output channel's own (of an
            embedding: each feature's).
        preserve_sparsity: whether zeros of sparse layers stay zeros.

    Raises:
        UsageError: for a wrong argument.

    Example:
        >>> import numpy as np, keras, kacc
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.compile("adam", "mse")
        >>> clustering = kacc.callbacks.WeightClustering(4)
        >>> x, y = np.ones((8, 8)), np.ones((8, 4))
        >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[clustering])
        >>> history.history["clusters"]
        [4, 4]
    """

    def __init__(
        self,
        clusters: int = 16,
        start: str = "kmeans++",
        start_epoch: int = 0,
        rules: Sequence[Rule] = (),
        *,
        per: str = "tensor",
        preserve_sparsity: bool = True,
    ) -> None:
        super().__init__()
        self.settings = settings_of(clusters, start, rules, per, preserve_sparsity)
        self.start_epoch = whole("start_epoch", start_epoch, 0, "epochs")

    def set_model(self, model: keras.Model) -> None:
        """Attaches to the model, before any other callback can restore a state."""
        super().set_model(model)
        started = any(transform.enabled for _, transform in clustered_layers(model))
        attach_clustering(model, {**self.settings, "enabled": started})
        begin_missing(model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts clustering when it is time."""
        if epoch >= self.start_epoch:
            start_clustering(self.model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the number of clusters to the logs."""
        if logs is not None and epoch >= self.start_epoch:
            logs["clusters"] = max(clusters(self.model).values())
