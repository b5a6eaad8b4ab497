"""Files whose inputs and outputs are integers."""

from __future__ import annotations

from typing import Any

from kacc.converters.flatbuffer import operator_kinds, pack
from kacc.converters.requantize import drop_unused_tensors


def with_integer_io(data: bytes) -> bytes:
    """A copy of a file without the QUANTIZE of inputs and the DEQUANTIZE of outputs.

    The converter's own way takes the DEQUANTIZE of an output away even if an operator
    reads it, and does so before `without_barriers` has taken such readers away.

    Args:
        data: a TFLite file.

    Returns:
        The new file. An input that an operator reads in float stays in float, and so
        does an output that is computed in float.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    kinds = operator_kinds(model)
    graph = model.subgraphs[0]
    inputs = _integer_inputs(graph, kinds)
    outputs = _integer_outputs(graph, kinds)
    graph.inputs = [inputs.get(int(i), int(i)) for i in graph.inputs]
    graph.outputs = [outputs.get(int(i), int(i)) for i in graph.outputs]
    for entry in model.signatureDefs or []:
        if entry.subgraphIndex == 0:
            for side, table in ((entry.inputs, inputs), (entry.outputs, outputs)):
                for tensor in side:
                    tensor.tensorIndex = table.get(
                        tensor.tensorIndex, tensor.tensorIndex
                    )
    _drop_idle_operators(graph, {*inputs.values()}, {*outputs})
    drop_unused_tensors(model, 0, graph)
    return pack(model, len(data))


def _integer_inputs(graph: Any, kinds: list[int]) -> dict[int, int]:
    """Input -> the integers that a QUANTIZE makes of it, where no other reads it."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    found = {}
    for index in map(int, graph.inputs):
        readers = [op for op in graph.operators if index in map(int, op.inputs)]
        quantize = [
            op
            for op in readers
            if kinds[op.opcodeIndex] == BuiltinOperator.QUANTIZE
            and index not in map(int, graph.outputs)
        ]
        if len(readers) == len(quantize) == 1:
            found[index] = int(quantize[0].outputs[0])
    return found


def _integer_outputs(graph: Any, kinds: list[int]) -> dict[int, int]:
    """Output -> the integers that a DEQUANTIZE makes it of."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    return {
        int(op.outputs[0]): int(op.inputs[0])
        for op in graph.operators
        if kinds[op.opcodeIndex] == BuiltinOperator.DEQUANTIZE
        and int(op.outputs[0]) in map(int, graph.outputs)
    }


def _drop_idle_operators(graph: Any, entering: set[int], leaving: set[int]) -> None:
    """Takes out what makes an input, and each DEQUANTIZE that nothing reads now."""
    read = {int(i) for op in graph.operators for i in op.inputs}
    idle = entering | (leaving - read)
    graph.operators = [op for op in graph.operators if int(op.outputs[0]) not in idle]
