"""Schedules: pure functions from a training step to a value."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kacc.core.errors import UsageError


@dataclass(frozen=True)
class Constant:
    """One value from a step on, and 0 before.

    Args:
        value: the value.
        begin_step: the first step that has it.

    Raises:
        UsageError: if `begin_step` is negative.

    Example:
        >>> schedule = Constant(0.5, begin_step=100)
        >>> schedule(99), schedule(100)
        (0.0, 0.5)
    """

    value: float
    begin_step: int = 0

    def __post_init__(self) -> None:
        _check_steps(self.begin_step, self.begin_step + 1)

    def __call__(self, step: int) -> float:
        """The value at a step, counted from 0."""
        return self.value if step >= self.begin_step else 0.0


@dataclass(frozen=True)
class PolynomialDecay:
    """From one value to another, fast at first and slower towards the end.

    `final + (initial - final) * (1 - t)^power`, with t from 0 at `begin_step` to 1 at
    `end_step` (Zhu and Gupta 2017, arXiv:1710.01878, equation 1).

    Args:
        initial: the value at `begin_step` and before.
        final: the value at `end_step` and after.
        begin_step: the first step of the way.
        end_step: the last one.
        power: of the polynomial; 1 is a straight line.

    Raises:
        UsageError: if the steps are out of order.

    Example:
        >>> schedule = PolynomialDecay(0.0, 0.8, 0, 1000)
        >>> schedule(0), round(schedule(500), 12), schedule(1000)
        (0.0, 0.7, 0.8)
    """

    initial: float
    final: float
    begin_step: int
    end_step: int
    power: float = 3.0

    def __post_init__(self) -> None:
        _check_steps(self.begin_step, self.end_step)

    def __call__(self, step: int) -> float:
        """The value at a step, counted from 0."""
        left = 1.0 - _way(step, self.begin_step, self.end_step)
        return self.final + (self.initial - self.final) * left**self.power


@dataclass(frozen=True)
class Cosine:
    """From one value to another along half a cosine: slow, fast, slow.

    `final + (initial - final) * (1 + cos(pi t)) / 2`, with t from 0 at `begin_step` to
    1 at `end_step` (the shape of Loshchilov and Hutter 2017, arXiv:1608.03983,
    equation 5).

    Args:
        initial: the value at `begin_step` and before.
        final: the value at `end_step` and after.
        begin_step: the first step of the way.
        end_step: the last one.

    Raises:
        UsageError: if the steps are out of order.

    Example:
        >>> schedule = Cosine(0.0, 0.5, 0, 1000)
        >>> schedule(0), round(schedule(500), 12), schedule(1000)
        (0.0, 0.25, 0.5)
    """

    initial: float
    final: float
    begin_step: int
    end_step: int

    def __post_init__(self) -> None:
        _check_steps(self.begin_step, self.end_step)

    def __call__(self, step: int) -> float:
        """The value at a step, counted from 0."""
        way = _way(step, self.begin_step, self.end_step)
        left = (1.0 + math.cos(math.pi * way)) / 2.0
        return self.final + (self.initial - self.final) * left


def _way(step: int, begin: int, end: int) -> float:
    """The share of the way from `begin` to `end` that is behind, 0 to 1."""
    return min(1.0, max(0.0, (step - begin) / (end - begin)))


def _check_steps(begin: int, end: int) -> None:
    if not 0 <= begin < end:
        raise UsageError(
            "A schedule must begin at step 0 or later, and end after it begins",
            received=(begin, end),
            fix="Pass 0 <= begin_step < end_step",
        )
