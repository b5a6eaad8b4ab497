"""The operators of a frozen TensorFlow graph, with their weights and their products."""

from __future__ import annotations

import math
from typing import Any

from kacc.converters.formats.base import Operation
from kacc.converters.frozen_graph import FrozenGraph

# Operators that are no work at inference: plumbing and what computes shapes.
_PLUMBING = frozenset(
    {"Const", "Placeholder", "Identity", "IdentityN", "NoOp", "Shape", "Pack"}
)
_AT_OUTPUTS = frozenset({"Conv2D", "Conv3D", "DepthwiseConv2dNative"})
_TRANSPOSED = frozenset({"Conv2DBackpropInput", "Conv3DBackpropInputV2"})
_PRODUCTS = frozenset({"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"})


def operations(graph: FrozenGraph) -> tuple[Operation, ...]:
    """The operators of a model's inference that are work.

    Args:
        graph: the frozen graph.

    Returns:
        A row for each, in the graph's order. A constant that several operators read
        counts for the first.
    """
    import tensorflow as tf

    with tf.Graph().as_default() as imported:
        tf.graph_util.import_graph_def(graph.graph_def, name="")
    seen: set[str] = set()
    return tuple(
        _row(operation, graph, seen)
        for operation in imported.get_operations()
        if operation.type not in _PLUMBING and operation.outputs
    )


def _row(operation: Any, graph: FrozenGraph, seen: set[str]) -> Operation:
    output = operation.outputs[0]
    constants = {x.name: x for x in operation.inputs if x.op.type == "Const"}
    new = [x for name, x in constants.items() if name not in seen]
    seen.update(constants)
    return Operation(
        layer=graph.layer_of(operation.name) or operation.name,
        kind=operation.type,
        output=_shape(output),
        dtype=output.dtype.name,
        bytes=sum(_size(_shape(x)) * x.dtype.size for x in new),
        macs=_macs(operation, _shape(output)),
    )


def _macs(operation: Any, output: tuple[int | None, ...]) -> int:
    kind = operation.type
    if kind in _AT_OUTPUTS:
        kernel = _shape(operation.inputs[1])
        data_format = operation.get_attr("data_format").decode()
        first = data_format.startswith("NC")  # channels before the positions
        return _size(output[2:] if first else output[1:-1]) * _size(kernel)
    if kind in _TRANSPOSED:  # output shape, kernel, inputs
        return _size(_shape(operation.inputs[2])[1:-1]) * _size(
            _shape(operation.inputs[1])
        )
    if kind in _PRODUCTS:
        name = "transpose_a" if kind == "MatMul" else "adj_x"
        left = _shape(operation.inputs[0])
        inner = left[-2] if operation.get_attr(name) else left[-1]
        return _size(output[1:]) * int(inner or 1)
    return 0


def _shape(tensor: Any) -> tuple[int | None, ...]:
    return () if tensor.shape.rank is None else tuple(tensor.shape.as_list())


def _size(shape: tuple[int | None, ...]) -> int:
    return math.prod(n or 1 for n in shape)
