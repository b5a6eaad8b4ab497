"""Memory of the process."""

from __future__ import annotations

import ctypes
import gc
import sys

LARGE = 2**22  # bytes: less is not worth a search through all objects


def release(size: int = LARGE) -> None:
    """Gives memory that is free back to the system.

    Converters leave graphs of weights in cycles, and the C library keeps what is freed
    in small pieces: together it was 5 GiB after a model of 100 MB.

    Args:
        size: bytes of the weights that were worked with; of a few, nothing is done.

    Example:
        >>> release()
    """
    if size < LARGE:
        return
    gc.collect()
    if sys.platform == "linux":
        # Of glibc; others (musl) have none.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
