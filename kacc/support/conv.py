"""Convolutions."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kacc.core.registry import LayerSpec, RangeSpec, Weight
from kacc.support.activations import (
    ACTIVATIONS,
    BEFORE,
    call_with_activation,
    linear_integer,
    name_of,
    ranges,
    unsupported,
)

layers = keras.layers


def _reason(layer: Any) -> str | None:
    if layer.data_format != "channels_last":
        return "data_format must be channels_last"
    return unsupported(layer)


def _call(layer: Any, steps: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """A convolution and its activation; for the file a dilated one in one operator.

    TensorFlow spreads a dilated convolution over three, between which the converter
    finds no place for the bias. The one operator has no gradient on a CPU.
    """
    if not steps.constant or max(layer.dilation_rate) == 1:
        return call_with_activation(layer, steps, inputs, *args, **kwargs)
    padding = layer.padding
    if padding == "causal":
        inputs = ops.pad(inputs, layer._compute_causal_padding())
        padding = "valid"
    convolve = tf.nn.conv1d if layer.rank == 1 else tf.nn.conv2d
    kernel = ops.convert_to_tensor(layer.kernel)
    outputs = convolve(
        inputs, kernel, 1, padding.upper(), dilations=list(layer.dilation_rate)
    )
    if layer.use_bias:
        outputs = outputs + layer.bias
    activation = ACTIVATIONS[name_of(layer)]
    if not activation.fused:
        outputs = steps.range(BEFORE, outputs)
    return activation.apply(steps, outputs)


def _separable_ranges(layer: Any) -> dict[str, RangeSpec]:
    return {"depthwise": RangeSpec(), **ranges(layer)}


def _depthwise(layer: Any, inputs: Any, kernel: Any) -> Any:
    return ops.depthwise_conv(
        inputs,
        kernel,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )


def _pointwise(inputs: Any, kernel: Any) -> Any:
    return ops.conv(inputs, kernel, strides=1, padding="valid")


def _separable_integer(layer: Any, file: Any, x: Any) -> Any:
    weights = file.weights()
    first, second = weights.weights.values()
    between = file.rescale(
        _depthwise(layer, x.centered, first.integers),
        x.grid,
        first,
        None,
        "depthwise",
        "depthwise",
    )
    acc = file.exact(between, second.integers, _pointwise)
    activation = ACTIVATIONS[name_of(layer)]
    name = "output" if activation.fused else BEFORE
    outputs = file.rescale(acc, between.grid, second, weights.bias, name, "conv")
    return outputs if activation.fused else activation.integer(file, outputs)


def _separable_call(layer: Any, steps: Any, inputs: Any) -> Any:
    """The two convolutions apart: the file has a tensor between them."""
    between = _depthwise(layer, inputs, layer.depthwise_kernel)
    between = steps.range("depthwise", between)
    outputs = _pointwise(between, layer.pointwise_kernel)
    if layer.use_bias:
        outputs = outputs + layer.bias
    activation = ACTIVATIONS[name_of(layer)]
    if not activation.fused:
        outputs = steps.range(BEFORE, outputs)
    return activation.apply(steps, outputs)


def _conv(cls: type, weights: tuple[Weight, ...], **options: Any) -> LayerSpec:
    return LayerSpec(
        cls,
        **{
            "weights": weights,
            "bias": "bias",
            "activation": name_of,
            "absorbs_relu": True,
            "folds_batch_norm": True,
            "ranges": ranges,
            "call": call_with_activation,
            "integer": linear_integer,
            "supported": _reason,
            **options,
        },
    )


_IMAGE = [(8, 8, 3)]
_SEQUENCE = [(10, 3)]

SPECS = [
    _conv(
        layers.Conv1D,
        (Weight("kernel", least_bits=4),),
        call=_call,
        examples=(
            lambda: (layers.Conv1D(4, 3, activation="relu"), [(10, 3)]),
            lambda: (layers.Conv1D(4, 3, padding="same", strides=2), [(10, 3)]),
            lambda: (
                layers.Conv1D(4, 3, padding="causal", dilation_rate=2),
                [(10, 3)],
            ),
        ),
    ),
    _conv(
        layers.Conv2D,
        (Weight("kernel", least_bits=4),),
        call=_call,
        examples=(
            lambda: (layers.Conv2D(4, 3, activation="relu"), _IMAGE),
            lambda: (layers.Conv2D(4, 3, padding="same", strides=2), _IMAGE),
            lambda: (layers.Conv2D(4, 1, use_bias=False, activation="swish"), _IMAGE),
            lambda: (layers.Conv2D(4, 3, dilation_rate=2, activation="relu"), _IMAGE),
        ),
    ),
    _conv(
        layers.DepthwiseConv2D,
        (Weight("kernel", channels=(-2, -1), inputs=None, least_bits=4),),
        examples=(
            lambda: (layers.DepthwiseConv2D(3, activation="relu6"), _IMAGE),
            lambda: (
                layers.DepthwiseConv2D(
                    3, padding="same", strides=2, depth_multiplier=2
                ),
                _IMAGE,
            ),
        ),
    ),
    _conv(
        layers.DepthwiseConv1D,
        (Weight("kernel", channels=(-2, -1), inputs=None, least_bits=4),),
        examples=(
            lambda: (layers.DepthwiseConv1D(3, activation="relu"), _SEQUENCE),
            lambda: (layers.DepthwiseConv1D(3, depth_multiplier=2), _SEQUENCE),
        ),
    ),
    _conv(
        layers.SeparableConv1D,
        (
            Weight("depthwise_kernel", channels=(-2, -1), inputs=None, least_bits=4),
            Weight("pointwise_kernel", least_bits=4),
        ),
        ranges=_separable_ranges,
        call=_separable_call,
        integer=_separable_integer,
        examples=(
            lambda: (layers.SeparableConv1D(4, 3, activation="relu"), _SEQUENCE),
        ),
    ),
    _conv(
        layers.Conv2DTranspose,
        (Weight("kernel", channels=(-2,), inputs=-1),),
        examples=(
            lambda: (layers.Conv2DTranspose(4, 3, strides=2, padding="same"), _IMAGE),
            lambda: (
                layers.Conv2DTranspose(4, 2, strides=2, activation="relu"),
                _IMAGE,
            ),
        ),
    ),
    _conv(
        layers.SeparableConv2D,
        (
            Weight("depthwise_kernel", channels=(-2, -1), inputs=None, least_bits=4),
            Weight("pointwise_kernel", least_bits=4),
        ),
        ranges=_separable_ranges,
        call=_separable_call,
        integer=_separable_integer,
        examples=(
            lambda: (
                layers.SeparableConv2D(4, 3, padding="same", activation="relu"),
                _IMAGE,
            ),
            lambda: (layers.SeparableConv2D(4, 3, use_bias=False), _IMAGE),
        ),
    ),
]
