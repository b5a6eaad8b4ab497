"""The rotation that a camera noted in a JPEG file, which decoding leaves undone."""

from __future__ import annotations

import os
import struct

_HEAD = 2**17  # bytes; a segment has 2^16 at most, and EXIF data is among the first
_ORIENTATION = 0x0112  # tag of CIPA DC-008, "Exif", table 4
_SHORT = 3
_ENTRY = 12  # bytes


def is_rotated(path: str | os.PathLike[str]) -> bool:
    """Whether an image is to be turned or mirrored before it is shown.

    Args:
        path: of a file; those that are no JPEG are not rotated.
    """
    with open(path, "rb") as file:
        return orientation(file.read(_HEAD)) != 1


def orientation(jpeg: bytes) -> int:
    """The orientation in the EXIF data of a JPEG file.

    Args:
        jpeg: the file, or its beginning.

    Returns:
        1 (as it is stored) to 8; 1 if the file has none, is broken or no JPEG.

    Example:
        >>> orientation(b"no image")
        1
    """
    try:
        data = _exif(jpeg)
        return _entry(data) if data else 1
    except struct.error:  # it ends before it should
        return 1


def _exif(jpeg: bytes) -> bytes:
    """The TIFF structure inside of the segment APP1; empty if there is none."""
    if jpeg[:2] != b"\xff\xd8":
        return b""
    place = 2
    while True:
        marker, size = struct.unpack_from(">HH", jpeg, place)
        if not 0xFFE0 <= marker <= 0xFFEF and marker != 0xFFFE:
            return b""  # the picture begins
        segment = jpeg[place + 4 : place + 2 + size]
        if marker == 0xFFE1 and segment.startswith(b"Exif\0\0"):
            return segment[6:]
        place += 2 + size


def _entry(tiff: bytes) -> int:
    order = ">" if tiff[:2] == b"MM" else "<"
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for number in range(count):
        place = start + 2 + number * _ENTRY
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, place)
        if tag == _ORIENTATION and kind == _SHORT:
            return value if 1 <= value <= 8 else 1
    return 1
