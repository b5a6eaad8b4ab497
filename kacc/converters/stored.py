"""The weights that a TFLite file stores, counted from its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kacc.converters import flatbuffer

# The operators that sum products of one input with a constant, or read rows of it, and
# which of their inputs it is.
_PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_WEIGHTED = {**dict.fromkeys(_PRODUCTS, 1), "EMBEDDING_LOOKUP": 1, "GATHER": 0}
# What stands between a constant and its reader without changing it.
_UNPACKING = ("DEQUANTIZE", "DENSIFY")


@dataclass(frozen=True)
class StoredWeight:
    """A weight of a file.

    Args:
        name: of its tensor.
        operator: that reads it, such as "CONV_2D".
        shape: in the file's layout.
        size: how many numbers it has.
        zeros: how many of them are zero.
        values: the numbers as the file has them, integers in an integer file; None
            where it stores only those that are not zero.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    size: int
    zeros: int
    values: np.ndarray | None

    @property
    def sparsity(self) -> float:
        """The share of zeros."""
        return self.zeros / self.size


def stored_weights(data: bytes) -> tuple[StoredWeight, ...]:
    """The kernels of convolutions and dense layers and the tables of embeddings.

    They come in the order they are used in.

    Args:
        data: a TFLite file.

    Returns:
        A row for each, once if several operators read it.
    """
    found: dict[tuple[int, int], StoredWeight] = {}
    graphs = flatbuffer.subgraphs(data)
    for index, graph in enumerate(graphs):
        for operator in graph.operators:
            if operator.name not in _WEIGHTED:
                continue
            origin = _constant(graph, operator.inputs[_WEIGHTED[operator.name]])
            if origin is None or not _is_weight(graph.tensors[origin]):
                continue
            if (index, origin) not in found:
                weight = _stored(data, index, origin, operator.name)
                found[index, origin] = weight
    return tuple(found.values())


def sparsity(data: bytes) -> float:
    """The share of zeros among all weights of a TFLite file; 0 if it has none."""
    weights = stored_weights(data)
    total = sum(weight.size for weight in weights)
    return sum(weight.zeros for weight in weights) / total if total else 0.0


def _constant(graph: flatbuffer.Subgraph, tensor: int) -> int | None:
    """The constant that a tensor comes from, through what unpacks it."""
    while not graph.tensors[tensor].constant:
        producer = graph.producer(tensor)
        if producer is None or producer.name not in _UNPACKING:
            return None
        tensor = producer.inputs[0]
    return tensor


def _is_weight(tensor: flatbuffer.Tensor) -> bool:
    """Whether the numbers are reals, and not indices or shapes that are gathered."""
    real = tensor.type.startswith("FLOAT") or tensor.scale is not None
    return len(tensor.shape) > 1 and (real or tensor.channels > 0)


def _stored(data: bytes, graph: int, tensor: int, operator: str) -> StoredWeight:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    row = model.Subgraphs(graph).Tensors(tensor)
    buffer = model.Buffers(row.Buffer())
    content = buffer.DataAsNumpy() if buffer.DataLength() else None
    if content is None:  # behind the FlatBuffer, as ai-edge-quantizer writes
        content = np.frombuffer(
            data[buffer.Offset() : buffer.Offset() + buffer.Size()], np.uint8
        )
    types = {v: k for k, v in vars(schema.TensorType).items() if k.isupper()}
    shape = tuple(int(row.Shape(i)) for i in range(row.ShapeLength()))
    size = int(np.prod(shape))
    # Of four bits each one is left over where their number is odd.
    values = _numbers(content, types[row.Type()])[:size]
    # The grid of a table is that of what is read from it: its zero may be any integer.
    grid = row.Quantization()
    zero = grid.ZeroPoint(0) if grid is not None and grid.ZeroPointLength() else 0
    return StoredWeight(
        name=(row.Name() or b"").decode(),
        operator=operator,
        shape=shape,
        size=size,
        zeros=size - int(np.count_nonzero(values != zero)),
        values=values.reshape(shape) if row.Sparsity() is None else None,
    )


def _numbers(content: Any, kind: str) -> np.ndarray:
    if kind != "INT4":
        return content.view(kind.lower())
    pairs = np.stack([content & 15, content >> 4], -1).ravel().astype(np.int8)
    return np.where(pairs > 7, pairs - 16, pairs)
