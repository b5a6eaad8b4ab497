"""Rounding of an int8 ONNX file as LiteRT rounds.

QuantizeLinear rounds halves to even. LiteRT's AVERAGE_POOL_2D divides a sum of
integers and rounds halves away from zero, and an average of n integers often ends in
a half. What is left besides are sums in float32, a rounding in ten thousand.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Of a step: more than float32 loses on an integer of 8 bits, less than the distance
# of an average to a half that it does not reach, for windows of up to 2048 numbers.
_NUDGE = 2.0**-12


def with_rounded_averages(model: Any) -> None:
    """Moves averages away from zero, by less than they can be from a half.

    Args:
        model: an `onnx.ModelProto` in QDQ form, changed in place.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for pool in [node for node in graph.node if node.op_type == "AveragePool"]:
        for reader in _readers(graph, pool.output[0]):
            if reader.op_type != "QuantizeLinear":
                continue
            scale, zero = (
                numpy_helper.to_array(constants[name]).reshape(-1)[0]
                for name in reader.input[1:3]
            )
            reader.input[0] = _nudged(graph, pool, float(scale), int(zero))


def _readers(graph: Any, tensor: str) -> list[Any]:
    return [node for node in graph.node if tensor in node.input]


def _nudged(graph: Any, pool: Any, scale: float, zero: int) -> str:
    """Nodes that add a nudge with the sign of the integer, behind a pool."""
    from onnx import helper, numpy_helper

    (average,) = pool.output

    def constant(name: str, value: float) -> str:
        array = np.array(value, np.float32)
        graph.initializer.append(numpy_helper.from_array(array, f"{average}__{name}"))
        return f"{average}__{name}"

    integer, sign, nudge, result = (
        f"{average}__{name}" for name in ("integer", "sign", "nudge", "nudged")
    )
    nodes = [
        helper.make_node("Add", [average, constant("zero", zero * scale)], [integer]),
        helper.make_node("Sign", [integer], [sign]),
        helper.make_node("Mul", [sign, constant("step", _NUDGE * scale)], [nudge]),
        helper.make_node("Add", [average, nudge], [result]),
    ]
    place = list(graph.node).index(pool) + 1
    for offset, node in enumerate(nodes):
        graph.node.insert(place + offset, node)
    return result
