"""The set-up that scripts/demo and scripts/test do; a whole one is left to CI."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path):
    """The files that the set-up depends on, in a folder of their own."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.fixture
def finished(checkout):
    """A checkout whose set-up is done, as far as its stamp says."""
    command = [sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"]
    subprocess.run(command, check=True)
    _bash(checkout, 'wanted_stamp >"$venv/kacc-demo.stamp"')
    return checkout


def _bash(checkout, code):
    line = f". scripts/environment.sh; {code}"
    return subprocess.run(["bash", "-c", line], cwd=checkout, check=False).returncode


@pytest.mark.parametrize("script", ["demo", "test"])
def test_without_a_fitting_python_there_is_one_clear_line(checkout, script):
    process = subprocess.run(
        [checkout / "scripts" / script],
        env=os.environ | {"KACC_PYTHON": "no-such-python"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert "3.11, 3.12 or 3.13" in line
    assert "no-such-python" in line
    assert not (checkout / ".venv").exists()


def test_finished_setup_is_not_done_again(finished):
    assert _bash(finished, "is_ready demo") == 0
    assert _bash(finished, "is_ready dev") != 0


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_are_noticed(finished, name):
    with open(finished / name, "a") as file:
        file.write("\n# changed\n")
    assert _bash(finished, "is_ready demo") != 0


def test_moved_checkout_is_noticed(finished):
    moved = finished.rename(finished.with_name("elsewhere"))
    assert _bash(moved, "is_ready demo") != 0


@pytest.mark.parametrize("part", [".venv/bin/python", ".venv/kacc-demo.stamp"])
def test_half_made_environment_is_noticed(finished, part):
    (finished / part).unlink()
    assert _bash(finished, "is_ready demo") != 0


def test_empty_stamp_and_broken_python_do_not_agree(finished):
    (finished / ".venv/bin/python").unlink()
    (finished / ".venv/kacc-demo.stamp").write_text("")
    assert _bash(finished, "is_ready demo") != 0


@pytest.mark.parametrize(
    "path", sorted((ROOT / "scripts/bench").glob("*.py")), ids=lambda path: path.stem
)
def test_code_that_a_benchmark_names_is_there(path):
    """What it has trained is kept in a cache, by the hash of that code."""
    named = re.findall(r'"((?:kacc|scripts)/[\w/.]+)"', path.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []
