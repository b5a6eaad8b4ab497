import json
import os
import subprocess
import sys
import time

import pytest

from kacc.cli.main import COMMANDS


def test_help_is_quick_and_lists_all_commands(kacc):
    times = []
    for _ in range(5):
        start = time.perf_counter()
        process = kacc("--help")
        times.append(time.perf_counter() - start)
    assert process.returncode == 0
    assert process.stderr == ""
    assert all(f"\n    {name} " in process.stdout for name in COMMANDS)
    assert min(times) < 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_imports_no_heavy_package(command):
    code = (
        "import sys, json; from kacc.cli.main import main; "
        f"code = main([{command!r}, '--help']); "
        "print(json.dumps([code, sorted(sys.modules)]))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    code, modules = json.loads(process.stdout.splitlines()[-1])
    assert code == 0
    assert not {"tensorflow", "keras", "matplotlib", "sklearn", "PIL"} & set(modules)


def test_version(kacc):
    process = kacc("--version")
    assert process.returncode == 0
    assert process.stdout.startswith("kacc 0.")


def test_without_a_command(kacc, assert_fails):
    assert_fails(kacc(), 2, *COMMANDS, "kacc --help")


def test_misspelt_command(kacc, assert_fails):
    assert_fails(kacc("convret", "a", "b"), 2, "'convret'", "`convert`")


def test_misspelt_option(kacc, assert_fails):
    assert_fails(kacc("demo", "--epoch", "3"), 2, "'--epoch'", "`--epochs`")


@pytest.mark.parametrize("epochs", ["0", "-1", "1.5", "many"])
def test_epochs_that_are_no_number(kacc, assert_fails, epochs):
    assert_fails(kacc("demo", f"--epochs={epochs}"), 2, "--epochs", repr(epochs))


def test_missing_arguments(kacc, assert_fails):
    assert_fails(kacc("convert"), 2, "MODEL.keras", "kacc convert --help")


def test_unknown_choice(kacc, assert_fails):
    assert_fails(kacc("demo", "--pixels", "0..2"), 2, "--pixels", "'0..2'")


def test_debug_shows_the_traceback(kacc):
    process = kacc("--debug", "convert", "none.keras", "out.tflite")
    assert process.returncode == 2
    assert "Traceback" in process.stderr
    assert "no such model file" in process.stderr


def test_reader_that_leaves_early_is_no_error():
    read, write = os.pipe()
    os.close(read)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    process = subprocess.run(
        [sys.executable, "-m", "kacc", "--version"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    os.close(write)
    assert process.returncode == 1
    assert process.stderr == ""
