"""The arithmetic of LiteRT's int8 kernels, one class for each set of them.

"xnnpack" is what LiteRT runs by default: XNNPACK where it has a kernel for the
operator, LiteRT's built-in kernels for the others. "builtin" is LiteRT without XNNPACK,
"reference" are the kernels of microcontrollers. z is a zero point, s a scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from kacc.core.errors import UsageError
from kacc.quantization import fixed_point
from kacc.quantization.integer import Grid, Quantized, quantize
from kacc.quantization.weights import IntegerWeight


class BuiltIn:
    """LiteRT's built-in kernels: fixed-point multipliers."""

    # How each operator multiplies its accumulators.
    _products: ClassVar[dict[str, Callable[..., Any]]] = {
        "conv": fixed_point.multiply_halves_up,
        "transpose": fixed_point.multiply_twice_rounded,
        "depthwise": fixed_point.multiply_in_eights,
        "dense": fixed_point.multiply_halves_up,
    }

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
            kind: "conv", "transpose", "depthwise" or "dense".
            delegated: whether XNNPACK takes the operator where it is there.
        """
        real = _f64(scales[0]) * _f64(scales[1]) / _f64(grid.scale32)
        return _fixed(acc, real, grid, self._products[kind])

    def add(self, a: Quantized, b: Quantized, grid: Grid, sign: int = 1) -> Quantized:
        """ADD and SUB: both terms with 20 more bits on a common scale."""
        first, second = _f64(a.grid.scale32), _f64(b.grid.scale32)
        common = 2.0 * tf.maximum(first, second)
        terms = [
            _multiplied(x.centered * 2.0**20, scale / common)
            for x, scale in ((a, first), (b, second))
        ]
        out = common / (2.0**20 * _f64(grid.scale32))
        return _fixed(terms[0] + sign * terms[1], out, grid)

    def multiply(self, a: Quantized, b: Quantized, grid: Grid) -> Quantized:
        """MUL."""
        real = _f64(a.grid.scale32) * _f64(b.grid.scale32) / _f64(grid.scale32)
        return _fixed(a.centered * b.centered, real, grid)

    def mean(
        self, x: Quantized, axes: Sequence[int], keepdims: bool, grid: Grid
    ) -> Quantized:
        """MEAN: of images whose rank is kept with the zero points apart."""
        if keepdims and len(x.integers.shape) == 4 and tuple(axes) == (1, 2):
            return self._image_mean(x, grid)
        return _exact_mean(x, axes, keepdims, grid)

    def _image_mean(self, x: Quantized, grid: Grid) -> Quantized:
        total = tf.reduce_sum(_f64(x.integers), axis=(1, 2), keepdims=True)
        count = _f64(_count(x.integers, total))
        real = _f64(x.grid.scale32) / (count * _f64(grid.scale32))
        blocks = total.shape[-1] // 16 * 16  # channels that vector instructions take
        parts = [
            _multiplied(total[..., :blocks], real, fixed_point.multiply_halves_up),
            _multiplied(total[..., blocks:], real),
        ]
        zero = x.grid.zero * x.grid.scale32 / grid.scale32
        moved = grid.zero - tf.sign(zero) * tf.floor(tf.abs(zero) + 0.5)
        return Quantized(
            grid.clip(tf.cast(tf.concat(parts, -1), tf.float32) + moved), grid
        )

    def requantize(self, x: Quantized, grid: Grid) -> Quantized:
        """QUANTIZE from int8 to int8."""
        return _fixed(x.centered, _f64(x.grid.scale32) / _f64(grid.scale32), grid)

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
        powers = tf.cast(tf.exp(_f64(below * -x.grid.scale32)), tf.float32)
        total = tf.cumsum(powers, axis=-1)[..., -1:]  # from left to right, as it does
        shares = powers * (1.0 / (total * grid.scale32))
        return Quantized(grid.clip(tf.floor(shares + 0.5) + grid.zero), grid)

    def relu(self, x: Quantized, grid: Grid) -> Quantized:
        """RELU and RELU6 on their own; the grid ends where they do."""
        positive = tf.maximum(x.centered, 0.0)
        return _fixed(positive, _f64(x.grid.scale32 / grid.scale32), grid)

    def leaky_relu(self, x: Quantized, slope: float, grid: Grid) -> Quantized:
        """LEAKY_RELU: one multiplier for each sign."""
        scale = _f64(x.grid.scale32) / _f64(grid.scale32)
        steep = _multiplied(x.centered, scale)
        flat = _multiplied(x.centered, scale * _f64(tf.constant(slope, tf.float32)))
        return _on(grid, tf.where(x.centered >= 0, steep, flat))

    def prelu(self, x: Quantized, slopes: IntegerWeight, grid: Grid) -> Quantized:
        """PRELU: a multiplier for each sign, the slopes' integers in the product."""
        scale = _f64(x.grid.scale32) / _f64(grid.scale32)
        steep = _multiplied(x.centered, scale)
        fine = scale * _f64(tf.cast(slopes.scale[0], tf.float32))
        flat = _multiplied(x.centered * slopes.integers, fine)
        return _on(grid, tf.where(x.centered >= 0, steep, flat))

    def divide(self, a: Quantized, b: Quantized, grid: Grid) -> Quantized:
        """DIV: the product with a reciprocal of 31 bits."""
        inverse, exponent = fixed_point.reciprocal(tf.cast(b.centered, tf.int64), 31)
        real = _f64(a.grid.scale32) / (_f64(b.grid.scale32) * _f64(grid.scale32))
        integer, shift = fixed_point.quantize_multiplier(real)
        # The dividend takes up all bits but its sign.
        value = tf.cast(a.centered, tf.int64)
        room = fixed_point.count_leading_zeros(tf.maximum(tf.abs(value), 1)) - 1
        quotient = fixed_point.multiply_twice_rounded(value, inverse, room)
        down = shift - exponent - room
        return _on(grid, fixed_point.multiply_twice_rounded(quotient, integer, down))

    def hard_swish(self, x: Quantized, grid: Grid) -> Quantized:
        """HARD_SWISH: x * relu6(x + 3) / 6 on 16 bit integers."""
        fine = x.grid.scale32 * tf.constant(1 / 128, tf.float32)
        out, out_shift = _multiplier_16(fine / grid.scale32)
        gate, gate_shift = _multiplier_16(fine / tf.constant(3 / 32768, tf.float32))
        value = tf.cast(x.centered, tf.int64) * 128
        product = fixed_point.doubling_high_product(value, out, 16)
        left = tf.maximum(gate_shift, 0)
        ramp = fixed_point.saturating_left_shift(value, tf.maximum(left - 1, 0), 16)
        ramp = fixed_point.doubling_high_product(ramp, gate, 16)
        ramp = fixed_point.saturating_left_shift(ramp, tf.minimum(left, 1), 16)
        ramp = fixed_point.rounding_shift(ramp, tf.maximum(-gate_shift, 0))
        ramp = (ramp + 2**15) // 2
        gated = tf.truncatediv(ramp * product, tf.constant(2**15, tf.int64))
        return _on(grid, fixed_point.rounding_shift(gated, -out_shift))

    def table(
        self, x: Quantized, function: Callable[[Any], Any], grid: Grid
    ) -> Quantized:
        """LOGISTIC and the like: rint(f(x) / s) + z of each of the 256 values."""
        return quantize(function(x.real), grid)


