"""The arithmetic of XNNPACK's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kacc.quantization.integer import Grid, Quantized, quantize
from kacc.quantization.kernels import resize
from kacc.quantization.kernels.builtin import BuiltIn
from kacc.quantization.kernels.rescale import (
    count_of,
    exponent_of,
    f64,
    float_scaled,
    in_place,
    on_grid,
)


class XnnPack(BuiltIn):
    """XNNPACK's kernels, which rescale in float32."""

    def linear(
        self,
        acc: Any,
        scales: tuple[Any, Any],
        grid: Grid,
        kind: str,
        delegated: bool = True,
    ) -> Quantized:
        """rint(f32(acc) * (s sw / so)) + zo.

        TRANSPOSE_CONV runs in the built-in kernel: where the batch size is free its
        output's shape is computed, and XNNPACK declines it.
        """
        if kind == "transpose" or not delegated:
            return super().linear(acc, scales, grid, kind)
        return float_scaled(acc, scales[0] * scales[1] / grid.scale32, grid)

    def add(self, a: Quantized, b: Quantized, grid: Grid, sign: int = 1) -> Quantized:
        """Multipliers of 20 bits, one shift.

        XNNPACK declines scales below a 1024th of the output's.
        """
        scales = [x.grid.scale32 / grid.scale32 for x in (a, b)]
        exponent = exponent_of(tf.maximum(scales[0], scales[1]))
        unit = tf.pow(tf.constant(2.0, tf.float64), f64(20 - exponent))
        first, second = (tf.round(f64(scale) * unit) for scale in scales)
        total = first * f64(a.centered) + sign * second * f64(b.centered)
        rounded = tf.floor(total / unit + 0.5)
        own = on_grid(grid, rounded).integers
        declined = super().add(a, b, grid, sign).integers
        taken = tf.minimum(scales[0], scales[1]) >= 2.0**-10
        return Quantized(tf.where(taken, own, declined), grid)

    def multiply(self, a: Quantized, b: Quantized, grid: Grid) -> Quantized:
        """rint((qa - za)(qb - zb) * (sa sb / so)) + zo."""
        scale = a.grid.scale32 * b.grid.scale32 / grid.scale32
        return float_scaled(a.centered * b.centered, scale, grid)

    def mean(
        self, x: Quantized, axes: Sequence[int], keepdims: bool, grid: Grid
    ) -> Quantized:
        """rint(f32(sum(q)) m + (zo - n z m)), m = s / so * (1 / n), all in float32."""
        total = tf.reduce_sum(f64(x.integers), axis=axes, keepdims=keepdims)
        count = tf.cast(count_of(x.integers, total), tf.float32)
        multiplier = (x.grid.scale32 / grid.scale32) * (1.0 / count)
        offset = grid.zero - (count * x.grid.zero) * multiplier
        scaled = tf.cast(total, tf.float32) * multiplier + offset
        return Quantized(grid.clip(tf.round(scaled)), grid)

    def resize_bilinear(self, x: Quantized, size: tuple[int, int]) -> Quantized:
        """Weights of 11 bits, one shift."""
        return in_place(x, resize.by_eleven_bits(x.integers, size))

    def leaky_relu(self, x: Quantized, slope: float, grid: Grid) -> Quantized:
        """Multipliers of 8 bits, one for each sign, one shift."""
        scale = x.grid.scale32 / grid.scale32
        flat = scale * tf.constant(slope, tf.float32)
        multiplier = tf.round(256.0 * tf.where(x.centered >= 0, scale, flat))
        total = x.centered * multiplier + grid.zero * 256.0 + 128.0
        return Quantized(grid.clip(tf.floor(total / 256.0)), grid)

    def requantize(self, x: Quantized, grid: Grid) -> Quantized:
        """An 8 bit multiplier, one shift."""
        multiplier = tf.round(256.0 * (x.grid.scale32 / grid.scale32))
        total = x.centered * multiplier + grid.zero * 256.0 + 128.0
        return Quantized(grid.clip(tf.floor(total / 256.0)), grid)

    def entries(self, values: Any, grid: Grid) -> Quantized:
        """The integers of a table: halves are rounded to even."""
        return quantize(values, grid)
