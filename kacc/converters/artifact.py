"""A converted file as an object: what it is, and running it."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kacc.converters import flatbuffer, stored
from kacc.converters.runtime import Runtime, from_grid, open_runtime, real, to_grid
from kacc.converters.samples import check
from kacc.core.errors import KaccError, UsageError
from kacc.core.manifest import DICT, LIST, SINGLE, Manifest, TensorInfo


@dataclass(frozen=True)
class Artifact:
    """A file that a model was converted to.

    Args:
        path: where the file is.
        manifest: its target, origin, inputs and outputs.

    Example:
        >>> import keras, tempfile
        >>> import kacc
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> path = tempfile.mkdtemp() + "/model.tflite"
        >>> artifact = kacc.convert(model, path, "tflite-float32")
        >>> artifact.predict(np.ones((3, 4), "float32")).shape
        (3, 2)
    """

    path: Path
    manifest: Manifest
    _runtimes: dict[Any, Runtime] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def target(self) -> str:
        """The target's name, such as "tflite-int8"."""
        return self.manifest.target

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return self.manifest.size_bytes

    @property
    def gzip_bytes(self) -> int:
        """The size of the file after gzip (RFC 1952), as it travels in an update."""
        return len(gzip.compress(self.read(), compresslevel=9, mtime=0))

    @property
    def sparsity(self) -> float:
        """The share of exact zeros among the weights that the file stores."""
        return stored.sparsity(self.read())

    def predict(
        self, x: Any, raw: bool = False, *, kernels: str = "xnnpack", threads: int = 1
    ) -> Any:
        """Runs samples through the file, as many as there are.

        Args:
            x: an array, or a list or dictionary of arrays where the model takes
                several inputs, with a batch axis. Real numbers; with `raw` numbers of
                the file's own types.
            raw: whether to take and return the file's own types, integers in an
                integer file, instead of real numbers.
            kernels: "xnnpack", "builtin" or "reference"; or "micro" for TensorFlow
                Lite Micro, which needs the extra kacc[micro].
            threads: how many threads the runtime may use.

        Returns:
            What the Keras model returns: an array, a list or a dictionary of arrays.

        Raises:
            UsageError: if `x` does not fit the file's inputs.
        """
        inputs = self.manifest.inputs
        if raw:
            _require_types(x, inputs)
            feeds = check(x, inputs, "The data")
        else:
            feeds = self.feeds(check(x, [real(i) for i in inputs], "The data"))
        values = self.runtime(kernels, threads).run(feeds)
        if not raw:
            values = [
                from_grid(value, info)
                if value.dtype.kind in "iu" and info.is_quantized
                else value
                for value, info in zip(values, self.manifest.outputs, strict=True)
            ]
        return self._structured(values)

    def measure(self, x: Any, y: Any = None, **options: Any) -> Any:
        """Accuracy, size, latency and memory of the file; see `kacc.measure`.

        Args:
            x: samples, as for `predict`.
            y: their labels, or None.
            **options: those of `kacc.measure`.

        Returns:
            A `Measurement`.
        """
        import kacc  # measurement lies above this layer; only the facade binds them

        return kacc.measure(self, x, y, **options)

    def read(self) -> bytes:
        """The content of the file.

        Raises:
            KaccError: if the file is gone, or is not the one that was opened.
        """
        data = _read(self.path)
        if hashlib.sha256(data).hexdigest() != self.manifest.sha256:
            raise KaccError(
                "The file must be the one that was converted or opened",
                received=f"{self.path}, changed since",
                fix="Open it again with kacc.converters.artifact.open_artifact",
            )
        return data

    def runtime(self, kernels: str = "xnnpack", threads: int = 1) -> Runtime:
        """The runtime of the file for these kernels and threads, kept for later."""
        if self.manifest.report.get("npu_operators"):
            raise UsageError(
                "A file for an NPU runs on the NPU only",
                received=self.target,
                fix="Convert to 'tflite-int8' to run the same numbers here",
            )
        key = kernels, threads
        if key not in self._runtimes:
            self._runtimes[key] = open_runtime(
                self.read(),
                self.manifest.inputs,
                self.manifest.outputs,
                kernels=kernels,
                threads=threads,
            )
        return self._runtimes[key]

    def feeds(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Real numbers, an array per input, as the types that the file takes."""
        return [
            array
            if info.dtype == "float32" or not info.is_quantized
            else to_grid(array, info)
            for array, info in zip(arrays, self.manifest.inputs, strict=True)
        ]

    def _structured(self, values: list[np.ndarray]) -> Any:
        structure = self.manifest.output_structure
        if structure == DICT:
            names = [info.name for info in self.manifest.outputs]
            return dict(zip(names, values, strict=True))
        return values if structure == LIST else values[0]


def open_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Opens a TFLite file, one that kacc wrote or any other.

    Args:
        path: the file.

    Returns:
        Its `Artifact`. Of a file that another program wrote the target is told by its
        types, and the order of inputs and outputs is the file's.

    Raises:
        KaccError: if there is no such file, or it is not a TFLite file.

    Example:
        >>> open_artifact("no/such.tflite")
        Traceback (most recent call last):
        ...
        kacc.core.errors.KaccError: The file must exist. Received: 'no/such.tflite'.
    """
    data = _read(Path(path))
    flatbuffer.check_tflite(data, os.fspath(path))
    return Artifact(Path(path), manifest_of(data))


def manifest_of(data: bytes) -> Manifest:
    """The manifest of a TFLite file's content, its hash and size included."""
    inputs, outputs = flatbuffer.signature(data)
    text = flatbuffer.read_metadata(data, flatbuffer.MANIFEST)
    if text is None:
        manifest = Manifest(
            target=_target_of(data),
            inputs=tuple(inputs.values()),
            outputs=tuple(outputs.values()),
            input_structure=SINGLE if len(inputs) == 1 else DICT,
            output_structure=SINGLE if len(outputs) == 1 else DICT,
        )
    else:
        manifest = Manifest.from_json(text, inputs, outputs)
    return manifest.of_file(hashlib.sha256(data).hexdigest(), len(data))


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
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise KaccError("The file must exist", received=os.fspath(path)) from None
    except OSError as error:
        raise KaccError(
            "The file must be readable", received=f"{path}: {error.strerror}"
        ) from error


def _require_types(x: Any, inputs: Sequence[TensorInfo]) -> None:
    """Raises unless raw data has the file's own types, since casting would hide it."""
    import keras

    found = [np.asarray(value).dtype.name for value in keras.tree.flatten(x)]
    wanted = [info.dtype for info in inputs]
    if sorted(found) != sorted(wanted):
        raise UsageError(
            f"With raw=True the data must be of the file's own types, {wanted}",
            received=found,
            fix="Leave out raw=True to pass real numbers",
        )
