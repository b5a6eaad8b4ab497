"""StableHLO: portable modules, one for each platform, and a JSON of their signature.

A module is a StableHLO portable artifact with its weights as constants (see the
compatibility promise in the OpenXLA project's "StableHLO Compatibility"). The folder's
`signature.json` says which file is for which platform, and the arguments and results.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kacc.converters.formats.base import MANIFEST, FolderFormat
from kacc.converters.runtime import Runtime
from kacc.core.errors import KaccError
from kacc.core.manifest import Manifest

SIGNATURE = "signature.json"
MODULES = "assets.extra"  # in a SavedModel for TPUs
_CALLING_CONVENTION = 10  # of XlaCallModule: one platform, no extra arguments


class StableHlo(FolderFormat):
    """Folders of StableHLO modules."""

    name = "folders of StableHLO"
    prefixes = ("stablehlo",)
    kernels = ("xla",)

    def is_at(self, path: Path) -> bool:
        """Whether a folder holds modules with their signature."""
        return (path / SIGNATURE).is_file() and (path / MANIFEST).is_file()

    def runtime(
        self, path: Path, manifest: Manifest, kernels: str, threads: int
    ) -> Runtime:
        """TensorFlow's XLA on the CPU."""
        return StableHloRuntime(module_of(path, "cpu"), manifest)


class StableHloRuntime(Runtime):
    """Runs a module through TensorFlow's XLA.

    Args:
        module: the portable artifact for the CPU.
        manifest: its manifest.
    """

    def __init__(self, module: bytes, manifest: Manifest) -> None:
        import tensorflow as tf

        # Private: the operator that jax2tf embeds modules with is not exported.
        # tests/converters/test_stablehlo.py fails when it goes away.
        from tensorflow.compiler.tf2xla.python import xla

        super().__init__(manifest.inputs, manifest.outputs)
        shapes = [info.shape for info in self.outputs]
        dtypes = [tf.as_dtype(info.dtype) for info in self.outputs]

        def call(*arguments: Any) -> Any:
            return xla.call_module(
                arguments,
                version=_CALLING_CONVENTION,
                module=module,
                Sout=shapes,
                Tout=dtypes,
                platforms=["CPU"],
            )

        # The function only: what it was traced from holds the module once more.
        specs = [tf.TensorSpec(info.shape, info.dtype) for info in self.inputs]
        function = tf.function(call, specs, jit_compile=True, autograph=False)
        self._call = function.get_concrete_function()
        self._arguments: list[Any] = []
        self._values: list[Any] = []

    def load(self, arrays: Sequence[np.ndarray]) -> None:
        """Puts one batch into tensors."""
        import tensorflow as tf

        self._arguments = [
            tf.constant(array, info.dtype)
            for info, array in zip(self.inputs, arrays, strict=True)
        ]

    def invoke(self) -> None:
        """Runs the batch that was loaded."""
        self._values = self._call(*self._arguments)

    def results(self) -> list[np.ndarray]:
        """The outputs of the last run, copied."""
        return [value.numpy() for value in self._values]


def module_of(path: Path, platform: str | None) -> bytes:
    """The module of a platform.

    Args:
        path: the folder.
        platform: "cpu", "cuda" or "tpu"; None for any.

    Raises:
        KaccError: if the folder has none for it.
    """
    files = json.loads((path / SIGNATURE).read_text())["modules"]
    if platform is None:
        platform = next(iter(files))
    if platform not in files:
        raise KaccError(
            f"The folder must hold a module for the platform {platform!r}",
            received=sorted(files),
            fix=f"Convert with platforms=(..., {platform!r})",
        )
    return (path / files[platform]).read_bytes()


def tpu_module(path: Path) -> bytes | None:
    """The module for a TPU in what "stablehlo" or "xla-tpu" wrote, or None.

    Of several batch sizes it is that of the first, which the manifest describes.
    """
    if not path.is_dir():
        return None
    if (path / SIGNATURE).is_file():
        return module_of(path, "tpu")
    size = Manifest.from_json((path / MANIFEST).read_text()).inputs[0].shape[0]
    beside = path / MODULES / f"batch_{size}.stablehlo"
    return beside.read_bytes() if beside.is_file() else None
