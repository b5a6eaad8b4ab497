"""How results are shown: a rich table, and the same as text."""

from __future__ import annotations

import io


class Shown:
    """Base of results with a `__rich__`: `print` shows that as text."""

    def __str__(self) -> str:
        from rich.console import Console

        file = io.StringIO()
        Console(file=file, width=120).print(self)
        return file.getvalue().rstrip()


def change(pair: tuple[int, int]) -> str:
    """Two numbers, or one if they are equal.

    Example:
        >>> change((1000, 1000)), change((1000, 8))
        ('1,000', '1,000 -> 8')
    """
    before, after = pair
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"
