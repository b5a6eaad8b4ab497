"""The arithmetic of LiteRT's int8 kernels, as tensor functions.

Integers are carried as float32, exact up to 2^24, and as float64 where more is not
certain. Where XNNPACK has a kernel for the operator its rounding is used, for the
others that of LiteRT's built-in kernels. z is a zero point, s a scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

# Products of 255 * 127 whose sum is certain to be exact in float32.
EXACT_PRODUCTS = 2**24 // (255 * 127)


@dataclass(frozen=True)
class Grid:
    """Scale (float64, as the converter has it) and zero point of a tensor."""

    scale: Any
    zero: Any
    bits: int = 8

    @property
    def scale32(self) -> Any:
        """The scale as the file stores it."""
        return tf.cast(self.scale, tf.float32)

    def clip(self, values: Any) -> Any:
        """Values limited to the integers of the grid."""
        half = 2.0 ** (self.bits - 1)
        return tf.clip_by_value(values, -half, half - 1)


@dataclass(frozen=True)
class Quantized:
    """A tensor of the file: integers, carried as float32, and their grid."""

    integers: Any
    grid: Grid

    @property
    def centered(self) -> Any:
        """Q - z."""
        return self.integers - self.grid.zero

    @property
    def real(self) -> Any:
        """S (q - z), float32."""
        return self.centered * self.grid.scale32


def grid_of(low: Any, high: Any, bits: int = 8) -> Grid:
    """The grid of a nudged range, by the converter's own arithmetic."""
    low, high = tf.cast(low, tf.float64), tf.cast(high, tf.float64)
    scale = (high - low) / float(2**bits - 1)
    zero = tf.round(-(2.0 ** (bits - 1)) - low / scale)
    return Grid(scale, tf.cast(zero, tf.float32), bits)


def quantize(real: Any, grid: Grid) -> Quantized:
    """Float values on a grid: rint(x / s) + z."""
    integers = tf.round(tf.cast(real, tf.float32) / grid.scale32) + grid.zero
    return Quantized(grid.clip(integers), grid)


def from_accumulator(acc: Any, multiplier: Any, grid: Grid) -> Quantized:
    """rint(f32(acc) * multiplier) + z, XNNPACK's float32 requantization."""
    scaled = tf.cast(acc, tf.float32) * tf.cast(multiplier, tf.float32)
    return Quantized(grid.clip(tf.round(scaled) + grid.zero), grid)


def add(a: Quantized, b: Quantized, grid: Grid, sign: int = 1) -> Quantized:
    """XNNPACK's vadd (vsub for sign -1): multipliers of 20 bits, one shift."""
    scales = [x.grid.scale32 / grid.scale32 for x in (a, b)]
    exponent = _exponent(tf.maximum(scales[0], scales[1]))
    unit = tf.pow(tf.constant(2.0, tf.float64), _f64(20 - exponent))
    first, second = (tf.round(_f64(scale) * unit) for scale in scales)
    total = first * _f64(a.centered) + sign * second * _f64(b.centered)
    rounded = tf.floor(total / unit + 0.5)
    return Quantized(grid.clip(tf.cast(rounded, tf.float32) + grid.zero), grid)


def multiply(a: Quantized, b: Quantized, grid: Grid) -> Quantized:
    """XNNPACK's vmul."""
    scale = a.grid.scale32 * b.grid.scale32 / grid.scale32
    return from_accumulator(a.centered * b.centered, scale, grid)


def mean(x: Quantized, axes: Any, keepdims: bool, grid: Grid) -> Quantized:
    """XNNPACK's reduce-mean: rint(sum(q - z) * f32(s / so) / n) + zo."""
    total = tf.reduce_sum(_f64(x.centered), axis=axes, keepdims=keepdims)
    count = tf.cast(tf.size(x.integers) / tf.size(total), tf.float32)
    scale = x.grid.scale32 / grid.scale32 / count
    return from_accumulator(total, scale, grid)


def requantize(x: Quantized, grid: Grid) -> Quantized:
    """XNNPACK's int8 to int8 convert: an 8 bit multiplier, one shift."""
    multiplier = tf.round(256.0 * (x.grid.scale32 / grid.scale32))
    total = x.centered * multiplier + grid.zero * 256.0 + 128.0
    return Quantized(grid.clip(tf.floor(total / 256.0)), grid)


def average(x: Quantized, pooled: Any) -> Quantized:
    """LiteRT's average pool: the integers' mean, halves away from zero.

    Args:
        x: the input.
        pooled: means of its integers, float64.
    """
    # A mean that is not a half lies further from it than this for any pool size.
    rounded = tf.sign(pooled) * tf.floor(tf.abs(pooled) + 0.5 + 1e-9)
    return Quantized(x.grid.clip(tf.cast(rounded, tf.float32)), x.grid)


def softmax(x: Quantized, grid: Grid) -> Quantized:
    """LiteRT's softmax: exponentials of the steps below the largest, one division."""
    below = tf.reduce_max(x.integers, axis=-1, keepdims=True) - x.integers
    powers = tf.cast(tf.exp(_f64(below * -x.grid.scale32)), tf.float32)
    total = tf.cumsum(powers, axis=-1)[..., -1:]  # from left to right, as the kernel
    shares = powers * (1.0 / (total * grid.scale32))
    return Quantized(grid.clip(tf.floor(shares + 0.5) + grid.zero), grid)


def _exponent(value: Any) -> Any:
    """floor(log2(value)) of a positive float32, exactly."""
    return tf.bitwise.right_shift(tf.bitcast(value, tf.int32), 23) - 127


def _f64(value: Any) -> Any:
    return tf.cast(value, tf.float64)
