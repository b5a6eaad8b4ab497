"""A bar on a terminal for work that takes more than a moment."""

from __future__ import annotations

import time
from typing import Any

_QUIET_SECONDS = 2.0


class Progress:
    """Counts steps; a bar appears after two seconds, on terminals only.

    Args:
        text: beside the bar.
        total: number of steps, or None if it is not known.
        console: a rich console; by default that of standard error.

    Example:
        >>> with Progress("reading", 2) as progress:
        ...     progress.advance()
        ...     progress.advance()
        >>> progress.count
        2
    """

    def __init__(self, text: str, total: int | None, console: Any = None) -> None:
        self.count = 0
        self._text = text
        self._total = total
        self._console = console
        self._bar: Any = None

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, steps: int = 1) -> None:
        """Counts steps as done."""
        self.count += steps
        if self._bar is not None:
            self._bar.advance(self._task, steps)
        elif time.monotonic() - self._start > _QUIET_SECONDS:
            self._show()

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import Progress as Bar

        console = self._console or Console(stderr=True)
        self._bar = Bar(
            console=console, transient=True, disable=not console.is_terminal
        )
        self._bar.start()
        self._task = self._bar.add_task(
            self._text, total=self._total, completed=self.count
        )
