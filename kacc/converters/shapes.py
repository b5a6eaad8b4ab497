"""Operators that read the shape of an output, which the converter takes from them.

A SHAPE reads floats. Where they are those of an output that shall be integers, the
converter removes the DEQUANTIZE between, and the SHAPE is left without an operand:
LiteRT refuses such a file.
"""

from __future__ import annotations

from typing import Any

from kacc.converters.flatbuffer import operator_kinds, pack
from kacc.core.errors import ConversionError

_NONE = -1


def with_operands_of_shapes(data: bytes) -> bytes:
    """A copy of a file in which each SHAPE has an operand.

    It gets the tensor for whose sake the shape is read: what the operator works on that
    the shape is made for.

    Args:
        data: a TFLite file.

    Returns:
        The new file, or the same bytes if there was nothing to do.

    Raises:
        ConversionError: if such a tensor cannot be found.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    kinds = operator_kinds(model)
    changed = False
    for graph in model.subgraphs:
        for operator in graph.operators:
            is_shape = kinds[operator.opcodeIndex] == schema.BuiltinOperator.SHAPE
            if is_shape and int(operator.inputs[0]) == _NONE:
                operator.inputs, changed = [_operand(graph, operator)], True
    return pack(model, len(data)) if changed else data


def _operand(graph: Any, shape: Any) -> int:
    """The tensor whose shape an operator reads."""
    producers = {int(i): op for op in graph.operators for i in op.outputs}
    length = int(graph.tensors[int(shape.outputs[0])].shape[0])
    tensor = _worked_on(graph, int(shape.outputs[0]))
    while tensor != _NONE and len(graph.tensors[tensor].shape) != length:
        producer = producers.get(tensor)  # an EXPAND_DIMS, of which the shape is not
        tensor = int(producer.inputs[0]) if producer else _NONE
    if tensor == _NONE:
        name = graph.tensors[int(shape.outputs[0])].name.decode()
        raise ConversionError(
            "A shape that the file computes must be that of a tensor",
            received=f"{name!r}, of which the converter took the tensor",
            fix="Convert with io='float32', or make the tensor no output of the model",
        )
    return tensor


def _worked_on(graph: Any, sizes: int) -> int:
    """What the operator works on that a shape is made for, or -1."""
    from ai_edge_litert.schema_py_generated import TensorType

    changing = {int(i) for op in graph.operators for i in op.outputs}
    changing.update(map(int, graph.inputs))
    made = {sizes}
    for operator in graph.operators:
        inputs = [int(i) for i in operator.inputs]
        if made.isdisjoint(inputs):
            continue
        for i in changing.intersection(inputs):
            if graph.tensors[i].type == TensorType.INT8:
                return i
        made.update(int(i) for i in operator.outputs)
    return _NONE
