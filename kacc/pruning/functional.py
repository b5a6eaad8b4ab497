"""Pure functions of pruning: which weights go, and what becomes of the others.

Scores rank units, that is weights or blocks of them; the lowest go first. Counts are
exact, and of equal scores the first in the order of the array goes first, so that the
same weights give the same mask everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# The score of what is pruned already: it stays so.
_PRUNED = -1.0


@dataclass(frozen=True)
class Units:
    """The parts of one weight that are pruned as a whole.

    Args:
        scores: one for each unit; infinite for one that must stay.
        sizes: how many weights each has.
        expand: chosen units as booleans -> booleans in the weight's shape.
    """

    scores: np.ndarray
    sizes: np.ndarray
    expand: Callable[[np.ndarray], np.ndarray]


def count_of(sparsity: float, size: int) -> int:
    """How many of `size` weights a sparsity takes, to the nearest.

    Example:
        >>> count_of(0.75, 432), count_of(0.75, 10)
        (324, 8)
    """
    return int(np.floor(sparsity * size + 0.5))


def sparsity_of(value: np.ndarray) -> float:
    """The share of exact zeros.

    Example:
        >>> sparsity_of(np.array([0.0, 1.0, -0.0, 2.0]))
        0.5
    """
    return float(np.mean(np.asarray(value) == 0))


def smallest(
    scores: np.ndarray, count: int, sizes: np.ndarray | None = None
) -> np.ndarray:
    """The units with the lowest scores, the first of equal ones.

    Args:
        scores: one for each unit.
        count: how many weights to choose.
        sizes: weights in each unit; by default 1. Of units that do not add up to
            `count` so many are chosen that the sum is nearest to it.

    Returns:
        A boolean for each unit.

    Example:
        >>> smallest(np.array([3.0, 1.0, 2.0, 1.0]), 2)
        array([False,  True, False,  True])
    """
    if sizes is not None and np.any(sizes != 1):
        return _smallest_sized(scores, count, sizes)
    if count == 0:
        return np.zeros(scores.shape, bool)
    limit = np.partition(scores, count - 1)[count - 1]
    chosen = scores < limit
    ties = np.flatnonzero(scores == limit)
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen


def _smallest_sized(scores: np.ndarray, count: int, sizes: np.ndarray) -> np.ndarray:
    order = np.argsort(scores, kind="stable")
    sums = np.concatenate([[0], np.cumsum(sizes[order])])
    chosen = np.zeros(scores.shape, bool)
    chosen[order[: int(np.argmin(np.abs(sums - count)))]] = True
    return chosen


def weight_units(value: np.ndarray, pruned: np.ndarray | None = None) -> Units:
    """Each weight by itself, by its magnitude (Han et al. 2015, arXiv:1506.02626).

    Args:
        value: a weight.
        pruned: what is pruned already and stays so, or None.

    Returns:
        The units.
    """
    scores = _magnitudes(value, pruned).ravel()
    return Units(
        scores, np.ones(scores.shape, int), lambda chosen: chosen.reshape(value.shape)
    )


def block_units(
    value: np.ndarray,
    block: tuple[int, int],
    axes: tuple[int, int] = (-2, -1),
    pruned: np.ndarray | None = None,
) -> Units:
    """Blocks of neighbouring weights, by their mean magnitude.

    Where a side is no multiple of the block's, its last blocks are smaller.

    Args:
        value: a weight.
        block: (inputs, outputs) of a block.
        axes: the weight's axes of inputs and outputs.
        pruned: what is pruned already and stays so, or None.

    Returns:
        The units.
    """
    blocked, inner = _blocks(np.abs(value, dtype=np.float32), block, axes)
    real, _ = _blocks(np.ones(value.shape, np.float32), block, axes)
    sizes = real.sum((-3, -1))
    scores = blocked.sum((-3, -1)) / sizes
    if pruned is not None:
        gone, _ = _blocks(pruned.astype(np.float32), block, axes)
        scores = np.where(gone.sum((-3, -1)) == sizes, _PRUNED, scores)

    def expand(chosen: np.ndarray) -> np.ndarray:
        grid = chosen.reshape(scores.shape)
        full = np.repeat(np.repeat(grid, block[0], -2), block[1], -1)
        return np.moveaxis(full[..., : inner[0], : inner[1]], (-2, -1), axes)

    return Units(scores.ravel(), sizes.ravel().astype(int), expand)


def _blocks(
    value: np.ndarray, block: tuple[int, int], axes: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int]]:
    """(..., blocks, inputs, blocks, outputs), zeros at the end; the sides of before."""
    moved = np.moveaxis(value, axes, (-2, -1))
    *outer, rows, columns = moved.shape
    pads = [(0, -rows % block[0]), (0, -columns % block[1])]
    moved = np.pad(moved, [*[(0, 0)] * len(outer), *pads])
    *_, high, wide = moved.shape
    parts = (high // block[0], block[0], wide // block[1], block[1])
    return moved.reshape(*outer, *parts), (rows, columns)


def n_of_m_units(
    value: np.ndarray,
    n: int,
    m: int,
    axis: int = -2,
    pruned: np.ndarray | None = None,
) -> Units:
    """The weights that may go when `n` of each `m` along an axis stay.

    All others have an infinite score. A last group with less than `m` weights counts
    as filled up with zeros (Mishra et al. 2021, arXiv:2104.08378, for 2:4).

    Args:
        value: a weight.
        n: how many of a group stay, the largest.
        m: weights in a group.
        axis: the weight's axis of inputs.
        pruned: what is pruned already and stays so, or None.

    Returns:
        The units.
    """
    scores = _magnitudes(value, pruned)
    moved = np.moveaxis(scores, axis, -1)
    length = moved.shape[-1]
    pads = [(0, 0)] * (moved.ndim - 1)
    filled = np.pad(moved, [*pads, (0, -length % m)], constant_values=-np.inf)
    groups = filled.reshape(*moved.shape[:-1], -1, m)
    ranks = np.argsort(np.argsort(groups, -1, kind="stable"), -1, kind="stable")
    free = (ranks < m - n).reshape(filled.shape)[..., :length]
    scores = np.where(np.moveaxis(free, -1, axis), scores, np.inf).ravel()
    return Units(
        scores, np.ones(scores.shape, int), lambda chosen: chosen.reshape(value.shape)
    )


def soft_threshold(value: np.ndarray, threshold: float) -> np.ndarray:
    """The proximal operator of the L1 norm: `sign(w) max(|w| - threshold, 0)`.

    (Parikh and Boyd 2014, Proximal Algorithms, section 6.5.2.)

    Example:
        >>> soft_threshold(np.array([-3.0, 0.5, 2.0]), 1.0)
        array([-2.,  0.,  1.])
    """
    shrunk = np.maximum(np.abs(value) - threshold, 0)
    return np.where(value < 0, -shrunk, shrunk).astype(value.dtype)


def _magnitudes(value: np.ndarray, pruned: np.ndarray | None) -> np.ndarray:
    scores = np.abs(value, dtype=np.float32)
    return scores if pruned is None else np.where(pruned, _PRUNED, scores)
