"""Operations on constants only, computed once."""

from __future__ import annotations

from typing import Any

import numpy as np

from kacc.converters.passes.graph import Graph, producer_of

# Results up to this many bytes are stored though they are larger than what they are
# made of, such as those of Fill and Tile.
_SMALL = 16 * 1024


def fold_constants(graph: Graph) -> None:
    """Computes operations whose inputs are all constants, by TensorFlow itself.

    Fake quantization stays, as do random numbers, operations that call functions, and
    results that would make the file larger.

    Args:
        graph: is changed.
    """
    _fold_shapes(graph)
    found = _constant_nodes(graph)
    if not found:
        return
    wanted = [
        tensor
        for name in found
        for tensor in _tensors(graph, graph.nodes[name])
        if tensor in graph.outputs
        or any(reader.name not in found for reader, _ in graph.readers(tensor))
    ]
    for tensor, value in zip(wanted, _computed(graph, found, wanted), strict=True):
        name = tensor.replace(":", "/") if ":" in tensor else f"{tensor}/constant"
        graph.replace(tensor, graph.add_constant(name, value))
    graph.prune()
    graph.forget_shapes()


def _fold_shapes(graph: Graph) -> None:
    """Makes shapes constants that are known whatever the input is."""
    for node in graph.of("Shape", "Size", "Rank"):
        shape = graph.shape(node.input[0])
        if shape is None or graph.is_tied(node):
            continue
        if node.op != "Rank" and None in shape:
            continue
        long = node.op != "Rank" and node.attr["out_type"].type == 9
        dtype = np.int64 if long else np.int32
        value = np.array([size or 0 for size in shape], dtype)
        if node.op != "Shape":
            value = np.array(len(shape) if node.op == "Rank" else value.prod(), dtype)
        graph.replace(node.name, graph.add_constant(f"{node.name}/constant", value))


def _constant_nodes(graph: Graph) -> dict[str, None]:
    """The operations that can be computed, in order."""
    bytes_of: dict[str, int] = {}
    found: dict[str, None] = {}
    for node in graph.ordered():
        if node.op == "Const" and not node.input:
            bytes_of[node.name] = _bytes(graph, node.name)
            continue
        sources = dict.fromkeys(producer_of(t) for t in node.input)
        if not sources or any(source not in bytes_of for source in sources):
            continue
        if graph.is_tied(node) or not _is_pure(node):
            continue
        sizes = [_bytes(graph, t) for t in _tensors(graph, node)]
        limit = max(_SMALL, sum(bytes_of[source] for source in sources))
        if sizes and min(sizes) >= 0 and sum(sizes) <= limit:
            bytes_of[node.name] = sum(sizes)
            found[node.name] = None
    return found


def _is_pure(node: Any) -> bool:
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(node.op)
    if definition is None or definition.is_stateful:
        return False
    if node.op.startswith(("FakeQuant", "Quantize", "Dequantize")):
        return False
    return not any(attr.HasField("func") for attr in node.attr.values())


def _tensors(graph: Graph, node: Any) -> list[str]:
    """The outputs of a node that are read, or that the model returns."""
    return [
        tensor
        for tensor in graph.tensors_of(node)
        if graph.readers(tensor) or tensor in graph.outputs
    ]


def _bytes(graph: Graph, tensor: str) -> int:
    """The size of a tensor; -1 where it is not known, or it is no array."""
    shape, dtype = graph.shape(tensor), graph.type(tensor)
    if shape is None or None in shape or not (dtype.is_numpy_compatible and dtype.size):
        return -1
    return int(dtype.size * np.prod([size or 0 for size in shape]))


def _computed(graph: Graph, found: dict[str, None], wanted: list[str]) -> list[Any]:
    import tensorflow as tf

    graph_def = graph.empty()
    needed = dict.fromkeys(
        producer_of(t) for name in found for t in graph.nodes[name].input
    )
    large = [name for name in needed if name in graph.weights]
    for name in {**needed, **found}:
        node = graph_def.node.add()
        node.CopyFrom(graph.nodes[name])
        if name in graph.weights:
            node.op = "Placeholder"
            del node.attr["value"]
    with tf.Graph().as_default() as computing, tf.device("/CPU:0"):
        tf.graph_util.import_graph_def(graph_def, name="")
        config = tf.compat.v1.ConfigProto(device_count={"GPU": 0})
        # As written, not as an optimizer would have it; and nothing is to be gained.
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        with tf.compat.v1.Session(graph=computing, config=config) as session:
            names = [t if ":" in t else f"{t}:0" for t in wanted]
            feeds = {f"{name}:0": graph.weights[name] for name in large}
            return [np.asarray(value) for value in session.run(names, feeds)]
