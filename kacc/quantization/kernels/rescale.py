"""Integers from one scale to another, as several kernels do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from kacc.quantization import fixed_point
from kacc.quantization.integer import Grid, Quantized


def float_scaled(acc: Any, multiplier: Any, grid: Grid) -> Quantized:
    """rint(f32(acc) * multiplier) + z, XNNPACK's float32 requantization."""
    scaled = tf.cast(acc, tf.float32) * multiplier
    return Quantized(grid.clip(tf.round(scaled) + grid.zero), grid)


def fixed(
    value: Any,
    real: Any,
    grid: Grid,
    product: Callable[..., Any] = fixed_point.multiply_twice_rounded,
) -> Quantized:
    """An integer value times a real multiplier, in fixed point, on a grid."""
    return on_grid(grid, multiplied(value, real, product))


def multiplied(
    value: Any,
    real: Any,
    product: Callable[..., Any] = fixed_point.multiply_twice_rounded,
) -> Any:
    """An integer value times a real multiplier, in fixed point."""
    integer, shift = fixed_point.quantize_multiplier(real)
    return product(tf.cast(value, tf.int64), integer, shift)


def in_blocks(size: int) -> Callable[..., Any]:
    """A product of which vector instructions take the first channels.

    Args:
        size: of the blocks of channels that they take; they round halves up.
    """

    def product(value: Any, multiplier: Any, shift: Any) -> Any:
        channels = value.shape[-1]
        last = tf.range(channels) >= channels // size * size
        up = fixed_point.multiply_halves_up(value, multiplier, shift)
        away = fixed_point.multiply_twice_rounded(value, multiplier, shift)
        return tf.where(last, away, up)

    return product


def in_flat_blocks(
    size: int, blocks: Callable[..., Any] = fixed_point.multiply_halves_up
) -> Callable[..., Any]:
    """The same of a kernel that goes over a whole batch as if it were one row.

    Args:
        size: of the blocks of values that vector instructions take.
        blocks: how these multiply.
    """

    def product(value: Any, multiplier: Any, shift: Any) -> Any:
        count = tf.size(value)
        last = tf.reshape(tf.range(count) >= count // size * size, tf.shape(value))
        away = fixed_point.multiply_twice_rounded(value, multiplier, shift)
        return tf.where(last, away, blocks(value, multiplier, shift))

    return product


def exact_mean(
    x: Quantized, axes: Sequence[int], keepdims: bool, grid: Grid
) -> Quantized:
    """The mean of q - z, with the number of values as part of the multiplier."""
    total = tf.reduce_sum(f64(x.centered), axis=axes, keepdims=keepdims)
    count = count_of(x.integers, total)
    real = f64(x.grid.scale32) / f64(grid.scale32)
    integer, shift = fixed_point.quantize_multiplier(real)
    # As many bits of the reciprocal as fit.
    room = tf.minimum(tf.minimum(floor_log2(count), 32), 31 + shift)
    integer = integer * tf.bitwise.left_shift(tf.ones_like(room), room) // count
    value = tf.cast(total, tf.int64)
    return on_grid(
        grid, fixed_point.multiply_twice_rounded(value, integer, shift - room)
    )


def multiplier_16(real: Any) -> tuple[Any, Any]:
    """A multiplier of 16 bits, and its shift."""
    integer, shift = fixed_point.quantize_multiplier(f64(real))
    return tf.minimum((integer + 2**15) // 2**16, 2**15 - 1), shift


def on_grid(grid: Grid, value: Any) -> Quantized:
    """Integers without a zero point, on a grid."""
    return Quantized(grid.clip(tf.cast(value, tf.float32) + grid.zero), grid)


def in_place(x: Quantized, integers: Any) -> Quantized:
    """New integers on the grid of a tensor."""
    return Quantized(tf.cast(integers, tf.float32), x.grid)


def count_of(whole: Any, reduced: Any) -> Any:
    """How many values were summed into each one, int64."""
    return tf.size(whole, tf.int64) // tf.size(reduced, tf.int64)


def exponent_of(value: Any) -> Any:
    """floor(log2(value)) of a positive float32, exactly."""
    return tf.bitwise.right_shift(tf.bitcast(value, tf.int32), 23) - 127


def floor_log2(count: Any) -> Any:
    """floor(log2(count)) of a positive integer, exactly."""
    bits = tf.bitcast(f64(count), tf.int64)
    return tf.bitwise.right_shift(bits, tf.constant(52, tf.int64)) - 1023


def f64(value: Any) -> Any:
    """The value in float64."""
    return tf.cast(value, tf.float64)
