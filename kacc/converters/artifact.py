"""A converted file as an object: what it is, and running it."""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kacc.converters.formats import Format, format_at, format_of
from kacc.converters.formats.base import Operation
from kacc.converters.formats.saved_model import latest_version
from kacc.converters.runtime import Runtime, from_grid, real, to_grid
from kacc.converters.samples import check
from kacc.core.errors import KaccError, UsageError
from kacc.core.files import content_of, digest
from kacc.core.manifest import DICT, LIST, Manifest, TensorInfo


@dataclass(frozen=True)
class Artifact:
    """A file or folder that a model was converted to.

    Args:
        path: where it is; of a served SavedModel its version folder.
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
    def format(self) -> Format:
        """The kind of file that it is."""
        return format_of(self.target)

    @property
    def size_bytes(self) -> int:
        """The size of the file, or of all files of the folder."""
        return self.manifest.size_bytes

    @property
    def gzip_bytes(self) -> int:
        """The size of the file after gzip (RFC 1952), as it travels in an update."""
        return len(gzip.compress(self.read(), compresslevel=9, mtime=0))

    @property
    def sparsity(self) -> float:
        """The share of exact zeros among the weights that the file stores."""
        self._check_unchanged()
        return self.format.sparsity(self.path)

    def operations(self) -> Sequence[Operation]:
        """The operators of the file, with their weights' bytes and their products."""
        self._check_unchanged()
        return self.format.operations(self.path)

    def predict(
        self,
        x: Any,
        raw: bool = False,
        *,
        kernels: str | None = None,
        threads: int = 1,
    ) -> Any:
        """Runs samples through the file, as many as there are.

        Args:
            x: an array, or a list or dictionary of arrays where the model takes
                several inputs, with a batch axis. Real numbers; with `raw` numbers of
                the file's own types.
            raw: whether to take and return the file's own types, integers in an
                integer file, instead of real numbers.
            kernels: of a TFLite file "xnnpack" (the default), "builtin" or
                "reference"; or "micro" for TensorFlow Lite Micro, which needs the extra
                kacc[micro]. Other files have one set of kernels.
            threads: how many threads the runtime may use; a SavedModel and StableHLO
                take TensorFlow's.

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
        """The content of the file, or of all files of the folder one after another.

        Raises:
            KaccError: if the file is gone, or is not the one that was opened.
        """
        self._check_unchanged()
        return b"".join(content_of(self.path))

    def runtime(self, kernels: str | None = None, threads: int = 1) -> Runtime:
        """The runtime of the file for these kernels and threads, kept for later."""
        if self.manifest.report.get("npu_operators"):
            raise UsageError(
                "A file for an NPU runs on the NPU only",
                received=self.target,
                fix="Convert to 'tflite-int8' to run the same numbers here",
            )
        key = self.kernels(kernels), threads
        if key not in self._runtimes:
            self._check_unchanged()
            self._runtimes[key] = self.format.runtime(self.path, self.manifest, *key)
        return self._runtimes[key]

    def kernels(self, kernels: str | None = None) -> str:
        """The set of kernels of this name, or the usual one.

        Raises:
            UsageError: if files of this kind have no such kernels.
        """
        known = self.format.kernels
        if kernels is not None and kernels not in known:
            raise UsageError(
                f"`kernels` must be one of {sorted(known)} for {self.format.name}",
                received=kernels,
            )
        return kernels or known[0]

    def _check_unchanged(self) -> None:
        if digest(self.path)[0] != self.manifest.sha256:
            raise KaccError(
                "The file must be the one that was converted or opened",
                received=f"{self.path}, changed since",
                fix="Open it again with kacc.converters.artifact.open_artifact",
            )

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
    """Opens a file: a TFLite file of any origin, or what else kacc wrote.

    Args:
        path: the file or folder; of a served SavedModel the version folder, or the
            folder that holds the versions, of which the latest is taken.

    Returns:
        Its `Artifact`. Of a file that another program wrote the target is told by its
        types, and the order of inputs and outputs is the file's.

    Raises:
        KaccError: if there is no such file, or it is of no known format.

    Example:
        >>> open_artifact("no/such.tflite")
        Traceback (most recent call last):
        ...
        kacc.core.errors.KaccError: The file must exist. Received: 'no/such.tflite'.
    """
    place = latest_version(Path(path))
    manifest = format_at(place).manifest(place)
    return Artifact(place, manifest.of_file(*digest(place)))


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
