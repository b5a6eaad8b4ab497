"""Folders are there whole or not at all, and only kacc's own are replaced."""

import os
import subprocess
import sys
import textwrap
import time

import pytest

from kacc.core import files
from kacc.core.errors import KaccError
from kacc.core.files import atomic_folder, digest

MARK = "mark"


def write(path, text):
    with atomic_folder(path, MARK) as folder:
        (folder / MARK).write_text(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "data").write_text(text)


def interrupted(path, error):
    with atomic_folder(path, MARK) as folder:
        (folder / MARK).write_text("new")
        raise error


def content(path):
    return {(path / name).read_text() for name in (MARK, "inner/data")}


def test_a_folder_is_written_and_replaced(tmp_path):
    path = tmp_path / "model"
    write(path, "old")
    assert content(path) == {"old"}
    write(path, "new")
    assert content(path) == {"new"}
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.skipif(sys.platform != "linux", reason="of renameat2, which is Linux's")
def test_linux_exchanges_names_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "model"
    write(path, "old")
    monkeypatch.setattr(files.os, "rename", None)  # of the two steps of other systems
    write(path, "new")
    assert content(path) == {"new"}


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "model").mkdir()
    write(tmp_path / "model", "new")
    assert content(tmp_path / "model") == {"new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path, error):
    path = tmp_path / "model"
    write(path, "old")
    with pytest.raises(error):
        interrupted(path, error)
    assert content(path) == {"old"}
    assert os.listdir(tmp_path) == ["model"]


def test_without_a_call_that_exchanges_names(tmp_path, monkeypatch):
    class Library:
        def renameat2(self, *arguments):
            return -1

    monkeypatch.setattr(files.ctypes, "CDLL", lambda name: Library())
    path = tmp_path / "model"
    for text in ("old", "new"):
        write(path, text)
    assert content(path) == {"new"}
    assert os.listdir(tmp_path) == ["model"]


def test_what_someone_else_put_there_stays(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "thesis").write_text("years")
    with pytest.raises(KaccError, match="new or empty"), atomic_folder(path, MARK):
        pass
    assert os.listdir(path) == ["thesis"]
    (tmp_path / "file").write_text("")
    with pytest.raises(KaccError, match="a folder's"):
        files.check_folder_writable(tmp_path / "file", MARK)


def test_the_digest_is_of_names_and_contents(tmp_path):
    write(tmp_path / "a", "text")
    write(tmp_path / "b", "text")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a")[1] == 8
    (tmp_path / "b" / MARK).rename(tmp_path / "b" / "other")
    assert digest(tmp_path / "a")[0] != digest(tmp_path / "b")[0]


def test_a_kill_leaves_the_old_folder_or_the_new(tmp_path):
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from kacc.core.files import atomic_folder
        texts = sys.argv[2:]
        while True:
            for text in texts:
                with atomic_folder(sys.argv[1], "mark") as folder:
                    (folder / "inner").mkdir()
                    (folder / "inner" / "data").write_text(text)
                    (folder / "mark").write_text(text)
                print("written", flush=True)
        """
    )
    path = tmp_path / "model"
    write(path, "old")
    seen = set()
    for number in range(20):
        # Where the disk is slow, only the first text may have been written.
        texts = ("old", "new") if number % 2 else ("new", "old")
        process = subprocess.Popen(
            [sys.executable, "-c", program, path, *texts], stdout=subprocess.PIPE
        )
        process.stdout.readline()
        time.sleep(0.01 + 0.003 * number)
        process.kill()
        process.wait()
        (text,) = content(path)  # of one kind, whichever it is
        seen.add(text)
    assert seen == {"old", "new"}
