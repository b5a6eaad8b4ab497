"""Checks of arguments that several functions share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kacc.core.errors import UsageError


def one_of(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    if value not in choices:
        raise UsageError(
            f"`{name}` must be one of {', '.join(map(repr, choices))}", received=value
        )
    return value


def size(value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    try:
        height, width = (positive("image_size", side) for side in pair)
    except (TypeError, ValueError):
        height = width = None
    if height is None or width is None:
        raise UsageError(
            "`image_size` must be (height, width) in pixels, or one number for both",
            received=value,
            fix="Pass (128, 128)",
        )
    return height, width


def positive(name: str, value: Any) -> int | None:
    value = whole(name, value)
    if value is not None and value < 1:
        raise UsageError(f"`{name}` must be 1 or more", received=value)
    return value


def whole(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise UsageError(f"`{name}` must be a whole number", received=value)
    return int(value)


def cache_folder(value: Any) -> str | None:
    """None: no cache; "": in memory; else the folder."""
    if value is None or value is False:
        return None
    if value is True:
        return ""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise UsageError(
            "`cache` must be True, or the path of a folder",
            received=value,
            fix="Pass True to keep decoded images in memory",
        )
    if Path(value).exists() and not Path(value).is_dir():
        raise UsageError("`cache` must be a folder", received=str(value))
    return os.fspath(value)
