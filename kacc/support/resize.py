"""Layers and operators that resize images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

# Private: see kacc/support/activation.py.
from keras.src.ops import image as operators

from kacc.core.registry import LayerSpec, Output

layers = keras.layers


def _upsampling_reason(layer: Any) -> str | None:
    return _interpolation_reason(layer) or _data_format_reason(layer)


def _resizing_reason(layer: Any) -> str | None:
    if layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio:
        return "resizing that keeps the aspect ratio is not supported"
    if layer.antialias and layer.interpolation != "nearest":
        return "antialiasing is not supported"
    return _interpolation_reason(layer) or _data_format_reason(layer)


def _interpolation_reason(layer: Any) -> str | None:
    if layer.interpolation in ("nearest", "bilinear"):
        return None
    return f"LiteRT has no {layer.interpolation} interpolation"


def _data_format_reason(layer: Any) -> str | None:
    if layer.data_format == "channels_last":
        return None
    return "data_format must be channels_last"


def _upsampled_size(layer: Any, images: Any) -> tuple[int, int]:
    return images.shape[1] * layer.size[0], images.shape[2] * layer.size[1]


def _resizing_size(layer: Any, images: Any) -> tuple[int, int]:
    return layer.height, layer.width


def _operator_size(operator: Any, images: Any) -> tuple[int, int]:
    return operator.size


def _row(
    cls: type,
    size: Callable[[Any, Any], tuple[int, int]],
    supported: Callable[[Any], str | None],
    examples: Any = (),
) -> LayerSpec:
    def call(layer: Any, steps: Any, images: Any, **options: Any) -> Any:
        """One operator; Keras's own form repeats, which becomes several."""
        return keras.ops.image.resize(
            images, size(layer, images), interpolation=layer.interpolation
        )

    def integer(layer: Any, file: Any, x: Any, **options: Any) -> Any:
        wanted = size(layer, x.integers)
        if layer.interpolation == "nearest":
            return file.move(x, lambda values: call(layer, None, values))
        if tuple(x.integers.shape[1:3]) == wanted:
            return x  # TensorFlow leaves such images as they are
        return file.resize_bilinear(x, wanted)

    return LayerSpec(
        cls,
        output=Output.ROUNDED,
        call=call,
        integer=integer,
        supported=supported,
        examples=examples,
    )


SPECS = [
    _row(
        layers.UpSampling2D,
        _upsampled_size,
        _upsampling_reason,
        (
            lambda: (layers.UpSampling2D((2, 3)), [(4, 4, 3)]),
            lambda: (layers.UpSampling2D(2, interpolation="bilinear"), [(4, 5, 3)]),
            lambda: (
                layers.UpSampling2D((1, 3), interpolation="bilinear"),
                [(4, 5, 9)],
            ),
        ),
    ),
    _row(
        layers.Resizing,
        _resizing_size,
        _resizing_reason,
        (
            lambda: (layers.Resizing(7, 9), [(5, 4, 3)]),
            lambda: (layers.Resizing(3, 4), [(8, 8, 3)]),
            lambda: (layers.Resizing(5, 4), [(5, 4, 3)]),
            lambda: (layers.Resizing(7, 3, interpolation="nearest"), [(5, 8, 3)]),
        ),
    ),
    _row(operators.Resize, _operator_size, _resizing_reason),
]
