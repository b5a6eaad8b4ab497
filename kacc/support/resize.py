"""Layers and operators that resize images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

# Private: see kacc/support/activation.py.
from keras.src.ops import image as operators
from keras.src.ops import numpy

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


def _repeated(x: Any, axis: int, times: int) -> Any:
    """Each entry along an axis several times: a RESIZE_NEAREST_NEIGHBOR.

    Keras's own form becomes a TILE, which the reference kernels lack for integers.
    """
    before, after = x.shape[1:axis], x.shape[axis + 1 :]
    image = (-1, math.prod(before), x.shape[axis], math.prod(after))
    size = (image[1], times * image[2])
    images = keras.ops.image.resize(
        keras.ops.reshape(x, image), size, interpolation="nearest"
    )
    return keras.ops.reshape(images, (-1, *before, size[1], *after))


def _repeating(
    cls: type, repeat: Callable[[Any, Any], Any], **options: Any
) -> LayerSpec:
    return LayerSpec(
        cls,
        output=Output.SAME,
        call=lambda layer, steps, x: repeat(layer, x),
        **options,
    )


def _repeat_volumes(layer: Any, x: Any) -> Any:
    for axis, times in enumerate(layer.size, start=1):
        x = _repeated(x, axis, times)
    return x


def _repeat_vector(layer: Any, x: Any) -> Any:
    return _repeated(keras.ops.expand_dims(x, 1), 1, layer.n)


def _repeat_reason(operator: Any) -> str | None:
    if isinstance(operator.repeats, int) and operator.axis is not None:
        return None
    return "it repeats by a list of numbers, or a flattened tensor"


SPECS = [
    _repeating(
        layers.RepeatVector,
        _repeat_vector,
        examples=(lambda: (layers.RepeatVector(3), [(6,)]),),
    ),
    _repeating(
        layers.UpSampling1D,
        lambda layer, x: _repeated(x, 1, layer.size),
        examples=(lambda: (layers.UpSampling1D(3), [(8, 3)]),),
    ),
    _repeating(
        layers.UpSampling3D,
        _repeat_volumes,
        supported=_data_format_reason,
        examples=(lambda: (layers.UpSampling3D((1, 2, 3)), [(4, 3, 4, 2)]),),
    ),
    _repeating(
        numpy.Repeat,
        lambda operator, x: _repeated(
            x, operator.axis % len(x.shape), operator.repeats
        ),
        supported=_repeat_reason,
    ),
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
