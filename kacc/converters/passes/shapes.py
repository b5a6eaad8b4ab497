"""Shapes that are computed while the model runs, though little of them is unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kacc.converters.passes.graph import Graph, Shape
from kacc.converters.passes.identities import keeps_shape

# Sizes of a shape, None for those that are not known.
Sizes = list[int | None]

_LONGEST = 16  # vectors beyond this many elements are no shapes

_ELEMENTWISE = frozenset(
    (
        *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Sigmoid", "Tanh", "Softplus"),
        *("Softsign", "Softmax", "LogSoftmax", "Neg", "Abs", "Exp", "Square", "Rsqrt"),
        *("Erf", "BiasAdd"),
    )
)
_BY_CONSTANTS = frozenset(("Mul", "Add", "AddV2", "Sub", "RealDiv", "Maximum"))


def fix_reshapes(graph: Graph) -> None:
    """Makes the shape of a Reshape constant if at most one of its sizes is unknown.

    Dense layers on sequences compute theirs from the shape of their input, of which
    only the batch is unknown: -1 says the same. What is read for its shape alone is
    read as early as it has that shape, so that it is in nobody's way.

    Args:
        graph: is changed.
    """
    values: dict[str, Sizes | None] = {}
    for node in graph.ordered():
        if node.name not in graph.nodes:
            continue
        if node.op == "Shape":
            graph.set_input(node, 0, _first_of_that_shape(graph, node.input[0]))
        _refine(graph, node)
        values[node.name] = _sizes(graph, node, values)
        if node.op == "Reshape" and not graph.is_tied(node):
            _fix(graph, node, values.get(node.input[1]))
    graph.forget_shapes()


def _refine(graph: Graph, node: Any) -> None:
    """Tells the shape of what is computed element by element from a fixed reshape."""
    if node.op in _ELEMENTWISE:
        shape = graph.shape(node.input[0])
    elif node.op in _BY_CONSTANTS:
        shape = _broadcast(graph.shape(node.input[0]), graph.shape(node.input[1]))
    else:
        return
    if shape is not None:
        graph.refine(node.name, shape)


def _broadcast(a: Shape, b: Shape) -> Shape:
    if a is None or b is None:
        return None
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
    # An unknown size is that of the other one, unless that is 1 or not known either.
    return tuple(n if m == 1 else m if n == 1 or n is None else n for m, n in pairs)


def _fix(graph: Graph, node: Any, sizes: Sizes | None) -> None:
    if sizes is None or sizes.count(None) > 1 or 0 in sizes or -1 in sizes:
        return
    graph.refine(node.name, tuple(sizes))
    if not graph.is_constant(node.input[1]):
        shape = np.array([-1 if size is None else size for size in sizes], np.int32)
        node.attr["Tshape"].type = 3
        graph.set_input(node, 1, graph.add_constant(f"{node.name}/sizes", shape))


def _first_of_that_shape(graph: Graph, tensor: str) -> str:
    while True:
        node = graph.producer(tensor)
        if node.op in _ELEMENTWISE and not graph.is_tied(node):
            tensor = node.input[0]
        elif (data := _data_of(graph, node)) is not None:
            tensor = data
        else:
            return tensor


def _data_of(graph: Graph, node: Any) -> str | None:
    """The tensor that an operation with a constant computes on, if of its shape."""
    if node.op not in _BY_CONSTANTS or graph.is_tied(node):
        return None
    for index in (0, 1):
        constant, data = node.input[1 - index], str(node.input[index])
        if not graph.is_constant(constant) or graph.is_constant(data):
            continue
        if keeps_shape(graph.shape(constant), graph.shape(data)):
            return data
    return None


def _sizes(graph: Graph, node: Any, values: dict[str, Sizes | None]) -> Sizes | None:
    """What is known about an output of at most one axis; None for other outputs."""
    own = graph.shape(node.name)
    if own is None or len(own) > 1:
        return None
    if node.op == "Const":
        whole = node.attr["dtype"].type in (3, 9) and (own or (1,))[0] in range(
            _LONGEST + 1
        )
        value = graph.value(node.name) if whole else None
        return None if value is None else [int(x) for x in np.ravel(value)]
    if node.op == "Shape":
        shape = graph.shape(node.input[0])
        return None if shape is None else list(shape)
    inputs = [values.get(tensor) for tensor in node.input]
    if node.op not in _RULES or any(sizes is None for sizes in inputs):
        return None
    return _RULES[node.op](node, inputs)


def _gathered(node: Any, inputs: Any) -> Sizes | None:
    sizes, indices, axis = inputs
    if axis != [0] or None in indices or node.attr["batch_dims"].i:
        return None
    return [sizes[index] for index in indices]


def _product(node: Any, inputs: Any) -> Sizes | None:
    if node.attr["keep_dims"].b or inputs[1] != [0]:
        return None
    return [None if None in inputs[0] else int(np.prod(inputs[0]))]


def _joined(node: Any, inputs: Any) -> Sizes:
    parts = inputs[:-1] if node.op == "ConcatV2" else inputs
    return [size for part in parts for size in part]


def _sliced(node: Any, inputs: Any) -> Sizes | None:
    sizes, begin, end, step = inputs
    masks = {key: node.attr[f"{key}_mask"].i for key in ("begin", "end")}
    others = [node.attr[f"{key}_mask"].i for key in ("ellipsis", "new_axis")]
    if len(begin) != 1 or None in (*begin, *end, *step) or any(others):
        return None
    first = None if masks["begin"] else begin[0]
    last = None if masks["end"] else end[0]
    if node.attr["shrink_axis_mask"].i:
        return [sizes[begin[0]]]
    return list(sizes[first : last : step[0]])


_RULES: dict[str, Callable[[Any, Any], Sizes | None]] = {
    "GatherV2": _gathered,
    "Prod": _product,
    "Pack": _joined,
    "ConcatV2": _joined,
    "StridedSlice": _sliced,
}
