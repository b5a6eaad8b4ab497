"""RESIZE_BILINEAR with half pixel centers, as each set of kernels weights its corners.

Each function takes integers (batch, height, width, channels) as int64 or float32, and
the size of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

# Positions of the two neighbours along an axis, and where between them a point lies.
Neighbours = tuple[np.ndarray, np.ndarray, np.ndarray]


def by_ten_bits(values: Any, size: tuple[int, int]) -> Any:
    """LiteRT's own kernels: positions of 10 bits, halves away from zero."""
    rows, columns = _each_axis(values, size, _ten_bit_neighbours)
    one, total = 2**10, tf.constant(0, tf.int64)
    for row, dy in ((0, one - rows[2]), (1, rows[2])):
        for column, dx in ((0, one - columns[2]), (1, columns[2])):
            weight = dy[:, None, None] * dx[None, :, None]
            corner = tf.cast(_corner(values, rows[row], columns[column]), tf.int64)
            total = total + corner * weight
    nudge = tf.where(total > 0, 2**19, -(2**19))
    return tf.truncatediv(
        total + tf.cast(nudge, tf.int64), tf.constant(2**20, tf.int64)
    )


def by_eleven_bits(values: Any, size: tuple[int, int]) -> Any:
    """XNNPACK's kernel: first along the rows, then down, with weights of 11 bits."""
    rows, columns = _each_axis(values, size, _clamped_neighbours)
    across = np.rint(columns[2] * np.float32(2**11)).astype(np.int64)[None, :, None]
    down = np.rint(rows[2] * np.float32(2**11)).astype(np.int64)[:, None, None]

    def row(positions: np.ndarray) -> Any:
        left, right = (
            tf.cast(_corner(values, positions, columns[i]), tf.int64) for i in (0, 1)
        )
        return left * 2**11 + (right - left) * across

    top, bottom = row(rows[0]), row(rows[1])
    total = top * 2**11 + (bottom - top) * down
    return tf.bitwise.right_shift(total + 2**21, tf.constant(22, tf.int64))


def _each_axis(
    values: Any, size: tuple[int, int], neighbours: Callable[[int, int], Neighbours]
) -> tuple[Neighbours, Neighbours]:
    height, width = values.shape[1:3]
    return neighbours(height, size[0]), neighbours(width, size[1])


def _corner(values: Any, rows: np.ndarray, columns: np.ndarray) -> Any:
    return tf.gather(tf.gather(values, rows, axis=1), columns, axis=2)


def _clamped_neighbours(inputs: int, outputs: int) -> Neighbours:
    scale = np.float32(inputs) / np.float32(outputs)
    offset = np.float32(0.5) * scale - np.float32(0.5)
    points = np.arange(outputs, dtype=np.float32) * scale + offset
    points = np.clip(points, 0, inputs - 1).astype(np.float32)
    low = points.astype(np.int64)
    return low, np.minimum(low + 1, inputs - 1), (points - low).astype(np.float32)


def _ten_bit_neighbours(inputs: int, outputs: int) -> Neighbours:
    scale = (2**10 * inputs + outputs // 2) // outputs
    points = np.arange(outputs, dtype=np.int64) * scale + scale // 2 - 2**9
    low = np.maximum(np.trunc(points / 2**10), 0).astype(np.int64)
    high = np.trunc((points + 2**10 - 1) / 2**10).astype(np.int64)
    return low, np.minimum(high, inputs - 1), points - 2**10 * low
