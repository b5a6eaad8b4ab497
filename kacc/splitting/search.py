"""Choosing cuts: the most even parts, and among those the least to hand over.

Splitting a chain so that the largest part is as small as possible is the linear
partition problem; dynamic programming solves it (Skiena, The Algorithm Design Manual).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Parts whose largest is this much above the smallest possible are as good.
TOLERANCE = 0.1


def best_cuts(sizes: np.ndarray, transfer: Sequence[float], parts: int) -> list[int]:
    """Where to cut a chain.

    Of all ways to cut into so many parts those are kept whose largest part is at most a
    tenth above the smallest largest part there is; of these it is the one with the
    least transfer.

    Args:
        sizes: [i, j] is the size of a part from point i to point j > i; infinite where
            there can be none. The first and the last point are the ends of the chain.
        transfer: what crosses a cut at each point.
        parts: how many.

    Returns:
        The numbers of the points in between, or [] if no way is possible.

    Example:
        >>> lengths = np.array([0, 4, 5, 8])
        >>> sizes = np.triu(lengths[None] - lengths[:, None]).astype(float)
        >>> sizes[sizes <= 0] = np.inf
        >>> best_cuts(sizes, [0, 1, 1, 0], 2), best_cuts(sizes, [0, 9, 1, 0], 2)
        ([1], [1])
    """
    smallest, _ = _chained(sizes, np.zeros(len(sizes)), parts, np.maximum)
    if not np.isfinite(smallest):
        return []
    fitting = np.where(sizes <= smallest * (1 + TOLERANCE), 0.0, np.inf)
    # Of equal transfer the more even parts: a share of it too small to outweigh a byte.
    whole = np.where(np.isfinite(sizes), sizes, 0.0).max() or 1.0
    fitting += np.where(np.isfinite(sizes), sizes / whole, 0.0) ** 2 / (parts + 1)
    _, cuts = _chained(fitting, np.asarray(transfer, float), parts, np.add)
    return cuts


def _chained(
    sizes: np.ndarray, crossing: np.ndarray, parts: int, joined: np.ufunc
) -> tuple[float, list[int]]:
    """The least value of a chain of parts, and where it is cut."""
    reached = sizes[0]
    came: list[np.ndarray] = []
    for _ in range(parts - 1):
        ways = joined(reached[:, None] + crossing[:, None], sizes)
        came.append(ways.argmin(0))
        reached = ways.min(0)
    cuts: list[int] = []
    point = len(sizes) - 1
    for sources in reversed(came):
        point = int(sources[point])
        cuts.insert(0, point)
    return float(reached[-1]), cuts
