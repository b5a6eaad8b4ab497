"""Keeps what converters print off the terminal and puts it into the log."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

logger = logging.getLogger("kacc.converters")

_LOGGERS = ("tensorflow", "absl")
_lock = threading.RLock()
_depth = 0


@contextlib.contextmanager
def to_log() -> Iterator[None]:
    """Sends what is printed inside to the logger "kacc.converters", level DEBUG.

    That is Python's prints, warnings and TensorFlow's logging of this thread, and
    whatever C++ code writes to the standard error stream. Other threads, a progress
    bar's for one, keep their terminal. May be nested.

    Example:
        >>> with to_log():
        ...     print("Estimated count of arithmetic ops: 0.1 M ops")
    """
    global _depth
    with _lock:
        if _depth:
            yield
            return
        _depth += 1
        lines: list[str] = []
        try:
            with contextlib.ExitStack() as stack:
                terminal = stack.enter_context(_error_stream_to(lines))
                stack.enter_context(_python_streams_to(lines, terminal))
                stack.enter_context(_loggers_to(lines))
                stack.enter_context(_warnings_to(lines))
                yield
        finally:
            _depth -= 1
            for line in "".join(lines).splitlines():
                if line.strip():
                    logger.debug(line.rstrip())


class _ThreadStream:
    """A text stream that keeps one thread's text and passes that of others on."""

    def __init__(self, lines: list[str], terminal: TextIO) -> None:
        self._lines = lines
        self._terminal = terminal
        self._thread: int | None = threading.get_ident()

    def retire(self, original: TextIO) -> None:
        """From now on passes everything on: log handlers made meanwhile keep it."""
        self._terminal, self._thread = original, None

    def write(self, text: str) -> int:
        if threading.get_ident() != self._thread:
            return self._terminal.write(text)
        self._lines.append(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)


@contextlib.contextmanager
def _error_stream_to(lines: list[str]) -> Iterator[TextIO]:
    """Redirects file descriptor 2, which C++ writes to; yields the terminal's."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        owns = sys.stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):  # a notebook's stream has none
        owns = False
    terminal = os.fdopen(os.dup(saved), "w", buffering=1) if owns else sys.stderr
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield terminal
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            if owns:
                terminal.close()
            file.seek(0)
            lines.append("\n" + file.read().decode(errors="replace"))


@contextlib.contextmanager
def _python_streams_to(lines: list[str], terminal: TextIO) -> Iterator[None]:
    saved = sys.stdout, sys.stderr
    out, error = _ThreadStream(lines, sys.stdout), _ThreadStream(lines, terminal)
    sys.stdout, sys.stderr = out, error
    try:
        yield
    finally:
        sys.stdout, sys.stderr = saved
        out.retire(saved[0])
        error.retire(saved[1])


class _LineHandler(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record) + "\n")


@contextlib.contextmanager
def _loggers_to(lines: list[str]) -> Iterator[None]:
    handler = _LineHandler(lines)
    root, thread = logging.getLogger(), threading.get_ident()

    def is_of_others(record: logging.LogRecord) -> bool:
        """Takes what this thread logs without a logger's name."""
        if record.thread != thread:
            return True
        handler.emit(record)
        return False

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    saved = [(log, log.handlers, log.propagate) for log in loggers]
    for log in loggers:
        log.handlers, log.propagate = [handler], False
    root.addFilter(is_of_others)
    try:
        yield
    finally:
        root.removeFilter(is_of_others)
        for log, handlers, propagate in saved:
            log.handlers, log.propagate = handlers, propagate


@contextlib.contextmanager
def _warnings_to(lines: list[str]) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, category, *rest: lines.append(
            f"{category.__name__}: {message}\n"
        )
        yield
