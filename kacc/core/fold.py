"""Folding a batch normalization into the layer before it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def batch_norm_affine(layer: Any) -> tuple[Any, Any]:
    """A batch normalization at inference as `x * factor + offset`.

    Args:
        layer: a built keras.layers.BatchNormalization.

    Returns:
        (factor, offset), float32, one entry for each channel (Ioffe and Szegedy 2015,
        arXiv:1502.03167).
    """
    mean = _value(layer.moving_mean)
    factor = 1.0 / tf.sqrt(_value(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        factor = factor * _value(layer.gamma)
    beta = _value(layer.beta) if layer.center else tf.zeros_like(mean)
    return factor, beta - mean * factor


def fold_into_kernel(kernel: Any, channels: tuple[int, ...], factor: Any) -> Any:
    """A kernel whose outputs are scaled by one factor per channel.

    Args:
        kernel: weights with the output channels in the axes `channels`.
        channels: axes from the end, in order; (-2, -1) for depthwise kernels, (-2,)
            for transposed ones.
        factor: one entry for each output channel.

    Returns:
        A kernel of the same shape.
    """
    shape = [
        kernel.shape[axis] if axis in channels else 1
        for axis in range(min(channels), 0)
    ]
    return kernel * tf.reshape(factor, shape)


def _value(variable: Any) -> Any:
    return tf.cast(tf.convert_to_tensor(variable.value), tf.float32)
