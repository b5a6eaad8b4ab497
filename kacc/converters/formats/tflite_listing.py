"""The operators of a TFLite file, with their weights' bytes and their products."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kacc.converters import flatbuffer
from kacc.converters.formats.base import Operation

# Operators whose second input is a kernel, applied at each position of ...
_AT_OUTPUTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "CONV_3D")
_BITS = {"INT4": 4, "INT8": 8, "UINT8": 8, "BOOL": 8, "INT16": 16, "FLOAT16": 16}
_BITS |= {"INT64": 64, "FLOAT64": 64}


def operations(data: bytes) -> tuple[Operation, ...]:
    """The operators of a file's first subgraph, in the order they run in.

    Args:
        data: the content of a TFLite file.

    Returns:
        A row for each. A constant that several operators read counts for the first.
    """
    graph = flatbuffer.subgraphs(data)[0]
    seen: set[int] = set()
    return tuple(_operation(operator, graph, seen) for operator in graph.operators)


def _operation(
    operator: flatbuffer.Operator, graph: flatbuffer.Subgraph, seen: set[int]
) -> Operation:
    constants = {i for i in operator.inputs if i >= 0 and graph.tensors[i].constant}
    weights = sum(_bytes(graph.tensors[i]) for i in constants - seen)
    seen |= constants
    shapes = [graph.tensors[i].shape if i >= 0 else () for i in operator.inputs]
    if not operator.outputs:
        return Operation("", operator.name, (), "", weights)
    output = graph.tensors[operator.outputs[0]]
    return Operation(
        layer=layer_in(output.name),
        kind=operator.name,
        output=output.shape,
        dtype=output.type.lower(),
        bytes=weights,
        macs=macs_of(operator.name, shapes, output.shape),
        scale=output.scale,
        zero_point=output.zero_point,
    )


def layer_in(tensor: str) -> str:
    """The path of the layer in a tensor's name, without the model's name.

    Example:
        >>> layer_in("model/block/conv/convolution;model/block/relu/Relu")
        'block/conv'
    """
    scopes = tensor.partition(";")[0].partition(":")[0].split("/")
    inner = [scope for scope in scopes[1:-1] if not scope.endswith("PartitionedCall")]
    return "/".join(inner) or tensor


def macs_of(
    kind: str, inputs: Sequence[Sequence[int | None]], output: Sequence[int | None]
) -> int:
    """Multiply-accumulates of an operator for one sample; a free size counts as one.

    Example:
        >>> macs_of("FULLY_CONNECTED", [(None, 4), (2, 4)], (None, 2))
        8
    """
    if kind in _AT_OUTPUTS:
        return _size(output[1:-1]) * _size(inputs[1])
    if kind == "TRANSPOSE_CONV":  # output shape, kernel, inputs
        return _size(inputs[2][1:-1]) * _size(inputs[1])
    if kind == "BATCH_MATMUL":
        return _size(output[1:]) * int(inputs[0][-1] or 1)
    return 0


def _size(shape: Sequence[int | None]) -> int:
    return math.prod(n or 1 for n in shape)


def _bytes(tensor: flatbuffer.Tensor) -> int:
    return (_size(tensor.shape) * _BITS.get(tensor.type, 32) + 7) // 8
