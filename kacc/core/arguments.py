"""Checks of arguments that many functions take."""

from __future__ import annotations

import math
import numbers
from typing import Any

from kacc.core.errors import UsageError


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number: not True or False, not text.

    Example:
        >>> is_number(0.5), is_number(True), is_number(float("nan")), is_number("1")
        (True, False, False, False)
    """
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def whole(name: str, value: Any, least: int, of: str = "", fix: str = "") -> int:
    """The value itself, a whole number.

    Args:
        name: of the argument.
        value: what was given for it.
        least: the smallest that is right.
        of: what is counted, such as "steps".
        fix: the way out.

    Raises:
        UsageError: if it is no whole number, or a smaller one.

    Example:
        >>> whole("epochs", 3, 1)
        3
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        counted = f" of {of}" if of else ""
        raise UsageError(
            f"`{name}` must be a whole number{counted}, at least {least}",
            received=value,
            fix=fix,
        )
    return value
