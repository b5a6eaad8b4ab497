"""Ctrl-C: the command ends with a line and leaves no half file."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import tempfile
from types import FrameType
from typing import NoReturn

from kacc.core.files import discard_unfinished

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
_SHOW_CURSOR = "\x1b[?25h"  # progress bars hide it (ECMA-48's DECTCEM)


def end_on_interrupt() -> None:
    """Let Ctrl-C end this process from where it is.

    A KeyboardInterrupt is no way to end one that trains: TensorFlow runs Python while
    it traces and converts, and what is raised there is swallowed, becomes a TypeError,
    or crashes the process. A Ctrl-C that is ignored, or handled already, stays so.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    errors = os.dup(sys.stderr.fileno())  # while others write there it leads elsewhere

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            _clean_up()
            cursor = _SHOW_CURSOR if os.isatty(errors) else ""
            os.write(errors, f"{cursor}kacc: interrupted\n".encode())
        finally:
            os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, end)


def _clean_up() -> None:
    with contextlib.suppress(RuntimeError, OSError):  # it may be amid a write itself
        sys.stdout.flush()
    discard_unfinished()
    for folder in gc.get_objects():
        if isinstance(folder, tempfile.TemporaryDirectory):
            folder.cleanup()
