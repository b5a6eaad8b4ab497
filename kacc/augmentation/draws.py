"""Random numbers for a batch, and what transforms make of them, image by image."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kacc.augmentation.checks import Range
from kacc.augmentation.randomness import key_of, threefry, units

_PAIRS = 8  # of rows that are drawn at once


class Draws:
    """A stream of uniform numbers, and named columns that transforms add to.

    Every column has one value for each image. Transforms of the same kind meet in the
    same column: angles are added, factors multiplied.

    Args:
        seed: int32 tensor [a, b, c]; each triple has a stream of its own.
        batch: images.
        height: of an image, in pixels.
        width: of an image, in pixels.
    """

    def __init__(self, seed: Any, batch: Any, height: Any, width: Any) -> None:
        self.batch = batch
        self.height = tf.cast(height, tf.float32)
        self.width = tf.cast(width, tf.float32)
        self.columns: dict[str, Any] = {}
        self._key = key_of(seed)
        self._rows: list[Any] = []
        self._drawn = 0  # pairs of rows

    def unit(self) -> Any:
        """The next number of each image, from 0 to below 1."""
        if not self._rows:
            image = tf.cast(tf.range(self.batch), tf.uint32)[None]
            row = tf.range(self._drawn, self._drawn + _PAIRS)
            words = threefry(self._key, (image, tf.cast(row, tf.uint32)[:, None]))
            self._rows = tf.unstack(units(tf.concat(words, 0)))
            self._drawn += _PAIRS
        return self._rows.pop(0)

    def next_key(self) -> Any:
        """A key (2,), uint32, that nothing else draws from."""
        number = tf.constant((self._drawn, 2**32 - 1), tf.uint32)
        self._drawn += 1
        return tf.stack(threefry(self._key, tf.unstack(number)))

    def uniform(self, ends: Range) -> Any:
        """A number of each image, evenly from the lowest to the highest."""
        assert isinstance(ends, tuple), "transforms keep ranges"
        low, high = ends
        return low + (high - low) * self.unit()

    def whole(self, low: int, high: int) -> Any:
        """A whole number of each image, as float32, both ends included."""
        return low + tf.minimum(tf.floor((high - low + 1) * self.unit()), high - low)

    def chosen(self, probability: float) -> Any:
        """Which images are drawn, each with a probability."""
        return self.unit() < probability

    def only(self, probability: float, value: Any, neutral: float) -> Any:
        """The value of images that are drawn; of others what changes nothing."""
        if probability == 1:
            return value
        return tf.where(self.chosen(probability), value, neutral)

    def add(self, name: str, value: Any) -> None:
        """Adds to a column."""
        self.columns[name] = self.columns.get(name, 0.0) + value

    def multiply(self, name: str, value: Any) -> None:
        """Multiplies a column."""
        self.columns[name] = self.columns.get(name, 1.0) * value

    def lower(self, name: str, value: Any) -> None:
        """Lowers a column to a value where that is less."""
        self.columns[name] = tf.minimum(self.columns.get(name, value), value)

    def mark(self, name: str, value: Any) -> None:
        """Marks images in a column of booleans."""
        self.columns[name] = tf.logical_or(self.columns.get(name, value), value)

    def stack(self, name: str, value: Any) -> None:
        """Puts a value behind the others of a column."""
        self.columns.setdefault(name, []).append(value)
