"""Files of 16 bit activations, made of those that the converter writes for 8 bits.

The converter is given the scale s of a symmetric 16 bit tensor as that of the 8 bit
range -128 s .. 127 s, and so writes a file in which only types are wrong: activations
become int16, biases int64 as their kernels demand, and constant operands, of which 8
bits have kept too little, are quantized anew from the model's own values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kacc.converters.flatbuffer import pack
from kacc.converters.requantize import drop_unused_tensors
from kacc.core.errors import ConversionError

if TYPE_CHECKING:
    from kacc.quantization.constants import FileConstant

# Operators with weights: which of their inputs are the weights and the bias.
_WEIGHTS = {
    "CONV_2D": (1, 2),
    "DEPTHWISE_CONV_2D": (1, 2),
    "FULLY_CONNECTED": (1, 2),
    "TRANSPOSE_CONV": (1, 3),
}

# Operators whose output has the scale 1/32768, whatever comes out.
_UNIT = frozenset(("LOGISTIC", "TANH", "SOFTMAX"))

# Operators without a 16 bit kernel that the converter puts between integers even where
# kacc leaves a layer in float, since they move values and change none.
_NARROW = frozenset(("DEPTH_TO_SPACE", "SPACE_TO_DEPTH"))

# Operators that read a constant on a grid of its own; others on that of their output.
_FREE = frozenset(("ADD", "SUB", "MUL"))

# The first version of each operator that takes 16 bits
# (tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc).
_VERSIONS = {
    name: version
    for version, names in {
        2: "EXP GELU LEAKY_RELU LOG QUANTIZE SQRT",
        3: "ABS ADD AVERAGE_POOL_2D BATCH_MATMUL BROADCAST_TO CONCATENATION DEQUANTIZE "
        "LOGISTIC MAX_POOL_2D MEAN MIRROR_PAD PACK PAD PADV2 REDUCE_MAX REDUCE_MIN "
        "RELU RELU6 RSQRT SOFTMAX TANH",
        4: "BATCH_TO_SPACE_ND GATHER MAXIMUM MINIMUM MUL RESIZE_BILINEAR "
        "RESIZE_NEAREST_NEIGHBOR SLICE SPACE_TO_BATCH_ND SPLIT UNPACK",
        5: "SUB TRANSPOSE",
    }.items()
    for name in names.split()
}

_NEAR = 0.51  # in steps: one half but for the rounding of float32


def with_wide_activations(data: bytes, constants: Sequence[FileConstant]) -> bytes:
    """A copy of a file that computes in 16 bits.

    Args:
        data: an int8 TFLite file, made from ranges that stand for 16 bits.
        constants: the constant operands of the model.

    Returns:
        The new file.

    Raises:
        ConversionError: if an operator has no 16 bit kernel, or a constant operand is
            none of the model's.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    for index, graph in enumerate(model.subgraphs):
        _Widener(model, graph, constants).widen()
        _drop_idle_rescaling(model, graph)
        drop_unused_tensors(model, index, graph)
    return pack(model, 2 * len(data))


