"""Layers that a rule keeps in float, in a file of integers.

Between quantized tensors the converter makes integers of any operator that it can. So
the graph that it is given has an operation around these layers of which it cannot: a
sine, that is taken out of the file again. What is left is a DEQUANTIZE and a QUANTIZE.
"""

from __future__ import annotations

from typing import Any

from kacc.converters.flatbuffer import pack
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
    for index, graph in enumerate(model.subgraphs):
        drop_unused_tensors(model, index, graph)
    _drop_unused_codes(model)
    return pack(model, len(data))


def _bridge(graph: Any) -> bool:
    """Takes the barriers out of a subgraph; whether there were any."""
    from kacc.quantization.inference import BARRIER

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


def _drop_unused_codes(model: Any) -> None:
    operators = [op for graph in model.subgraphs for op in graph.operators]
    used = sorted({op.opcodeIndex for op in operators})
    model.operatorCodes = [model.operatorCodes[i] for i in used]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)
