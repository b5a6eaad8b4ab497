"""Times of functions on this machine, called in turn so that all see one load."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence

import numpy as np

WARM_UP = 5
MAX_SECONDS = 5.0  # of timing one function, for models that are slow
_LEAST = 5  # calls that a median is taken of even if they take longer


def interleaved(calls: Sequence[Callable[[], object]], repeats: int) -> np.ndarray:
    """Seconds of each of several functions in each of many rounds.

    Args:
        calls: the functions.
        repeats: how many rounds, unless they take too long.

    Returns:
        An array of shape (functions, rounds).

    Example:
        >>> interleaved([lambda: None, lambda: 1], repeats=5).shape
        (2, 5)
    """
    for call in calls:
        for _ in range(WARM_UP):
            call()
    rounds: list[list[float]] = []
    started = time.perf_counter()
    limit = MAX_SECONDS * len(calls)
    collecting = gc.isenabled()
    gc.disable()
    try:
        while len(rounds) < repeats:
            rounds.append([_seconds(call) for call in calls])
            if len(rounds) >= _LEAST and time.perf_counter() - started > limit:
                break
    finally:
        if collecting:
            gc.enable()
    return np.array(rounds).T


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
