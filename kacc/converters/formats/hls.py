"""Projects for high-level synthesis, with a library that runs what they compute.

The library is the project's own C++ with hls4ml's emulation of fixed-point types,
compiled by g++. It is for the machine that compiled it; where it is missing or does not
load, it is compiled again.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kacc.converters.formats.base import MANIFEST, FolderFormat
from kacc.converters.runtime import Runtime
from kacc.core.errors import KaccError
from kacc.core.manifest import Manifest

PROJECT = "kacc_model"
_SCRIPT = "build_lib.sh"
_COMPILER = "g++"


class Hls(FolderFormat):
    """Folders of HLS projects."""

    name = "HLS projects"
    prefixes = ("fpga-",)
    kernels = (_COMPILER,)

    def is_at(self, path: Path) -> bool:
        """Whether a folder holds a project that kacc wrote."""
        source = path / "firmware" / f"{PROJECT}.cpp"
        return source.is_file() and (path / MANIFEST).is_file()

    def runtime(
        self, path: Path, manifest: Manifest, kernels: str, threads: int
    ) -> Runtime:
        """The project's library."""
        return HlsRuntime(path, manifest)


class HlsRuntime(Runtime):
    """Runs a project's library, one sample after another.

    Args:
        path: the folder.
        manifest: its manifest.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        super().__init__(manifest.inputs, manifest.outputs)
        self._call = getattr(_library(path), f"{PROJECT}_float")
        count = len(self.inputs) + len(self.outputs)
        self._call.restype = None
        self._call.argtypes = [
            np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
        ] * count
        self._batch: list[np.ndarray] = []
        self._values: list[np.ndarray] = []

    def load(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes one batch."""
        self._batch = [np.ascontiguousarray(a, np.float32) for a in arrays]

    def invoke(self) -> None:
        """Runs the batch that was loaded."""
        length = len(self._batch[0])
        self._values = [
            np.zeros((length, *[n or 1 for n in info.shape[1:]]), np.float32)
            for info in self.outputs
        ]
        for index in range(length):
            self._call(*[array[index] for array in (*self._batch, *self._values)])

    def results(self) -> list[np.ndarray]:
        """The outputs of the last run, copied."""
        return [value.copy() for value in self._values]


def require_compiler() -> None:
    """Raises a KaccError unless g++ is there."""
    if shutil.which(_COMPILER) is None:
        raise KaccError(
            "An HLS project is compiled and run by g++",
            received=f"no {_COMPILER} on the PATH",
            fix="Install it, with apt-get install g++ for one",
        )


def compile_project(folder: Path) -> Path:
    """Compiles the library of a project, in its folder.

    Args:
        folder: the project.

    Returns:
        The library.

    Raises:
        KaccError: if there is no g++, or it fails.
    """
    require_compiler()
    done = subprocess.run(
        ["bash", _SCRIPT], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        raise KaccError(
            "g++ must compile the project",
            received=(lines or [done.stderr.strip() or "no output"])[0][-300:],
            fix="Convert the model again, with a newer g++ perhaps",
        )
    return _built(folder)[0]


def _built(folder: Path) -> list[Path]:
    return sorted((folder / "firmware").glob(f"{PROJECT}-*.so"))


def _library(folder: Path) -> Any:
    """The library of a project; compiled elsewhere if it does not load.

    The folder stays as it is: it may be read-only, and its hash tells whether it has
    changed.
    """
    for built in _built(folder):
        try:
            return ctypes.CDLL(os.fspath(built.resolve()))
        except OSError:
            pass  # of another kind of machine
    with tempfile.TemporaryDirectory(prefix="kacc-hls-") as place:
        copy = Path(place) / "project"
        shutil.copytree(folder, copy)
        return ctypes.CDLL(os.fspath(compile_project(copy)))
