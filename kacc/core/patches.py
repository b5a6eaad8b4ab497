"""Patches: what the kernel of a dense or convolutional layer is multiplied with."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

layers = keras.layers


def rows(layer: Any, inputs: Any) -> Any:
    """The patches of a batch, one in each row.

    Args:
        layer: a Dense, or a Conv1D or Conv2D without groups.
        inputs: a batch, channels last.

    Returns:
        A matrix with a row for each position of each sample; its columns go as the
        kernel's axes but the last: tap by tap, the channels of each.

    Example:
        >>> conv = keras.layers.Conv2D(1, (2, 1))
        >>> x = tf.reshape(tf.range(6.0), (1, 3, 1, 2))
        >>> rows(conv, x).numpy().tolist()
        [[0.0, 1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 5.0]]
    """
    inputs = tf.convert_to_tensor(inputs)
    if isinstance(layer, layers.Dense):
        return tf.reshape(inputs, (-1, inputs.shape[-1]))
    if isinstance(layer, layers.Conv1D):
        return _patches_1d(layer, inputs)
    return _patches(
        inputs, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding
    )


def _patches_1d(layer: Any, inputs: Any) -> Any:
    padding = layer.padding
    if padding == "causal":
        left = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        inputs, padding = tf.pad(inputs, ((0, 0), (left, 0), (0, 0))), "valid"
    return _patches(
        inputs[:, None],
        (1, *layer.kernel_size),
        (1, *layer.strides),
        (1, *layer.dilation_rate),
        padding,
    )


def _patches(inputs: Any, sizes: Any, strides: Any, rates: Any, padding: str) -> Any:
    if max(sizes) == max(strides) == 1:
        return tf.reshape(inputs, (-1, inputs.shape[-1]))
    patches = tf.image.extract_patches(
        inputs, (1, *sizes, 1), (1, *strides, 1), (1, *rates, 1), padding.upper()
    )
    return tf.reshape(patches, (-1, patches.shape[-1]))