class Reference(BuiltIn):
    """The reference kernels, also those of microcontrollers."""

    def _image_mean(self, x: Quantized, grid: Grid) -> Quantized:
        return _exact_mean(x, (1, 2), True, grid)

    def softmax(self, x: Quantized, grid: Grid) -> Quantized:
        """SOFTMAX: exponentials of numbers with 5 bits before the point, 12 of sums."""
        real = tf.minimum(_f64(x.grid.scale32) * 2.0**26, 2.0**31 - 1.0)
        integer, shift = fixed_point.quantize_multiplier(real)
        above = tf.reduce_max(x.integers, axis=-1, keepdims=True)
        steps = tf.cast(x.integers - above, tf.int64)
        unit = tf.pow(_f64(2.0), _f64(shift))
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
        return _on(grid, fixed_point.rounding_shift(shares, exponent + 23))

    _products: ClassVar[dict[str, Callable[..., Any]]] = {
        "conv": fixed_point.multiply_twice_rounded,
        "transpose": fixed_point.multiply_twice_rounded,
        "depthwise": fixed_point.multiply_twice_rounded,
        "dense": fixed_point.multiply_once_rounded,
    }


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
        return _float_scaled(acc, scales[0] * scales[1] / grid.scale32, grid)

    def add(self, a: Quantized, b: Quantized, grid: Grid, sign: int = 1) -> Quantized:
        """Multipliers of 20 bits, one shift."""
        scales = [x.grid.scale32 / grid.scale32 for x in (a, b)]
        exponent = _exponent(tf.maximum(scales[0], scales[1]))
        unit = tf.pow(tf.constant(2.0, tf.float64), _f64(20 - exponent))
        first, second = (tf.round(_f64(scale) * unit) for scale in scales)
        total = first * _f64(a.centered) + sign * second * _f64(b.centered)
        rounded = tf.floor(total / unit + 0.5)
        return Quantized(grid.clip(tf.cast(rounded, tf.float32) + grid.zero), grid)

    def multiply(self, a: Quantized, b: Quantized, grid: Grid) -> Quantized:
        """rint((qa - za)(qb - zb) * (sa sb / so)) + zo."""
        scale = a.grid.scale32 * b.grid.scale32 / grid.scale32
        return _float_scaled(a.centered * b.centered, scale, grid)

    def mean(
        self, x: Quantized, axes: Sequence[int], keepdims: bool, grid: Grid
    ) -> Quantized:
        """rint(sum(q - z) * (s / so / n)) + zo."""
        total = tf.reduce_sum(_f64(x.centered), axis=axes, keepdims=keepdims)
        count = tf.cast(_count(x.integers, total), tf.float32)
        # A fused multiply-add rounds once: the product itself is not rounded.
        scaled = total * _f64(x.grid.scale32 / grid.scale32 / count)
        return _on(grid, tf.round(scaled))

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


