"""Integer tensors of the file, carried as floats, and the sums of their products.

Integers are carried as float32, exact up to 2^24, and as float64 where more is not
certain. z is a zero point, s a scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from kacc.quantization import functional

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


def grid_of(low: Any, high: Any, bits: int = 8, symmetric: bool = False) -> Grid:
    """The grid of a nudged range, by the converter's own arithmetic."""
    if symmetric:
        return symmetric_grid(high, bits)
    low, high = tf.cast(low, tf.float64), tf.cast(high, tf.float64)
    scale = (high - low) / float(2**bits - 1)
    zero = tf.round(-(2.0 ** (bits - 1)) - low / scale)
    return Grid(scale, tf.cast(zero, tf.float32), bits)


def symmetric_grid(largest: Any, bits: int = 16) -> Grid:
    """The grid of values up to that size, without a zero point."""
    largest = tf.maximum(largest, functional.SMALLEST_SPAN / 2)
    scale = functional.symmetric_scale(largest, bits)
    return Grid(tf.cast(scale, tf.float64), tf.constant(0.0), bits)


def quantize(real: Any, grid: Grid) -> Quantized:
    """Float values on a grid: rint(x / s) + z."""
    integers = tf.round(tf.cast(real, tf.float32) / grid.scale32) + grid.zero
    return Quantized(grid.clip(integers), grid)
