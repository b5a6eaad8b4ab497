"""The leading singular vectors of a matrix, by the solver that is fastest for them."""

from __future__ import annotations

import contextlib

import numpy as np
from scipy.sparse.linalg import ArpackError, svds

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]

# Measured by scripts/bench/factorize.py --only svd, on one thread: for 5 % of the
# vectors Lanczos takes 0.2 of LAPACK's time, for 15 % 0.6, for 20 % about as long. A
# randomized one is little faster, and its products are up to 0.4 % farther away.
SMALLEST = 400  # sides; LAPACK takes a tenth of a second there
FEW = 0.15  # share of the singular vectors up to which Lanczos beats it


def leading(matrix: np.ndarray, count: int | None = None) -> Triple:
    """Truncated singular value decomposition: the `count` largest, all by default.

    Lanczos (ARPACK, by scipy) where few vectors of a large matrix are asked for;
    LAPACK's full one elsewhere.

    Args:
        matrix: (m, n).
        count: how many singular values; None for min(m, n).

    Returns:
        (m, count), (count,) in falling order, (count, n).

    Example:
        >>> u, s, vt = leading(np.diag([3.0, 2.0, 1.0]), 2)
        >>> s.tolist(), u.shape, vt.shape
        ([3.0, 2.0], (3, 2), (2, 3))
    """
    size = min(matrix.shape)
    count = size if count is None else min(count, size)
    if is_few(matrix, count):
        with contextlib.suppress(ArpackError):  # of zeros, or many equal values
            return lanczos(matrix, count)
    return full(matrix, count)


def is_few(matrix: np.ndarray, count: int) -> bool:
    """Whether so few vectors of so large a matrix are wanted that Lanczos is faster."""
    size = min(matrix.shape)
    return size >= SMALLEST and count <= FEW * size


def full(matrix: np.ndarray, count: int) -> Triple:
    """LAPACK's divide and conquer, cut off."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return u[:, :count], s[:count], vt[:count]


def lanczos(matrix: np.ndarray, count: int) -> Triple:
    """Implicitly restarted Lanczos (ARPACK: Lehoucq, Sorensen and Yang 1998)."""
    start = np.random.default_rng(0).normal(size=min(matrix.shape))
    u, s, vt = svds(matrix, k=count, v0=start)
    return u[:, ::-1], s[::-1], vt[::-1]
