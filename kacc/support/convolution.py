"""Convolutions in one operator of the file, where TensorFlow makes several."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import ops


def needs_one_operator(layer: Any) -> bool:
    """Whether Keras's own form of a convolution is not one that the converter knows.

    TensorFlow spreads a dilated convolution over three operators, between which the
    converter finds no place for the bias, and Keras compiles grouped ones by XLA. The
    one operator cannot be trained, or not even run, on a CPU.
    """
    return max(layer.dilation_rate) > 1 or getattr(layer, "groups", 1) > 1


def is_depthwise(layer: Any) -> bool:
    """Whether each group of a Conv1D or Conv2D is one channel."""
    return layer.groups > 1 and layer.kernel.shape[-2] == 1


def convolve(layer: Any, inputs: Any) -> Any:
    """CONV_2D, or DEPTHWISE_CONV_2D where each group is one channel; without bias."""
    padding = layer.padding
    if padding == "causal":
        inputs = ops.pad(inputs, layer._compute_causal_padding())
        padding = "valid"
    kernel = ops.convert_to_tensor(layer.kernel)
    if is_depthwise(layer):
        shape = (*kernel.shape[:-2], layer.groups, -1)
        return convolve_channels(layer, inputs, ops.reshape(kernel, shape))
    function = tf.nn.conv1d if layer.rank == 1 else tf.nn.conv2d
    return function(
        inputs,
        kernel,
        list(layer.strides),
        padding.upper(),
        dilations=list(layer.dilation_rate),
    )


def convolve_channels(layer: Any, inputs: Any, kernel: Any) -> Any:
    """DEPTHWISE_CONV_2D of an image or sequence.

    Args:
        layer: has the strides, the dilation and the padding.
        inputs: channels last.
        kernel: (*size, input channels, multiplier).
    """
    sequence = len(inputs.shape) == 3
    strides, dilations = list(layer.strides), list(layer.dilation_rate)
    if sequence:
        inputs, kernel = ops.expand_dims(inputs, 1), ops.expand_dims(kernel, 0)
        strides, dilations = 2 * strides, 2 * dilations
    outputs = tf.raw_ops.DepthwiseConv2dNative(
        input=inputs,
        filter=kernel,
        strides=[1, *strides, 1],
        padding=layer.padding.upper(),
        dilations=[1, *dilations, 1],
    )
    return ops.squeeze(outputs, 1) if sequence else outputs
