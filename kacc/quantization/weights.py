"""A layer's weights as the file has them: folded, rounded, with their scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tensorflow as tf

from kacc.core import attach, registry
from kacc.core.fold import fold_into_kernel
from kacc.core.transform import QUANTIZE
from kacc.quantization import functional, learned
from kacc.quantization.transform import Quantize

# The converter's limit of an integer bias, half of what would fit.
_LARGEST_BIAS = float(2**30 - 1)

# Of the weights of channels that are all zero: biases of some ten fit 32 bits by it.
_STEP_OF_ZEROS = 1e-6


@dataclass(frozen=True)
class IntegerWeight:
    """A weight of the file.

    Args:
        integers: as float32, in Keras's layout.
        real: integers times scale, float32: what the converter is given.
        scale: one for each output channel, float64, as the converter has it: it
            rounds the bias by it before the file stores a float32.
        bits: width of the integers.
        explicit: whether integers and scale are written into the file after the
            conversion, since the converter would find others.
    """

    integers: Any
    real: Any
    scale: Any
    bits: int = 8
    explicit: bool = False


@dataclass(frozen=True)
class FileWeights:
    """All weights of a layer: by attribute, and the bias, or None without one."""

    weights: dict[str, IntegerWeight] = field(default_factory=dict)
    bias: Any = None


def file_weights(
    layer: Any, spec: registry.LayerSpec, transform: Quantize | None, batch_norm: Any
) -> FileWeights:
    """The weights of a layer as the file will have them.

    Args:
        layer: a built layer.
        spec: its row.
        transform: its quantization; None leaves the weights as they are.
        batch_norm: the batch normalization, or the like, that folds into it, or None.

    Returns:
        Tensors computed from the variables' present values.
    """
    bias = getattr(layer, spec.bias, None) if spec.bias else None
    bias = None if bias is None else _float32(bias.value)
    factor = None
    if batch_norm is not None:
        factor, offset = _affine(batch_norm)
        bias = offset if bias is None else bias * factor + offset
    weights = {
        weight.attribute: _integer_weight(
            _float32(attach.weight_before(layer, weight.attribute, QUANTIZE)),
            weight,
            transform,
            # Of two convolutions in one layer the second is the one before the
            # normalization.
            factor if weight is spec.weights[-1] else None,
        )
        for weight in spec.weights
    }
    return FileWeights(weights, bias)


def _affine(layer: Any) -> tuple[Any, Any]:
    spec = registry.find(layer)
    assert spec is not None
    assert spec.affine is not None
    return spec.affine(layer)


def fitted_to_bias(
    weight: IntegerWeight, channels: Sequence[int], bias: Any, scale: Any
) -> IntegerWeight:
    """A weight with scales by which the integers of the bias are not too large.

    The converter widens the scale of channels whose weights are as good as zero
    (`SetBiasParamsWithAdjustments` in TensorFlow's quantization_driver.cc), and that of
    weights below 5e-7 in any case.

    Args:
        weight: as the converter would find it without a bias.
        channels: the axes of the weight that have scales of their own.
        bias: float, one for each channel, or a number for all.
        scale: of the input, float64.

    Returns:
        The weight as the file has it.
    """
    rank = len(weight.integers.shape)
    kept = {axis % rank for axis in channels}
    others = [axis for axis in range(rank) if axis not in kept]
    empty = tf.reduce_max(tf.abs(weight.integers), axis=others, keepdims=True) == 0
    own = tf.where(tf.reshape(empty, [-1]), tf.zeros_like(weight.scale), weight.scale)
    least = tf.abs(tf.cast(bias, tf.float64)) / (_LARGEST_BIAS * scale)
    wider = tf.maximum(tf.maximum(own, least), functional.SMALLEST_SPAN / 254)
    shrunk = tf.reshape(own / wider, empty.shape)
    integers = tf.round(tf.cast(weight.integers, tf.float64) * shrunk)
    return replace(weight, integers=tf.cast(integers, tf.float32), scale=wider)


def _integer_weight(
    value: Any, weight: registry.Weight, transform: Quantize | None, factor: Any
) -> IntegerWeight:
    if transform is not None and transform.explicit:
        return _explicit_weight(value, weight, transform, factor)
    scale = functional.weight_scale(value, weight.channels)
    integers = tf.round(value / scale)
    real = integers * scale
    if factor is not None:
        real = fold_into_kernel(real, weight.channels, factor)
        integers = fold_into_kernel(integers, weight.channels, tf.sign(factor))
    return IntegerWeight(integers, real, _converter_scale(real, weight.channels))


def _explicit_weight(
    value: Any, weight: registry.Weight, transform: Quantize, factor: Any
) -> IntegerWeight:
    """A weight with the very scale that was trained, as the file stores it."""
    step = transform.weight_step(weight.attribute, value)
    bits = transform.weight_bits
    integers = learned.integers_by_step(value, step, bits)
    if factor is not None:
        integers = fold_into_kernel(integers, weight.channels, tf.sign(factor))
        folded = fold_into_kernel(step, weight.channels, tf.abs(factor))
        step = tf.where(folded > 0, folded, step)  # a file's scale is positive
    # Of a channel of zeros any step is right; large ones make multipliers that XNNPACK
    # does not take, and crashes.
    axes = [i for i, size in enumerate(step.shape) if size == 1]
    empty = tf.reduce_max(tf.abs(integers), axis=axes, keepdims=True) == 0
    step = tf.where(empty, tf.fill(tf.shape(step), _STEP_OF_ZEROS), step)
    scale = tf.cast(tf.reshape(step, [-1]), tf.float64)
    return IntegerWeight(integers, integers * step, scale, bits, explicit=True)


def _converter_scale(real: Any, channels: tuple[int, ...]) -> Any:
    """The scales that the converter finds in the weights, by its own arithmetic."""
    wide = functional.weight_scale(tf.cast(real, tf.float64), channels)
    return tf.reshape(wide, [-1])


def _float32(value: Any) -> Any:
    return tf.cast(tf.convert_to_tensor(value), tf.float32)
