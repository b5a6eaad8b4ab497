"""Pooling layers."""

from __future__ import annotations

from typing import Any

import keras

# Private: see kacc/support/activation.py.
from keras.src.ops import nn as operators

from kacc.core.registry import LayerSpec, Output
from kacc.support.operands import input_shape

layers = keras.layers


def _channels_last(layer: Any) -> str | None:
    if layer.data_format == "channels_last":
        return None
    return "data_format must be channels_last"


def _average(layer: Any, file: Any, x: Any) -> Any:
    def pool(values: Any) -> Any:
        return keras.ops.average_pool(
            values, layer.pool_size, layer.strides, layer.padding, layer.data_format
        )

    return file.average(x, pool)


def _mean(layer: Any, file: Any, x: Any, mask: Any = None) -> Any:
    axes = tuple(range(1, len(x.integers.shape) - 1))
    return file.mean(x, axes, layer.keepdims, "output")


_INTEGER = {Output.ROUNDED: _average, Output.RANGE: _mean}


def _pooling(cls: type, output: Output, *shape: int, **config: Any) -> LayerSpec:
    return LayerSpec(
        cls,
        output=output,
        supported=_channels_last,
        integer=_INTEGER.get(output),
        examples=(lambda: (cls(**config), [shape]),),
    )


def _windows_reason(operator: Any) -> str | None:
    shape = input_shape(operator)
    if shape is not None and len(shape) > 4:
        return "LiteRT has no integer pooling in three dimensions"
    data_format = operator.data_format or keras.config.image_data_format()
    if data_format == "channels_last":
        return None
    return "data_format must be channels_last"


SPECS = [
    _pooling(layers.MaxPooling1D, Output.SAME, 8, 3),
    _pooling(layers.MaxPooling2D, Output.SAME, 8, 8, 3, padding="same", pool_size=3),
    _pooling(layers.AveragePooling1D, Output.ROUNDED, 8, 3, pool_size=2),
    _pooling(layers.AveragePooling2D, Output.ROUNDED, 8, 8, 3, pool_size=3, strides=1),
    _pooling(layers.GlobalMaxPooling1D, Output.SAME, 8, 3),
    _pooling(layers.GlobalMaxPooling2D, Output.SAME, 8, 8, 3),
    _pooling(layers.GlobalAveragePooling1D, Output.RANGE, 8, 3),
    _pooling(layers.GlobalAveragePooling2D, Output.RANGE, 8, 8, 3, keepdims=True),
    _pooling(layers.GlobalMaxPooling3D, Output.SAME, 4, 3, 4, 2),
    _pooling(layers.GlobalAveragePooling3D, Output.RANGE, 4, 3, 4, 2),
    LayerSpec(operators.MaxPool, output=Output.SAME, supported=_windows_reason),
    LayerSpec(
        operators.AveragePool,
        output=Output.ROUNDED,
        integer=_average,
        supported=_windows_reason,
    ),
]
