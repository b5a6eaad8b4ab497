"""The distribution Beta(alpha, alpha), from uniform numbers.

TensorFlow's own sampler is a loop of rejections, which XLA cannot compile for a TPU.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow as tf

_POINTS = 2049


def beta_quantile(alpha: float, uniform: Any) -> Any:
    """The value below which a share `uniform` of Beta(alpha, alpha) lies.

    Args:
        alpha: above 0; 1 is the uniform distribution.
        uniform: float32 tensor of numbers from 0 to 1.

    Returns:
        A tensor of the same shape, by interpolation in a table.

    Example:
        >>> import tensorflow as tf
        >>> beta_quantile(1.0, tf.constant([0.25, 0.5])).numpy().round(4).tolist()
        [0.25, 0.5]
    """
    table = tf.constant(_table(alpha), tf.float32)
    position = uniform * (_POINTS - 1)
    below = tf.clip_by_value(tf.cast(position, tf.int32), 0, _POINTS - 2)
    rest = position - tf.cast(below, tf.float32)
    return tf.gather(table, below) * (1 - rest) + tf.gather(table, below + 1) * rest


@functools.lru_cache(maxsize=32)
def _table(alpha: float) -> np.ndarray:
    """Quantiles at even shares.

    The density has poles for alpha < 1. In s = x^alpha it has none up to 1/2, and the
    other half is its mirror image.
    """
    s = np.linspace(0, 0.5**alpha, 20001)
    density = (1 - s ** (1 / alpha)) ** (alpha - 1)
    areas = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    shares = np.linspace(0, 0.5, _POINTS // 2 + 1)
    lower = np.interp(shares, areas / areas[-1] / 2, s) ** (1 / alpha)
    return np.concatenate([lower, 1 - lower[-2::-1]])
