"""Channels that can only go together: disjoint sets, numbered across the model."""

from __future__ import annotations

import numpy as np

Channels = np.ndarray  # one class number for each position of an axis


class Classes:
    """Disjoint sets of channels (Tarjan 1975, doi:10.1145/321879.321884).

    Every channel of every tensor and weight has a number; channels that a model needs
    to be equally many and in the same order are united, one by one.

    Example:
        >>> classes = Classes()
        >>> x, y = classes.new(2), classes.new(2)
        >>> classes.unite(x, y)
        >>> classes.roots().tolist()
        [0, 1, 0, 1]
    """

    def __init__(self) -> None:
        self._parents: list[int] = []

    def new(self, count: int) -> Channels:
        """Numbers for channels that depend on no others so far."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def unite(self, a: Channels, b: Channels) -> None:
        """From now on the channels at each position of `a` and `b` go together."""
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            first, second = self._root(x), self._root(y)
            self._parents[max(first, second)] = min(first, second)

    def roots(self) -> np.ndarray:
        """For each number the one that stands for its class."""
        count = len(self._parents)
        return np.array([self._root(x) for x in range(count)], dtype=np.int64)

    def _root(self, x: int) -> int:
        parents = self._parents
        while parents[x] != x:
            parents[x] = parents[parents[x]]
            x = parents[x]
        return x
