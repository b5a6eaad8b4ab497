"""Convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kacc.core.registry import LayerSpec, RangeSpec, Weight
from kacc.support.activations import (
    ACTIVATIONS,
    BEFORE,
    absorbs_relu,
    call_with_activation,
    linear_integer,
    name_of,
    ranges,
    unsupported,
    unsupported_wide,
)
from kacc.support.convolution import (
    convolve,
    convolve_channels,
    is_depthwise,
    needs_one_operator,
)

layers = keras.layers


def _reason(layer: Any) -> str | None:
    if layer.data_format != "channels_last":
        return "data_format must be channels_last"
    if max(layer.strides) > 1 and max(layer.dilation_rate) > 1:
        return "strides and dilation together are not supported"
    return unsupported(layer)


def _in_one_operator(convolution: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """The forward pass: Keras's own, or for the file a convolution in one operator."""

    def call(layer: Any, steps: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if not steps.constant or not needs_one_operator(layer):
            return call_with_activation(layer, steps, inputs, *args, **kwargs)
        return _ended(layer, steps, convolution(layer, inputs))

    return call


def _own_channels(layer: Any, inputs: Any) -> Any:
    return convolve_channels(layer, inputs, ops.convert_to_tensor(layer.kernel))


def _ended(layer: Any, steps: Any, outputs: Any) -> Any:
    """The bias and the activation at the end of a convolution."""
    if layer.use_bias:
        outputs = outputs + layer.bias
    activation = ACTIVATIONS[name_of(layer)]
    if not activation.fused:
        outputs = steps.range(BEFORE, outputs)
    return activation.apply(steps, outputs)


def _integer(layer: Any, file: Any, x: Any) -> Any:
    """On integers: a group for each channel is a DEPTHWISE_CONV_2D in the file."""
    if layer.groups == 1:
        return linear_integer(layer, file, x, "conv")
    kind = "depthwise" if is_depthwise(layer) else "grouped"
    return linear_integer(layer, file, x, kind)


def _transposed_reason(layer: Any) -> str | None:
    if max(layer.dilation_rate) > 1:
        return "a dilated transposed convolution is not supported"
    return _reason(layer)


def _separable_ranges(layer: Any) -> dict[str, RangeSpec]:
    return {"depthwise": RangeSpec(), **ranges(layer)}


def _depthwise(layer: Any, steps: Any, inputs: Any, kernel: Any) -> Any:
    if steps is not None and steps.constant and needs_one_operator(layer):
        return convolve_channels(layer, inputs, kernel)
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
        file.exact_by_channel(
            x, first.integers, lambda v, kernel: _depthwise(layer, None, v, kernel)
        ),
        x.grid,
        first,
        None,
        "depthwise",
        "depthwise",
    )
    row = Weight("pointwise_kernel")
    second = file.fitted(second, row, weights.bias, between.grid)
    acc = file.exact(between, second.integers, _pointwise)
    activation = ACTIVATIONS[name_of(layer)]
    name = "output" if activation.fused else BEFORE
    outputs = file.rescale(acc, between.grid, second, weights.bias, name, "conv")
    return outputs if activation.fused else activation.integer(file, outputs)


def _separable_call(layer: Any, steps: Any, inputs: Any) -> Any:
    """The two convolutions apart: the file has a tensor between them."""
    between = _depthwise(layer, steps, inputs, layer.depthwise_kernel)
    between = steps.range("depthwise", between)
    return _ended(layer, steps, _pointwise(between, layer.pointwise_kernel))


def _conv(cls: type, weights: tuple[Weight, ...], **options: Any) -> LayerSpec:
    return LayerSpec(
        cls,
        **{
            "weights": weights,
            "bias": "bias",
            "activation": name_of,
            "absorbs_relu": True,
            "activation_absorbs_relu": absorbs_relu,
            "folds_batch_norm": True,
            "ranges": ranges,
            "call": call_with_activation,
            "integer": linear_integer,
            "supported": _reason,
            "supported_wide": unsupported_wide,
            **options,
        },
    )


_IMAGE = [(8, 8, 3)]
_SEQUENCE = [(10, 3)]

SPECS = [
    _conv(
        layers.Conv1D,
        (Weight("kernel", least_bits=4),),
        call=_in_one_operator(convolve),
        integer=_integer,
        examples=(
            lambda: (layers.Conv1D(4, 3, activation="relu"), [(10, 3)]),
            lambda: (layers.Conv1D(4, 3, padding="same", strides=2), [(10, 3)]),
            lambda: (layers.Conv1D(6, 3, groups=3), [(10, 3)]),
            lambda: (
                layers.Conv1D(4, 3, padding="causal", dilation_rate=2),
                [(10, 3)],
            ),
        ),
    ),
    _conv(
        layers.Conv2D,
        (Weight("kernel", least_bits=4),),
        call=_in_one_operator(convolve),
        integer=_integer,
        examples=(
            lambda: (layers.Conv2D(4, 3, activation="relu"), _IMAGE),
            lambda: (layers.Conv2D(4, 3, padding="same", strides=2), _IMAGE),
            lambda: (layers.Conv2D(4, 1, use_bias=False, activation="swish"), _IMAGE),
            lambda: (layers.Conv2D(4, 3, dilation_rate=2, activation="relu"), _IMAGE),
            lambda: (layers.Conv2D(6, 3, groups=3), _IMAGE),
            lambda: (layers.Conv2D(8, 3, groups=4), [(6, 6, 16)]),
            lambda: (layers.Conv2D(20, 3, groups=20, padding="same"), [(6, 6, 20)]),
            lambda: (layers.Conv2D(6, 3, strides=2, groups=3), _IMAGE),
        ),
    ),
    _conv(
        layers.DepthwiseConv2D,
        (Weight("kernel", channels=(-2, -1), inputs=None, least_bits=4),),
        call=_in_one_operator(_own_channels),
        examples=(
            lambda: (layers.DepthwiseConv2D(3, activation="relu6"), _IMAGE),
            lambda: (layers.DepthwiseConv2D(3), [(6, 6, 20)]),
            lambda: (layers.DepthwiseConv2D(3, dilation_rate=2), _IMAGE),
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
        call=_in_one_operator(_own_channels),
        examples=(
            lambda: (layers.DepthwiseConv1D(3, activation="relu"), _SEQUENCE),
            lambda: (layers.DepthwiseConv1D(3, depth_multiplier=2), _SEQUENCE),
            lambda: (layers.DepthwiseConv1D(3, dilation_rate=2), _SEQUENCE),
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
        supported=_transposed_reason,
        examples=(
            lambda: (layers.Conv2DTranspose(4, 3, strides=2, padding="same"), _IMAGE),
            lambda: (
                layers.Conv2DTranspose(4, 2, strides=2, activation="relu"),
                _IMAGE,
            ),
        ),
    ),
    _conv(
        layers.Conv1DTranspose,
        (Weight("kernel", channels=(-2,), inputs=-1),),
        supported=_transposed_reason,
        examples=(
            lambda: (layers.Conv1DTranspose(4, 3, strides=2), _SEQUENCE),
            lambda: (layers.Conv1DTranspose(4, 3, activation="relu"), _SEQUENCE),
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
            lambda: (layers.SeparableConv2D(4, 3, dilation_rate=2), _IMAGE),
        ),
    ),
]
