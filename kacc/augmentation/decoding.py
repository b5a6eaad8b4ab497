"""Image files as tensors, decoded in parallel; and which of them cannot be."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from kacc.augmentation.folders import Listing
from kacc.augmentation.progress import Progress
from kacc.core.errors import KaccError

CHANNELS = {"grayscale": 1, "rgb": 3, "rgba": 4}
_NAMED = 10  # files in a message; the dataset has all of them


def decode(contents: Any, channels: int) -> Any:
    """Decodes an image file, with the channels asked for.

    JPEG, PNG, BMP, WebP, and the first picture of a GIF. Pixels stay as they are
    stored: a rotation that a camera noted in its EXIF data is not applied.

    Args:
        contents: bytes of the file, a scalar string tensor.
        channels: 1 (grey), 3 (RGB), 4 (RGB and opacity, full where a file has none), or
            0 for those of the file.

    Returns:
        Pixels (height, width, channels), uint8, 0 to 255.

    Raises:
        tf.errors.InvalidArgumentError: if it is no image, or broken.

    Example:
        >>> png = tf.io.encode_png(tf.fill([2, 3, 1], tf.constant(7, tf.uint8)))
        >>> decode(png, 3).shape, decode(png, 4)[0, 0].numpy().tolist()
        (TensorShape([2, 3, 3]), [7, 7, 7, 255])
    """
    contents = tf.convert_to_tensor(contents)
    if channels == 0:
        return tf.io.decode_image(contents, expand_animations=False)
    png = tf.strings.substr(contents, 0, 4) == b"\x89PNG"
    jpeg = tf.strings.substr(contents, 0, 2) == b"\xff\xd8"
    itself = png if channels == 4 else png | jpeg
    image = tf.cond(
        itself,
        lambda: tf.io.decode_image(contents, channels, expand_animations=False),
        lambda: _converted(
            tf.io.decode_image(contents, expand_animations=False), channels
        ),
    )
    image.set_shape((None, None, channels))
    return image


def _converted(image: Any, channels: int) -> Any:
    """Pixels with other channels, for formats whose decoders cannot do it."""
    given = tf.shape(image)[-1]
    grey, opaque = given < 3, tf.ones_like(image[..., :1]) * 255
    colour = tf.cond(grey, lambda: tf.repeat(image[..., :1], 3, -1), lambda: image)
    colour = colour[..., :3]
    if channels == 1:
        return tf.cond(
            grey,
            lambda: image[..., :1],
            lambda: tf.image.rgb_to_grayscale(tf.ensure_shape(colour, (None, None, 3))),
        )
    if channels == 3:
        return colour
    stored = (given == 2) | (given == 4)
    opacity = tf.cond(stored, lambda: image[..., -1:], lambda: opaque)
    return tf.concat([colour, opacity], -1)


def read(path: Any, channels: int) -> Any:
    """Reads and decodes one file; see `decode`."""
    return decode(tf.io.read_file(path), channels)


def encoded(listing: Listing) -> Any:
    """Paths as TensorFlow takes them, of names in any encoding too."""
    return tf.constant([os.fsencode(path) for path in listing.paths])


def readable(
    listing: Listing, channels: int, load: Callable[..., Any], text: str
) -> Iterator[tuple[int, Any]]:
    """What `load` makes of each image that can be read, in any order.

    Args:
        listing: the images.
        channels: as for `decode`.
        load: a function of pixels to a tensor.
        text: beside the bar, where there is one.

    Yields:
        The index of the image, and the tensor.
    """
    indices = tf.range(len(listing), dtype=tf.int64)
    data = tf.data.Dataset.from_tensor_slices((indices, encoded(listing)))
    data = data.map(
        lambda index, path: (index, load(read(path, channels))),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=False,
    )
    data = data.ignore_errors().prefetch(tf.data.AUTOTUNE)
    with Progress(text, len(listing)) as progress:
        for index, value in data.as_numpy_iterator():
            progress.advance()
            yield int(index), value


def unreadable(listing: Listing, channels: int) -> list[int]:
    """Indices of the images that cannot be read; each file is decoded once."""
    found = {
        index for index, _ in readable(listing, channels, tf.shape, "reading images")
    }
    return [index for index in range(len(listing)) if index not in found]


def left_out(listing: Listing, bad: list[int], on_error: str) -> Listing:
    """The listing without what cannot be read, after saying which files those are.

    Raises:
        KaccError: if `on_error` is "raise" and there are some, or nothing else is left.
    """
    if not bad:
        return listing
    said = named(listing.names(bad))
    share = f"{len(bad):,} of {len(listing):,} images cannot be read"
    if on_error == "raise" or len(bad) == len(listing):
        raise KaccError(
            f"{share} in {listing.root}",
            received=said,
            fix="Repair them or take them away"
            if len(bad) == len(listing)
            else 'Repair them, take them away, or pass on_error="skip"',
        )
    warnings.warn(f"{share} and are left out: {said}", stacklevel=3)
    return listing.without(bad)


def named(names: list[str]) -> str:
    """The first names, and how many more there are.

    Example:
        >>> named(["a.jpg", "b.jpg"])
        'a.jpg, b.jpg'
    """
    more = len(names) - _NAMED
    tail = f" and {more:,} more" if more > 0 else ""
    return ", ".join(names[:_NAMED]) + tail
