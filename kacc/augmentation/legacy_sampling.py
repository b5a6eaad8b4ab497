"""The numbers and the matrix of Keras 2's `ImageDataGenerator`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kacc.augmentation.config_legacy import LegacyWarp, LevelShift, Shift
from kacc.augmentation.draws import Draws


def legacy_matrix(
    theta: Any, tx: Any, ty: Any, shear: Any, zx: Any, zy: Any
) -> tuple[Sequence[Any], Sequence[Any]]:
    """The matrix of `ImageDataGenerator.apply_transform`, around the image's middle.

    Args:
        theta: angle of the rotation, radians.
        tx: pixels sideways.
        ty: pixels up or down.
        shear: angle of the shear, radians.
        zx: factor of the widths.
        zy: factor of the heights.

    Returns:
        Rows x and y of the map from (x, y, 1) in the result to the image.

    Example:
        >>> x, y = legacy_matrix(*tf.zeros(4), tf.constant(1.0), tf.constant(1.0))
        >>> [float(value) for value in (*x, *y)]
        [1.0, -0.0, 0.0, 0.0, 1.0, 0.0]
    """
    cos, sin = tf.cos(theta), tf.sin(theta)
    slant = theta + shear
    return (
        (zx * cos, -zy * tf.sin(slant), cos * tx - sin * ty),
        (zx * sin, zy * tf.cos(slant), sin * tx + cos * ty),
    )


def sample_warp(warp: LegacyWarp, draws: Draws) -> None:
    """Draws the numbers of a warp, as `get_random_transform` does.

    But for one thing: it calls what `height_shift_range` gives tx, so that Keras 2
    moves images sideways by it. Here they move as the arguments are named.
    """
    radians = math.pi / 180
    theta, shear = (
        draws.uniform((-angle, angle)) * radians
        for angle in (warp.rotation, warp.shear)
    )
    tx = _drawn_shift(warp.width_shift, draws, draws.width)
    ty = _drawn_shift(warp.height_shift, draws, draws.height)
    zx, zy = draws.uniform(warp.zoom), draws.uniform(warp.zoom)
    rows = [tf.stack(row, 1) for row in legacy_matrix(theta, tx, ty, shear, zx, zy)]
    last = tf.broadcast_to(tf.constant([0.0, 0.0, 1.0]), tf.shape(rows[0]))
    draws.columns["affine"] = tf.stack([*rows, last], 1)


def sample_level(shift: LevelShift, draws: Draws) -> None:
    """Draws one number for all channels of an image."""
    value = draws.uniform((-shift.fraction, shift.fraction))
    draws.add("colour_shift", tf.stack([value] * 3, 1))


def _drawn_shift(value: Shift, draws: Draws, side: Any) -> Any:
    """Pixels of each image; see `LegacyWarp`."""
    if isinstance(value, float):
        return draws.uniform((-value, value)) * (side if value < 1 else 1.0)
    values = value if isinstance(value, tuple) else range(max(int(value), 1))
    place = tf.cast(draws.whole(0, len(values) - 1), tf.int32)
    drawn = tf.gather(tf.constant([float(entry) for entry in values]), place)
    drawn = tf.where(draws.chosen(0.5), drawn, -drawn)
    shares = isinstance(value, tuple) and max(value) < 1
    return drawn * side if shares else drawn
