"""Atomic writes, with real full disks, real permissions and real kills."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacc.core.errors import KaccError
from kacc.core.files import atomic_write, check_writable


def run(code, *arguments, prefix=()):
    """What Python code prints in a process of its own."""
    command = [
        *prefix,
        sys.executable,
        "-c",
        textwrap.dedent(code),
        *map(str, arguments),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


WRITE = """
    import sys
    from kacc.core.errors import KaccError
    from kacc.core.files import atomic_write
    try:
        atomic_write(sys.argv[1], b"n" * int(sys.argv[2]))
    except KaccError as error:
        print(error)
"""


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=100))
def test_what_is_written_is_read(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("files") / "a.bin"
    assert atomic_write(path, content) == path
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["a.bin"]


def test_a_file_is_replaced_and_keeps_its_permissions(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    path.chmod(0o640)
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_new_file_has_the_permissions_that_open_gives(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    atomic_write(tmp_path / "atomic", b"")
    modes = {(tmp_path / name).stat().st_mode for name in ("plain", "atomic")}
    assert len(modes) == 1


def test_symbolic_links_are_followed(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "inner" / "a.bin")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "inner" / "a.bin").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/a.bin", "folder of the file must exist"),
        (".", "a file's, not a folder's"),
        ("file/a.bin", "folder of the file must exist"),
    ],
)
def test_wrong_paths_are_told_before_anything_is_written(tmp_path, name, message):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(KaccError, match=message) as caught:
        check_writable(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_without_permission(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(0o755)
    # Root may write anywhere, so it becomes another user first.
    lower = "import os\nif os.getuid() == 0: os.setuid(65534)\ntry:"
    code = textwrap.dedent(WRITE).replace("try:", lower, 1)
    printed = run(code, folder / "a.bin", 10)
    assert "path must be writable" in printed
    assert os.listdir(folder) == []


def test_a_limit_on_the_size_of_files(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (999, 999))\n"
    printed = run(limit + textwrap.dedent(WRITE), path, 50_000)
    assert "room for 50,000 bytes more" in printed
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_full_disk(tmp_path):
    """A file system of 64 KiB of its own, in a namespace that ends with the process."""
    prefix = ("unshare", "--user", "--map-root-user", "--mount")
    mount = f"mount -t tmpfs -o size=64k none {tmp_path}"
    if subprocess.run([*prefix, "sh", "-c", mount], capture_output=True).returncode:
        prefix = ("unshare", "--mount")
        if subprocess.run([*prefix, "sh", "-c", mount], capture_output=True).returncode:
            pytest.skip("mounting a small file system is not allowed here")
    code = f"""
    import os, subprocess
    subprocess.run({mount.split()!r}, check=True)
    path = {str(tmp_path)!r} + "/a.bin"
    open(path, "wb").write(b"old")
    """
    check = """
    print(open(path, "rb").read().decode(), os.listdir(os.path.dirname(path)))
    """
    program = "\n".join(textwrap.dedent(part) for part in (code, WRITE, check))
    printed = run(program, tmp_path / "a.bin", 200_000, prefix=prefix).splitlines()
    assert "room for 200,000 bytes more" in printed[0]
    assert "No space left" in printed[0]
    assert printed[1] == "old ['a.bin']"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_leaves_the_old_content_or_the_new(tmp_path):
    path = tmp_path / "a.bin"
    contents = [letter * 3_000_000 for letter in (b"a", b"b")]
    code = """
    import sys
    from kacc.core.files import atomic_write
    contents = [letter * 3_000_000 for letter in (b"a", b"b")]
    print("ready", flush=True)
    atomic_write(sys.argv[1], contents[1])
    print("written", flush=True)
    while True:
        for content in contents:
            atomic_write(sys.argv[1], content)
    """
    seen = set()
    for number, delay in enumerate((0.0, 0.003, 0.011, 0.023, 0.04, 0.05, 0.071, 0.09)):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(path)],
            stdout=subprocess.PIPE,
        )
        # Half of the kills come after a first write, however slow the disk is.
        for _ in range(1 + number % 2):
            process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.wait()
        process.stdout.close()
        if path.exists():
            assert path.read_bytes() in contents
            seen.add(path.read_bytes()[:1])
    assert seen