KERNELS: dict[str, BuiltIn] = {
    "xnnpack": XnnPack(),
    "builtin": BuiltIn(),
    "reference": Reference(),
}


def kernels_named(name: str) -> BuiltIn:
    """The set of kernels of that name.

    Raises:
        UsageError: if there is none.
    """
    if name in KERNELS:
        return KERNELS[name]
    raise UsageError(f"`kernels` must be one of {', '.join(KERNELS)}", received=name)


def _float_scaled(acc: Any, multiplier: Any, grid: Grid) -> Quantized:
    """rint(f32(acc) * multiplier) + z, XNNPACK's float32 requantization."""
    scaled = tf.cast(acc, tf.float32) * multiplier
    return Quantized(grid.clip(tf.round(scaled) + grid.zero), grid)


def _fixed(
    value: Any,
    real: Any,
    grid: Grid,
    product: Callable[..., Any] = fixed_point.multiply_twice_rounded,
) -> Quantized:
    """An integer value times a real multiplier, in fixed point, on a grid."""
    return _on(grid, _multiplied(value, real, product))


def _multiplied(
    value: Any,
    real: Any,
    product: Callable[..., Any] = fixed_point.multiply_twice_rounded,
) -> Any:
    integer, shift = fixed_point.quantize_multiplier(real)
    return product(tf.cast(value, tf.int64), integer, shift)


def _exact_mean(
    x: Quantized, axes: Sequence[int], keepdims: bool, grid: Grid
) -> Quantized:
    """The mean of q - z, with the number of values as part of the multiplier."""
    total = tf.reduce_sum(_f64(x.centered), axis=axes, keepdims=keepdims)
    count = _count(x.integers, total)
    real = _f64(x.grid.scale32) / _f64(grid.scale32)
    integer, shift = fixed_point.quantize_multiplier(real)
    # As many bits of the reciprocal as fit.
    room = tf.minimum(tf.minimum(_floor_log2(count), 32), 31 + shift)
    integer = integer * tf.bitwise.left_shift(tf.ones_like(room), room) // count
    value = tf.cast(total, tf.int64)
    return _on(grid, fixed_point.multiply_twice_rounded(value, integer, shift - room))


def _multiplier_16(real: Any) -> tuple[Any, Any]:
    """A multiplier of 16 bits, and its shift."""
    integer, shift = fixed_point.quantize_multiplier(_f64(real))
    return tf.minimum((integer + 2**15) // 2**16, 2**15 - 1), shift


def _on(grid: Grid, value: Any) -> Quantized:
    return Quantized(grid.clip(tf.cast(value, tf.float32) + grid.zero), grid)


def _count(whole: Any, reduced: Any) -> Any:
    """How many values were summed into each one, int64."""
    return tf.size(whole, tf.int64) // tf.size(reduced, tf.int64)


def _exponent(value: Any) -> Any:
    """floor(log2(value)) of a positive float32, exactly."""
    return tf.bitwise.right_shift(tf.bitcast(value, tf.int32), 23) - 127


def _floor_log2(count: Any) -> Any:
    """floor(log2(count)) of a positive integer, exactly."""
    bits = tf.bitcast(_f64(count), tf.int64)
    return tf.bitwise.right_shift(bits, tf.constant(52, tf.int64)) - 1023


def _f64(value: Any) -> Any:
    return tf.cast(value, tf.float64)
