"""Writing trained integers and scales over those that the converter finds by itself.

TFLiteConverter takes the largest weight of each channel for the last of 8 bit integers.
That is another grid than the one that was trained if steps were learned, or if weights
have 4 bits. So it is given the real weights; what it made of them is recognized in the
file by its content and replaced, the biases with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kacc.converters.flatbuffer import pack
from kacc.core.errors import ConversionError

if TYPE_CHECKING:  # which would import TensorFlow
    from kacc.quantization.inference import ExplicitKernel

# The operators with weights, each with the version whose kernel reads 4 bit integers
# (tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc).
_VERSIONS = {"CONV_2D": 7, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 12}
_OPERATORS = (*_VERSIONS, "TRANSPOSE_CONV")

# How far a weight may lie from the converter's integer, in steps; one half but for the
# rounding of float32.
_NEAR = 0.51


def with_explicit_weights(
    data: bytes, kernels: Sequence[ExplicitKernel], wide: bool = False
) -> bytes:
    """A copy of a file that holds these integers, scales and biases.

    Args:
        data: an int8 TFLite file made from the real values of the kernels.
        kernels: all kernels whose integers are given.
        wide: whether biases have 64 bits.

    Returns:
        The new file.

    Raises:
        ConversionError: if a kernel is not found in the file.
    """
    from ai_edge_litert import schema_py_generated as schema

    if not kernels:
        return data
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    writer = _Writer(model, list(kernels), wide)
    for graph in model.subgraphs:
        writer.rewrite(graph)
    writer.check()
    return pack(model, len(data))


class _Writer:
    def __init__(self, model: Any, kernels: list[ExplicitKernel], wide: bool) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.model = model
        self.kernels = kernels
        self.wide = wide
        self.names = {v: k for k, v in vars(schema.BuiltinOperator).items()}
        self.written: set[str] = set()

    def rewrite(self, graph: Any) -> None:
        """Replaces the weights and biases of one subgraph."""
        done: dict[int, ExplicitKernel] = {}
        for operator in graph.operators:
            code = self.model.operatorCodes[operator.opcodeIndex]
            name = self.names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if name not in _OPERATORS:
                continue
            index = int(operator.inputs[1])
            kernel = done.get(index) or self._recognized(graph.tensors[index])
            if kernel is None:
                continue
            if index not in done:
                self._write_weights(graph.tensors[index], kernel)
                done[index] = kernel
            if kernel.bits == 4:
                code.version = max(code.version, _VERSIONS[name])
            read, *biases = _data_and_bias(name, operator)
            for bias in biases:
                self._write_bias(graph.tensors[bias], kernel, graph.tensors[read])

    def check(self) -> None:
        """Raises unless every kernel was found."""
        missing = [k.path for k in self.kernels if k.path not in self.written]
        if missing:
            raise ConversionError(
                "Every layer with trained steps must have its weights in the file",
                received=f"none that fit {', '.join(missing)}",
                fix="Give these layers a rule with skip=True, or report this as a bug",
            )

    def _recognized(self, tensor: Any) -> ExplicitKernel | None:
        """The kernel whose real values the converter rounded to these integers."""
        if tensor.type != self.schema.TensorType.INT8 or tensor.quantization is None:
            return None
        content = self.model.buffers[tensor.buffer].data
        scale = np.asarray(tensor.quantization.scale, np.float64)[:, None]
        if content is None or not scale.size:
            return None
        integers = np.frombuffer(bytes(content), np.int8).reshape(tensor.shape)
        axis = tensor.quantization.quantizedDimension
        rows = np.moveaxis(integers, axis, 0).reshape(integers.shape[axis], -1)
        fitting = [k for k in self.kernels if _fits(k, rows, scale)]
        # Layers with equal weights have equal integers; each gets its own bias.
        fresh = [k for k in fitting if k.path not in self.written]
        return next(iter(fresh or fitting), None)

    def _write_weights(self, tensor: Any, kernel: ExplicitKernel) -> None:
        axis = tensor.quantization.quantizedDimension
        shape = list(tensor.shape)
        moved = [shape[axis], *shape[:axis], *shape[axis + 1 :]]
        integers = np.moveaxis(kernel.integers.reshape(moved), 0, axis).reshape(-1)
        tensor.quantization.scale = kernel.scale.astype(np.float32)
        tensor.quantization.zeroPoint = np.zeros(len(kernel.scale), np.int64)
        if kernel.bits == 4:
            tensor.type = self.schema.TensorType.INT4
            content = packed_nibbles(integers)
        else:
            content = integers.astype(np.int8).view(np.uint8)
        self._set_content(tensor, content)
        self.written.add(kernel.path)

    def _write_bias(self, tensor: Any, kernel: ExplicitKernel, data: Any) -> None:
        step = np.float64(data.quantization.scale[0]) * kernel.scale
        bias = np.zeros(len(step)) if kernel.bias is None else kernel.bias
        integers = np.rint(bias.astype(np.float64) / step)
        tensor.quantization.scale = step.astype(np.float32)
        if self.wide:
            tensor.type = self.schema.TensorType.INT64
            self._set_content(tensor, integers.astype(np.int64).view(np.uint8))
            return
        limit = 2**31 - 1
        narrow = np.clip(integers, -limit, limit).astype(np.int32)
        self._set_content(tensor, narrow.view(np.uint8))

    def _set_content(self, tensor: Any, content: np.ndarray) -> None:
        """Gives a tensor a buffer of its own: the converter shares equal ones."""
        tensors = [t for graph in self.model.subgraphs for t in graph.tensors]
        if sum(t.buffer == tensor.buffer for t in tensors) == 1:
            self.model.buffers[tensor.buffer].data = content
            return
        tensor.buffer = len(self.model.buffers)
        self.model.buffers.append(self.schema.BufferT(data=content))


def _data_and_bias(name: str, operator: Any) -> list[int]:
    """The tensors that an operator reads beside its weights: data, maybe a bias."""
    inputs = [int(i) for i in operator.inputs]
    if name == "TRANSPOSE_CONV":
        return [i for i in inputs[2:] if i >= 0]  # the first one is a shape
    return [inputs[0], *(i for i in inputs[2:] if i >= 0)]


def _fits(kernel: ExplicitKernel, rows: np.ndarray, scale: np.ndarray) -> bool:
    if kernel.integers.shape != rows.shape:
        return False
    real = kernel.integers * kernel.scale[:, None]
    return bool((np.abs(real - rows * scale) <= _NEAR * scale).all())


def packed_nibbles(integers: np.ndarray) -> np.ndarray:
    """Integers of 4 bits, two to a byte, the first in the lower half.

    Args:
        integers: flat, -8..7.

    Returns:
        uint8, half as long, rounded up.

    Example:
        >>> packed_nibbles(np.array([1, -1, 7])).tolist()
        [241, 7]
    """
    nibbles = integers.astype(np.int64) & 15
    if len(nibbles) % 2:
        nibbles = np.append(nibbles, 0)
    return (nibbles[0::2] | nibbles[1::2] << 4).astype(np.uint8)
