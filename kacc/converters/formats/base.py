"""What every kind of artefact can do: be written, told, described and run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kacc.converters.runtime import Runtime
from kacc.core.errors import KaccError, UsageError
from kacc.core.files import atomic_folder, check_folder_writable, check_writable
from kacc.core.manifest import Manifest

# Files in the folder of an artefact that is one: its manifest, and its operators.
MANIFEST, OPERATIONS = "kacc.json", "operations.json"


@dataclass(frozen=True)
class Operation:
    """A line of a listing: one operator of an artefact.

    Args:
        layer: path of the layer that it came from, or its name in the artefact.
        kind: the operator, such as "CONV_2D".
        output: the shape that it gives; None where it is free.
        dtype: the type of that.
        bytes: of its weights.
        macs: multiply-accumulates for one sample.
        scale, zero_point: of its output's integers, or None.
    """

    layer: str
    kind: str
    output: tuple[int | None, ...]
    dtype: str
    bytes: int = 0
    macs: int = 0
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Folder:
    """The content of an artefact that is a folder: what fills it, and its operators."""

    fill: Callable[[Path], None]
    operations: Sequence[Operation]


class Format:
    """A kind of artefact: a row of the table of formats.

    Attributes:
        name: what it is called in errors.
        prefixes: how the names of the targets begin that write it.
        extension: how its paths end, or "" for a folder.
        kernels: the sets of kernels that can run it, the usual one first.
    """

    name = ""
    prefixes: tuple[str, ...] = ()
    extension = ""
    kernels: tuple[str, ...] = ()

    def place(self, path: str | os.PathLike[str], version: int | None) -> Path:
        """Where an artefact is written for a path that a person gave."""
        return Path(path)

    def check_path(self, path: str | os.PathLike[str], target: str) -> None:
        """Raises unless an artefact can be written to the path."""
        ending = Path(path).suffix
        if self.extension and ending != self.extension:
            raise UsageError(
                f"The path for the target {target!r} must end with {self.extension!r}",
                received=os.fspath(path),
            )
        if self.extension:
            check_writable(path)
        else:
            check_folder_writable(path, MANIFEST)

    def is_at(self, path: Path) -> bool:
        """Whether what lies at the path is of this kind."""
        raise NotImplementedError

    def write(
        self, path: str | os.PathLike[str], content: Any, manifest: Manifest
    ) -> Path:
        """Writes an artefact at once; the path that was written."""
        raise NotImplementedError

    def manifest(self, path: Path) -> Manifest:
        """The manifest, without hash and size."""
        raise NotImplementedError

    def runtime(
        self, path: Path, manifest: Manifest, kernels: str, threads: int
    ) -> Runtime:
        """What runs the artefact."""
        raise NotImplementedError

    def operations(self, path: Path) -> Sequence[Operation]:
        """The operators of the artefact in the order in which they run."""
        raise NotImplementedError

    def sparsity(self, path: Path) -> float:
        """The share of exact zeros among its weights."""
        raise UsageError(
            f"Zeros are counted in TFLite files only, not in {self.name}",
            received=os.fspath(path),
        )


class FolderFormat(Format):
    """A kind of artefact that is a folder, with its manifest in a file of its own."""

    def write(
        self, path: str | os.PathLike[str], content: Any, manifest: Manifest
    ) -> Path:
        """Writes a folder at once.

        Args:
            path: the folder.
            content: a `Folder`.
            manifest: what is written beside it.

        Returns:
            The path with symbolic links followed.
        """
        made: Folder = content
        rows = [asdict(operation) for operation in made.operations]
        with atomic_folder(path, MANIFEST) as folder:
            made.fill(folder)
            (folder / OPERATIONS).write_text(json.dumps(rows))
            (folder / MANIFEST).write_text(manifest.to_json(tensors=True))
        return Path(os.path.realpath(path))

    def manifest(self, path: Path) -> Manifest:
        """The manifest, without hash and size."""
        try:
            return Manifest.from_json((path / MANIFEST).read_text())
        except FileNotFoundError:
            raise KaccError(
                f"A folder that kacc wrote holds {MANIFEST!r}",
                received=os.fspath(path),
                fix="Convert the model again",
            ) from None

    def operations(self, path: Path) -> Sequence[Operation]:
        """The operators of the graph that it was made from."""
        rows = json.loads((path / OPERATIONS).read_text())
        return [Operation(**{**row, "output": tuple(row["output"])}) for row in rows]


def require(package: str, extra: str, what: str) -> None:
    """Raises a KaccError unless an optional package is installed.

    Args:
        package: the name that it is imported by.
        extra: the extra of kacc that brings it.
        what: what needs it.

    Example:
        >>> require("no_such_package", "x", "This target")
        Traceback (most recent call last):
        ...
        kacc.core.errors.KaccError: This target needs the extra kacc[x]. Received: ...
    """
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise KaccError(
            f"{what} needs the extra kacc[{extra}]",
            received=f"no package {package}",
            fix=f'Install it with: pip install "kacc[{extra}]"',
        )
