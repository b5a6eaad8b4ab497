"""Writing trained integers and scales over those that the converter finds by itself.

TFLiteConverter takes the largest weight of each channel for the last of 8 bit integers.
That is another grid than the one that was trained if steps were learned, or if weights
have 4 bits. So it is given the real weights; what it made of them is recognized in the
file by its content and replaced, the biases with it.
"""

from __future__ import annotations

import copy
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
_OPERATORS = (*_VERSIONS, "TRANSPOSE_CONV", "PRELU")

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
        self.written: dict[str, ExplicitKernel] = {}
        # (subgraph, constant) -> path of a kernel -> the constant with its values.
        self.copies: dict[tuple[int, int], dict[str, int]] = {}

    def rewrite(self, graph: Any) -> None:
        """Replaces the weights and biases of one subgraph."""
        fitting: dict[int, list[ExplicitKernel]] = {}
        for operator in graph.operators:
            code = self.model.operatorCodes[operator.opcodeIndex]
            name = self.names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if name not in _OPERATORS:
                continue
            index = int(operator.inputs[1])
            if index not in fitting:
                fitting[index] = self._fitting(graph.tensors[index])
            kernel = self._chosen(fitting[index], graph, operator)
            if kernel is None:
                continue
            tensor = self._own(graph, operator, 1, kernel)
            self._write_weights(tensor, kernel)
            if kernel.bits == 4:
                code.version = max(code.version, _VERSIONS[name])
            read, *biases = _data_and_bias(name, operator)
            for position in biases:
                bias = self._own(graph, operator, position, kernel)
                data = graph.tensors[int(operator.inputs[read])]
                self._write_bias(bias, kernel, data)

    def _own(
        self, graph: Any, operator: Any, position: int, kernel: ExplicitKernel
    ) -> Any:
        """The constant that an operator reads, for this kernel and no other.

        The converter makes one of equal constants, which may be no longer equal.
        """
        index = int(operator.inputs[position])
        copies = self.copies.setdefault((id(graph), index), {kernel.path: index})
        if kernel.path not in copies:
            copies[kernel.path] = len(graph.tensors)
            graph.tensors.append(copy.deepcopy(graph.tensors[index]))
        inputs = [int(i) for i in operator.inputs]
        inputs[position] = copies[kernel.path]
        operator.inputs = inputs
        return graph.tensors[copies[kernel.path]]

    def _chosen(
        self, fitting: list[ExplicitKernel], graph: Any, operator: Any
    ) -> ExplicitKernel | None:
        """The kernel of an operator, of those that fit its weights.

        Of layers with equal weights it is the one that the output is named after.
        """
        output = graph.tensors[int(operator.outputs[0])].name.decode()
        named = [k for k in fitting if _layer(k) in output]
        fresh = [k for k in fitting if k.path not in self.written]
        return next(iter(named or fresh or fitting), None)

    def check(self) -> None:
        """Raises unless every kernel was found."""
        missing = [
            k.path
            for k in self.kernels
            if k.path not in self.written
            # The converter makes one operator of those that compute the same.
            and not any(_equal(k, other) for other in self.written.values())
        ]
        if missing:
            raise ConversionError(
                "Every layer with trained steps must have its weights in the file",
                received=f"none that fit {', '.join(missing)}",
                fix="Give these layers a rule with skip=True, or report this as a bug",
            )

    def _fitting(self, tensor: Any) -> list[ExplicitKernel]:
        """The kernels whose real values the converter rounded to these integers."""
        if tensor.type != self.schema.TensorType.INT8 or tensor.quantization is None:
            return []
        content = self.model.buffers[tensor.buffer].data
        scale = np.asarray(tensor.quantization.scale, np.float64)[:, None]
        if content is None or not scale.size:
            return []
        integers = np.frombuffer(bytes(content), np.int8).reshape(tensor.shape)
        axis = tensor.quantization.quantizedDimension
        rows = np.moveaxis(integers, axis, 0).reshape(len(scale), -1)
        return [k for k in self.kernels if _fits(k, rows, scale)]

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
            tensor.type = self.schema.TensorType.INT8
            content = integers.astype(np.int8).view(np.uint8)
        self._set_content(tensor, content)
        self.written[kernel.path] = kernel

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
    """Where an operator reads what is not weights: data, maybe a bias."""
    first = 2 if name == "TRANSPOSE_CONV" else 0  # which begins with a shape
    rest = range(max(first, 1) + 1, len(operator.inputs))
    return [first, *(i for i in rest if int(operator.inputs[i]) >= 0)]


def _layer(kernel: ExplicitKernel) -> str:
    return kernel.path.rpartition(":")[0]


def _equal(one: ExplicitKernel, other: ExplicitKernel) -> bool:
    """Whether both make the same of the same input."""
    if one.bias is None or other.bias is None:
        same_bias = one.bias is other.bias
    else:
        same_bias = np.array_equal(one.bias, other.bias)
    return (
        same_bias
        and one.bits == other.bits
        and np.array_equal(one.integers, other.integers)
        and np.array_equal(one.scale, other.scale)
    )


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
