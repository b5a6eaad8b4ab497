"""Batch normalization in TensorFlow's fused kernel, as a function of tensors."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

# Private: TensorFlow has no public way to ask whether XLA will compile the graph that
# is being traced. tests/acceleration/test_functional.py fails when it goes away.
from tensorflow.python.ops import control_flow_util


def batch_normalize(x: Any, gamma: Any, beta: Any, epsilon: float) -> tuple:
    """Normalizes a batch by its own statistics (Ioffe 2015, arXiv:1502.03167).

    Args:
        x: float32 tensor of rank 2 or more; the last axis is the channels'.
        gamma: float32 scale of each channel.
        beta: float32 offset of each channel.
        epsilon: added to the variance.

    Returns:
        The normalized tensor, and the mean and the variance of each channel, the
        variance as the mean of squares (no correction for the sample's size).

    Example:
        >>> import tensorflow as tf
        >>> y, mean, variance = batch_normalize(
        ...     tf.constant([[1.0], [3.0]]), tf.ones(1), tf.zeros(1), 0.0
        ... )
        >>> y.numpy().tolist(), mean.numpy().tolist(), variance.numpy().tolist()
        ([[-1.0], [1.0]], [2.0], [1.0])
    """
    channels = x.shape[-1]
    # Rows over the width: one row per example costs half as much again.
    image = x if x.shape.rank == 4 else tf.reshape(x, (1, 1, -1, channels))
    # The raw operator, since `tf.nn` raises an epsilon below 1.001e-5 in silence.
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=image,
        scale=gamma,
        offset=beta,
        mean=[],
        variance=[],
        epsilon=epsilon,
        is_training=True,
    )
    # The kernel divides by n - 1 here, and by n inside; Keras divides by n.
    count = tf.cast(tf.size(x) // channels, tf.float32)
    variance *= (count - 1) / count
    return tf.reshape(y, tf.shape(x)) if image is not x else y, mean, variance


def is_compiled_by_xla() -> bool:
    """Whether XLA compiles what is being traced now.

    Example:
        >>> is_compiled_by_xla()
        False
    """
    graph = tf.compat.v1.get_default_graph()
    return bool(
        tf.config.optimizer.get_jit()
        or control_flow_util.GraphOrParentsInXlaContext(graph)
    )
