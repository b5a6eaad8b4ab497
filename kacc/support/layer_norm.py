"""Normalization over the features of each example: layer normalization and its kin."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kacc.core.registry import LayerSpec, RangeSpec
from kacc.core.transform import is_training
from kacc.support.channels import scaled_channels

layers = keras.layers


def _layer_norm_reason(layer: Any) -> str | None:
    if layer.rms_scaling:
        return "its deprecated rms_scaling is not supported, RMSNormalization is"
    return _last_axis_only(layer)


def _last_axis_only(layer: Any) -> str | None:
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    shape = (layer._build_shapes_dict or {}).get("input_shape", ())
    if list(axes) not in ([-1], [len(shape) - 1]):
        return "only normalization over the last axis is supported"
    if len(shape) not in (2, 3, 4):
        return "only tensors of 2 to 4 dimensions are supported"
    return None


def _ranges(layer: Any) -> dict[str, RangeSpec]:
    inner = {
        "mean": RangeSpec(),
        "centered": RangeSpec(),
        "squares": RangeSpec(nonnegative=True),
        "variance": RangeSpec(nonnegative=True),
        "shifted": RangeSpec(nonnegative=True),
        "inverse": RangeSpec(nonnegative=True),
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
    inverse = _inverse_deviation(layer, steps, centered)
    outputs = centered * inverse
    if _has_affine(layer):
        outputs = steps.range("normalized", outputs)
        outputs = _scaled(outputs, *_affine(layer))
    return ops.cast(outputs, layer.compute_dtype)


def _inverse_deviation(layer: Any, steps: Any, centered: Any) -> Any:
    squares = steps.range("squares", centered * centered)
    variance = steps.range("variance", ops.mean(squares, axis=-1, keepdims=True))
    exact = variance + layer.epsilon
    shifted = steps.range("shifted", exact)
    if steps.constant:
        return steps.range("inverse", ops.rsqrt(shifted))
    # A variance that is rounded to zero: RSQRT gives the end of its range.
    some = shifted > 0
    inverse = ops.where(some, ops.rsqrt(ops.where(some, shifted, 1.0)), 0.0)
    largest = ops.stop_gradient(ops.max(inverse))
    return steps.range("inverse", ops.where(some, inverse, largest))


def _integer_layer_norm(layer: Any, file: Any, x: Any) -> Any:
    mean = file.mean(x, (-1,), True, "mean")
    centered = file.subtract(x, mean, "centered")
    squares = file.multiply(centered, centered, "squares")
    variance = file.mean(squares, (-1,), True, "variance")
    shifted = file.add(variance, file.constant(layer.epsilon), "shifted")
    inverse = file.rsqrt(shifted, "inverse")
    if not _has_affine(layer):
        return file.multiply(centered, inverse, "output")
    outputs = file.multiply(centered, inverse, "normalized")
    return file.scale_channels(outputs, *_affine(layer), "output")


SPECS = [
    LayerSpec(
        layers.LayerNormalization,
        ranges=_ranges,
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
]
