"""A layer's weights as the file has them: folded, rounded, with their scales."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from kacc.core import registry
from kacc.core.fold import fold_into_kernel
from kacc.quantization import functional
from kacc.quantization.transform import Quantize


@dataclass(frozen=True)
class IntegerWeight:
    """A weight of the file.

    Args:
        integers: as float32, in Keras's layout.
        real: integers times scale, float32: what the converter is given.
        scale: one for each output channel, float64, as the converter has it: it
            rounds the bias by it before the file stores a float32.
    """

    integers: Any
    real: Any
    scale: Any


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
    bits = transform.scheme.weight_bits if transform else 8
    bias = _full(getattr(layer, spec.bias, None)) if spec.bias else None
    factor = None
    if batch_norm is not None:
        factor, offset = _affine(batch_norm)
        bias = offset if bias is None else bias * factor + offset
    weights = {
        weight.attribute: _integer_weight(
            _full(getattr(layer, weight.attribute)),
            weight.channels,
            bits,
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


def _integer_weight(
    value: Any, channels: tuple[int, ...], bits: int, factor: Any
) -> IntegerWeight:
    scale = functional.weight_scale(value, channels, bits)
    integers = tf.round(value / scale)
    real = integers * scale
    if factor is not None:
        real = fold_into_kernel(real, channels, factor)
        integers = fold_into_kernel(integers, channels, tf.sign(factor))
    return IntegerWeight(integers, real, _converter_scale(real, channels, bits))


def _converter_scale(real: Any, channels: tuple[int, ...], bits: int) -> Any:
    """The scales that the converter finds in the weights, by its own arithmetic."""
    wide = functional.weight_scale(tf.cast(real, tf.float64), channels, bits)
    return tf.reshape(wide, [-1])


def _full(variable: Any) -> Any:
    """A variable's own value, whatever the layer's compute dtype is."""
    if variable is None:
        return None
    return tf.cast(tf.convert_to_tensor(variable.value), tf.float32)
