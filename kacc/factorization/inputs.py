"""Second moments of what a kernel is multiplied with, and errors measured by them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import solve_triangular

# Added to the moments, in shares of their mean diagonal: so much do errors of weights
# count beside those of outputs. With less, directions in which inputs hardly vary are
# given up, which tuning would have to find again (measured on ResNet8).
RIDGE = 0.3


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is known of the rows x of a product x K.

    With the moments C of x, the squared error of a product by K + E is trace(E' C E).
    For a factor R of C = R' R that is the squared norm of R E: in "whitened"
    coordinates errors of outputs are errors of weights, and the truncated singular
    value decomposition of R K is the best one for the outputs.

    Args:
        moments: C, a matrix or the diagonal of one; None for one of ones, which is all
            that can be said without data.
        mean: of the rows, where a bias makes up for errors that are constant: the
            moments are a covariance then. None elsewhere.
    """

    moments: np.ndarray | None = None
    mean: np.ndarray | None = None

    def whiten(self, matrix: np.ndarray) -> np.ndarray:
        """R M."""
        if self._root is None:
            return matrix
        if self._root.ndim == 1:
            return self._root[:, None] * matrix
        return self._root @ matrix

    def restore(self, matrix: np.ndarray) -> np.ndarray:
        """The inverse of `whiten`."""
        if self._root is None:
            return matrix
        if self._root.ndim == 1:
            return matrix / self._root[:, None]
        return np.asarray(solve_triangular(self._root, matrix, check_finite=False))

    def averaged(self, outer: int, between: int, inner: int) -> Inputs:
        """Moments of the rows' parts: the columns are (outer, between, inner).

        Args:
            outer: its size, and so on; their product is the number of columns.
            between: over which they are averaged.
            inner: the channels.

        Returns:
            Moments over (outer, inner), averaged over the places in between.
        """
        if self.moments is None:
            return Inputs()
        sizes = (outer, between, inner)
        blocks = self.moments.reshape(*sizes, *sizes)
        mean = np.einsum("abcdbe->acde", blocks) / between
        return Inputs(mean.reshape(outer * inner, outer * inner))

    @cached_property
    def _root(self) -> np.ndarray | None:
        if self.moments is None:
            return None
        if self.moments.ndim == 1:
            return np.sqrt(self.moments)
        return np.linalg.cholesky(self.moments).T


def measured(products: np.ndarray, sums: np.ndarray, count: int, free: bool) -> Inputs:
    """The inputs of a kernel, from sums over rows x of its product.

    Args:
        products: sum of the outer products x' x.
        sums: sum of the rows.
        count: how many rows.
        free: whether a bias can add a constant.

    Returns:
        Moments with a ridge, so that they can be inverted whatever the rows were.

    Example:
        >>> x = np.array([[1.0, 0.0], [3.0, 0.0]])
        >>> found = measured(x.T @ x, x.sum(0), len(x), free=True)
        >>> found.mean.tolist(), found.moments.round(4).tolist()
        ([2.0, 0.0], [[1.15, 0.0], [0.0, 0.15]])
    """
    moments, mean = products / count, sums / count
    if free:
        moments = moments - np.outer(mean, mean)
    size = len(moments)
    ridge = RIDGE * max(float(moments.trace()) / size, 1e-12)
    return Inputs(moments + ridge * np.eye(size), mean if free else None)


def looked_up(counts: np.ndarray) -> Inputs:
    """The inputs of a table, from how often each row was looked up.

    One is added to each count (Laplace's rule), so that rows that did not occur are not
    given up.

    Example:
        >>> looked_up(np.array([3, 0])).moments.tolist()
        [0.8, 0.2]
    """
    smooth = counts + 1.0
    return Inputs(smooth / smooth.sum())
