"""Normalization layers and rescaling."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kacc.core import attach
from kacc.core.fold import batch_norm_affine
from kacc.core.registry import LayerSpec, RangeSpec
from kacc.core.transform import is_training
from kacc.support.channels import scaled_channels

layers = keras.layers


def _last_axis(layer: Any) -> str | None:
    """Convolution and dense layers have their channels last, and fold only there."""
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    last = -1 if layer.input_spec is None else layer.input_spec.ndim - 1
    return None if axis in (-1, last) else "only normalization of the last axis folds"


def _last_axis_forward(layer: Any) -> str | None:
    if layer.invert or layer.mean is None or any(n > 1 for n in layer.mean.shape[:-1]):
        return "only adapted normalization of the last axis is supported"
    return None


def _affine(layer: Any) -> tuple[Any, Any]:
    """The layer at inference as (factor, offset), one entry for each channel."""
    if isinstance(layer, layers.BatchNormalization):
        return batch_norm_affine(layer)
    factor = 1.0 / ops.maximum(ops.sqrt(layer.variance), keras.config.epsilon())
    return ops.reshape(factor, (-1,)), ops.reshape(-layer.mean * factor, (-1,))


def _normalize(
    layer: Any, steps: Any, inputs: Any, training: Any = None, mask: Any = None
) -> Any:
    """In training the layer's own call; then one operator, as in the file."""
    if is_training():
        options = {} if training is None else {"training": training, "mask": mask}
        return attach.own_call(layer, steps, inputs, **options)
    if steps is not None and steps.constant:
        # Numbers, not operations: the converter would fold these by arithmetic of its
        # own, and one scale in three would be one rounding away from the simulation's.
        with tf.init_scope():
            affine = _affine(layer)
    else:
        affine = _affine(layer)
    return ops.cast(scaled_channels(inputs, *affine), inputs.dtype)


def _integer_normalize(layer: Any, file: Any, x: Any, **options: Any) -> Any:
    return file.scale_channels(x, *_affine(layer), "output")


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
        affine=batch_norm_affine,
        absorbs_relu=True,
        call=_normalize,
        integer=_integer_normalize,
        supported=_last_axis,
        examples=(
            lambda: (layers.BatchNormalization(), [(5, 5, 3)]),
            lambda: (layers.BatchNormalization(scale=False), [(7, 3)]),
            lambda: (layers.BatchNormalization(center=False), [(6,)]),
        ),
    ),
    LayerSpec(
        layers.Normalization,
        call=_normalize,
        integer=_integer_normalize,
        supported=_last_axis_forward,
        examples=(
            lambda: (
                layers.Normalization(mean=[0.1, 0.2, -1.0], variance=[1.0, 4.0, 0.5]),
                [(5, 5, 3)],
            ),
        ),
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
