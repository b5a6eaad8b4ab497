"""SavedModels as TensorFlow Serving lays them out: a folder with version folders.

The artefact is one version folder. It holds the SavedModel, whose signatures are
"serving_default" and "batch_8" and so on for each batch size of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kacc.converters import weights
from kacc.converters.chatter import to_log
from kacc.converters.formats import large_saved_model
from kacc.converters.formats.base import MANIFEST, FolderFormat
from kacc.converters.runtime import Runtime
from kacc.core.errors import KaccError, UsageError
from kacc.core.files import atomic_write, check_folder_writable
from kacc.core.manifest import Manifest
from kacc.core.memory import release

DEFAULT = "serving_default"
# Of TensorFlow Serving's own image (tensorflow.org/tfx/serving/docker).
_CONTAINER = """\
# docker build -t {name} . && docker run -p 8500:8500 -p 8501:8501 {name}
# Then POST to http://localhost:8501/v1/models/{name}:predict
FROM tensorflow/serving
COPY . /models/{name}
ENV MODEL_NAME={name}
# Compile at load: run the requests in assets.extra before the first client's.
CMD ["--enable_model_warmup=true"]
"""


class SavedModel(FolderFormat):
    """SavedModels whose serving functions XLA compiles."""

    name = "SavedModels"
    prefixes = ("xla-",)
    kernels = ("tensorflow",)

    def place(self, path: str | os.PathLike[str], version: int | None) -> Path:
        """The version folder of a served model's folder."""
        return version_folder(path, version)

    def check_path(self, path: str | os.PathLike[str], target: str) -> None:
        """Raises unless the version folder can be written; its parent may be new."""
        base = Path(path).parent
        check_folder_writable(path if base.is_dir() else base, MANIFEST)

    def write(
        self, path: str | os.PathLike[str], content: Any, manifest: Manifest
    ) -> Path:
        """Writes a version folder at once, and beside it how to serve it."""
        base = Path(path).parent
        base.mkdir(exist_ok=True)
        written = super().write(path, content, manifest)
        container = base / "Dockerfile"
        if not container.exists():
            atomic_write(container, _CONTAINER.format(name=base.name).encode())
        return written

    def is_at(self, path: Path) -> bool:
        """Whether a folder holds a SavedModel that kacc wrote."""
        return (path / "saved_model.pb").is_file() and (path / MANIFEST).is_file()

    def runtime(
        self, path: Path, manifest: Manifest, kernels: str, threads: int
    ) -> Runtime:
        """TensorFlow, with threads of its own number."""
        return SavedModelRuntime(path, manifest)


class SavedModelRuntime(Runtime):
    """Runs a SavedModel in TensorFlow.

    A batch runs through the signature of its own size where there is one. The first
    batch of a size is computed once before it is asked for: its function is compiled
    then, which takes time and many times the memory of its weights. Files of more than
    640 MiB run with their weights as arguments, which takes less.

    Args:
        path: the version folder.
        manifest: its manifest.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        import tensorflow as tf

        super().__init__(manifest.inputs, manifest.outputs)
        with to_log():
            if manifest.size_bytes >= weights.LARGE:
                self._signatures = large_saved_model.signatures(path, manifest)
            else:
                self._loaded = tf.saved_model.load(os.fspath(path))
                self._signatures = self._loaded.signatures
        self._function = self._signatures[DEFAULT]
        self._feeds: dict[str, Any] = {}
        self._values: dict[str, Any] = {}
        self._compiled: set[str] = set()
        self._bytes = manifest.size_bytes
        release(self._bytes)

    def load(self, arrays: Sequence[np.ndarray]) -> None:
        """Puts one batch into tensors, and chooses the function for its size."""
        import tensorflow as tf

        own = f"batch_{len(arrays[0])}"
        chosen = own if own in self._signatures else DEFAULT
        self._function = self._signatures[chosen]
        self._feeds = {
            info.name: tf.constant(array, info.dtype)
            for info, array in zip(self.inputs, arrays, strict=True)
        }
        if chosen not in self._compiled:
            with to_log():
                self.invoke()
            release(self._bytes)
            self._compiled.add(chosen)

    def invoke(self) -> None:
        """Runs the batch that was loaded."""
        self._values = self._function(**self._feeds)

    def results(self) -> list[np.ndarray]:
        """The outputs of the last run, copied."""
        return [self._values[info.name].numpy() for info in self.outputs]


def version_folder(path: str | os.PathLike[str], version: int | None) -> Path:
    """Where a version of a served model lies.

    Args:
        path: the folder of the served model.
        version: the number of the version; None for 1.

    Raises:
        UsageError: if the path is itself a version folder.
        KaccError: if there is no place for the folder.
    """
    base = Path(os.path.realpath(path))
    if (base / "saved_model.pb").is_file():
        raise UsageError(
            "The path must be the folder of the served model, in which a version "
            "folder is written",
            received=os.fspath(path),
            fix=f"Pass {os.fspath(base.parent)!r}",
        )
    if not base.parent.is_dir():
        raise KaccError(
            "The folder of the file must exist",
            received=os.fspath(path),
            fix=f"Create {os.fspath(base.parent)!r} or name another folder",
        )
    if base.is_file():
        raise KaccError(
            "The path must be a folder's, not a file's",
            received=os.fspath(path),
            fix="Name another folder",
        )
    return base / str(version or 1)


def latest_version(path: Path) -> Path:
    """The version folder that TensorFlow Serving would take, or the path itself."""
    if not path.is_dir() or (path / MANIFEST).is_file():
        return path
    numbers = [int(p.name) for p in path.iterdir() if p.name.isdecimal()]
    found = path / str(max(numbers)) if numbers else path
    return found if (found / MANIFEST).is_file() else path
