"""The arithmetic of LiteRT's own kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from kacc.quantization import fixed_point
from kacc.quantization.integer import Grid, Quantized, quantize
from kacc.quantization.kernels import resize
from kacc.quantization.kernels.rescale import (
    count_of,
    exact_mean,
    f64,
    fixed,
    in_blocks,
    in_flat_blocks,
    in_place,
    multiplied,
    multiplier_16,
    on_grid,
)
from kacc.quantization.weights import IntegerWeight


class BuiltIn:
    """LiteRT's built-in kernels: fixed-point multipliers."""

    # How each operator multiplies its accumulators.
    _products: ClassVar[dict[str, Callable[..., Any]]] = {
        "conv": fixed_point.multiply_halves_up,
        "grouped": fixed_point.multiply_twice_rounded,
        "transpose": in_blocks(8),
        "depthwise": in_blocks(8),
        "dense": fixed_point.multiply_halves_up,
    }

    # How ADD multiplies its terms where one of them is a single number.
    _with_number: Callable[..., Any] = staticmethod(
        in_flat_blocks(8, fixed_point.multiply_cut_off)
    )

    def linear(
        self,
        acc: Any,
        scales: tuple[Any, Any],
        grid: Grid,
        kind: str,
        delegated: bool = True,
    ) -> Quantized:
        """The accumulators of a convolution or matrix product, rescaled.

        Args:
            acc: exact sums with the bias.
            scales: of the input, and of the weights per channel; float32.
            grid: of the output.
            kind: "conv", "grouped", "transpose", "depthwise" or "dense".
            delegated: whether XNNPACK takes the operator where it is there.
        """
        real = f64(scales[0]) * f64(scales[1]) / f64(grid.scale32)
        return fixed(acc, real, grid, self._products[kind])

    def add(self, a: Quantized, b: Quantized, grid: Grid, sign: int = 1) -> Quantized:
        """ADD and SUB: both terms with 20 more bits on a common scale."""
        first, second = f64(a.grid.scale32), f64(b.grid.scale32)
        common = 2.0 * tf.maximum(first, second)
        values, product = [a.centered, b.centered], fixed_point.multiply_twice_rounded
        if sign > 0 and 1 in [x.shape.num_elements() for x in values]:
            # Vector instructions take it, whose position tells which are left over.
            shape = tf.broadcast_dynamic_shape(*map(tf.shape, values))
            values = [tf.broadcast_to(value, shape) for value in values]
            product = self._with_number
        terms = [
            multiplied(value * 2.0**20, scale / common, product)
            for value, scale in zip(values, (first, second), strict=True)
        ]
        out = common / (2.0**20 * f64(grid.scale32))
        return fixed(terms[0] + sign * terms[1], out, grid)

    def multiply(self, a: Quantized, b: Quantized, grid: Grid) -> Quantized:
        """MUL."""
        real = f64(a.grid.scale32 * b.grid.scale32 / grid.scale32)  # in float32
        return fixed(a.centered * b.centered, real, grid)

    def mean(
        self, x: Quantized, axes: Sequence[int], keepdims: bool, grid: Grid
    ) -> Quantized:
        """MEAN: of images whose rank is kept with the zero points apart."""
        if keepdims and len(x.integers.shape) == 4 and tuple(axes) == (1, 2):
            return self._image_mean(x, grid)
        return exact_mean(x, axes, keepdims, grid)

    def _image_mean(self, x: Quantized, grid: Grid) -> Quantized:
        total = tf.reduce_sum(f64(x.integers), axis=(1, 2), keepdims=True)
        count = f64(count_of(x.integers, total))
        real = f64(x.grid.scale32) / (count * f64(grid.scale32))
        mean = multiplied(total, real, in_blocks(16))
        zero = x.grid.zero * x.grid.scale32 / grid.scale32
        moved = grid.zero - tf.sign(zero) * tf.floor(tf.abs(zero) + 0.5)
        return Quantized(grid.clip(tf.cast(mean, tf.float32) + moved), grid)

    def requantize(self, x: Quantized, grid: Grid) -> Quantized:
        """QUANTIZE from int8 to int8."""
        real = f64(x.grid.scale32) / f64(grid.scale32)
        return fixed(x.centered, real, grid, in_flat_blocks(16))

    def average(self, x: Quantized, pooled: Any) -> Quantized:
        """AVERAGE_POOL_2D: the integers' mean, halves away from zero.

        Args:
            x: the input.
            pooled: means of its integers, float64.
        """
        # A mean that is not a half lies further from it than this for any pool size.
        rounded = tf.sign(pooled) * tf.floor(tf.abs(pooled) + 0.5 + 1e-9)
        return Quantized(x.grid.clip(tf.cast(rounded, tf.float32)), x.grid)

    def softmax(self, x: Quantized, grid: Grid) -> Quantized:
        """SOFTMAX: exponentials of the steps below the largest, one division."""
        below = tf.reduce_max(x.integers, axis=-1, keepdims=True) - x.integers
        powers = tf.cast(tf.exp(f64(below * -x.grid.scale32)), tf.float32)
        total = tf.cumsum(powers, axis=-1)[..., -1:]  # from left to right, as it does
        shares = powers * (1.0 / (total * grid.scale32))
        return Quantized(grid.clip(tf.floor(shares + 0.5) + grid.zero), grid)

    def relu(self, x: Quantized, grid: Grid) -> Quantized:
        """RELU and RELU6 on their own; the grid ends where they do."""
        positive = tf.maximum(x.centered, 0.0)
        return fixed(positive, f64(x.grid.scale32 / grid.scale32), grid)

    def leaky_relu(self, x: Quantized, slope: float, grid: Grid) -> Quantized:
        """LEAKY_RELU: one multiplier for each sign."""
        scale = f64(x.grid.scale32) / f64(grid.scale32)
        steep = multiplied(x.centered, scale)
        flat = multiplied(x.centered, scale * f64(tf.constant(slope, tf.float32)))
        return on_grid(grid, tf.where(x.centered >= 0, steep, flat))

    def prelu(self, x: Quantized, slopes: IntegerWeight, grid: Grid) -> Quantized:
        """PRELU: a multiplier for each sign, the slopes' integers in the product."""
        scale = f64(x.grid.scale32) / f64(grid.scale32)
        steep = multiplied(x.centered, scale)
        fine = scale * f64(tf.cast(slopes.scale[0], tf.float32))
        flat = multiplied(x.centered * slopes.integers, fine)
        return on_grid(grid, tf.where(x.centered >= 0, steep, flat))

    def minimum(self, x: Quantized, bound: Quantized) -> Quantized:
        """MINIMUM, on the grid of both."""
        return Quantized(tf.minimum(x.integers, bound.integers), x.grid)

    def maximum(self, x: Quantized, bound: Quantized) -> Quantized:
        """MAXIMUM, on the grid of both."""
        return Quantized(tf.maximum(x.integers, bound.integers), x.grid)

    def divide(self, a: Quantized, b: Quantized, grid: Grid) -> Quantized:
        """DIV: the product with a reciprocal of 31 bits."""
        inverse, exponent = fixed_point.reciprocal(tf.cast(b.centered, tf.int64), 31)
        real = f64(a.grid.scale32 / (b.grid.scale32 * grid.scale32))  # in float32
        integer, shift = fixed_point.quantize_multiplier(real)
        # The dividend takes up all bits but its sign.
        value = tf.cast(a.centered, tf.int64)
        room = fixed_point.count_leading_zeros(tf.maximum(tf.abs(value), 1)) - 1
        quotient = fixed_point.multiply_twice_rounded(value, inverse, room)
        down = shift - exponent - room
        return on_grid(
            grid, fixed_point.multiply_twice_rounded(quotient, integer, down)
        )

    def resize_bilinear(self, x: Quantized, size: tuple[int, int]) -> Quantized:
        """RESIZE_BILINEAR with half pixel centers."""
        return in_place(x, resize.by_ten_bits(x.integers, size))

    def sqrt(self, x: Quantized, grid: Grid) -> Quantized:
        """SQRT: the fraction is cut off, not rounded."""
        steps = tf.sqrt(tf.maximum(x.real, 0.0)) / grid.scale32
        return on_grid(grid, tf.floor(steps))

    def rsqrt(self, x: Quantized, grid: Grid) -> Quantized:
        """RSQRT: an integer with 20 bits behind the point; of zero the largest."""
        steps = tf.maximum(f64(x.centered), 1.0)
        root = tf.round(2.0**20 / tf.sqrt(steps))
        real = 1.0 / (tf.sqrt(f64(x.grid.scale32)) * f64(grid.scale32))
        integer, shift = fixed_point.quantize_multiplier(real)
        value = fixed_point.multiply_twice_rounded(
            tf.cast(root, tf.int64), integer, shift - 20
        )
        found = on_grid(grid, value)
        largest = tf.fill(tf.shape(x.integers), 2.0 ** (grid.bits - 1) - 1.0)
        return Quantized(tf.where(x.centered > 0, found.integers, largest), grid)

    def hard_swish(self, x: Quantized, grid: Grid) -> Quantized:
        """HARD_SWISH: x * relu6(x + 3) / 6 on 16 bit integers."""
        fine = x.grid.scale32 * tf.constant(1 / 128, tf.float32)
        out, out_shift = multiplier_16(fine / grid.scale32)
        gate, gate_shift = multiplier_16(fine / tf.constant(3 / 32768, tf.float32))
        value = tf.cast(x.centered, tf.int64) * 128
        product = fixed_point.doubling_high_product(value, out, 16)
        left = tf.maximum(gate_shift, 0)
        ramp = fixed_point.saturating_left_shift(value, tf.maximum(left - 1, 0), 16)
        ramp = fixed_point.doubling_high_product(ramp, gate, 16)
        ramp = fixed_point.saturating_left_shift(ramp, tf.minimum(left, 1), 16)
        ramp = fixed_point.rounding_shift(ramp, tf.maximum(-gate_shift, 0))
        ramp = (ramp + 2**15) // 2
        gated = tf.truncatediv(ramp * product, tf.constant(2**15, tf.int64))
        return on_grid(grid, fixed_point.rounding_shift(gated, -out_shift))

    def table(
        self,
        x: Quantized,
        function: Callable[[Any], Any],
        grid: Grid,
        stepwise: Callable[[Any], Any] | None = None,
    ) -> Quantized:
        """LOGISTIC and the like: f(x) / s + z of each of the 256 values."""
        if function in _LIBM:
            return self.entries(_by_libm(function, x.real), grid)
        return quantize(function(x.real), grid)

    def entries(self, values: Any, grid: Grid) -> Quantized:
        """The integers of a table: halves are rounded away from zero."""
        scaled = values * (1.0 / grid.scale32)
        return on_grid(grid, tf.sign(scaled) * tf.floor(tf.abs(scaled) + 0.5))


# Functions that the runtimes compute by the C library, which rounds as good as always
# to the nearest float32. TensorFlow's own are a few roundings off.
_LIBM = (keras.ops.sigmoid, keras.ops.tanh, keras.ops.exp, keras.ops.log)


def _by_libm(function: Callable[[Any], Any], values: Any) -> Any:
    """A function of `_LIBM`, in the runtimes' steps of float32."""
    if function is keras.ops.sigmoid:
        return 1.0 / (1.0 + _by_libm(keras.ops.exp, -values))
    return tf.cast(function(f64(values)), tf.float32)
