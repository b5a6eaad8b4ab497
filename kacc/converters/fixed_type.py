"""Fixed-point types, as FPGA tools call them: `ap_fixed<W,I>` and `ap_ufixed<W,I>`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Fixed:
    """Numbers of `width` bits, of which `integer` stand before the binary point.

    Both ends may lie outside the bits: `integer` may be negative, or beyond `width`
    (AMD, "Vitis HLS User Guide" UG1399, arbitrary precision fixed-point types).

    Args:
        width: all bits, the sign's included.
        integer: bits before the binary point, the sign's included.
        signed: whether there is a sign.

    Example:
        >>> str(Fixed(8, 3)), Fixed(8, 3).low, Fixed(8, 3).high, Fixed(8, 3).step
        ('ap_fixed<8,3>', -4.0, 3.96875, 0.03125)
    """

    width: int
    integer: int
    signed: bool = True

    def __str__(self) -> str:
        return f"ap_{'' if self.signed else 'u'}fixed<{self.width},{self.integer}>"

    @property
    def fraction(self) -> int:
        """The bits behind the binary point."""
        return self.width - self.integer

    @property
    def step(self) -> float:
        """The distance of neighbouring numbers."""
        return 2.0**-self.fraction

    @property
    def low(self) -> float:
        """The least number."""
        return -(2.0 ** (self.integer - 1)) if self.signed else 0.0

    @property
    def high(self) -> float:
        """The largest number."""
        return 2.0 ** (self.integer - self.signed) - self.step

    @property
    def magnitude(self) -> float:
        """The largest distance from zero."""
        return max(-self.low, self.high)

    @property
    def saturating(self) -> str:
        """How hls4ml writes the type with rounding to nearest and saturation."""
        return f"{str(self)[:-1]},RND,SAT>"

    @property
    def storage(self) -> str:
        """The NumPy integers that its steps fit."""
        bits = next((b for b in (8, 16, 32) if self.width <= b), 64)
        return f"{'' if self.signed else 'u'}int{bits}"

    def round(self, values: Any) -> np.ndarray:
        """Values on the type's grid, float64: to the nearest, limited to its ends."""
        exact = np.asarray(values, np.float64)
        return np.clip(np.rint(exact / self.step) * self.step, self.low, self.high)

    def with_sign(self) -> Fixed:
        """The type that has the same numbers and their negatives."""
        return self if self.signed else Fixed(self.width + 1, self.integer + 1)


def covering(low: float, high: float, width: int) -> Fixed:
    """The finest type of a width whose numbers cover a range.

    An end may lie half a step outside, which rounding brings in. Ranges without
    negative numbers need no sign.

    Args:
        low: the lower end.
        high: the upper end.
        width: bits.

    Example:
        >>> str(covering(-1.0, 2.5, 8)), str(covering(0.0, 5.0, 8))
        ('ap_fixed<8,3>', 'ap_ufixed<8,3>')
    """
    signed = low < 0
    found = Fixed(width, _exponent(max(abs(low), abs(high))), signed)
    while not _covers(found, low, high, found.step / 2):
        found = Fixed(width, found.integer + 1, signed)
    return found


def exact(low: float, high: float, fraction: int) -> Fixed:
    """The narrowest type with so many bits behind the point that covers a range.

    Example:
        >>> str(exact(-3.0, 3.0, 4))
        'ap_fixed<7,3>'
    """
    signed = low < 0
    integer = max(_exponent(max(abs(low), abs(high))), 1 + signed - fraction)
    found = Fixed(integer + fraction, integer, signed)
    while not _covers(found, low, high, 0.0):
        found = Fixed(found.width + 1, found.integer + 1, signed)
    return found


def _covers(fixed: Fixed, low: float, high: float, slack: float) -> bool:
    return fixed.low - slack <= low and high <= fixed.high + slack


def _exponent(largest: float) -> int:
    """A power of two that is not above a number; the first to try."""
    return math.floor(math.log2(largest)) if largest > 0 else 0
