"""The measured baseline of clustering: tfmot's cluster_weights, on tf_keras."""

from __future__ import annotations

from typing import Any

import legacy


def clustered(model: Any, clusters: int) -> Any:
    """A tf_keras twin of a Keras 3 model, wrapped by tfmot to be clustered."""
    import tensorflow_model_optimization as tfmot

    starts = tfmot.clustering.keras.CentroidInitialization
    return tfmot.clustering.keras.cluster_weights(
        legacy.twin(model),
        number_of_clusters=clusters,
        cluster_centroids_init=starts.KMEANS_PLUS_PLUS,
    )


def strip(model: Any) -> Any:
    """Tfmot's clustered model without its wrappers."""
    import tensorflow_model_optimization as tfmot

    return tfmot.clustering.keras.strip_clustering(model)
