"""Keras's BatchNormalization with TensorFlow's fused kernel in the training step."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

# Private: the table of the names by which Keras's own classes are saved. The tests of
# saving in tests/acceleration/test_layer.py fail when it goes away.
from keras.src.api_export import REGISTERED_OBJS_TO_NAMES

from kacc.acceleration.functional import batch_normalize, is_compiled_by_xla

_FLOATS = ("float32", "bfloat16", "float16")

# Values per example below which the kernel's fixed cost (0.3 ms for a step, measured
# with oneDNN) is more than it saves at the usual 32 to 64 examples.
_LEAST_VALUES = 1024


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """BatchNormalization whose training step runs in one fused kernel.

    It has the weights, the config and the saved form of Keras's own layer, and gives
    the same outputs, gradients and moving statistics. Where the kernel does not apply
    or does not pay (inference, masks, small inputs, XLA), it is Keras's own call.
    Layers become fused by `fuse_batch_normalization`; a saved one loads as Keras's.

    Example:
        >>> import keras
        >>> layer = FusedBatchNormalization()
        >>> keras.saving.serialize_keras_object(layer)["class_name"]
        'BatchNormalization'
    """

    kacc_equivalent = True

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """Normalizes; arguments and result are those of Keras's layer."""
        if not (training and self.trainable) or not self._fits(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        # As in Keras's call, half precision is only how inputs and outputs are kept:
        # the kernel reads and writes it, and computes in float32.
        channels = inputs.shape[-1]
        outputs, mean, variance = batch_normalize(
            inputs,
            ops.cast(self.gamma, "float32") if self.scale else tf.ones(channels),
            ops.cast(self.beta, "float32") if self.center else tf.zeros(channels),
            self.epsilon,
        )
        self._move(self.moving_mean, mean)
        self._move(self.moving_variance, variance)
        return ops.cast(outputs, self.compute_dtype)

    def _move(self, variable: Any, value: Any) -> None:
        old = ops.cast(variable, value.dtype)
        variable.assign(old * self.momentum + value * (1.0 - self.momentum))

    def _fits(self, inputs: Any, mask: Any) -> bool:
        """Whether the fused kernel computes this very call, and faster."""
        return (
            mask is None
            and isinstance(inputs, tf.Tensor)
            and unfit_reason(self) is None
            and inputs.dtype.name in _FLOATS
            and inputs.shape.rank is not None
            and self.axis in (-1, inputs.shape.rank - 1)
            and _values_per_example(inputs.shape) >= _LEAST_VALUES
            # XLA computes the variance as E[x^2] - E[x]^2: wrong in the third digit at
            # a mean of 100 deviations, NaN at 1000. And it fuses Keras's call itself.
            and not is_compiled_by_xla()
        )


# The parent's identity, so that names, paths in weight files and saved configs are
# those of a plain layer.
FusedBatchNormalization.__name__ = keras.layers.BatchNormalization.__name__
FusedBatchNormalization.__qualname__ = keras.layers.BatchNormalization.__qualname__
FusedBatchNormalization.__module__ = keras.layers.BatchNormalization.__module__
REGISTERED_OBJS_TO_NAMES[FusedBatchNormalization] = REGISTERED_OBJS_TO_NAMES[
    keras.layers.BatchNormalization
]


def unfit_reason(layer: keras.layers.BatchNormalization) -> str | None:
    """Why the fused kernel never computes what a layer does, or None if it can.

    Args:
        layer: a BatchNormalization, built or not.

    Returns:
        The reason in a few words, or None.

    Example:
        >>> import keras
        >>> unfit_reason(keras.layers.BatchNormalization(renorm=True))
        'it renormalizes'
    """
    if layer.synchronized:
        return "it is synchronized between replicas"
    # Keras 3.12 to 3.14 have no `renorm`.
    if getattr(layer, "renorm", False):
        return "it renormalizes"
    if "float64" in (layer.compute_dtype, layer.variable_dtype):
        return "it computes in float64"
    if layer.built and layer.axis not in (-1, layer.input_spec.ndim - 1):
        return "its channels are not the last axis"
    return None


def _values_per_example(shape: Any) -> float:
    """Values per example; infinite if an axis is not known while tracing."""
    known = [math.inf if size is None else size for size in shape[1:]]
    return math.prod(known)