class _Widener:
    """Gives one subgraph its 16 bits."""

    def __init__(self, model: Any, graph: Any, constants: Sequence[Any]) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema, self.types = schema, schema.TensorType
        self.model, self.graph = model, graph
        self.constants = constants

    def widen(self) -> None:
        """Changes types, contents, options and versions."""
        for tensor in self.graph.tensors:
            if tensor.type == self.types.INT8 and self._content(tensor) is None:
                tensor.type = self.types.INT16
        for operator in self.graph.operators:
            name = _name(self.model, operator)
            if any(t.type == self.types.INT16 for t in self._used(operator)):
                self._widen_operator(operator, name)
        self._check_zero_points()

    def _used(self, operator: Any) -> list[Any]:
        used = (*operator.inputs, *operator.outputs)
        return [self.graph.tensors[int(i)] for i in used if i >= 0]

    def _widen_operator(self, operator: Any, name: str) -> None:
        if name in _NARROW:
            output = self.graph.tensors[int(operator.outputs[0])]
            raise ConversionError(
                "Every operator of a 16 bit file must have a 16 bit kernel in LiteRT",
                received=f"{name} of {output.name.decode().partition(';')[0]!r}",
                fix="Replace the layer, or convert to 'tflite-int8'",
            )
        weights, bias = _WEIGHTS.get(name, (None, None))
        for position, index in enumerate(int(i) for i in operator.inputs):
            tensor = self.graph.tensors[index] if index >= 0 else None
            if tensor is None or position == weights:
                continue
            if position == bias:
                self._widen_bias(tensor)
            elif tensor.type == self.types.INT8:
                self._widen_constant(tensor, operator, name)
        if name == "FULLY_CONNECTED":
            self._give_bias(operator)
        if name in _UNIT:
            output = self.graph.tensors[int(operator.outputs[0])]
            _set_scale(output, 1 / 32768)
        if hasattr(operator.builtinOptions, "potScaleInt16"):
            operator.builtinOptions.potScaleInt16 = False
        code = self.model.operatorCodes[operator.opcodeIndex]
        code.version = max(code.version, _VERSIONS.get(name, 1))

    def _widen_bias(self, tensor: Any) -> None:
        """Of weights that the model does not give; its own have their biases."""
        if tensor.type == self.types.INT32:
            narrow = np.frombuffer(bytes(self._content(tensor)), np.int32)
            tensor.type = self.types.INT64
            self._set_content(tensor, narrow.astype(np.int64))

    def _give_bias(self, operator: Any) -> None:
        """A bias of zeros, without which sums have 32 bits and may overflow."""
        inputs = [int(i) for i in operator.inputs]
        if len(inputs) > 2 and inputs[2] >= 0:
            return
        weights = self.graph.tensors[inputs[1]]
        zeros = np.zeros(int(weights.shape[0]), np.int64)
        bias = self.schema.TensorT(
            name=bytes(weights.name) + b"/bias",
            type=self.types.INT64,
            shape=[len(zeros)],
        )
        self._set_content(bias, zeros)
        operator.inputs = [*inputs[:2], len(self.graph.tensors)]
        self.graph.tensors.append(bias)

    def _widen_constant(self, tensor: Any, operator: Any, name: str) -> None:
        """Gives an operator a constant of 16 bits, on the grid that it demands."""
        free = name in _FREE
        output = self.graph.tensors[int(operator.outputs[0])]
        values = self._recognized(tensor, output, clipped=not free)
        scale = _own_scale(values) if free else tensor.quantization.scale[0]
        steps = np.rint(values.astype(np.float32) / np.float32(scale))
        tensor.type = self.types.INT16
        _set_scale(tensor, scale)
        self._set_content(tensor, np.clip(steps, -32768, 32767).astype(np.int16))

    def _recognized(self, tensor: Any, output: Any, clipped: bool) -> np.ndarray:
        """The model's own values of what the converter has rounded to 8 bits.

        Args:
            tensor: the constant in the file.
            output: what is computed of it; its name tells the layer.
            clipped: whether the grid may be smaller than the values.
        """
        scale = float(tensor.quantization.scale[0])
        zero = int(tensor.quantization.zeroPoint[0])
        narrow = np.frombuffer(bytes(self._content(tensor)), np.int8)
        fitting = []
        for constant in self.constants:
            if len(constant.values) != len(narrow):
                continue
            steps = constant.values / scale + zero
            steps = np.clip(steps, -128, 127) if clipped else steps
            distance = float(np.abs(steps - narrow).max())
            if distance <= _NEAR:
                foreign = constant.path not in output.name.decode()
                fitting.append((foreign, distance, constant.values))
        if fitting:
            return min(fitting, key=lambda found: found[:2])[2]
        raise ConversionError(
            "Every constant operand of the file must be one of the model's",
            received=f"another one in {tensor.name.decode()!r}",
            fix="Report this as a bug",
        )

    def _check_zero_points(self) -> None:
        for tensor in self.graph.tensors:
            wide = tensor.type == self.types.INT16
            if wide and tensor.quantization.zeroPoint[0] != 0:
                raise ConversionError(
                    "The zero points of a 16 bit file must be 0",
                    received=f"another one of {tensor.name.decode()!r}",
                    fix="Report this as a bug",
                )

    def _content(self, tensor: Any) -> Any:
        return self.model.buffers[tensor.buffer].data

    def _set_content(self, tensor: Any, content: np.ndarray) -> None:
        """Gives a tensor a buffer of its own: the converter shares equal ones."""
        tensor.buffer = len(self.model.buffers)
        self.model.buffers.append(self.schema.BufferT(data=content.view(np.uint8)))


def _set_scale(tensor: Any, scale: Any) -> None:
    tensor.quantization.scale = np.array([scale], np.float32)
    tensor.quantization.zeroPoint = np.array([0], np.int64)


def _own_scale(values: np.ndarray) -> Any:
    from kacc.quantization.integer import symmetric_grid

    return symmetric_grid(np.float32(np.abs(values).max())).scale32.numpy()


def _name(model: Any, operator: Any) -> str:
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    code = model.operatorCodes[operator.opcodeIndex]
    kind = max(code.builtinCode, code.deprecatedBuiltinCode)
    return next(k for k, v in vars(BuiltinOperator).items() if v == kind)


def _drop_idle_rescaling(model: Any, graph: Any) -> None:
    """Takes out each QUANTIZE between two equal grids: what it reads is what it writes.

    The converter puts one behind an operator whose 8 bit output has a fixed range.
    """
    kept = []
    for operator in graph.operators:
        source, target = int(operator.inputs[0]), int(operator.outputs[0])
        idle = _name(model, operator) == "QUANTIZE" and _same_grid(
            graph.tensors[source], graph.tensors[target]
        )
        if not idle or source in {int(i) for i in (*graph.inputs, *graph.outputs)}:
            kept.append(operator)
            continue
        for other in graph.operators:
            for side in ("inputs", "outputs"):
                ids = [int(i) for i in getattr(other, side)]
                setattr(other, side, [target if i == source else i for i in ids])
    graph.operators = kept


def _same_grid(a: Any, b: Any) -> bool:
    if a.type != b.type or a.quantization is None or b.quantization is None:
        return False
    pairs = (
        (a.quantization.scale, b.quantization.scale),
        (a.quantization.zeroPoint, b.quantization.zeroPoint),
    )
    return all(np.array_equal(one, other) for one, other in pairs)
