"""Checks of the arguments of transforms; each gives the value as it is kept."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from kacc.core.arguments import is_number
from kacc.core.errors import UsageError

Range = float | tuple[float, float]


def number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf
) -> Any:
    """The number itself.

    Raises:
        UsageError: if it is none, not finite, or not from `low` to `high`.
    """
    if not is_number(value) or not low <= value <= high:
        bounds = [f"at least {low:g}"] if low > -math.inf else []
        bounds += [f"at most {high:g}"] if high < math.inf else []
        raise UsageError(
            f"{name} must be a number" + "".join(f", {part}" for part in bounds),
            received=value,
        )
    # Policies are written as JSON, which knows no scalars of numpy.
    return value.item() if isinstance(value, np.generic) else value


def whole(name: str, value: Any, low: int, high: float = math.inf) -> int:
    """The integer itself.

    Raises:
        UsageError: if it is none, or not from `low` to `high`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise UsageError(f"{name} must be a whole number", received=value)
    return int(number(name, value, low, high))


def share(name: str, value: Any) -> float:
    """The number itself.

    Raises:
        UsageError: if it is not from 0 to 1.
    """
    return float(number(name, value, 0, 1))


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """The word itself.

    Raises:
        UsageError: if it is not among those allowed.
    """
    if not isinstance(value, str) or value not in allowed:
        listed = ", ".join(f'"{word}"' for word in allowed)
        raise UsageError(f"{name} must be one of {listed}", received=value)
    return value


def interval(
    name: str,
    value: Any,
    around: float = 0.0,
    low: float = -math.inf,
    high: float = math.inf,
) -> tuple[float, float]:
    """A range of values: (lowest, highest).

    Args:
        name: of the argument, for errors.
        value: the range itself, or a number: how far values go from `around`.
        around: the value that changes nothing.
        low: no value may be lower; the lower end of a number's range is cut there.
        high: no value may be higher.

    Raises:
        UsageError: if it is neither, its ends are in the wrong order, or too far out.

    Example:
        >>> interval("`factor`", 0.2, around=1.0), interval("`degrees`", (0, 90))
        ((0.8, 1.2), (0.0, 90.0))
    """
    if is_number(value) and value >= 0:
        ends = (max(around - value, low), around + value)
    elif _is_pair(value):
        ends = (value[0], value[1])
    else:
        raise UsageError(
            f"{name} must be a number, zero or more, or a range (lowest, highest)",
            received=value,
        )
    if not low <= ends[0] <= ends[1] <= high:
        bounds = f" from {low:g} to {high:g}" if low > -math.inf else ""
        raise UsageError(
            f"{name} must be a range{bounds}, the lowest value first", received=value
        )
    return float(ends[0]), float(ends[1])


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(is_number(end) for end in value)
    )
