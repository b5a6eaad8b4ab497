"""Functions of 16 bit integers as LiteRT computes them: lines between table entries.

Formulas were found by comparison with the kernels of LiteRT 2.3 on x86-64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from kacc.quantization.kernels.rescale import f64, floor_log2

_STEPS = 512  # of a table; 7 bits are left to interpolate by
_LEAST, _MOST = -(2.0**15), 2.0**15 - 1


def table(
    function: Callable[[Any], Any],
    input_ends: tuple[Any, Any],
    output_ends: tuple[Any, Any],
) -> Any:
    """513 entries of a function, bent so that half-way between two is right.

    Args:
        function: of a tensor of the ends' dtype.
        input_ends: what the least and the most 16 bit integer stand for.
        output_ends: the same of the output.

    Returns:
        Integers, float64.
    """
    low, high = input_ends
    step = (high - low) / _STEPS
    numbers = tf.cast(tf.range(_STEPS), step.dtype)
    start = low + numbers * step
    inverse = tf.cast(2.0**16, step.dtype) / (output_ends[1] - output_ends[0])
    here = function(start) * inverse
    after = function(low + (numbers + 1) * step) * inverse
    between = round_away(function(start + step / 2) * inverse)
    line = round_away((after + round_away(here)) / 2)
    entries = round_away(here) - round_away((line - between) / 2)
    last = round_away(function(high[None]) * inverse)
    return f64(tf.clip_by_value(tf.concat([entries, last], 0), _LEAST, _MOST))


def look_up(entries: Any, values: Any) -> Any:
    """The function of 16 bit integers, by its table; float64.

    A slope of more than 16 bits wraps around, as it does in the kernel.
    """
    whole = tf.cast(values, tf.int32)
    index = tf.bitwise.right_shift(whole, 7) + _STEPS // 2
    base, after = tf.gather(entries, index), tf.gather(entries, index + 1)
    share = f64(tf.bitwise.bitwise_and(whole, 127))
    rise = tf.floor((_wrapped(after - base) * share + 64.0) / 128.0)
    return _wrapped(base + rise)


def sigmoid(values: Any, scale: Any) -> Any:
    """LOGISTIC: integers of scale 1/32768, float64.

    Args:
        values: integers, float32.
        scale: their scale, float32.
    """
    fine = _fine(values, scale)
    size = tf.abs(fine)
    inside = _between_nodes(size, 512.0, 32767 * 1024)
    upper = tf.floor((inside + 512.0) / 1024.0)
    lower = tf.floor((2.0**25 - inside + 511.0) / 1024.0)
    return tf.where(fine >= 0, upper, lower)


def tanh(values: Any, scale: Any) -> Any:
    """TANH, 2 sigmoid(2x) - 1: integers of scale 1/32768, float64.

    Args:
        values: integers, float32.
        scale: their scale, float32.
    """
    fine = _fine(values, scale)
    size = tf.abs(fine)
    inside = _between_nodes(size, 256.0, 65535 * 256)
    upper = tf.floor((inside - 2.0**23 + 128.0) / 256.0)
    lower = tf.floor((2.0**23 - inside + 127.0) / 256.0)
    return tf.where(fine >= 0, upper, lower)


def _fine(values: Any, scale: Any) -> Any:
    """Values in steps of 1 / (3 * 4096), by a multiplier that is cut off to 15 bits."""
    real = f64(scale) * (3.0 * 4096.0)
    down = 13.0 - f64(floor_log2(real))
    small = real * _power(down) <= 32767.0 / 2.0
    down = tf.clip_by_value(down + tf.cast(small, real.dtype), 0.0, 31.0)
    half = tf.floor(_power(down) / 2.0)
    product = f64(values) * tf.floor(real * _power(down))
    return tf.floor((product + half) / _power(down))


def _power(exponent: Any) -> Any:
    return tf.pow(f64(2.0), exponent)


def _between_nodes(size: Any, spacing: float, end: int) -> Any:
    """A line between two nodes of the sigmoid's table, times the spacing.

    From the last node on it is `end`.
    """
    node = tf.minimum(tf.floor(size / spacing), 254.0)
    base = tf.gather(_SIGMOID, tf.cast(node, tf.int32))
    after = tf.gather(_SIGMOID, tf.cast(node, tf.int32) + 1)
    line = base * spacing + (size - node * spacing) * (after - base)
    return tf.where(size >= 255 * spacing, f64(end), line)


def _sigmoid_nodes() -> np.ndarray:
    """65536 sigmoid(i / 24), raised by half of what a line misses half-way."""

    def exact(x: Any) -> Any:
        return 65536.0 / (1.0 + np.exp(-x / 24.0))

    nodes = np.arange(256.0)
    missed = exact(nodes + 0.5) - (exact(nodes) + exact(nodes + 1)) / 2
    table = np.minimum(np.floor(exact(nodes) + missed / 2 + 0.5), 65535.0)
    table[-1] = 65535.0  # where the line meets the constant end
    return table


_SIGMOID = _sigmoid_nodes()


def _wrapped(value: Any) -> Any:
    """The integer of 16 bits that is left of a larger one."""
    return tf.math.floormod(value + 2.0**15, 2.0**16) - 2.0**15


def round_away(value: Any) -> Any:
    """Halves away from zero."""
    return tf.sign(value) * tf.floor(tf.abs(value) + 0.5)
