"""Numbers of channels that are multiples in each layer, also where groups meet in one.

A layer whose channels are split, or added to those of several others, has them in
several groups. Each keeps a multiple or all, but the sum of both is neither.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kacc.core.channels.graph import DependencyGraph
from kacc.pruning.channels.selection import counts_allowed


class Rounding:
    """Which channels must go too, so that each layer keeps a multiple, or all.

    Args:
        found: the dependency graph.
        steps: how many channels of each group go at once.
        round_to: what layers keep a multiple of.

    Example:
        >>> import keras
        >>> from kacc.core.channels.graph import dependencies
        >>> x = keras.Input((4,))
        >>> y = keras.layers.Dense(10)(x)
        >>> parts = [keras.layers.Dense(2)(part) for part in (y[:, :3], y[:, 3:])]
        >>> found = dependencies(keras.Model(x, parts))
        >>> Rounding(found, [2, 2], 2)(np.array([3, 4])).tolist()
        [2, 4]
    """

    def __init__(
        self, found: DependencyGraph, steps: Sequence[int], round_to: int
    ) -> None:
        self.widths = np.array([len(group.classes) for group in found.groups], int)
        allowed = [
            counts_allowed(width, step)
            for width, step in zip(self.widths.tolist(), steps, strict=True)
        ]
        self._rounded = np.array([counts[:2][-1] for counts in allowed], int)
        whole = self.widths % np.array(steps, int) == 0
        self._rounded[whole] = self.widths[whole]
        copies, totals = _layers(found)
        self.fixed = self._fixed(copies, totals, round_to)
        self._together = _reached(copies, (self._rounded < self.widths) & ~self.fixed)

    def _fixed(
        self, copies: np.ndarray, totals: np.ndarray, round_to: int
    ) -> np.ndarray:
        """The groups that must keep all: some layer would have no multiple."""
        fixed = np.zeros(len(self.widths), bool)
        while True:
            kept = np.where(fixed, self.widths, self._rounded)
            sizes = totals - copies @ (self.widths - kept)
            odd = (sizes % round_to != 0)[:, None] & (copies > 0)
            new = fixed | odd.any(axis=0)
            if (new == fixed).all():
                return fixed
            fixed = new

    def __call__(self, kept: np.ndarray) -> np.ndarray:
        """At most so many channels of each group, a multiple for each layer."""
        cut = kept < self.widths
        reached = self._together[cut].any(axis=0)
        return np.where(reached, np.minimum(kept, self._rounded), kept)


def _layers(found: DependencyGraph) -> tuple[np.ndarray, np.ndarray]:
    """For each axis on which a layer makes channels those of each group, and all."""
    owner = np.full(len(found.everything()), -1)
    for number, group in enumerate(found.groups):
        owner[group.classes] = number
    axes = [axis.channels for axis in found.axes if axis.produces]
    counts = np.zeros((len(axes), len(found.groups)), int)
    for row, channels in zip(counts, axes, strict=True):
        owners = owner[channels]
        row += np.bincount(owners[owners >= 0], minlength=len(row))
    widths = np.array([len(group.classes) for group in found.groups], int)
    return counts // widths, np.array([len(channels) for channels in axes], int)


def _reached(copies: np.ndarray, odd: np.ndarray) -> np.ndarray:
    """For each group the odd ones that lose channels where it does.

    They meet it in a layer, or one that it takes along.
    """
    meets = (copies.T @ copies > 0) & odd
    while True:
        further = meets | ((meets.astype(int) @ meets.astype(int)) > 0)
        if (further == meets).all():
            return meets
        meets = further
