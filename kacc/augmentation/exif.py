"""The rotation that a camera noted in a file, which decoding leaves undone."""

from __future__ import annotations

import os
import struct
import warnings

# What Pillow raises for files and EXIF data that are broken.
_BROKEN = (OSError, SyntaxError, ValueError, struct.error)


def is_rotated(path: str | os.PathLike[str]) -> bool:
    """Whether an image is to be turned or mirrored before it is shown.

    Args:
        path: of an image; where its EXIF data (CIPA DC-008) cannot be read, it is not.
    """
    from PIL import ExifTags, Image

    try:
        with warnings.catch_warnings():  # of data that ends before it should
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _BROKEN:
        return False
    return orientation in range(2, 9)  # 1: as it is stored
