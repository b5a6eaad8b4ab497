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
# Files decoded side by side. Finished ones that wait for their turn count, too.
CALLS = 4 * (os.cpu_count() or 1)
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
    image = tf.cond(
        _is_native(contents, channels),
        lambda: _decode_native(contents, channels),
        lambda: _converted(
            tf.io.decode_image(contents, expand_animations=False), channels
        ),
    )
    image.set_shape((None, None, channels))
    return image


def _is_native(contents: Any, channels: int) -> Any:
    """Whether TensorFlow's decoder gives these channels itself."""
    png = tf.strings.substr(contents, 0, 4) == b"\x89PNG"
    if channels == 4:
        return png
    return png | (tf.strings.substr(contents, 0, 2) == b"\xff\xd8")


def _decode_native(contents: Any, channels: int) -> Any:
    image = tf.io.decode_image(contents, channels, expand_animations=False)
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


def read(path: Any, channels: int, native: bool = False) -> Any:
    """Reads and decodes one file; see `decode`, and `examine` for `native`."""
    contents = tf.io.read_file(path)
    return _decode_native(contents, channels) if native else decode(contents, channels)


def untuned(data: Any) -> tf.data.Dataset:
    """A dataset with the numbers of calls that it was given, from the start.

    TensorFlow's tuner, which would look for them anew in each epoch, takes 3 % of the
    processor, and finds few where other programs run too: an epoch of small JPEGs took
    a quarter longer.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)


def encoded(listing: Listing) -> Any:
    """Paths as TensorFlow takes them, of names in any encoding too."""
    return tf.constant([os.fsencode(path) for path in listing.paths])


def readable(
    listing: Listing, load: Callable[..., Any], text: str
) -> Iterator[tuple[int, Any]]:
    """What `load` makes of each image that can be read, in any order.

    Args:
        listing: the images.
        load: a function of a path to a tensor, or several.
        text: beside the bar, where there is one.

    Yields:
        The index of the image, and the tensor.
    """
    indices = tf.range(len(listing), dtype=tf.int64)
    data = tf.data.Dataset.from_tensor_slices((indices, encoded(listing)))
    data = data.map(
        lambda index, path: (index, load(path)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=False,
    )
    data = data.ignore_errors().prefetch(tf.data.AUTOTUNE)
    with Progress(text, len(listing)) as progress:
        for index, value in data.as_numpy_iterator():
            progress.advance()
            yield int(index), value


def examine(listing: Listing, channels: int) -> tuple[list[int], bool]:
    """Decodes each file once.

    Args:
        listing: the images.
        channels: as for `decode`.

    Returns:
        Indices of the images that cannot be read; and whether TensorFlow's decoder
        gives the channels of all others itself. Reading them again then does not ask
        for the format of each, which takes a tenth of what decoding a small JPEG takes.
    """

    def look(path: Any) -> Any:
        contents = tf.io.read_file(path)
        # The shape, since what nobody reads is not decoded.
        shape = tf.shape(decode(contents, channels))
        return _is_native(contents, channels), shape

    found = {
        index: native
        for index, (native, _) in readable(listing, look, "reading images")
    }
    bad = [index for index in range(len(listing)) if index not in found]
    return bad, all(found.values())


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
