"""The errors that kacc raises: one line with the rule, what came, and the way out."""

from __future__ import annotations

_NOTHING = object()


class KaccError(ValueError):
    """An error that says the rule, what was received, and the way out.

    Args:
        rule: what must hold, as a sentence without a full stop.
        received: the value that broke the rule; left out of the text if not given.
        fix: what the caller can do about it, as a sentence without a full stop.

    Example:
        >>> str(KaccError("`bits` must be 4, 8 or 16", received=5, fix="Pass 8"))
        '`bits` must be 4, 8 or 16. Received: 5. Pass 8.'
    """

    exit_code = 1

    def __init__(self, rule: str, received: object = _NOTHING, fix: str = "") -> None:
        parts = [rule]
        if received is not _NOTHING:
            parts.append(f"Received: {received!r}")
        if fix:
            parts.append(fix)
        super().__init__(" ".join(" ".join(part.split()) + "." for part in parts))


class UsageError(KaccError):
    """A wrong call: an unknown name, a bad value, a model in the wrong state."""

    exit_code = 2


class ConversionError(KaccError):
    """A conversion that was asked for rightly and could not be done."""
