"""ONNX files, which carry their manifest in their metadata."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kacc.converters.formats.base import Format, Operation, require
from kacc.converters.runtime import Runtime
from kacc.core.errors import KaccError
from kacc.core.files import atomic_write
from kacc.core.manifest import Manifest

_KEY = "kacc"
_LARGEST = 2**31 - 1  # bytes of a protocol buffer


class Onnx(Format):
    """ONNX files, run by onnxruntime."""

    name = "ONNX files"
    prefixes = ("onnx",)
    extension = ".onnx"
    kernels = ("onnxruntime",)

    def is_at(self, path: Path) -> bool:
        """Whether a file's name says so: ONNX files have no identifier."""
        return path.is_file() and path.suffix == self.extension

    def write(
        self, path: str | os.PathLike[str], content: Any, manifest: Manifest
    ) -> Path:
        """Writes a file at once, with the manifest in it.

        Args:
            path: the file.
            content: an `onnx.ModelProto`.
            manifest: what is written into its metadata.

        Returns:
            The path that was written.
        """
        entry = content.metadata_props.add()
        entry.key, entry.value = _KEY, manifest.to_json(tensors=True)
        require_room(content.ByteSize())
        return atomic_write(path, content.SerializeToString())

    def manifest(self, path: Path) -> Manifest:
        """The manifest, without hash and size."""
        entries = {e.key: e.value for e in _load(path).metadata_props}
        if _KEY not in entries:
            raise KaccError(
                "The ONNX file must be one that kacc wrote",
                received=os.fspath(path),
                fix="Convert the model with target='onnx'",
            )
        return Manifest.from_json(entries[_KEY])

    def runtime(
        self, path: Path, manifest: Manifest, kernels: str, threads: int
    ) -> Runtime:
        """The CPU provider of onnxruntime."""
        return OnnxRuntime(path, manifest, threads)

    def operations(self, path: Path) -> Sequence[Operation]:
        """The nodes of the graph."""
        from kacc.converters.formats.onnx_listing import operations

        return operations(_load(path))


def require_room(size: int) -> None:
    """Raises unless so many bytes fit an ONNX file."""
    if size > _LARGEST:
        raise KaccError(
            "An ONNX file must have less than 2 GiB",
            received=f"{size:,} bytes",
            fix="Use the target 'stablehlo'",
        )


class OnnxRuntime(Runtime):
    """Runs an ONNX file in onnxruntime on the CPU.

    Args:
        path: the file.
        manifest: its manifest.
        threads: how many threads it may use.
    """

    def __init__(self, path: Path, manifest: Manifest, threads: int) -> None:
        require("onnxruntime", "onnx", "Running ONNX files")
        import onnxruntime

        super().__init__(manifest.inputs, manifest.outputs)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no common class
            raise KaccError(
                "The file must be one that onnxruntime can run",
                received=str(error).strip().splitlines()[0][:300],
                fix="Convert the model again",
            ) from error
        self._names = [info.name for info in self.outputs]
        self._feeds: dict[str, np.ndarray] = {}
        self._values: list[np.ndarray] = []

    def load(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes one batch."""
        self._feeds = {
            info.name: np.ascontiguousarray(array)
            for info, array in zip(self.inputs, arrays, strict=True)
        }

    def invoke(self) -> None:
        """Runs the batch that was loaded."""
        self._values = self._session.run(self._names, self._feeds)

    def results(self) -> list[np.ndarray]:
        """The outputs of the last run."""
        return list(self._values)


def _load(path: Path) -> Any:
    import onnx

    try:
        return onnx.load(os.fspath(path))
    except Exception as error:  # protocol buffers raise errors of their own
        raise KaccError(
            "The file must be an ONNX file",
            received=f"{path}: {type(error).__name__}",
        ) from error
