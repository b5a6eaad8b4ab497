"""What keeps the converter from working across a tensor, taken out of the file again.

Between quantized tensors the converter makes integers of any operator that it can. So
the graph that it is given has an operation around layers that a rule keeps in float of
which it cannot: a sine. What is left is a DEQUANTIZE and a QUANTIZE; where there is no
layer between them, and nothing but the same integers, they go too.
"""

from __future__ import annotations

from typing import Any

from kacc.converters.flatbuffer import operator_kinds, pack
from kacc.converters.requantize import drop_unused_tensors


def without_barriers(data: bytes) -> bytes:
    """A copy of a file whose operators read what barriers read.

    Args:
        data: a TFLite file.

    Returns:
        The new file, or the same bytes if it has no barrier.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    found = [_bridge(graph) for graph in model.subgraphs]
    if not any(found):
        return data
    kinds = operator_kinds(model)
    for index, graph in enumerate(model.subgraphs):
        _join(graph, kinds)
        drop_unused_tensors(model, index, graph)
    _drop_unused_codes(model)
    return pack(model, len(data))


def _bridge(graph: Any) -> bool:
    """Takes the barriers out of a subgraph; whether there were any."""
    from kacc.quantization.barriers import BARRIER

    sources: dict[int, int] = {}
    kept = []
    for operator in graph.operators:
        name = graph.tensors[int(operator.outputs[0])].name
        if name.decode().rpartition("/")[2].startswith(BARRIER):
            sources[int(operator.outputs[0])] = int(operator.inputs[0])
        else:
            kept.append(operator)
    for operator in kept:
        operator.inputs = [sources.get(int(i), int(i)) for i in operator.inputs]
    graph.operators = kept
    return bool(sources)


def _join(graph: Any, kinds: list[int]) -> None:
    """Takes out each QUANTIZE that makes the integers again that there were before."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    dequantize = [
        op
        for op in graph.operators
        if kinds[op.opcodeIndex] == BuiltinOperator.DEQUANTIZE
    ]
    integers = {int(op.outputs[0]): int(op.inputs[0]) for op in dequantize}
    same: dict[int, int] = {}
    for operator in graph.operators:
        if kinds[operator.opcodeIndex] == BuiltinOperator.QUANTIZE:
            source = integers.get(int(operator.inputs[0]))
            target = int(operator.outputs[0])
            if source is not None and _grid(graph, source) == _grid(graph, target):
                same[target] = source
    kept = [op for op in graph.operators if int(op.outputs[0]) not in same]
    for operator in kept:
        operator.inputs = [same.get(int(i), int(i)) for i in operator.inputs]
    read = {int(i) for op in kept for i in op.inputs} | set(map(int, graph.outputs))
    unread = {id(op) for op in dequantize if int(op.outputs[0]) not in read}
    graph.operators = [op for op in kept if id(op) not in unread]


def _grid(graph: Any, index: int) -> tuple[Any, ...]:
    tensor = graph.tensors[index]
    grid = tensor.quantization
    return tensor.type, [*grid.scale], [*grid.zeroPoint]


def _drop_unused_codes(model: Any) -> None:
    operators = [op for graph in model.subgraphs for op in graph.operators]
    used = sorted({op.opcodeIndex for op in operators})
    model.operatorCodes = [model.operatorCodes[i] for i in used]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)
