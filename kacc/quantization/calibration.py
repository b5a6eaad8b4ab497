"""Ranges from what calibration sees: extremes, percentiles, least squared error.

A tensor's values are gathered in a histogram of bounded size, from which the range is
chosen once all batches have been seen (Migacz 2017, "8-bit inference with TensorRT").
The least squared error is that of Nagel et al. 2021 (arXiv:2106.08295, section 3.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kacc.core.errors import UsageError
from kacc.quantization import functional

BINS = 2048
METHODS = ("minmax", "percentile", "mse")

# Bins are no finer than this share of the largest value: a tensor with one value only
# would otherwise have no width.
_FINEST_EXPONENT = -23

# Below this share of the others' width a bin counts as a point.
_NARROW = 1e-3

# The search for the least squared error: how many ends are tried on each side, and how
# often the lattice of them shrinks around the best ones.
_TRIED = 16
_ROUNDS = 3


@dataclass(frozen=True)
class Ranges:
    """How calibration chooses the range of a tensor.

    Args:
        method: "minmax" takes the extremes, "percentile" cuts off the same share of
            values at either end, "mse" takes the range of the least squared error on
            the scheme's grid.
        percentile: for "percentile", the percentage of values below the upper end, and
            above the lower one; 50 to 100.

    Raises:
        UsageError: for an unknown method, or a percentile out of bounds.

    Example:
        >>> Ranges("percentile", 99.9).percentile
        99.9
    """

    method: str = "minmax"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(
                f"`ranges` must be one of {', '.join(METHODS)}",
                received=self.method,
                fix='Pass "mse", or kacc.quantization.Ranges("percentile", 99.9)',
            )
        if not 50 < self.percentile <= 100:
            raise UsageError(
                "`percentile` must be above 50, and at most 100",
                received=self.percentile,
                fix="99.99 cuts off one value in 10,000 at either end",
            )

    def choose(
        self, seen: Histogram, bits: int, nonnegative: bool, symmetric: bool = False
    ) -> tuple[Any, Any]:
        """The range of a tensor: (low, high), the lower end 0 if it is nonnegative."""
        low, high = seen.low, seen.high
        if self.method == "percentile":
            low, high = percentile_range(seen, self.percentile)
        elif self.method == "mse":
            low, high = mse_range(seen, bits, nonnegative, symmetric)
        return (0.0, max(high, 0.0)) if nonnegative else (low, high)


class Histogram:
    """Counts of values in at most `bins` bins of equal width.

    The width is a power of two and the edges are its multiples, so that bins merge in
    pairs when new values need a wider range: the counts are those of all values binned
    at once, in whatever order they came. Zeros are counted apart, since every grid
    holds them.

    Args:
        bins: the largest number of bins; 0 keeps the extremes only.

    Example:
        >>> seen = Histogram()
        >>> seen.add(np.array([0.0, 0.5, -1.0]))
        >>> seen.low, seen.high, seen.zeros, int(seen.counts.sum())
        (-1.0, 0.5, 1, 2)
    """

    def __init__(self, bins: int = BINS) -> None:
        self.bins = bins
        self.low, self.high = math.inf, -math.inf
        self.count = 0
        self.zeros = 0
        self.counts = np.zeros(0, np.int64)
        self._exponent = 0  # of the width of a bin
        self._first = 0  # the number of the first bin: its lower edge over the width

    def add(self, values: np.ndarray) -> None:
        """Counts more values; of any that are not finite only the extremes are kept."""
        values = np.asarray(values, np.float32).ravel()
        if not values.size:
            return
        self.count += values.size
        self.low = float(np.minimum(self.low, values.min()))
        self.high = float(np.maximum(self.high, values.max()))
        if not self.bins or not self.finite:
            return
        self._widen()
        numbers = self._numbers(values)
        self.counts += np.bincount(numbers, minlength=len(self.counts))
        zeros = int(values.size - np.count_nonzero(values))
        self.zeros += zeros
        if zeros:
            self.counts[-self._first] -= zeros

    @property
    def finite(self) -> bool:
        """Whether all values were finite, and there were any."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def edges(self) -> np.ndarray:
        """The edges of the bins, one more than there are counts; none lies outside."""
        numbers = self._first + np.arange(len(self.counts) + 1)
        return np.clip(np.ldexp(numbers.astype(float), self._exponent), *self.ends)

    @property
    def ends(self) -> tuple[float, float]:
        """The extremes."""
        return self.low, self.high

    def _numbers(self, values: np.ndarray) -> np.ndarray:
        """The bin that each value falls into. Scaling by a power of two is exact."""
        scaled = np.floor(np.ldexp(values, -self._exponent)).astype(np.int32)
        return scaled - self._first

    def _widen(self) -> None:
        """Merges and adds bins until the extremes fall into them."""
        exponent = self._least_exponent()
        first = math.floor(math.ldexp(self.low, -exponent))
        last = math.floor(math.ldexp(self.high, -exponent))
        merged = np.zeros(last - first + 1, np.int64)
        if len(self.counts):
            old = self._first + np.arange(len(self.counts))
            np.add.at(merged, (old >> (exponent - self._exponent)) - first, self.counts)
        self.counts, self._exponent, self._first = merged, exponent, first

    def _least_exponent(self) -> int:
        """The exponent of the smallest width by which the bins are enough."""
        largest = max(abs(self.low), abs(self.high))
        exponent = math.frexp(largest)[1] + _FINEST_EXPONENT
        while True:
            first = math.floor(math.ldexp(self.low, -exponent))
            last = math.floor(math.ldexp(self.high, -exponent))
            if last - first < self.bins:
                return exponent
            exponent += 1


