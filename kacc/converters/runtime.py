"""Running TFLite files: kernels, threads, batches of any size, number grids."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from kacc.converters.chatter import to_log
from kacc.converters.samples import Samples
from kacc.core.errors import KaccError, UsageError
from kacc.core.manifest import TensorInfo

# What each set of kernels is called in the runtime's OpResolverType.
KERNELS = {
    "xnnpack": "AUTO",
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}
_BATCH = 64  # of files that leave the batch size free: large enough to be fast


def host() -> str:
    """The machine that kernels run on, since their roundings differ by processor."""
    return f"{platform.system()} {platform.machine()}"


def interpreter(
    data: bytes, kernels: str = "xnnpack", threads: int = 1, keep_all: bool = False
) -> Any:
    """A LiteRT interpreter of a file's content, not yet allocated.

    Args:
        data: the content of a TFLite file.
        kernels: "xnnpack", "builtin" (LiteRT's own) or "reference" (the plain ones).
        threads: how many threads it may use.
        keep_all: whether the values of all tensors can be read after a run.

    Returns:
        An `ai_edge_litert.interpreter.Interpreter`.

    Raises:
        UsageError: if `kernels` or `threads` is none of these.
        KaccError: if the runtime refuses the file.
    """
    if kernels not in KERNELS:
        raise UsageError(
            f"`kernels` must be one of {sorted((*KERNELS, 'micro'))}", received=kernels
        )
    if not isinstance(threads, int) or threads < 1:
        raise UsageError("`threads` must be a positive integer", received=threads)
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with _explained("Convert the model again"):
        return Interpreter(
            model_content=data,
            num_threads=threads,
            experimental_op_resolver_type=OpResolverType[KERNELS[kernels]],
            experimental_preserve_all_tensors=keep_all,
        )


@contextmanager
def _explained(fix: str) -> Iterator[None]:
    """Tells in a line why the runtime refuses a file."""
    with to_log():
        try:
            yield
        except (ValueError, RuntimeError) as error:
            raise KaccError(
                "The file must be one that LiteRT can run",
                received=str(error).strip().splitlines()[-1],
                fix=fix,
            ) from error


def open_runtime(
    data: bytes,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    kernels: str = "xnnpack",
    threads: int = 1,
    keep_all: bool = False,
) -> LiteRuntime:
    """The runtime that has a set of kernels.

    Args:
        data: the content of the file.
        inputs: what it takes, in the wanted order.
        outputs: what it gives, in the wanted order.
        kernels: those of `interpreter`, or "micro" for TensorFlow Lite Micro.
        threads: how many threads it may use; "micro" has one.
        keep_all: whether the values of all tensors can be read after a run.

    Returns:
        The runtime, which may be run again and again.

    Raises:
        UsageError: if `kernels` or `threads` is none of these.
        KaccError: if the runtime refuses the file.
    """
    if kernels == "micro":
        from kacc.converters.micro_runtime import MicroRuntime

        return MicroRuntime(data, inputs, outputs, keep_all)
    return LiteRuntime(data, inputs, outputs, kernels, threads, keep_all)


class Runtime:
    """Runs a file on arrays of the file's own types, batch by batch.

    Args:
        inputs, outputs: what it takes and gives, in the wanted order.
    """

    def __init__(
        self, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]
    ) -> None:
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)

    @property
    def batch(self) -> int | None:
        """The file's batch size, or None where it is free."""
        return self.inputs[0].shape[0]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Runs samples of any number through the file.

        Args:
            arrays: one per input, of the file's types, with a batch axis.

        Returns:
            One array per output, of the file's types.
        """
        length = len(arrays[0])
        size = self.batch or min(length, _BATCH)
        parts = []
        for batch in Samples(list(arrays)).batches(size):
            self.load(batch)
            self.invoke()
            parts.append(self.results())
        return [np.concatenate(part)[:length] for part in zip(*parts, strict=True)]

    def load(self, arrays: Sequence[np.ndarray]) -> None:
        """Puts one batch into the file's inputs."""
        raise NotImplementedError

    def invoke(self) -> None:
        """Runs the batch that was loaded."""
        raise NotImplementedError

    def results(self) -> list[np.ndarray]:
        """The outputs of the last run, copied."""
        raise NotImplementedError


class LiteRuntime(Runtime):
    """Runs a TFLite file in LiteRT.

    Args:
        data: the content of the file.
        inputs, outputs: what it takes and gives, in the wanted order.
        kernels, threads, keep_all: see `interpreter`.
    """

    def __init__(
        self,
        data: bytes,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        kernels: str = "xnnpack",
        threads: int = 1,
        keep_all: bool = False,
    ) -> None:
        super().__init__(inputs, outputs)
        self._interpreter = interpreter(data, kernels, threads, keep_all)
        self._shapes: list[tuple[int, ...]] = []
        self._fix = "Convert the model again"
        if kernels == "xnnpack":  # it multiplies sums by less than 256
            self._fix = (
                "Pass kernels='builtin', or train or calibrate on until no layer's "
                "outputs are much smaller than the products that it sums"
            )
        signatures = self._interpreter.get_signature_list()
        if signatures:
            runner = self._interpreter.get_signature_runner(next(iter(signatures)))
            into, out = runner.get_input_details(), runner.get_output_details()
        else:
            into = {d["name"]: d for d in self._interpreter.get_input_details()}
            out = {d["name"]: d for d in self._interpreter.get_output_details()}
        self._in = [into[info.name]["index"] for info in self.inputs]
        self._out = [out[info.name]["index"] for info in self.outputs]

    def load(self, arrays: Sequence[np.ndarray]) -> None:
        """Puts one batch into the file's inputs."""
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            for index, shape in zip(self._in, shapes, strict=True):
                self._interpreter.resize_tensor_input(index, shape)
            with _explained(self._fix):
                self._interpreter.allocate_tensors()
            self._shapes = shapes
        for index, array in zip(self._in, arrays, strict=True):
            self._interpreter.set_tensor(index, np.ascontiguousarray(array))

    def invoke(self) -> None:
        """Runs the batch that was loaded."""
        self._interpreter.invoke()

    def results(self) -> list[np.ndarray]:
        """The outputs of the last run, copied."""
        return [self.value(index) for index in self._out]

    def value(self, tensor: int) -> np.ndarray:
        """A copy of the value of a tensor, by its index in the file."""
        return self._interpreter.get_tensor(tensor)


def real(info: TensorInfo) -> TensorInfo:
    """The tensor as a person sees it: real numbers where the file has a grid."""
    if not info.is_quantized or info.dtype == "float32":
        return info
    return replace(info, dtype="float32", integers=info.dtype)


def to_grid(values: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Real numbers as the integers of a tensor's grid.

    Example:
        >>> info = TensorInfo("x", (None, 1), "int8", 0.5, -1)
        >>> to_grid(np.array([0.0, 1.0, 99.0]), info)
        array([ -1,   1, 127], dtype=int8)
    """
    dtype = np.dtype(info.integers if info.dtype.startswith("float") else info.dtype)
    limits = np.iinfo(dtype)
    scaled = np.rint(np.asarray(values, np.float32) / np.float32(info.scale))
    return np.clip(scaled + info.zero_point, limits.min, limits.max).astype(dtype)


def from_grid(values: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Integers of a tensor's grid as real numbers, in float32.

    Example:
        >>> from_grid(np.array([3], "int8"), TensorInfo("x", (None, 1), "int8", 0.5, 1))
        array([1.], dtype=float32)
    """
    steps = values.astype(np.float32) - np.float32(info.zero_point)
    return steps * np.float32(info.scale)
