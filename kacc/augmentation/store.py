"""Decoded images, kept in memory or in a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kacc.augmentation import decoding
from kacc.augmentation.folders import Listing
from kacc.core.errors import UsageError
from kacc.core.files import atomic_folder

_IMAGES, _UNREADABLE = "images.npy", "unreadable.json"


@dataclass(frozen=True)
class Store:
    """Decoded images of one size.

    Args:
        images: (images, height, width, channels), uint8; a file's, it is read as it is
            needed.
        unreadable: rows that hold no image.
    """

    images: np.ndarray
    unreadable: list[int]

    def rows(self, indices: Any) -> Any:
        """Images in a `tf.data` graph.

        Args:
            indices: int64, a scalar or a vector.

        Returns:
            Pixels, uint8, with the shape of the indices before theirs.
        """
        found = tf.numpy_function(
            self.images.__getitem__, [indices], tf.uint8, stateful=False
        )
        return tf.ensure_shape(found, (*indices.shape, *self.images.shape[1:]))


def store(
    listing: Listing,
    shape: tuple[int, int, int],
    load: Callable[[Any], Any],
    folder: str | None,
    settings: Any,
) -> Store:
    """Decodes all images, or finds what an earlier call has decoded.

    Args:
        listing: the images.
        shape: (height, width, channels) of what `load` gives.
        load: a function of a path to the pixels of an image.
        folder: for the files; None keeps the images in memory.
        settings: all that `load` depends on.

    Returns:
        The images, by their place in the listing.

    Raises:
        UsageError: if they do not fit into memory.
        KaccError: if the folder cannot be written.
    """
    whole = (len(listing), *shape)
    if folder is None:
        _check_memory(whole)
        images = np.zeros(whole, np.uint8)
        return Store(images, _fill(images, listing, load))
    place = Path(folder) / f"images-{_key(listing, settings)}"
    if not (place / _UNREADABLE).is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(place, _UNREADABLE) as work:
            written = np.lib.format.open_memmap(
                work / _IMAGES, "w+", np.dtype(np.uint8), whole
            )
            bad = _fill(written, listing, load)
            written.flush()
            (work / _UNREADABLE).write_text(json.dumps(bad))
    # A plain view: a memmap's own indexing does the same and is slower.
    images = np.asarray(np.load(place / _IMAGES, mmap_mode="r"))
    return Store(images, json.loads((place / _UNREADABLE).read_text()))


def _fill(
    images: np.ndarray, listing: Listing, load: Callable[[Any], Any]
) -> list[int]:
    missing = set(range(len(listing)))
    for index, image in decoding.readable(listing, load, "decoding images"):
        images[index] = image
        missing.discard(index)
    return sorted(missing)


def _key(listing: Listing, settings: Any) -> str:
    """A name that changes with the files and the settings."""
    key = hashlib.sha256(repr(settings).encode())
    for path in listing.paths:
        state = path.stat()
        key.update(os.fsencode(path) + b"\0")
        key.update(f"{state.st_size} {state.st_mtime_ns}\n".encode())
    return key.hexdigest()[:16]


def _check_memory(shape: tuple[int, ...]) -> None:
    needed = int(np.prod(shape, dtype=np.int64))
    try:
        present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # not a POSIX system
        return
    if needed > 0.8 * present:
        raise UsageError(
            f"The images must fit into memory ({present / 2**30:.0f} GiB)",
            received=f"{shape[0]:,} images of {needed / 2**30:.0f} GiB",
            fix="Pass a folder as `cache`, or leave it out",
        )
