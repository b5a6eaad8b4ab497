"""Normalization layers and rescaling."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kacc.core.registry import LayerSpec, RangeSpec

layers = keras.layers


def _last_axis(layer: Any) -> str | None:
    """Convolution and dense layers have their channels last, and fold only there."""
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    last = -1 if layer.input_spec is None else layer.input_spec.ndim - 1
    return None if axis in (-1, last) else "only normalization of the last axis folds"


def _has_offset(layer: Any) -> bool:
    return bool((ops.convert_to_numpy(layer.offset) != 0).any())


def _rescaling_ranges(layer: Any) -> dict[str, RangeSpec]:
    inner = {"scaled": RangeSpec()} if _has_offset(layer) else {}
    return {**inner, "output": RangeSpec()}


def _rescale(layer: Any, steps: Any, inputs: Any) -> Any:
    """A MUL and an ADD, as in the file."""
    dtype = layer.compute_dtype
    outputs = ops.cast(inputs, dtype) * ops.cast(layer.scale, dtype)
    if not _has_offset(layer):
        return outputs
    return steps.range("scaled", outputs) + ops.cast(layer.offset, dtype)


def _integer_rescale(layer: Any, file: Any, x: Any) -> Any:
    factor = file.constant(layer.scale)
    if not _has_offset(layer):
        return file.multiply(x, factor, "output")
    scaled = file.multiply(x, factor, "scaled")
    return file.add(scaled, file.constant(layer.offset), "output")


SPECS = [
    LayerSpec(
        layers.BatchNormalization,
        is_batch_norm=True,
        absorbs_relu=True,
        supported=_last_axis,
    ),
    LayerSpec(
        layers.Rescaling,
        ranges=_rescaling_ranges,
        call=_rescale,
        integer=_integer_rescale,
        examples=(
            lambda: (layers.Rescaling(1 / 255), [(6, 6, 3)]),
            lambda: (layers.Rescaling(1 / 127.5, offset=-1.0), [(6, 6, 3)]),
        ),
    ),
]
