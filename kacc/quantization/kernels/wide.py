"""The arithmetic of LiteRT's kernels of 16 bit activations.

XNNPACK has none; the reference kernels differ in ADD alone, those of TensorFlow Lite
Micro in FULLY_CONNECTED, MUL and SOFTMAX too. Zero points are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from kacc.quantization import fixed_point
from kacc.quantization.integer import Grid, Quantized
from kacc.quantization.kernels import interpolation
from kacc.quantization.kernels.builtin import BuiltIn
from kacc.quantization.kernels.rescale import (
    exact_mean,
    f64,
    fixed,
    multiplied,
    multiplier_16,
    on_grid,
)

_SOFTMAX_DEPTH = 10.0  # exp(-10) and below count as nothing


class Wide(BuiltIn):
    """LiteRT's kernels of 16 bit activations and 8 bit weights."""

    _rounds_once = True
    _dense_in_floats = True

    def linear(
        self,
        acc: Any,
        scales: tuple[Any, Any],
        grid: Grid,
        kind: str,
        delegated: bool = True,
    ) -> Quantized:
        """Multipliers of 16 bits, one shift of the 64 bit product, halves up.

        FULLY_CONNECTED rescales in float64 and rounds halves away from zero.
        """
        real = f64(scales[0]) * f64(scales[1]) / f64(grid.scale32)
        if kind == "dense" and self._dense_in_floats:
            return on_grid(grid, interpolation.round_away(f64(acc) * real))
        integer, shift = multiplier_16(real)
        total = 15 - shift
        half = tf.bitwise.left_shift(tf.ones_like(total), total - 1)
        product = tf.cast(acc, tf.int64) * integer + half
        return on_grid(grid, tf.bitwise.right_shift(product, total))

    def add(self, a: Quantized, b: Quantized, grid: Grid, sign: int = 1) -> Quantized:
        """ADD and SUB: both terms with 15 more bits on a common scale.

        ADD of two tensors of one shape rounds each term once, all others twice.
        """
        product = fixed_point.multiply_twice_rounded
        if sign == 1 and self._rounds_once and _same_shape(a, b):
            product = fixed_point.multiply_once_rounded
        first, second = f64(a.grid.scale32), f64(b.grid.scale32)
        common = 2.0 * tf.maximum(first, second)
        terms = [
            multiplied(x.centered * 2.0**15, scale / common, product)
            for x, scale in ((a, first), (b, second))
        ]
        out = common / (2.0**15 * f64(grid.scale32))
        return fixed(terms[0] + sign * terms[1], out, grid)

    def multiply(self, a: Quantized, b: Quantized, grid: Grid) -> Quantized:
        """MUL: the multiplier is computed in float32."""
        real = a.grid.scale32 * b.grid.scale32 / grid.scale32
        return fixed(f64(a.centered) * f64(b.centered), f64(real), grid)

    def mean(
        self, x: Quantized, axes: Sequence[int], keepdims: bool, grid: Grid
    ) -> Quantized:
        """MEAN."""
        return exact_mean(x, axes, keepdims, grid)

    def requantize(self, x: Quantized, grid: Grid) -> Quantized:
        """QUANTIZE from int16 to int16."""
        return fixed(x.centered, f64(x.grid.scale32) / f64(grid.scale32), grid)

    def leaky_relu(self, x: Quantized, slope: float, grid: Grid) -> Quantized:
        """LEAKY_RELU: a multiplier for each sign, computed in float32."""
        steep = x.grid.scale32 / grid.scale32
        flat = x.grid.scale32 * tf.constant(slope, tf.float32) / grid.scale32
        values = tf.where(
            x.centered >= 0,
            multiplied(x.centered, f64(steep)),
            multiplied(x.centered, f64(flat)),
        )
        return on_grid(grid, values)

    def softmax(self, x: Quantized, grid: Grid) -> Quantized:
        """SOFTMAX: exponentials and one reciprocal by tables."""
        below = x.integers - tf.reduce_max(x.integers, axis=-1, keepdims=True)
        real = f64(x.grid.scale32) / (_SOFTMAX_DEPTH / 65535.0)
        steps = tf.maximum(multiplied(below, real) + 32767, -32768)
        powers = interpolation.look_up(_exponentials(), steps)
        total = tf.cast(tf.reduce_sum(powers, axis=-1, keepdims=True), tf.int64)
        zeros = fixed_point.count_leading_zeros(total)
        one = tf.ones_like(total)
        shifted = tf.bitwise.left_shift(total, zeros - 1) + 2**13
        shifted = tf.bitwise.right_shift(shifted, 14 * one) - (2**15 + 2**16)
        inverse = interpolation.look_up(
            _reciprocals(), tf.clip_by_value(shifted, -32768, 32767)
        )
        down = 31 - zeros
        product = tf.cast(powers * inverse, tf.int64)
        half = tf.bitwise.left_shift(one, down - 1)
        shares = tf.bitwise.right_shift(product + half, down + tf.zeros_like(product))
        return on_grid(grid, tf.maximum(shares, 0))

    def rsqrt(self, x: Quantized, grid: Grid) -> Quantized:
        """RSQRT: by a table; of what is not positive the largest."""

        def function(values: Any) -> Any:
            some = values > 0
            root = tf.cast(tf.sqrt(f64(tf.where(some, values, 1.0))), tf.float32)
            return tf.where(some, 1.0 / root, 32767.0 * grid.scale32)

        return self._interpolated(x, function, grid)

    def table(
        self,
        x: Quantized,
        function: Callable[[Any], Any],
        grid: Grid,
        stepwise: Callable[[Any], Any] | None = None,
    ) -> Quantized:
        """LOGISTIC, TANH and ABS by their own kernels, others by a table of 513."""
        if function is keras.ops.sigmoid:
            return on_grid(grid, interpolation.sigmoid(x.integers, x.grid.scale32))
        if function is keras.ops.tanh:
            return on_grid(grid, interpolation.tanh(x.integers, x.grid.scale32))
        if function is keras.ops.absolute:
            sizes = Quantized(tf.abs(x.integers), x.grid)
            return fixed(sizes.integers, f64(x.grid.scale32 / grid.scale32), grid)

        def rounded(values: Any) -> Any:
            return tf.cast(function(f64(values)), tf.float32)

        return self._interpolated(x, stepwise or rounded, grid)

    def _interpolated(
        self, x: Quantized, function: Callable[[Any], Any], grid: Grid
    ) -> Quantized:
        entries = interpolation.table(function, _ends(x.grid), _ends(grid))
        return on_grid(grid, interpolation.look_up(entries, x.integers))


