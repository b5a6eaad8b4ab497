"""Size of models and files, and the memory that their activations need at once."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kacc.converters import flatbuffer
from kacc.converters.artifact import Artifact
from kacc.converters.formats import TFLITE
from kacc.converters.frozen_graph import FrozenGraph
from kacc.converters.trace import freeze

# Operations that hand on their input's memory.
_ALIASES = frozenset({"Identity", "Reshape", "Squeeze", "ExpandDims", "StopGradient"})


@dataclass(frozen=True)
class Step:
    """One operation: the tensors that it reads, and the tensors that it writes."""

    reads: tuple[Any, ...]
    writes: tuple[Any, ...]


def peak_bytes(
    steps: Sequence[Step],
    sizes: Mapping[Any, int],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
) -> int:
    """The most bytes that are alive at once while the steps run in order.

    A tensor lives from the step that writes it to the last one that reads it; an
    arena that places tensors without gaps needs exactly this.

    Args:
        steps: in the order they run in.
        sizes: bytes of the tensors that count; others (weights) do not.
        inputs: tensors that are there from the start.
        outputs: tensors that are kept to the end.

    Returns:
        Bytes.

    Example:
        >>> steps = [Step(("x",), ("a",)), Step(("a",), ("b",))]
        >>> peak_bytes(steps, {"x": 100, "a": 50, "b": 10}, ["x"], ["b"])
        150
    """
    last = dict.fromkeys(inputs, -1)
    for index, step in enumerate(steps):
        last.update((tensor, index) for tensor in (*step.reads, *step.writes))
    last.update((tensor, len(steps)) for tensor in outputs)
    alive = {tensor for tensor in inputs if tensor in sizes}
    peak = sum(sizes[tensor] for tensor in alive)
    for index, step in enumerate(steps):
        alive.update(tensor for tensor in step.writes if tensor in sizes)
        peak = max(peak, sum(sizes[tensor] for tensor in alive))
        alive = {tensor for tensor in alive if last[tensor] > index}
    return peak


def size_bytes(model_or_artifact: Any) -> int:
    """Bytes of a file, or of the variables of a Keras model."""
    if isinstance(model_or_artifact, Artifact):
        return model_or_artifact.size_bytes
    return sum(
        int(np.prod(v.shape)) * _itemsize(getattr(v.dtype, "name", v.dtype))
        for v in model_or_artifact.variables
    )


def gzip_bytes(model_or_artifact: Any) -> int:
    """The same after gzip: sparse and clustered weights have many equal bytes."""
    if isinstance(model_or_artifact, Artifact):
        return model_or_artifact.gzip_bytes
    content = b"".join(
        np.ascontiguousarray(v.numpy()).tobytes() for v in model_or_artifact.variables
    )
    return len(gzip.compress(content, compresslevel=9, mtime=0))


def peak_memory_bytes(model_or_artifact: Any) -> int | None:
    """Bytes of activations alive at once for one sample, without weights.

    Args:
        model_or_artifact: a built Keras model, or an `Artifact`.

    Returns:
        Bytes: what a runtime that plans its memory needs at least; None of files whose
        runtime decides which tensors it makes.
    """
    if isinstance(model_or_artifact, Artifact):
        is_planned = model_or_artifact.format is TFLITE
        return _of_file(model_or_artifact.read()) if is_planned else None
    return _of_graph(freeze(model_or_artifact, batch=1))


def _of_file(data: bytes) -> int:
    graph = flatbuffer.subgraphs(data)[0]
    sizes = {
        index: _bytes(tensor.shape, tensor.type.lower())
        for index, tensor in enumerate(graph.tensors)
        if not tensor.constant
    }
    steps = [Step(op.inputs, op.outputs) for op in graph.operators]
    return peak_bytes(steps, sizes, graph.inputs, graph.outputs)


def _of_graph(frozen: FrozenGraph) -> int:
    """Of the operations that lead to the outputs; weights are constants."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(frozen.graph_def, name="")
    outputs = [graph.get_tensor_by_name(name) for name in frozen.output_tensors]
    inputs = [graph.get_tensor_by_name(name) for name in frozen.input_tensors]
    alias: dict[str, str] = {}
    steps: list[Step] = []
    sizes = {x.name: _bytes(tuple(x.shape), x.dtype.name) for x in inputs}
    for operation in _needed(graph, outputs):
        reads = tuple(alias.get(x.name, x.name) for x in operation.inputs)
        if operation.type in _ALIASES:
            alias[operation.outputs[0].name] = reads[0]
            continue
        if not any(name in sizes for name in reads):
            continue  # computed from weights alone, so a converter folds it
        for x in operation.outputs:
            if x.shape.is_fully_defined():
                sizes[x.name] = _bytes(tuple(x.shape), x.dtype.name)
        steps.append(Step(reads, tuple(x.name for x in operation.outputs)))
    kept = [alias.get(x.name, x.name) for x in outputs]
    return peak_bytes(steps, sizes, [x.name for x in inputs], kept)


def _needed(graph: Any, outputs: Sequence[Any]) -> list[Any]:
    """The operations that lead to the outputs, in an order in which they can run."""
    order: list[Any] = []
    seen: set[str] = set()
    stack = [(x.op, False) for x in outputs]
    while stack:
        operation, ready = stack.pop()
        if ready:
            order.append(operation)
        elif operation.name not in seen:
            seen.add(operation.name)
            stack.append((operation, True))
            stack.extend((x.op, False) for x in operation.inputs)
    return order


def _bytes(shape: Sequence[int | None], dtype: str) -> int:
    return int(np.prod([size or 1 for size in shape])) * _itemsize(dtype)


def _itemsize(dtype: str) -> int:
    return np.dtype(_numpy_name(dtype)).itemsize


def _numpy_name(dtype: str) -> str:
    return {"bfloat16": "float16", "string": "object", "resource": "object"}.get(
        dtype, dtype
    )
