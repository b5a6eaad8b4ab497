"""Writing files so that a path holds either the whole new content or the old one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from kacc.core.errors import KaccError


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Checks that a file can be created or replaced at a path, and writes nothing.

    Args:
        path: where a file is to be written.

    Returns:
        The path with symbolic links followed.

    Raises:
        KaccError: if the path is a folder, its folder is missing, or it may not be
            written.

    Example:
        >>> check_writable("no/such/folder/model.tflite")
        Traceback (most recent call last):
        ...
        kacc.core.errors.KaccError: The folder of the file must exist. Received: ...
    """
    target = Path(os.path.realpath(path))
    folder = target.parent
    if target.is_dir():
        raise KaccError(
            "The path must be a file's, not a folder's",
            received=os.fspath(path),
            fix="Add a file name to it",
        )
    if not folder.is_dir():
        raise KaccError(
            "The folder of the file must exist",
            received=os.fspath(path),
            fix=f"Create {os.fspath(folder)!r} or name another folder",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _not_writable(path, "permission denied")
    return target


def atomic_write(path: str | os.PathLike[str], data: bytes) -> Path:
    """Writes a file at once: whoever opens the path sees the old content or the new.

    The bytes go to a temporary file in the same folder, reach the disk, and only then
    take the name. On any error, an interrupt included, the temporary file goes away
    and what was at the path before stays as it was.

    Args:
        path: the file to create or replace; symbolic links are followed.
        data: its whole content.

    Returns:
        The path that was written, with symbolic links followed.

    Raises:
        KaccError: if the path cannot be written or the disk is full.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> atomic_write(f"{folder}/a.bin", b"whole").read_bytes()
        b'whole'
    """
    target = check_writable(path)
    with _explained(path, len(data)):
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        _sync_folder(target.parent)
    return target


def _sync_folder(folder: Path) -> None:
    """Makes the new name last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _explained(path: str | os.PathLike[str], size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise KaccError(
                f"The disk must have room for {size:,} bytes more",
                received=f"{os.fspath(path)}: {os.strerror(error.errno)}",
                fix="Free some space or name another folder; nothing was changed",
            ) from error
        raise _not_writable(path, error.strerror or str(error)) from error


def _not_writable(path: str | os.PathLike[str], why: str) -> KaccError:
    return KaccError(
        "The path must be writable",
        received=f"{os.fspath(path)}: {why}",
        fix="Name a folder that you may write to",
    )
