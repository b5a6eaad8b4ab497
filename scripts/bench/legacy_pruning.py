"""The measured baseline of pruning: tfmot's prune_low_magnitude, on tf_keras."""

from __future__ import annotations

from typing import Any

import legacy


def prunable(model: Any, end_step: int) -> tuple[Any, list[Any]]:
    """A tf_keras twin of a Keras 3 model, wrapped by tfmot to be pruned to 75%.

    Args:
        model: a Keras 3 model.
        end_step: the step at which the sparsity is reached.

    Returns:
        (the wrapped model, the callbacks that it needs).
    """
    import tensorflow_model_optimization as tfmot

    wrapped = prune(legacy.twin(model), end_step)
    return wrapped, [tfmot.sparsity.keras.UpdatePruningStep()]


def prune(model: Any, end_step: int = 1000) -> Any:
    """A tf_keras model, wrapped by tfmot to be pruned to 75%."""
    import tensorflow_model_optimization as tfmot

    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.75, 0, end_step)
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
    for layer in wrapped.layers:
        if hasattr(layer, "pruning_step"):
            # The callback does so in `fit`; a step that runs alone asserts that it did.
            layer.pruning_step.assign(0)
    return wrapped


def convert(model: Any) -> bytes:
    """Tfmot's pruned model without its wrappers, as a float TFLite file."""
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot

    stripped = tfmot.sparsity.keras.strip_pruning(model)
    return tf.lite.TFLiteConverter.from_keras_model(stripped).convert()
