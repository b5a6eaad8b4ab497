"""Operations that change nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from kacc.converters.passes.graph import Graph, Shape

_PLAIN = ("Identity", "StopGradient", "PreventGradient", "Snapshot")


def drop_identities(graph: Graph) -> None:
    """Takes out operations whose output is always one of their inputs.

    Dropout and noise leave none at inference; this is for what tracing, freezing and
    layers that happen to do nothing leave. An output of the model stays a tensor of its
    own, neither an input nor another output.

    Args:
        graph: is changed.
    """
    for node in graph.of(*_PLAIN, *_TESTS):
        if graph.is_tied(node):
            continue
        source = _source(graph, node)
        if source is not None:
            graph.bypass(node.name, source)


def _source(graph: Graph, node: Any) -> str | None:
    """The input that a node's output equals, if it does."""
    if node.op in _PLAIN:
        return str(node.input[0])
    if _TESTS[node.op](graph, node):
        return str(node.input[0])
    if node.op in _COMMUTATIVE and _is_neutral(graph, node, 0):
        return str(node.input[1])
    return None


def _same_type(graph: Graph, node: Any) -> bool:
    return bool(node.attr["SrcT"].type == node.attr["DstT"].type)


def _alone(graph: Graph, node: Any) -> bool:
    return bool(node.attr["N"].i == 1)


def _same_rank(graph: Graph, node: Any) -> bool:
    before, after = graph.shape(node.input[0]), graph.shape(node.name)
    return before is not None and after is not None and len(before) == len(after)


def _same_shape(graph: Graph, node: Any) -> bool:
    """Whether a reshape keeps the shape: one unknown size follows from the others."""
    before, after = graph.shape(node.input[0]), graph.shape(node.name)
    if before is None or before != after or 0 in before:
        return False
    return before.count(None) <= 1


def _same_known_shape(graph: Graph, node: Any) -> bool:
    shape = graph.shape(node.input[0])
    return shape is not None and shape == graph.shape(node.name) and None not in shape


def _in_order(graph: Graph, node: Any) -> bool:
    order = graph.value(node.input[1])
    return order is not None and bool(np.all(order == np.arange(len(order))))


def _by_zeros(graph: Graph, node: Any) -> bool:
    value = graph.value(node.input[1])
    return value is not None and not np.any(value)


def _by_ones(graph: Graph, node: Any) -> bool:
    value = graph.value(node.input[1])
    return value is not None and bool(np.all(value == 1))


def _is_neutral(graph: Graph, node: Any, index: int = 1) -> bool:
    """Whether an operand is all zeros, or ones where it multiplies."""
    if not graph.is_constant(node.input[index]):
        return False
    shape = graph.shape(node.input[index])
    if not keeps_shape(shape, graph.shape(node.input[1 - index])):
        return False
    neutral = 1 if node.op in ("Mul", "RealDiv", "Div") else 0
    return bool(np.all(graph.value(node.input[index]) == neutral))


def keeps_shape(operand: Shape, shape: Shape) -> bool:
    """Whether an operand broadcasts to a tensor without making it larger.

    Args:
        operand: its shape.
        shape: of the tensor.
    """
    if operand is None or shape is None or len(operand) > len(shape):
        return False
    aligned = shape[len(shape) - len(operand) :]
    return all(a in (1, b) for a, b in zip(operand, aligned, strict=True))


_COMMUTATIVE = ("Mul", "Add", "AddV2")
_TESTS = {
    "Cast": _same_type,
    "AddN": _alone,
    "Reshape": _same_shape,
    "Squeeze": _same_rank,
    "BroadcastTo": _same_known_shape,
    "Transpose": _in_order,
    "Pad": _by_zeros,
    "PadV2": _by_zeros,
    "MirrorPad": _by_zeros,
    "Tile": _by_ones,
    "Mul": _is_neutral,
    "RealDiv": _is_neutral,
    "Add": _is_neutral,
    "AddV2": _is_neutral,
    "Sub": _is_neutral,
    "BiasAdd": _is_neutral,
}