def percentile_range(seen: Histogram, percentile: float) -> tuple[float, float]:
    """The range without the values beyond a percentile, at either end.

    Args:
        seen: the values.
        percentile: percentage of the values below the upper end; above the lower one.

    Returns:
        (low, high), to the width of a bin.

    Example:
        >>> seen = Histogram()
        >>> seen.add(np.arange(-1000, 1001))
        >>> [round(x, -1) for x in percentile_range(seen, 99)]
        [-980.0, 980.0]
    """
    edges, counts = seen.edges, seen.counts
    split = int(np.searchsorted(edges, 0.0))  # zeros are one step at this edge
    if seen.zeros:
        edges = np.insert(edges, split, 0.0)
        counts = np.insert(counts, split, seen.zeros)
    below = np.concatenate([[0], np.cumsum(counts)])
    tail = (1 - percentile / 100) * below[-1]
    low, high = np.interp([tail, below[-1] - tail], below, edges)
    return float(low), float(high)


def expected_error(
    seen: Histogram, low: Any, high: Any, bits: int = 8, symmetric: bool = False
) -> np.ndarray:
    """The sum of squared errors of rounding and clipping to a range's grid.

    The values of a bin count as spread evenly over it: the error is an integral, not a
    sample at the bin's center, so that it holds for bins as wide as a step.

    Args:
        seen: the values.
        low: lower ends of the ranges, not above zero.
        high: upper ends, of the same shape, not below zero.
        bits: width of the integers.
        symmetric: whether the grid's zero point is 0.

    Returns:
        An error for each range, float64.

    Example:
        >>> seen = Histogram()
        >>> seen.add(np.linspace(0, 255, 25501))
        >>> float(round(expected_error(seen, [0.0], [255.0])[0] / 25500, 3))
        0.083
    """
    ends = functional.nudge(np.float32(low), np.float32(high), bits, symmetric)
    low, high = (np.asarray(end, np.float64)[..., None] for end in ends)
    step = (high - low) / functional.step_count(bits, symmetric)
    edges, width = seen.edges, np.diff(seen.edges)
    steps = np.clip(np.round(edges / step), np.round(low / step), np.round(high / step))
    rest = edges - steps * step
    # The integral of (x - q(x))^2 up to each edge, from zero.
    integral = steps * step**3 / 12 + rest**3 / 3
    # A bin that the extremes leave no width holds one value.
    wide = width > _NARROW * width.max(initial=0.0)
    mean = np.divide(
        np.diff(integral), width, out=np.square(rest[..., :-1]), where=wide
    )
    return mean @ seen.counts


def mse_range(
    seen: Histogram,
    bits: int = 8,
    nonnegative: bool = False,
    symmetric: bool = False,
) -> tuple[float, float]:
    """The range whose grid has the least squared error.

    Both ends are searched together, on a lattice that shrinks around the best pair.

    Args:
        seen: the values.
        bits: width of the integers.
        nonnegative: whether the lower end stays zero.
        symmetric: whether the grid's zero point is 0.

    Returns:
        (low, high), neither outside the values.

    Example:
        >>> seen = Histogram()
        >>> seen.add(np.append(np.linspace(0, 1, 100_000), 100.0))
        >>> mse_range(seen)[1] < 100
        True
    """
    least = 0.0 if nonnegative else min(seen.low, 0.0)
    most = max(seen.high, 0.0)
    if seen.low == seen.high:
        return least, most
    lows, highs = (least, 0.0), (0.0, most)
    best = (least, most)
    for _ in range(_ROUNDS):
        grid = np.meshgrid(_tried(*lows, best[0]), _tried(*highs, best[1]))
        low, high = (axis.ravel() for axis in grid)
        error = expected_error(seen, low, high, bits, symmetric)
        # On a tie the wider range: it clips nothing that the other one keeps.
        index = int(np.argmin(error))
        best = float(low[index]), float(high[index])
        lows = _around(best[0], lows)
        highs = _around(best[1], highs)
    return best


def _tried(low: float, high: float, best: float) -> np.ndarray:
    """Ends to try; among them the best one so far, so that it never gets worse."""
    return np.unique(np.append(np.linspace(low, high, _TRIED), best))


def _around(end: float, tried: tuple[float, float]) -> tuple[float, float]:
    """The neighbours of an end among those that were tried."""
    step = (tried[1] - tried[0]) / (_TRIED - 1)
    return max(end - step, tried[0]), min(end + step, tried[1])
