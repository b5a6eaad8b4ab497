"""Fixed-point multiplication as TFLite's own kernels do it, on int64 tensors.

A real multiplier becomes a 32 bit integer and a shift (gemmlowp's scheme, Jacob et al.
2018, arXiv:1712.05877, section 2.2). Four roundings are in use, found by comparison
with the kernels of LiteRT 2.3 on x86-64.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def quantize_multiplier(real: Any) -> tuple[Any, Any]:
    """A positive real multiplier as (integer, shift): integer * 2^(shift - 31).

    Args:
        real: float64 tensor.

    Returns:
        Two int64 tensors; the integer is in 2^30..2^31-1.

    Example:
        >>> [int(x) for x in quantize_multiplier(tf.constant(0.75, tf.float64))]
        [1610612736, 0]
    """
    bits = tf.bitcast(real, tf.int64)
    shift = tf.bitwise.right_shift(bits, _i64(52)) - 1022
    fraction = real / tf.pow(_f64(2.0), tf.cast(shift, tf.float64))
    integer = tf.cast(tf.floor(fraction * 2.0**31 + 0.5), tf.int64)
    full = integer == 2**31
    return tf.where(full, integer // 2, integer), tf.where(full, shift + 1, shift)


def multiply_twice_rounded(value: Any, multiplier: Any, shift: Any) -> Any:
    """The product of gemmlowp: a rounding doubling high product, a rounding shift."""
    shifted = value * _power(tf.maximum(shift, 0))
    return rounding_shift(
        doubling_high_product(shifted, multiplier), tf.maximum(-shift, 0)
    )


def multiply_once_rounded(value: Any, multiplier: Any, shift: Any) -> Any:
    """One shift of the 64 bit product, halves up."""
    total = 31 - shift
    return tf.bitwise.right_shift(value * multiplier + _power(total - 1), total)


def multiply_halves_up(value: Any, multiplier: Any, shift: Any) -> Any:
    """The product of ruy's x86 kernels: gemmlowp's, its last shift rounding up."""
    high = doubling_high_product(value * _power(tf.maximum(shift, 0)), multiplier)
    right = tf.maximum(-shift, 0)
    half = tf.where(right > 0, _power(tf.maximum(right - 1, 0)), tf.zeros_like(right))
    return tf.bitwise.right_shift(high + half, right + tf.zeros_like(high))


def multiply_cut_off(value: Any, multiplier: Any, shift: Any) -> Any:
    """The product of the terms of a vectorized sum: the last shift does not round."""
    high = doubling_high_product(value * _power(tf.maximum(shift, 0)), multiplier)
    return tf.bitwise.right_shift(high, tf.maximum(-shift, 0) + tf.zeros_like(high))


def doubling_high_product(a: Any, b: Any, bits: int = 32) -> Any:
    """The high half of twice the product, halves away from zero."""
    product = a * b
    half = 2 ** (bits - 2)
    nudge = tf.where(product >= 0, _i64(half), _i64(1 - half))
    return tf.truncatediv(product + nudge, _i64(2 * half))


def saturating_left_shift(value: Any, exponent: Any, bits: int) -> Any:
    """The product with 2^exponent, limited to integers of `bits` bits."""
    limit = 2 ** (bits - 1)
    return tf.clip_by_value(value * _power(exponent), -limit, limit - 1)


def rounding_shift(value: Any, exponent: Any) -> Any:
    """Division by 2^exponent, halves away from zero."""
    mask = _power(exponent) - 1
    remainder = tf.bitwise.bitwise_and(value, mask)
    threshold = mask // 2 + tf.cast(value < 0, tf.int64)
    down = tf.bitwise.right_shift(value, exponent + tf.zeros_like(value))
    return down + tf.cast(remainder > threshold, tf.int64)


def count_leading_zeros(value: Any) -> Any:
    """Of positive integers of 32 bits."""
    bits = tf.bitcast(tf.cast(value, tf.float64), tf.int64)
    return 31 - (tf.bitwise.right_shift(bits, _i64(52)) - 1023)


def reciprocal(value: Any, integer_bits: int) -> tuple[Any, Any]:
    """1 / value of a positive fixed-point number, as (mantissa, exponent).

    Args:
        value: raw integers of 32 bits.
        integer_bits: how many of them stand before the point.

    Returns:
        Raw integers with 31 bits behind the point, and the powers of two that they are
        to be divided by.
    """
    zeros = count_leading_zeros(value)
    above_one = value * _power(zeros) - 2**31
    return _one_over_one_plus(above_one), integer_bits - zeros


def _one_over_one_plus(value: Any) -> Any:
    """1 / (1 + x) for x in 0..1: gemmlowp's division by Newton and Raphson's method."""
    half = (value + 2**31) // 2  # of the denominator, rounded from an odd sum
    x = 1515870810 + doubling_high_product(half, _i64(-1010580540))  # 48/17, -32/17
    for _ in range(3):
        rest = 2**29 - doubling_high_product(half, x)
        x = x + saturating_left_shift(doubling_high_product(x, rest), _i64(2), 32)
    return saturating_left_shift(x, _i64(1), 32)


# exp(-2^k) with 31 bits behind the point, for k from -2 up.
_EXPONENTIALS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)


def exp_of_negative(value: Any) -> Any:
    """The exponential of numbers in -32..0 with 26 bits behind the point.

    Returns:
        Raw integers with 31 bits behind the point.
    """
    quarter = 2**24
    inside = tf.bitwise.bitwise_and(value, _i64(quarter - 1)) - quarter
    result = _exp_above_minus_quarter(inside * 32)
    remainder = inside - value
    for k, factor in enumerate(_EXPONENTIALS):
        bit = tf.bitwise.bitwise_and(remainder, _i64(quarter << k))
        result = tf.where(bit != 0, doubling_high_product(result, _i64(factor)), result)
    return tf.where(value == 0, _i64(2**31 - 1), result)


def _exp_above_minus_quarter(value: Any) -> Any:
    """The exponential in -1/4..0: four terms of its series around -1/8."""
    x = value + 2**28
    square = doubling_high_product(x, x)
    cube = doubling_high_product(square, x)
    fourth = rounding_shift(doubling_high_product(square, square), _i64(2))
    higher = doubling_high_product(fourth + cube, _i64(715827883)) + square  # 1/3
    series = x + rounding_shift(higher, _i64(1))
    centre = _i64(1895147668)  # exp(-1/8)
    return centre + doubling_high_product(centre, series)


def _power(exponent: Any) -> Any:
    return tf.bitwise.left_shift(tf.ones_like(exponent), exponent)


def _i64(value: int) -> Any:
    return tf.constant(value, tf.int64)


def _f64(value: float) -> Any:
    return tf.constant(value, tf.float64)
