"""What a kernel multiplies: the rows of a layer's product, as a matrix."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kacc.core import patches
from kacc.core.channels.follow import Axis

layers = keras.layers
LARGEST = 5000  # columns; their Gram matrix is to stay below 100 MB


def product_kernel(layer: Any) -> str | None:
    """The kernel of a layer that is one product of its inputs' patches, or None."""
    if isinstance(layer, (layers.SeparableConv1D, layers.SeparableConv2D)):
        return "pointwise_kernel"
    if isinstance(layer, (layers.Conv1D, layers.Conv2D)):
        return "kernel" if layer.groups == 1 else None
    return "kernel" if isinstance(layer, layers.Dense) else None


def is_reader(axis: Axis) -> bool:
    """Whether an axis is the inputs of a product whose size a matrix can have."""
    name = product_kernel(axis.layer)
    if name != axis.attribute or axis.axis != -2:
        return False
    return int(np.prod(axis.variable.shape[:-1])) <= LARGEST


def columns(axis: Axis) -> np.ndarray:
    """The class of each column of `rows`."""
    taps = int(np.prod(axis.variable.shape[:-2]))
    return np.tile(axis.channels, taps)


def matrix(layer: Any) -> np.ndarray:
    """The kernel, a row for each column of `rows`, float64."""
    kernel = keras.ops.convert_to_numpy(getattr(layer, product_kernel(layer) or ""))
    return np.asarray(kernel.reshape(-1, kernel.shape[-1]), np.float64)


def assign(layer: Any, values: np.ndarray) -> None:
    """Gives a layer the kernel that a matrix describes."""
    variable = getattr(layer, product_kernel(layer) or "")
    variable.assign(values.reshape(variable.shape).astype("float32"))


def rows(layer: Any, inputs: Any) -> Any:
    """The patches that a layer's kernel is multiplied with, one in each row.

    Args:
        layer: as `product_kernel` knows.
        inputs: a batch.

    Returns:
        A matrix with a row for each position of each sample.
    """
    inputs = tf.convert_to_tensor(inputs)
    if isinstance(layer, (layers.SeparableConv1D, layers.SeparableConv2D)):
        mixed = keras.ops.depthwise_conv(
            inputs,
            layer.depthwise_kernel,
            strides=layer.strides,
            padding=layer.padding,
            dilation_rate=layer.dilation_rate,
            data_format="channels_last",
        )
        return tf.reshape(mixed, (-1, mixed.shape[-1]))
    return patches.rows(layer, inputs)
