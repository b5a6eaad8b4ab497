"""Normalization over the features of each example: layer normalization and its kin."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kacc.core.registry import LayerSpec, RangeSpec
from kacc.core.transform import is_training
from kacc.support.arithmetic import without_zeros
from kacc.support.channels import scaled_channels
from kacc.support.operands import input_shape

layers = keras.layers


def _layer_norm_reason(layer: Any) -> str | None:
    if layer.rms_scaling:
        return "its deprecated rms_scaling is not supported, RMSNormalization is"
    return _last_axis_only(layer)


def _last_axis_only(layer: Any) -> str | None:
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    shape = input_shape(layer)
    last = -1 if shape is None else len(shape) - 1
    if list(axes) not in ([-1], [last]):
        return "only normalization over the last axis is supported"
    return None


_INVERSE_ROOT = {
    name: RangeSpec(nonnegative=True)
    for name in ("squares", "mean_square", "shifted", "inverse")
}


def _ranges(layer: Any) -> dict[str, RangeSpec]:
    inner = {
        "mean": RangeSpec(),
        "centered": RangeSpec(),
        **_INVERSE_ROOT,
        "normalized": RangeSpec(),
    }
    if not _has_affine(layer):
        del inner["normalized"]
    return {**inner, "output": RangeSpec()}


def _has_affine(layer: Any) -> bool:
    return layer.gamma is not None or layer.beta is not None


def _affine(layer: Any) -> tuple[Any, Any]:
    """(factor, offset), one entry for each channel; the offset None without one."""
    gamma, beta = layer.gamma, layer.beta
    factor = ops.ones_like(beta) if gamma is None else ops.convert_to_tensor(gamma)
    return factor, None if beta is None else ops.convert_to_tensor(beta)


def _scaled(x: Any, factor: Any, offset: Any) -> Any:
    if not is_training():
        return scaled_channels(x, factor, offset)
    return x * factor if offset is None else x * factor + offset


def _layer_norm(layer: Any, steps: Any, inputs: Any) -> Any:
    """(x - mean) * rsqrt(variance + epsilon), then gamma and beta as a convolution."""
    x = ops.cast(inputs, "float32")
    mean = steps.range("mean", ops.mean(x, axis=-1, keepdims=True))
    centered = steps.range("centered", x - mean)
    inverse = _inverse_root(layer, steps, centered)
    outputs = centered * inverse
    if _has_affine(layer):
        outputs = steps.range("normalized", outputs)
        outputs = _scaled(outputs, *_affine(layer))
    return ops.cast(outputs, layer.compute_dtype)


def _inverse_root(layer: Any, steps: Any, x: Any) -> Any:
    """1 / sqrt(mean(x^2) + epsilon)."""
    squares = steps.range("squares", x * x)
    mean = steps.range("mean_square", ops.mean(squares, axis=-1, keepdims=True))
    shifted = steps.range("shifted", mean + layer.epsilon)
    return steps.range("inverse", ops.rsqrt(without_zeros(steps, shifted)))


def _integer_inverse_root(layer: Any, file: Any, x: Any) -> Any:
    squares = file.multiply(x, x, "squares")
    mean = file.mean(squares, (-1,), True, "mean_square")
    shifted = file.add(mean, file.constant(layer.epsilon), "shifted")
    return file.rsqrt(shifted, "inverse")


def _integer_layer_norm(layer: Any, file: Any, x: Any) -> Any:
    mean = file.mean(x, (-1,), True, "mean")
    centered = file.subtract(x, mean, "centered")
    inverse = _integer_inverse_root(layer, file, centered)
    if not _has_affine(layer):
        return file.multiply(centered, inverse, "output")
    outputs = file.multiply(centered, inverse, "normalized")
    return file.scale_channels(outputs, *_affine(layer), "output")


def _rms_norm(layer: Any, steps: Any, inputs: Any) -> Any:
    """X * rsqrt(mean(x^2) + epsilon), then the scale as a convolution.

    Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    x = ops.cast(inputs, "float32")
    outputs = steps.range("normalized", x * _inverse_root(layer, steps, x))
    outputs = _scaled(outputs, ops.cast(layer.scale, "float32"), None)
    return ops.cast(outputs, layer.compute_dtype)


def _integer_rms_norm(layer: Any, file: Any, x: Any) -> Any:
    inverse = _integer_inverse_root(layer, file, x)
    outputs = file.multiply(x, inverse, "normalized")
    factor = ops.cast(layer.scale, "float32")
    return file.scale_channels(outputs, factor, None, "output")


SPECS = [
    LayerSpec(
        layers.LayerNormalization,
        ranges=_ranges,
        absorbs_relu=True,
        call=_layer_norm,
        integer=_integer_layer_norm,
        supported=_layer_norm_reason,
        examples=(
            lambda: (layers.LayerNormalization(), [(6, 6, 3)]),
            lambda: (layers.LayerNormalization(epsilon=1e-6), [(5, 24)]),
            lambda: (layers.LayerNormalization(center=False), [(17,)]),
            lambda: (layers.LayerNormalization(scale=False), [(4, 4, 20)]),
            lambda: (layers.LayerNormalization(center=False, scale=False), [(4, 9)]),
        ),
    ),
    LayerSpec(
        layers.RMSNormalization,
        ranges=lambda layer: {
            **_INVERSE_ROOT,
            "normalized": RangeSpec(),
            "output": RangeSpec(),
        },
        absorbs_relu=True,
        squares=True,
        call=_rms_norm,
        integer=_integer_rms_norm,
        supported=_last_axis_only,
        examples=(
            lambda: (layers.RMSNormalization(), [(6, 6, 3)]),
            lambda: (layers.RMSNormalization(epsilon=1e-3), [(5, 24)]),
        ),
    ),
]
