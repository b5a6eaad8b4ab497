"""The nodes of an ONNX graph, with their weights and their products."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kacc.converters.formats.base import Operation
from kacc.converters.formats.tflite_listing import layer_in


def operations(model: Any) -> tuple[Operation, ...]:
    """The nodes of a model's graph in their order.

    Args:
        model: an `onnx.ModelProto`.

    Returns:
        A row for each. An initializer that several nodes read counts for the first.
    """
    from onnx import helper, shape_inference

    graph = shape_inference.infer_shapes(model).graph
    values = {
        value.name: value for value in (*graph.input, *graph.value_info, *graph.output)
    }
    weights = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {name: _dims(value) for name, value in values.items()}
    shapes |= {name: tuple(tensor.dims) for name, tensor in weights.items()}
    origins = _unpacked(graph.node, shapes)
    dtypes = {
        name: str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        for name, value in values.items()
        if value.type.tensor_type.elem_type
    }
    seen: set[str] = set()
    rows = []
    for node in graph.node:
        new = [name for name in set(node.input) & set(weights) if name not in seen]
        seen.update(new)
        output = node.output[0] if node.output else ""
        grid = _grid(node, weights)
        rows.append(
            Operation(
                layer=node.doc_string or layer_in(node.name or output),
                kind=node.op_type,
                output=shapes.get(output, ()),
                dtype=dtypes.get(output, ""),
                bytes=sum(_bytes(weights[name]) for name in new),
                macs=_macs(node, origins, shapes.get(output, ())),
                scale=grid[0],
                zero_point=grid[1],
            )
        )
    return tuple(rows)


def _dims(value: Any) -> tuple[int | None, ...]:
    return tuple(
        d.dim_value if d.HasField("dim_value") else None
        for d in value.type.tensor_type.shape.dim
    )


def _unpacked(
    nodes: Sequence[Any], shapes: Mapping[str, tuple[int | None, ...]]
) -> dict[str, tuple[int | None, ...]]:
    """Shapes by name; those of dequantized weights are the integers'."""
    known = dict(shapes)
    for node in nodes:
        if node.op_type == "DequantizeLinear" and not known.get(node.output[0]):
            known[node.output[0]] = known.get(node.input[0], ())
    return known


def _grid(node: Any, weights: Mapping[str, Any]) -> tuple[float | None, int | None]:
    """Scale and zero point of what a QuantizeLinear with one of each writes."""
    from onnx import numpy_helper

    if node.op_type != "QuantizeLinear" or not {*node.input[1:3]} <= set(weights):
        return None, None
    scale, zero = (numpy_helper.to_array(weights[name]) for name in node.input[1:3])
    if scale.size != 1:
        return None, None
    return float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])


def _macs(
    node: Any,
    shapes: Mapping[str, tuple[int | None, ...]],
    output: tuple[int | None, ...],
) -> int:
    if node.op_type == "Conv":
        return _size(output[2:]) * _size(shapes.get(node.input[1], ()))
    if node.op_type == "ConvTranspose":
        return _size(shapes.get(node.input[0], ())[2:]) * _size(
            shapes.get(node.input[1], ())
        )
    if node.op_type in ("MatMul", "Gemm"):
        left = shapes.get(node.input[0], ())
        return _size(output[1:]) * int((left[-1] if left else 1) or 1)
    return 0


def _bytes(tensor: Any) -> int:
    from onnx import helper

    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return _size(tuple(tensor.dims)) * dtype.itemsize


def _size(shape: Sequence[int | None]) -> int:
    return math.prod(n or 1 for n in shape)
