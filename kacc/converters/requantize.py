"""A change of scale in one operator: the converter writes a DEQUANTIZE and a QUANTIZE.

LiteRT's QUANTIZE reads int8 as well as floats, and a SHAPE reads anything.
"""

from __future__ import annotations

from typing import Any

from kacc.converters.flatbuffer import operator_kinds, pack

_INT8_VERSION = 2  # the first version of QUANTIZE that reads int8


def with_direct_requantization(data: bytes) -> bytes:
    """A copy of a file in which what can read the integers of a DEQUANTIZE does.

    Args:
        data: a TFLite file.

    Returns:
        The new file, or the same bytes if there was nothing to do.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    kinds = operator_kinds(model)
    changed = [_read_integers(graph, kinds) for graph in model.subgraphs]
    if not any(changed):
        return data
    for code, kind in zip(model.operatorCodes, kinds, strict=True):
        if kind == schema.BuiltinOperator.QUANTIZE:
            code.version = max(code.version, _INT8_VERSION)
    for index, graph in enumerate(model.subgraphs):
        drop_unused_tensors(model, index, graph)
    return pack(model, len(data))


def _read_integers(graph: Any, kinds: list[int]) -> bool:
    """Whether a QUANTIZE or SHAPE of one subgraph was changed."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

    def is_kind(operator: Any, *wanted: int) -> bool:
        return kinds[operator.opcodeIndex] in wanted

    integers = {
        int(op.outputs[0]): int(op.inputs[0])
        for op in graph.operators
        if is_kind(op, BuiltinOperator.DEQUANTIZE)
        and graph.tensors[int(op.inputs[0])].type == TensorType.INT8
    }
    changed = False
    for operator in graph.operators:
        if is_kind(operator, BuiltinOperator.QUANTIZE, BuiltinOperator.SHAPE):
            source = integers.get(int(operator.inputs[0]))
            if source is not None:
                operator.inputs, changed = [source], True
    read = {int(i) for op in graph.operators for i in op.inputs}
    read |= {int(i) for i in graph.outputs}
    graph.operators = [
        op
        for op in graph.operators
        if int(op.outputs[0]) in read or not is_kind(op, BuiltinOperator.DEQUANTIZE)
    ]
    return changed


def drop_unused_tensors(model: Any, index: int, graph: Any) -> None:
    """Takes the tensors out of a subgraph that none of its operators uses.

    Args:
        model: a `ModelT` of the schema's object API.
        index: the number of the subgraph.
        graph: the subgraph.
    """
    used = {int(i) for op in graph.operators for i in (*op.inputs, *op.outputs)}
    used |= {int(i) for i in (*graph.inputs, *graph.outputs)}
    kept = [i for i in range(len(graph.tensors)) if i in used]
    new = {old: i for i, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [graph.tensors[i] for i in kept]
    graph.inputs = [new[int(i)] for i in graph.inputs]
    graph.outputs = [new[int(i)] for i in graph.outputs]
    for operator in graph.operators:
        operator.inputs = [new[int(i)] for i in operator.inputs]
        operator.outputs = [new[int(i)] for i in operator.outputs]
    for entry in model.signatureDefs or []:
        if entry.subgraphIndex == index:
            for side in (*entry.inputs, *entry.outputs):
                side.tensorIndex = new[side.tensorIndex]
