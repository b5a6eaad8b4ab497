"""The operators that TensorFlow Lite Micro (TFLM) has, and what it takes of them.

Source: the `Add...` functions of `MicroMutableOpResolver` and the kernels'
`Register_...` functions (micro_mutable_op_resolver.h and kernels/micro_ops.h under
tensorflow/lite/micro of github.com/tensorflow/tflite-micro), as in release
0.dev20261023182759 of the package `tflite-micro`, against which a test checks them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from kacc.converters import flatbuffer
from kacc.converters.flatbuffer import Operator, Subgraph

BUILTINS = frozenset(
    (
        *("ABS", "ADD", "ADD_N", "ARG_MAX", "ARG_MIN", "ASSIGN_VARIABLE"),
        *("AVERAGE_POOL_2D", "BATCH_MATMUL", "BATCH_TO_SPACE_ND", "BROADCAST_ARGS"),
        *("BROADCAST_TO", "CALL_ONCE", "CAST", "CEIL", "CONCATENATION", "CONV_2D"),
        *("COS", "CUMSUM", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DEQUANTIZE"),
        *("DIV", "DYNAMIC_UPDATE_SLICE", "ELU", "EMBEDDING_LOOKUP", "EQUAL", "EXP"),
        *("EXPAND_DIMS", "FILL", "FLOOR", "FLOOR_DIV", "FLOOR_MOD"),
        *("FULLY_CONNECTED", "GATHER", "GATHER_ND", "GREATER", "GREATER_EQUAL"),
        *("HARD_SWISH", "IF", "L2_NORMALIZATION", "L2_POOL_2D", "LEAKY_RELU", "LESS"),
        *("LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR", "LOGISTIC"),
        *("LOG_SOFTMAX", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MIRROR_PAD"),
        *("MUL", "NEG", "NOT_EQUAL", "PACK", "PAD", "PADV2", "PRELU", "QUANTIZE"),
        *("READ_VARIABLE", "REDUCE_ALL", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6"),
        *("RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2"),
        *("ROUND", "RSQRT", "SELECT_V2", "SHAPE", "SIN", "SLICE", "SOFTMAX"),
        *("SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQRT"),
        *("SQUARE", "SQUARED_DIFFERENCE", "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM"),
        *("SVDF", "TANH", "TRANSPOSE", "TRANSPOSE_CONV"),
        *("UNIDIRECTIONAL_SEQUENCE_LSTM", "UNPACK", "VAR_HANDLE", "WHILE"),
        "ZEROS_LIKE",
    )
)
# Names whose `Add...` function is not their words with capitals.
_CALLS = {
    "AVERAGE_POOL_2D": "AddAveragePool2D",
    "BATCH_MATMUL": "AddBatchMatMul",
    "CONV_2D": "AddConv2D",
    "CUMSUM": "AddCumSum",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "L2_POOL_2D": "AddL2Pool2D",
    "MAX_POOL_2D": "AddMaxPool2D",
    "PADV2": "AddPadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
}
_TYPES = frozenset(
    ("INT4", "INT8", "INT16", "INT32", "INT64", "UINT8", "BOOL", "FLOAT32", "RESOURCE")
)
# Kernels that take floats and no integers.
_FLOATS_ONLY = frozenset(
    (
        *("CEIL", "COS", "DIV", "EXP", "FLOOR", "FLOOR_DIV", "FLOOR_MOD"),
        *("L2_POOL_2D", "LOG", "NEG", "ROUND", "SIN", "SQRT", "SQUARE"),
    )
)
# Kernels that take floats with weights of floats only.
_WITH_WEIGHTS = frozenset(
    (
        *("BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "SVDF"),
        *("TRANSPOSE_CONV", "UNIDIRECTIONAL_SEQUENCE_LSTM"),
    )
)
_SLICED_AXES = 4


@dataclass(frozen=True)
class MicroOperator:
    """An operator that a file needs.

    Args:
        name: such as "CONV_2D".
        call: the resolver's function that adds it, such as "AddConv2D".
        count: how often the file has it.
    """

    name: str
    call: str
    count: int


def resolver_call(name: str) -> str:
    """The function of `MicroMutableOpResolver` that adds an operator.

    Example:
        >>> resolver_call("CONV_2D"), resolver_call("FULLY_CONNECTED")
        ('AddConv2D', 'AddFullyConnected')
    """
    words = "".join(word.capitalize() for word in name.split("_"))
    return _CALLS.get(name, f"Add{words}")


def operators_of(data: bytes) -> tuple[MicroOperator, ...]:
    """The operators of a TFLite file by name, those that TFLM lacks too."""
    counts = Counter(
        operator.name
        for graph in flatbuffer.subgraphs(data)
        for operator in graph.operators
    )
    return tuple(
        MicroOperator(name, resolver_call(name), counts[name])
        for name in sorted(counts)
    )


def refused(data: bytes) -> Iterator[tuple[Operator, Subgraph, str]]:
    """The operators of a file that TFLM does not run, each with the reason."""
    for graph in flatbuffer.subgraphs(data):
        for operator in graph.operators:
            reason = _reason(operator, graph)
            if reason:
                yield operator, graph, reason


def _reason(operator: Operator, graph: Subgraph) -> str:
    if operator.name not in BUILTINS:
        return "is not among its operators"
    tensors = [
        graph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0
    ]
    for tensor in tensors:
        if tensor.type not in _TYPES:
            return f"has {tensor.type}"
    types = {tensor.type for tensor in tensors}
    if operator.name in _FLOATS_ONLY and types & {"INT8", "INT16"}:
        return "takes floats only"
    if operator.name == "STRIDED_SLICE" and len(tensors[0].shape) > _SLICED_AXES:
        return f"takes at most {_SLICED_AXES} axes"
    if operator.name == "RELU6" and len({(t.scale, t.zero_point) for t in tensors}) > 1:
        return "keeps the scale of its input there"
    if operator.name in _WITH_WEIGHTS and len(operator.inputs) > 1:
        x, weights = (graph.tensors[i].type for i in operator.inputs[:2])
        if x == "FLOAT32" and weights != x:
            return f"has floats with weights of {weights}"
    return ""
