"""Pure functions of regularization: penalties on a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_LEAST = 1e-12  # under the root, whose slope is infinite at zero


def l1(weight: Any) -> Any:
    """The sum of absolute values, which makes single weights zero.

    Example:
        >>> import tensorflow as tf
        >>> float(l1(tf.constant([1.0, -2.0])))
        3.0
    """
    return tf.reduce_sum(tf.abs(weight))


def l2(weight: Any) -> Any:
    """The sum of squares, which makes weights small (as `keras.regularizers.L2`).

    Example:
        >>> import tensorflow as tf
        >>> float(l2(tf.constant([1.0, -2.0])))
        5.0
    """
    return tf.reduce_sum(tf.square(weight))


def group_lasso(weight: Any, channels: Sequence[int] = (-1,)) -> Any:
    """The lengths of the output channels' kernels, which makes whole channels zero.

    Each counts with the root of its size (Yuan and Lin 2006; Wen et al. 2016,
    arXiv:1608.03665).

    Args:
        weight: a kernel.
        channels: the axes of its output channels.

    Returns:
        A scalar.

    Example:
        >>> import tensorflow as tf
        >>> round(float(group_lasso(tf.constant([[3.0, 0.0], [4.0, 0.0]]))), 4)
        7.0711
    """
    rank = len(weight.shape)
    kept = {axis % rank for axis in channels}
    axes = [axis for axis in range(rank) if axis not in kept]
    size = math.prod(weight.shape[axis] for axis in axes)
    squares = tf.reduce_sum(tf.square(weight), axis=axes)
    return math.sqrt(size) * tf.reduce_sum(tf.sqrt(squares + _LEAST))
