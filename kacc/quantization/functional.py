"""Pure tensor functions of quantization: scales, ranges, fake quantization.

Conventions are those of the TFLite int8 specification: weights symmetric with integers
in -127..127, activations asymmetric in -128..127, or symmetric of 16 bits
(https://ai.google.dev/edge/litert/conversion/tensorflow/quantization). The
straight-through gradient is that of Bengio et al. 2013 (arXiv:1308.3432); moving
average ranges are those of Jacob et al. 2018 (arXiv:1712.05877).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# Ranges narrower than this have no useful scale; a constant tensor gets this one.
SMALLEST_SPAN = 1e-6


def weight_scale(weight: Any, channels: Sequence[int], bits: int = 8) -> Any:
    """Symmetric scale of each channel, max|w| / (2^(bits-1) - 1).

    Args:
        weight: float tensor.
        channels: the axes that keep a scale of their own.
        bits: width of the integers.

    Returns:
        Scales, of the weight's rank, 1 where a channel is all zero.

    Example:
        >>> weight_scale(tf.constant([[127.0, -2.0], [1.0, 254.0]]), [-1]).numpy()
        array([[1., 2.]], dtype=float32)
    """
    rank = len(weight.shape)
    kept = {axis % rank for axis in channels}
    axes = [axis for axis in range(rank) if axis not in kept]
    largest = tf.reduce_max(tf.abs(weight), axis=axes, keepdims=True)
    scale = largest / tf.cast(2 ** (bits - 1) - 1, largest.dtype)
    return tf.where(scale > 0, scale, tf.ones_like(scale))


def fake_quantize_weight(weight: Any, channels: Sequence[int], bits: int = 8) -> Any:
    """The weight rounded to its integers, with a straight-through gradient.

    Args:
        weight: float32 tensor.
        channels: the axes that keep a scale of their own.
        bits: width of the integers.

    Returns:
        A tensor of the same shape, integer multiples of each channel's scale.

    Example:
        >>> fake_quantize_weight(tf.constant([[0.6, 127.0]]), [0]).numpy()
        array([[  1., 127.]], dtype=float32)
    """
    scale = tf.stop_gradient(weight_scale(weight, channels, bits))
    rounded = tf.round(weight / scale) * scale
    return weight + tf.stop_gradient(rounded - weight)


def symmetric_scale(largest: Any, bits: int = 16) -> Any:
    """The scale of a symmetric grid, max|x| / (2^(bits-1) - 1), to 17 significant bits.

    Its products with -128 and 127 are exact in float32, so that a range of 8 bits can
    tell the converter this very scale (see `kacc.converters.widen`).

    Args:
        largest: the largest size of a value, float32.
        bits: width of the integers.

    Returns:
        The scale, float32.

    Example:
        >>> float(symmetric_scale(tf.constant(32767.0)))
        1.0
    """
    largest = tf.convert_to_tensor(largest, tf.float32)
    exact = tf.bitcast(largest / (2.0 ** (bits - 1) - 1), tf.int32)
    return tf.bitcast(tf.bitwise.bitwise_and(exact + 64, -128), tf.float32)


def step_count(bits: int, symmetric: bool = False) -> float:
    """How many steps lie between the ends of a range."""
    return float(2**bits - (2 if symmetric else 1))


def nudge(
    low: Any, high: Any, bits: int = 8, symmetric: bool = False
) -> tuple[Any, Any]:
    """The nearest range that holds zero and whose zero point is an integer.

    TensorFlow's kernels disagree by one step where it is not (tensorflow#117962).

    Args:
        low: lower end of the range that was seen.
        high: its upper end.
        bits: width of the integers.
        symmetric: whether the zero point is 0; both ends are as far from it then.

    Returns:
        The ends of the range to use.

    Example:
        >>> low, high = nudge(tf.constant(-0.75), tf.constant(254.25))
        >>> float(low), float(high)
        (-1.0, 254.0)
    """
    low, high = tf.minimum(low, 0.0), tf.maximum(high, 0.0)
    if symmetric:
        most = 2.0 ** (bits - 1) - 1
        # The converter is told the scale by a range of 8 bits, which must not be less.
        least = SMALLEST_SPAN / 254 * most
        largest = tf.maximum(tf.maximum(-low, high), least)
        end = symmetric_scale(largest, bits) * most
        return -end, end
    steps = step_count(bits)
    scale = tf.maximum(high - low, SMALLEST_SPAN) / steps
    below = tf.round(-low / scale)
    return -below * scale, (steps - below) * scale


def fake_quantize(
    value: Any, low: Any, high: Any, bits: int = 8, symmetric: bool = False
) -> Any:
    """Values rounded to the steps of a nudged range, with a clipped gradient.

    Args:
        value: float32 tensor.
        low: lower end, from `nudge`.
        high: upper end.
        bits: width of the integers.
        symmetric: whether the range is.

    Returns:
        A tensor of the same shape.

    Example:
        >>> fake_quantize(tf.constant([0.4, 300.0]), 0.0, 255.0).numpy()
        array([  0., 255.], dtype=float32)
    """
    return tf.quantization.fake_quant_with_min_max_vars(
        value, low, high, bits, narrow_range=symmetric
    )


def rectify_quantized(value: Any, high: Any, bits: int = 8) -> Any:
    """A relu and fake quantization in one, for a range from zero that follows its data.

    The gradient is that of the relu alone: as good as nothing lies above a range that
    follows the largest value, and a mask for it would cost another pass.

    Args:
        value: tensor of floats, before the relu; halves are rounded in float32.
        high: upper end, from `nudge`; the lower one is zero.
        bits: width of the integers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> rectify_quantized(tf.constant([-3.0, 0.4, 300.0]), 255.0).numpy()
        array([  0.,   0., 255.], dtype=float32)
    """

    @tf.custom_gradient
    def quantized(value: Any, high: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            return tf.raw_ops.ReluGrad(gradients=upstream, features=value), None

        # The cast inside: the gradient need not make the way through float32.
        full = fake_quantize(tf.cast(value, tf.float32), 0.0, high, bits)
        return tf.cast(full, value.dtype), gradient

    return quantized(value, tf.convert_to_tensor(high))


def clipped_share(value: Any, low: Any, high: Any) -> Any:
    """The share of values outside a range, a scalar in 0..1.

    Example:
        >>> float(clipped_share(tf.constant([-1.0, 0.5, 1.0, 3.0]), 0.0, 1.0))
        0.5
    """
    outside = tf.logical_or(value < low, value > high)
    return tf.reduce_mean(tf.cast(outside, "float32"))
