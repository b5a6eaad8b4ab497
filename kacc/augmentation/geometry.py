"""All geometry as one projective matrix for each image; boxes that move with it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kacc.augmentation.colour import product
from kacc.augmentation.draws import Draws

COLUMNS = {
    "affine",
    "angle",
    "corners",
    "flip_x",
    "flip_y",
    "shear_x",
    "shear_y",
    "shift_x",
    "shift_y",
    "zoom_x",
    "zoom_y",
}


def matrix(columns: dict[str, Any], draws: Draws) -> Any:
    """From positions in the result to positions in the image.

    What is seen is zoomed, sheared (down, then across), turned, mirrored and moved, all
    around the middle of the image, and then looked at from the side.

    Args:
        columns: drawn values, of which those of geometry count.
        draws: has the size of batch and images.

    Returns:
        (batch, 3, 3) float32, for positions (x, y, 1) in pixels; the middle of the
        first pixel is (0, 0).
    """
    result = _affine(columns, tf.ones(draws.batch))
    if "affine" in columns:  # a whole matrix, done before the others
        result = product(columns["affine"], result)
    if "corners" in columns:
        result = product(result, _projective(columns["corners"], draws))
    # Until here the middle of the image was (0, 0).
    middle = [(draws.width - 1) / 2, (draws.height - 1) / 2]
    there = _moved(*middle)
    back = _moved(-middle[0], -middle[1])
    return product(product(there, result), back)


def _affine(columns: dict[str, Any], ones: Any) -> Any:
    """The inverses of zoom, shear, rotation, flip and shift, in this order."""
    zeros = tf.zeros_like(ones)

    def column(name: str, neutral: Any) -> Any:
        return columns.get(name, neutral)

    zoom_x, zoom_y = column("zoom_x", ones), column("zoom_y", ones)
    shear_x, shear_y = column("shear_x", zeros), column("shear_y", zeros)
    angle = column("angle", zeros)
    flip_x, flip_y = column("flip_x", ones), column("flip_y", ones)
    cos, sin = tf.cos(angle), tf.sin(angle)
    # Rotation counterclockwise with y downwards, and the mirror, undone ...
    a, b = cos * flip_x, -sin * flip_y
    c, d = sin * flip_x, cos * flip_y
    # ... then the shear [[1 + xy, x], [y, 1]], and the zoom.
    e, f = a - shear_x * c, b - shear_x * d
    c, d = (
        (1 + shear_x * shear_y) * c - shear_y * a,
        (1 + shear_x * shear_y) * d - shear_y * b,
    )
    a, b, c, d = e / zoom_x, f / zoom_x, c / zoom_y, d / zoom_y
    x, y = column("shift_x", zeros), column("shift_y", zeros)
    rows = [[a, b, -a * x - b * y], [c, d, -c * x - d * y], [zeros, zeros, ones]]
    return tf.stack([tf.stack(row, 1) for row in rows], 1)


def _projective(corners: Any, draws: Draws) -> Any:
    """The map that takes the corners of the image to displaced ones.

    (Heckbert 1989, Fundamentals of Texture Mapping and Image Warping, section 2.2.3.)

    Args:
        corners: (batch, 4, 2), displacements of x and y as shares of the sides, of the
            corners top left, top right, bottom right, bottom left.
        draws: has the size of images.
    """
    points = corners + tf.constant([[0.0, 0], [1, 0], [1, 1], [0, 1]])[None]
    p0, p1, p2, p3 = tf.unstack(points, axis=1)
    d1, d2, d3 = p1 - p2, p3 - p2, p0 - p1 + p2 - p3

    def cross(a: Any, b: Any) -> Any:
        return a[:, :1] * b[:, 1:] - b[:, :1] * a[:, 1:]

    g, h = cross(d3, d2) / cross(d1, d2), cross(d1, d3) / cross(d1, d2)
    top = tf.stack([p1 - p0 + g * p1, p3 - p0 + h * p3, p0], 2)
    unit = tf.concat([top, tf.stack([g, h, tf.ones_like(g)], 2)], 1)
    # From pixels around the middle to shares from the corner, and back.
    sides = tf.stack([draws.width, draws.height, tf.ones_like(draws.width)])
    to_unit = product(_moved(0.5, 0.5), tf.linalg.diag(1 / sides)[None])
    from_unit = product(tf.linalg.diag(sides)[None], _moved(-0.5, -0.5))
    return product(product(from_unit, unit), to_unit)


def _moved(x: Any, y: Any) -> Any:
    one, zero = tf.constant(1.0), tf.constant(0.0)
    rows = [[one, zero, x], [zero, one, y], [zero, zero, one]]
    return tf.stack([tf.stack(row) for row in rows])[None]


def inverse(matrices: Any) -> Any:
    """The inverses of matrices (batch, 3, 3), up to a factor of each.

    That is their adjugates: positions (x, y, 1) come out the same after division.
    """
    a, b, c = tf.unstack(matrices, axis=1)
    return tf.stack(
        [tf.linalg.cross(b, c), tf.linalg.cross(c, a), tf.linalg.cross(a, b)], 2
    )


def moved_boxes(boxes: Any, matrices: Any, height: Any, width: Any) -> Any:
    """Where boxes go: the smallest upright boxes around them, clipped to the image.

    Args:
        boxes: (batch, n, 4) float32: left, top, right, bottom in pixels; the left edge
            of the first pixel is 0.
        matrices: as `matrix` gives them.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        Boxes of the same form; those that have left the image have no area.
    """
    left, top, right, bottom = tf.unstack(boxes - 0.5, axis=2)
    xs = tf.stack([left, right, right, left], 2)
    ys = tf.stack([top, top, bottom, bottom], 2)
    m = inverse(matrices)[:, :, :, None, None]
    # All three have the sign of the determinant, which divides out.
    x = m[:, 0, 0] * xs + m[:, 0, 1] * ys + m[:, 0, 2]
    y = m[:, 1, 0] * xs + m[:, 1, 1] * ys + m[:, 1, 2]
    w = m[:, 2, 0] * xs + m[:, 2, 1] * ys + m[:, 2, 2]
    x, y = x / w + 0.5, y / w + 0.5
    width, height = tf.cast(width, tf.float32), tf.cast(height, tf.float32)
    return tf.stack(
        [
            tf.clip_by_value(tf.reduce_min(x, 2), 0.0, width),
            tf.clip_by_value(tf.reduce_min(y, 2), 0.0, height),
            tf.clip_by_value(tf.reduce_max(x, 2), 0.0, width),
            tf.clip_by_value(tf.reduce_max(y, 2), 0.0, height),
        ],
        2,
    )