class WideReference(Wide):
    """The same of the reference kernels."""

    _rounds_once = False


class WideMicro(WideReference):
    """The same of TensorFlow Lite Micro, whose FULLY_CONNECTED rounds as CONV_2D.

    Its SOFTMAX differs in one output of some thousands, by one step.
    """

    _dense_in_floats = False

    def multiply(self, a: Quantized, b: Quantized, grid: Grid) -> Quantized:
        """MUL: the multiplier is computed in float64."""
        real = f64(a.grid.scale32) * f64(b.grid.scale32) / f64(grid.scale32)
        return fixed(f64(a.centered) * f64(b.centered), real, grid)


def _same_shape(a: Quantized, b: Quantized) -> bool:
    """Whether nothing is broadcast, whatever the size of the batch is."""
    shapes = [x.integers.shape.as_list() for x in (a, b)]
    return len(shapes[0]) == len(shapes[1]) and shapes[0][1:] == shapes[1][1:]


def _ends(grid: Grid) -> tuple[Any, Any]:
    """What the least and the most integer of a grid stand for, float32."""
    return -32768.0 * grid.scale32, 32767.0 * grid.scale32


def _exponentials() -> Any:
    """Of -10..0, the end of the integers standing for 0."""
    step = f64(_SOFTMAX_DEPTH) / 65535.0
    return interpolation.table(tf.exp, (-65535.0 * step, 0.0 * step), _unit())


def _reciprocals() -> Any:
    """1 / (1 + x) of 0..1."""
    step = f64(1.0) / 65535.0
    ends = 0.0 * step, 65535.0 * step
    return interpolation.table(lambda x: 1.0 / (1.0 + x), ends, _unit())


def _unit() -> tuple[Any, Any]:
    step = f64(2.0) / 65535.0
    return -32768.0 * step, 32767.0 * step
