"""Running files in TensorFlow Lite Micro, through its Python package `tflite-micro`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kacc.converters import flatbuffer
from kacc.converters.chatter import to_log
from kacc.converters.micro_arena import estimate_arena
from kacc.converters.runtime import LiteRuntime
from kacc.core.errors import ConversionError, UsageError
from kacc.core.manifest import TensorInfo

_SPARE = 2**16  # bytes of arena beyond the estimate


class MicroRuntime(LiteRuntime):
    """Runs a file as a microcontroller does, sample by sample.

    Args:
        data: the content of the file.
        inputs, outputs: what it takes and gives, in the wanted order.
        keep_all: whether the values of all tensors can be read after a run.
    """

    def __init__(
        self,
        data: bytes,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        keep_all: bool = False,
    ) -> None:
        super().__init__(data, inputs, outputs, "reference")  # which knows the tensors
        graph = flatbuffer.subgraphs(data)[0]
        self._keep_all = keep_all
        self._input_order = [graph.inputs.index(i) for i in self._in]
        self._output_order = {i: n for n, i in enumerate(graph.outputs)}
        self._machine = machine(data, keep_all)

    @property
    def batch(self) -> int:
        """The batch size in the file; one where it is free."""
        return self.inputs[0].shape[0] or 1

    def load(self, arrays: Sequence[np.ndarray]) -> None:
        """Puts one batch into the file's inputs."""
        for index, array in zip(self._input_order, arrays, strict=True):
            self._machine.set_input(np.ascontiguousarray(array), index)

    def invoke(self) -> None:
        """Runs the batch that was loaded."""
        self._machine.invoke()

    def value(self, tensor: int) -> np.ndarray:
        """A copy of the value of a tensor, by its index in the file."""
        if self._keep_all:
            return np.array(self._machine.GetTensor(tensor, 0)["tensor_data"])
        return self._machine.get_output(self._output_order[tensor])


def tflm() -> Any:
    """The module of TensorFlow Lite Micro's interpreter, or None if it is missing."""
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError:
        return None
    return runtime


def machine(data: bytes, keep_all: bool = False) -> Any:
    """An interpreter of TensorFlow Lite Micro that is ready to run.

    Args:
        data: the content of a TFLite file.
        keep_all: whether the values of all tensors can be read after a run.

    Raises:
        UsageError: if the package is not installed.
        ConversionError: if TensorFlow Lite Micro refuses the file.
    """
    runtime = tflm()
    if runtime is None:
        raise UsageError(
            "The kernels 'micro' are those of the package tflite-micro",
            received="a Python without it",
            fix='Install it with `pip install "kacc[micro]"`',
        )
    configs = runtime.InterpreterConfig
    config = configs.kPreserveAllTensors if keep_all else configs.kAllocationRecording
    estimate = estimate_arena(data, pointer_bytes=8)
    apart = sum(buffer.size for buffer in estimate.plan)  # where all are kept
    size = estimate.persistent + estimate.preparation + apart + _SPARE
    try:
        with to_log():
            return runtime.Interpreter.from_bytes(
                data, arena_size=size, intrepreter_config=config
            )
    except RuntimeError as error:
        raise ConversionError(
            "TensorFlow Lite Micro must be able to run the file",
            received=str(error),
            fix="Set the logger 'kacc.converters' to DEBUG to see what it printed",
        ) from error
