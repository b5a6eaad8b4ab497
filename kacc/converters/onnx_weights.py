"""Weights of an ONNX model, which tf2onnx does not get to see.

It copies every constant again and again: 30 times the bytes of a model. So kernels are
inputs of the graph that it converts. What it then does to them, which is to move their
elements, is done here, and their values are put in when the model is ready.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kacc.converters.frozen_graph import FrozenGraph
from kacc.converters.passes.graph import canonical
from kacc.converters.weights import put_back

# Operations -> the operands that may as well be inputs: tf2onnx only moves elements.
_ALIKE: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("Conv2D", "Conv3D", "DepthwiseConv2dNative"), (1,)),
    "Conv2DBackpropInput": (1,),
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), (1,)),
    "GatherV2": (0,),
}


def with_inputs(graph: FrozenGraph) -> tuple[Any, dict[str, np.ndarray]]:
    """A GraphDef whose large kernels are inputs; other constants are in it.

    Args:
        graph: stays as it is.

    Returns:
        The GraphDef, and the values of these inputs by the names of their nodes.
    """
    graph_def = graph.graph_def.__class__()
    graph_def.CopyFrom(graph.graph_def)
    apart = {k: v for k, v in graph.weights.items() if v.dtype == np.float32}
    for node in graph_def.node:
        alike = _ALIKE.get(node.op, ())
        for index, source in enumerate(node.input):
            if index not in alike:
                apart.pop(canonical(source).removeprefix("^"), None)
    put_back(graph_def.node, {k: v for k, v in graph.weights.items() if k not in apart})
    for node in graph_def.node:
        if node.name in apart:
            shape = node.attr["value"].tensor.tensor_shape
            node.op = "Placeholder"
            node.attr["shape"].shape.CopyFrom(shape)
            del node.attr["value"]
    return graph_def, apart


def _unchanged(value: np.ndarray, node: Any, operands: list[Any]) -> np.ndarray:
    return value


def _transposed(value: np.ndarray, node: Any, operands: list[Any]) -> np.ndarray:
    order = [list(a.ints) for a in node.attribute if a.name == "perm"]
    return value.transpose(*order)


def _reshaped(value: np.ndarray, node: Any, operands: list[Any]) -> np.ndarray:
    sizes = [value.shape[i] if n == 0 else n for i, n in enumerate(operands[0])]
    return value.reshape(sizes)


def _squeezed(value: np.ndarray, node: Any, operands: list[Any]) -> np.ndarray:
    return value.squeeze(tuple(operands[0]) if operands else None)


def _unsqueezed(value: np.ndarray, node: Any, operands: list[Any]) -> np.ndarray:
    return np.expand_dims(value, tuple(operands[0]))


_MOVES: Mapping[str, Callable[[np.ndarray, Any, list[Any]], np.ndarray]] = {
    "Identity": _unchanged,
    "Transpose": _transposed,
    "Reshape": _reshaped,
    "Squeeze": _squeezed,
    "Unsqueeze": _unsqueezed,
}


def without_moves(
    model: Any, weights: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Takes out of a model what moves elements of weights, and weights of its inputs.

    Args:
        model: an `onnx.ModelProto`, which is changed.
        weights: values by the names of inputs.

    Returns:
        The values by the names that nodes of the model now read and nothing makes.
    """
    from onnx import numpy_helper

    graph = model.graph
    kept = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(kept)
    small = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    values = dict(weights)
    nodes = []
    for node in graph.node:
        source, *others = node.input or ("",)
        known = source in values and all(name in small for name in others)
        if known and node.op_type in _MOVES and node.output[0] not in outputs:
            operands = [numpy_helper.to_array(small[name]) for name in others]
            moved = _MOVES[node.op_type](values[source], node, operands)
            values[node.output[0]] = moved
        else:
            nodes.append(node)
    read = {name for node in nodes for name in node.input}
    del graph.node[:]
    graph.node.extend(nodes)
    used = [t for t in graph.initializer if t.name in read | outputs]
    del graph.initializer[:]
    graph.initializer.extend(used)
    return {name: value for name, value in values.items() if name in read}


def declared(name: str, value: np.ndarray) -> Any:
    """A weight as an input of a model, to check the model by."""
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(name, kind, value.shape)


def store(model: Any, weights: dict[str, np.ndarray]) -> None:
    """Puts values into a model as initializers.

    Args:
        model: is changed.
        weights: values by name; each is let go as soon as it is in the model.
    """
    import onnx

    for name in list(weights):
        value = weights.pop(name)
        tensor = model.graph.initializer.add(
            name=name,
            data_type=onnx.helper.np_dtype_to_tensor_dtype(value.dtype),
            dims=value.shape,
        )
        tensor.raw_data = np.ascontiguousarray(value).tobytes()
        onnx.checker.check_tensor(tensor)
