"""Writing so that a path holds either the whole new content or the old one."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kacc.core.errors import KaccError

_PIECE = 2**22  # bytes of a file that are read at once
_unfinished: set[Path] = set()  # temporary files and folders that are being written


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
    if target.is_dir():
        raise KaccError(
            "The path must be a file's, not a folder's",
            received=os.fspath(path),
            fix="Add a file name to it",
        )
    _check_parent(path, target.parent)
    return target


def _check_parent(path: str | os.PathLike[str], folder: Path) -> None:
    if not folder.is_dir():
        raise KaccError(
            "The folder of the file must exist",
            received=os.fspath(path),
            fix=f"Create {os.fspath(folder)!r} or name another folder",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _not_writable(path, "permission denied")


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
        with _discarded_unless_moved(temporary):
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            os.replace(temporary, target)
        _sync(target.parent)
    return target


def check_folder_writable(path: str | os.PathLike[str], mark: str) -> Path:
    """Checks that a folder can be created or replaced at a path, and writes nothing.

    Args:
        path: where a folder is to be written.
        mark: a file that a folder must hold to be replaced, unless it is empty:
            whatever else lies there is not ours to delete.

    Returns:
        The path with symbolic links followed.

    Raises:
        KaccError: if something else is at the path, its folder is missing, or it may
            not be written.

    Example:
        >>> check_folder_writable("no/such/folder/model", "kacc.json")
        Traceback (most recent call last):
        ...
        kacc.core.errors.KaccError: The folder of the file must exist. Received: ...
    """
    target = Path(os.path.realpath(path))
    if target.is_dir() and not (target / mark).is_file() and any(target.iterdir()):
        raise KaccError(
            "The folder must be new or empty, or hold what kacc wrote before",
            received=os.fspath(path),
            fix="Name another folder",
        )
    if target.exists() and not target.is_dir():
        raise KaccError(
            "The path must be a folder's, not a file's",
            received=os.fspath(path),
            fix="Name another folder",
        )
    _check_parent(path, target.parent)
    return target


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], mark: str) -> Iterator[Path]:
    """Fills a folder that takes the path's place at once, when the block ends.

    On any error, an interrupt included, the temporary folder goes away and what was at
    the path before stays as it was.

    Args:
        path: the folder to create or replace; symbolic links are followed.
        mark: see `check_folder_writable`.

    Yields:
        An empty folder to be filled.

    Raises:
        KaccError: if the path cannot be written or the disk is full.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model"
        >>> with atomic_folder(path, "mark") as folder:
        ...     _ = (folder / "mark").write_text("whole")
        >>> [file.name for file in path.iterdir()]
        ['mark']
    """
    target = check_folder_writable(path, mark)
    staging = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    with _discarded_unless_moved(staging):
        with _explained(path, 0):
            staging.mkdir()
        yield staging
        with _explained(path, 0):
            for file in _files(staging):
                _sync(file)
            _take_place(staging, target)
            _sync(target.parent)


def discard_unfinished() -> None:
    """Removes the temporary files and folders of all writes that are under way.

    For a process that ends from a signal handler, where no block is left in order.
    """
    for temporary in list(_unfinished):
        _discard(temporary)


def content_of(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The bytes of a file, or of all files of a folder in the order of their names.

    Yields:
        Pieces of some megabytes; each file of a folder begins with its name.

    Raises:
        KaccError: if there is nothing at the path, or it cannot be read.
    """
    root = Path(path)
    try:
        if not root.is_dir():
            yield from _pieces(root)
            return
        for file in _files(root):
            yield file.relative_to(root).as_posix().encode()
            yield from _pieces(file)
    except FileNotFoundError:
        raise KaccError("The file must exist", received=os.fspath(path)) from None
    except OSError as error:
        raise KaccError(
            "The file must be readable", received=f"{path}: {error.strerror}"
        ) from error


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def digest(path: str | os.PathLike[str]) -> tuple[str, int]:
    """The SHA-256 of a file or folder, and the bytes of its files.

    Example:
        >>> import tempfile
        >>> file = atomic_write(tempfile.mkdtemp() + "/a.bin", b"whole")
        >>> digest(file)[1]
        5
    """
    checksum, root = hashlib.sha256(), Path(path)
    for piece in content_of(root):
        checksum.update(piece)
    files = _files(root) if root.is_dir() else [root]
    return checksum.hexdigest(), sum(file.stat().st_size for file in files)


@contextlib.contextmanager
def _discarded_unless_moved(temporary: Path) -> Iterator[None]:
    """Removes what lies at a temporary path when the block ends.

    That is what an error has left, or the old content of a folder that was exchanged.
    """
    _unfinished.add(temporary)
    try:
        yield
    finally:
        _discard(temporary)
        _unfinished.discard(temporary)


def _discard(temporary: Path) -> None:
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _take_place(staging: Path, target: Path) -> None:
    """Gives a folder another's name; the other, if there is one, gets the first's."""
    if not target.exists():
        os.rename(staging, target)
    elif any(target.iterdir()):
        _exchange(os.fsencode(staging), os.fsencode(target))
    else:
        os.replace(staging, target)  # rename(2) replaces an empty folder at once


def _exchange(one: bytes, other: bytes) -> None:
    """Swaps two names in one step, by renameat2(2), or renamex_np(2) of macOS.

    Elsewhere there are two steps, so that a process killed between them leaves the old
    folder under its temporary name.
    """
    library: Any = ctypes.CDLL(None) if os.name == "posix" else None
    result = -1
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        result = library.renamex_np(one, other, 2)  # RENAME_SWAP
    elif hasattr(library, "renameat2"):
        here = -100  # AT_FDCWD; the names are absolute
        result = library.renameat2(here, one, here, other, 2)  # RENAME_EXCHANGE
    if result != 0:  # an old system, or a file system that cannot
        aside = one + b".old"
        os.rename(other, aside)
        os.rename(one, other)
        os.rename(aside, one)


def _sync(path: Path) -> None:
    """Makes a file's content, or a folder's names, outlast a power cut."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
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
