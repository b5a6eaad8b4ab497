"""All changes of colour as one matrix for each image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

# Luminance of red, green and blue (ITU-R BT.601), as in PIL and OpenCV.
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)

_YIQ = np.array(
    [LUMINANCE, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]]
)

_COLUMNS = ("brightness", "contrast", "saturation", "hue", "colour_shift")


def colour_matrix(columns: dict[str, Any], batch: Any) -> dict[str, Any]:
    """What is drawn of colour as one matrix.

    The order is brightness, contrast, saturation, hue, channel shift; nothing is
    clipped in between. With u the share of a value above the lowest possible, and m
    its mean over the grey image, the result is `colour[:, :3] u + colour[:, 3] +
    colour_mean m`.

    Args:
        columns: drawn values, each of shape (batch,), but `colour_shift` (batch, 3).
        batch: images.

    Returns:
        "colour" (batch, 3, 4), and "colour_mean" (batch,) if there is a contrast;
        nothing if no column is of colour.
    """
    if not set(_COLUMNS) & set(columns):
        return {}
    ones = tf.ones(batch)
    brightness = columns.get("brightness", ones)
    contrast = columns.get("contrast", ones)
    factors = (brightness * contrast)[:, None, None] * tf.eye(3)[None]
    if "saturation" in columns:
        amount = columns["saturation"][:, None, None]
        grey = tf.constant(np.tile(LUMINANCE, (3, 1)))[None]
        factors = product(amount * tf.eye(3) + (1 - amount) * grey, factors)
    if "hue" in columns:
        factors = product(_turn(columns["hue"] * (2 * math.pi)), factors)
    # Saturation and hue leave greys alone, so the contrast's grey stays what it is.
    added = columns.get("colour_shift", tf.zeros((batch, 3)))
    result = {"colour": tf.concat([factors, added[:, :, None]], 2)}
    if "contrast" in columns:
        result["colour_mean"] = (1 - contrast) * brightness
    return result


def product(a: Any, b: Any) -> Any:
    """Products of small matrices (batch, n, n).

    Not `tf.matmul`: on GPUs that may round to 10 bits (TF32), a quarter of a pixel at
    a width of 224.
    """
    return tf.reduce_sum(a[:, :, :, None] * b[:, None, :, :], 2)


def _turn(angle: Any) -> Any:
    """Rotation of the chrominance: (batch, 3, 3)."""
    zero, one = tf.zeros_like(angle), tf.ones_like(angle)
    cos, sin = tf.cos(angle), tf.sin(angle)
    rows = [[one, zero, zero], [zero, cos, -sin], [zero, sin, cos]]
    turned = tf.stack([tf.stack(row, 1) for row in rows], 1)
    back = tf.constant(np.linalg.inv(_YIQ).astype("float32"))[None]
    return product(back, product(turned, tf.constant(_YIQ.astype("float32"))[None]))
