"""The arithmetic of the reference kernels, where it is not that of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import tensorflow as tf

from kacc.quantization import fixed_point
from kacc.quantization.integer import Grid, Quantized
from kacc.quantization.kernels.builtin import BuiltIn
from kacc.quantization.kernels.rescale import exact_mean, f64, fixed, on_grid


class Reference(BuiltIn):
    """LiteRT's reference kernels."""

    def _image_mean(self, x: Quantized, grid: Grid) -> Quantized:
        return exact_mean(x, (1, 2), True, grid)

    def requantize(self, x: Quantized, grid: Grid) -> Quantized:
        """QUANTIZE from int8 to int8."""
        return fixed(x.centered, f64(x.grid.scale32) / f64(grid.scale32), grid)

    def softmax(self, x: Quantized, grid: Grid) -> Quantized:
        """SOFTMAX: exponentials of numbers with 5 bits before the point, 12 of sums."""
        real = tf.minimum(f64(x.grid.scale32) * 2.0**26, 2.0**31 - 1.0)
        integer, shift = fixed_point.quantize_multiplier(real)
        above = tf.reduce_max(x.integers, axis=-1, keepdims=True)
        steps = tf.cast(x.integers - above, tf.int64)
        unit = tf.pow(f64(2.0), f64(shift))
        least = -tf.cast(tf.floor(31.0 * 2.0**26 / unit), tf.int64)
        counts = steps >= least
        rescaled = fixed_point.multiply_twice_rounded(
            tf.where(counts, steps, tf.zeros_like(steps)), integer, shift
        )
        powers = fixed_point.exp_of_negative(rescaled)
        powers = tf.where(counts, powers, tf.zeros_like(powers))
        twelve = tf.constant(12, tf.int64)
        total = tf.reduce_sum(
            fixed_point.rounding_shift(powers, twelve), axis=-1, keepdims=True
        )
        inverse, exponent = fixed_point.reciprocal(total, 12)
        shares = fixed_point.doubling_high_product(inverse, powers)
        return on_grid(grid, fixed_point.rounding_shift(shares, exponent + 23))

    _products: ClassVar[dict[str, Callable[..., Any]]] = {
        "conv": fixed_point.multiply_twice_rounded,
        "grouped": fixed_point.multiply_twice_rounded,
        "transpose": fixed_point.multiply_twice_rounded,
        "depthwise": fixed_point.multiply_twice_rounded,
        "dense": fixed_point.multiply_once_rounded,
    }
    _with_number = staticmethod(fixed_point.multiply_twice_rounded)


class Micro(Reference):
    """The kernels of TensorFlow Lite Micro: the reference ones but for two steps."""

    def multiply(self, a: Quantized, b: Quantized, grid: Grid) -> Quantized:
        """MUL: the multiplier is computed in float64."""
        real = f64(a.grid.scale32) * f64(b.grid.scale32) / f64(grid.scale32)
        return fixed(a.centered * b.centered, real, grid)

    _products: ClassVar[dict[str, Callable[..., Any]]] = {
        **Reference._products,
        "dense": fixed_point.multiply_twice_rounded,
    }
