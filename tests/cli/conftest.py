import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from kacc.cli.main import main


@pytest.fixture
def kacc(tmp_path):
    """Run the command in an empty folder and return the finished process."""

    def run(*arguments, **options):
        command = [sys.executable, "-m", "kacc", *map(str, arguments)]
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND")
        }
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment | options.pop("env", {}),
            capture_output=True,
            text=True,
            timeout=600,
            **options,
        )

    return run


@pytest.fixture
def kacc_inside(tmp_path, monkeypatch, capfd):
    """As `kacc`, in this process: quick where TensorFlow is needed."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    return run


@pytest.fixture
def assert_fails():
    """Check the one line on standard error and the exit code of a finished process."""

    def check(process, code, *parts):
        assert process.returncode == code, process.stderr
        assert process.stdout == ""
        lines = process.stderr.splitlines()
        assert len(lines) == 1, process.stderr
        assert lines[0].startswith("kacc: ")
        for part in parts:
            assert part in lines[0]

    return check


@pytest.fixture
def class_folders(tmp_path):
    """Two classes that differ in colour, with sizes and formats of all sorts."""
    root = tmp_path / "photos"
    random = np.random.default_rng(0)
    for label, name in enumerate(("blue sky", "lawn")):
        (root / name).mkdir(parents=True)
        for i in range(24):
            side = 16 + i % 3
            pixels = random.integers(0, 120, (side, 20, 3), dtype=np.uint8)
            pixels[..., 2 - label] += 120
            suffix = ("jpg", "png", "JPEG")[i % 3]
            Image.fromarray(pixels).save(root / name / f"{i}.{suffix}")
    (root / "lawn" / "notes.txt").write_text("not an image")
    (root / ".cache").mkdir()
    return root
