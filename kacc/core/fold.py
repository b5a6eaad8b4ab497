"""Folding a batch normalization into the layer before it."""

from __future__ import annotations

from typing import Any

import numpy as np


def batch_norm_affine(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """A batch normalization at inference as `x * factor + offset`.

    Args:
        layer: a built keras.layers.BatchNormalization.

    Returns:
        (factor, offset), float32, one entry for each channel (Ioffe and Szegedy 2015,
        arXiv:1502.03167).
    """
    mean = _numpy(layer.moving_mean)
    factor = 1.0 / np.sqrt(_numpy(layer.moving_variance) + np.float32(layer.epsilon))
    if layer.scale:
        factor = factor * _numpy(layer.gamma)
    beta = _numpy(layer.beta) if layer.center else np.zeros_like(mean)
    return factor.astype(np.float32), (beta - mean * factor).astype(np.float32)


def fold_into_kernel(
    kernel: np.ndarray, channels: tuple[int, ...], factor: np.ndarray
) -> np.ndarray:
    """A kernel whose outputs are scaled by one factor per channel.

    Args:
        kernel: weights with the output channels in the axes `channels`.
        channels: axes from the end, in order; (-2, -1) for depthwise kernels.
        factor: one entry for each output channel.

    Returns:
        A kernel of the same shape.
    """
    shape = tuple(kernel.shape[axis] for axis in channels)
    return (kernel * factor.reshape(shape)).astype(np.float32)


def _numpy(variable: Any) -> np.ndarray:
    return np.asarray(variable.numpy(), dtype=np.float32)
