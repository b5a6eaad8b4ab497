"""TFLite files, which carry their manifest as metadata."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kacc.converters import flatbuffer, stored
from kacc.converters.formats import tflite_listing
from kacc.converters.formats.base import Format, Operation
from kacc.converters.runtime import Runtime, open_runtime
from kacc.core.files import atomic_write, content_of
from kacc.core.manifest import DICT, SINGLE, Manifest


class TFLite(Format):
    """Files for LiteRT, TensorFlow Lite Micro and NPUs."""

    name = "TFLite files"
    prefixes = ("tflite-", "ethos-")
    extension = ".tflite"
    kernels = ("xnnpack", "builtin", "reference", "micro")

    def is_at(self, path: Path) -> bool:
        """Whether a file has the identifier of the format."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(8)[4:] == b"TFL3"

    def write(
        self, path: str | os.PathLike[str], content: Any, manifest: Manifest
    ) -> Path:
        """Writes a file at once, with the manifest in it."""
        text = manifest.to_json().encode()
        data = flatbuffer.with_metadata(content, flatbuffer.MANIFEST, text)
        manifest_of(data)  # raises unless the manifest fits the file
        return atomic_write(path, data)

    def manifest(self, path: Path) -> Manifest:
        """The manifest; what can be told of a file that another program wrote."""
        data = _read(path)
        flatbuffer.check_tflite(data, os.fspath(path))
        return manifest_of(data)

    def runtime(
        self, path: Path, manifest: Manifest, kernels: str, threads: int
    ) -> Runtime:
        """LiteRT, or TensorFlow Lite Micro."""
        return open_runtime(
            _read(path),
            manifest.inputs,
            manifest.outputs,
            kernels=kernels,
            threads=threads,
        )

    def operations(self, path: Path) -> Sequence[Operation]:
        """The operators of the file's first subgraph."""
        return tflite_listing.operations(_read(path))

    def sparsity(self, path: Path) -> float:
        """The share of exact zeros among its weights."""
        return stored.sparsity(_read(path))


def manifest_of(data: bytes) -> Manifest:
    """The manifest of a TFLite file's content, without hash and size."""
    inputs, outputs = flatbuffer.signature(data)
    text = flatbuffer.read_metadata(data, flatbuffer.MANIFEST)
    if text is not None:
        return Manifest.from_json(text, inputs, outputs)
    return Manifest(
        target=_target_of(data),
        inputs=tuple(inputs.values()),
        outputs=tuple(outputs.values()),
        input_structure=SINGLE if len(inputs) == 1 else DICT,
        output_structure=SINGLE if len(outputs) == 1 else DICT,
    )


def _target_of(data: bytes) -> str:
    tensors = [t for graph in flatbuffer.subgraphs(data) for t in graph.tensors]
    if not any(flatbuffer.float_operators(data, float_io=True)):
        wide = any(t.type == "INT16" and t.scale is not None for t in tensors)
        return "tflite-int16x8" if wide else "tflite-int8"
    constants = {t.type for t in tensors if t.constant}
    if "INT8" in constants:
        return "tflite-dynamic"
    return "tflite-float16" if "FLOAT16" in constants else "tflite-float32"


def _read(path: Path) -> bytes:
    return b"".join(content_of(path))
