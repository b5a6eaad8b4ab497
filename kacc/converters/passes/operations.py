"""Multiplications and additions of constants, as what they do to a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kacc.converters.passes.graph import Graph
from kacc.converters.passes.linear import FLOAT

# Beyond this many standard deviations a shift costs more than the last digits.
LARGEST_SHIFT = 64.0


@dataclass(frozen=True)
class Affine:
    """An operation on one tensor x and constants: `x * scale + shift`.

    Args:
        node: the operation.
        data: index of the input x.
        scale, shift: in float64; they broadcast against x.
    """

    node: Any
    data: int
    scale: np.ndarray
    shift: np.ndarray


def affine(graph: Graph, node: Any, data: int, like: tuple[int, ...]) -> Affine | None:
    """An operation as an affine one, if it is.

    Args:
        graph: has the node.
        node: any operation.
        data: the index of the input that is x.
        like: a shape of the rank of x that the constants must not exceed.
    """
    is_norm = node.op.startswith("FusedBatchNorm") and "Grad" not in node.op
    if not is_norm and node.op not in _OPERATIONS:
        return None
    # Only now: to ask for an attribute that an operation lacks is to give it one.
    if graph.is_tied(node) or node.attr["T"].type != FLOAT:
        return None
    if is_norm:
        return _batch_norm(graph, node, data, like)
    constant = _constant(graph, node, 1 - data, like)
    if constant is None or (node.op in ("RealDiv", "BiasAdd") and data != 0):
        return None
    with np.errstate(divide="ignore", over="ignore"):
        scale, shift = _OPERATIONS[node.op](constant, data)
    if not (np.all(np.isfinite(scale)) and np.all(np.isfinite(shift))):
        return None
    return Affine(node, data, np.asarray(scale), np.asarray(shift))


def _constant(
    graph: Graph, node: Any, index: int, like: tuple[int, ...]
) -> np.ndarray | None:
    if not graph.is_constant(node.input[index]):
        return None
    shape: Any = graph.shape(node.input[index])
    if _is_along_axis_1(node):
        shape = (*shape, *(1,) * (len(like) - 2))
    if shape is None or len(shape) > len(like):
        return None
    aligned = like[len(like) - len(shape) :]
    if any(a not in (1, b) for a, b in zip(shape, aligned, strict=True)):
        return None
    value = graph.value(node.input[index])
    return None if value is None else value.astype(np.float64).reshape(shape)


def _is_along_axis_1(node: Any) -> bool:
    """Whether constants of one axis belong to the second axis of x, not its last."""
    if node.op != "BiasAdd" and not node.op.startswith("FusedBatchNorm"):
        return False
    return bool(node.attr["data_format"].s.startswith(b"NC"))


_OPERATIONS = {
    "Mul": lambda c, data: (c, 0.0),
    "RealDiv": lambda c, data: (1.0 / c, 0.0),
    "Add": lambda c, data: (1.0, c),
    "AddV2": lambda c, data: (1.0, c),
    "BiasAdd": lambda c, data: (1.0, c),
    "Sub": lambda c, data: (1.0, -c) if data == 0 else (-1.0, c),
}


def _batch_norm(
    graph: Graph, node: Any, data: int, like: tuple[int, ...]
) -> Affine | None:
    others = [t for t in graph.tensors_of(node)[1:] if graph.readers(t)]
    if data != 0 or node.attr["is_training"].b or others:
        return None
    found = [_constant(graph, node, index, like) for index in range(1, 5)]
    gamma, beta, mean, variance = found
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    scale = gamma / np.sqrt(variance + node.attr["epsilon"].f)
    return Affine(node, data, scale, beta - mean * scale)


def affine_of(graph: Graph, node: Any, like: tuple[int, ...]) -> Affine | None:
    """As `affine`, of whichever input is no constant."""
    for data in range(min(2, len(node.input))):
        if not graph.is_constant(node.input[data]):
            return affine(graph, node, data, like)
    return None


def loses_digits(found: Affine, scale: Any, shifted: bool) -> bool:
    """Whether a shift of x itself cannot be made a shift of what x is scaled to.

    (x - 1e5) / 10 is exact where x / 10 - 1e4 is not.

    Args:
        found: adds to x.
        scale: of what comes behind it.
        shifted: whether x was scaled before, so that digits are lost there already.
    """
    if shifted and not found.node.op.startswith("FusedBatchNorm"):
        return False
    return bool(np.any(np.abs(scale * found.shift) > LARGEST_SHIFT))
