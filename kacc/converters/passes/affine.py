"""Multiplications and additions of constants, folded into the layers around them.

Batch normalization at inference is a multiplication and an addition per channel, and so
are Rescaling and Normalization. What stands behind a convolution or a matrix product
becomes part of its kernel and its bias (Jacob et al. 2018, arXiv:1712.05877, section
3.2); what stands before it does so too, where no zeros are put between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kacc.converters.passes import axes
from kacc.converters.passes.graph import Graph
from kacc.converters.passes.linear import FLOAT, LINEAR, Linear, linear
from kacc.converters.passes.operations import (
    Affine,
    affine,
    affine_of,
    loses_digits,
)


def fold_affine(graph: Graph) -> None:
    """Folds constant factors and summands into kernels and biases around them.

    Nothing is folded into an operation whose result, before it is scaled, another one
    reads or the model returns. The factors are computed in float64 and rounded once.

    Args:
        graph: is changed.
    """
    for node in graph.of(*LINEAR):
        operation = linear(graph, node)
        if operation is not None:
            _fold(graph, operation)


@dataclass
class _Folded:
    """What is folded on one side of a linear operation, one entry per channel.

    Args:
        scale, shift: of each channel.
        found: the operations that go.
        rest: what is added instead of one of them: that one, and what.
    """

    scale: np.ndarray
    shift: np.ndarray
    found: list[Affine]
    rest: tuple[Affine, np.ndarray] | None = None


def _fold(graph: Graph, operation: Linear) -> None:
    before = _before(graph, operation)
    after = _after(graph, operation)
    if not before.found and not _is_worth_it(operation, after):
        return
    old = graph.value(operation.node.input[operation.kernel])
    assert old is not None
    with np.errstate(over="ignore", invalid="ignore"):
        kernel = operation.scaled(old, before.scale, after.scale)
        bias = after.shift
        if np.any(before.shift):
            bias = bias + after.scale * operation.response(old, before.shift)
        bias = bias.astype(np.float32)
    if not (np.all(np.isfinite(kernel)) and np.all(np.isfinite(bias))):
        return
    if before.rest is not None:
        _add_rest(graph, *before.rest)
    for found in (*before.found, *after.found):
        graph.replace(found.node.name, found.node.input[found.data])
    if np.any(before.scale != 1) or np.any(after.scale != 1):
        name = graph.add_constant(f"{operation.node.name}/kernel", kernel)
        graph.set_input(operation.node, operation.kernel, name)
    if np.any(bias):
        _add_bias(graph, operation, bias)


def _is_worth_it(operation: Linear, after: _Folded) -> bool:
    """Whether there is more behind the operation than its bias in its place."""
    if len(after.found) != 1:
        return bool(after.found)
    node = after.found[0].node
    return node.op != "BiasAdd" or node.input[0] != operation.node.name


def _add_bias(graph: Graph, operation: Linear, bias: np.ndarray) -> None:
    name = operation.node.name
    inputs = [name, graph.add_constant(f"{name}/bias", bias)]
    form = b"NCHW" if operation.channels_first else b"NHWC"
    shape = graph.shape(name)
    readers = graph.readers(name)
    is_output = name in graph.outputs
    added = graph.add(
        "BiasAdd", f"{name}/BiasAdd", inputs, shape, T=FLOAT, data_format=form
    )
    if is_output:
        graph.outputs = [added if t == name else t for t in graph.outputs]
    for node, index in readers:
        graph.set_input(node, index, added)


def _after(graph: Graph, operation: Linear) -> _Folded:
    """What is done to the result, as far as nobody else reads it."""
    count = operation.channels[1]
    total = _Folded(np.ones(count), np.zeros(count), [])
    tensor, channels = operation.node.name, operation.outputs()
    while (reader := graph.only_reader(tensor)) is not None:
        node, index = reader
        found = affine(graph, node, index, channels.shape)
        if found is not None:
            scale = _by_channel(found.scale, channels)
            total.scale = total.scale * scale
            total.shift = total.shift * scale + _by_channel(found.shift, channels)
            total.found.append(found)
        else:
            moved = axes.forward(graph, node, channels) if index == 0 else None
            if moved is None or axes.adds_zeros(graph, node):
                break
            channels = moved
        tensor = node.name
    return total


def _before(graph: Graph, operation: Linear) -> _Folded:
    """What is done to the input, from the last to the first."""
    count = operation.channels[0]
    total = _Folded(np.ones(count), np.zeros(count), [])
    tensor, channels = operation.node.input[operation.data], operation.inputs()
    pads = operation.pads
    while graph.only_reader(tensor) is not None:
        node = graph.producer(tensor)
        found = affine_of(graph, node, channels.shape) if node.name == tensor else None
        if found is None:
            moved = axes.backward(graph, node, channels) if node.input else None
            if moved is None:
                break
            pads = pads or axes.adds_zeros(graph, node)
            channels, tensor = moved, node.input[0]
            continue
        if np.any(found.shift) and pads:
            return _scale_behind(graph, found, total, channels)
        scale = total.scale * _by_channel(found.scale, channels)
        tensor = node.input[found.data]
        if np.any(found.shift):
            follows = _scaling(graph, tensor, channels) is not None
            if loses_digits(found, total.scale[channels], follows):
                break
        shift = total.shift + total.scale * _by_channel(found.shift, channels)
        total = _Folded(scale, shift, [*total.found, found])
    return total


def _scale_behind(
    graph: Graph, found: Affine, total: _Folded, channels: np.ndarray
) -> _Folded:
    """Lets `x * scale + shift` in front of zeros be `(x + shift / scale) * scale`."""
    scaling = _scaling(graph, found.node.input[found.data], channels)
    if scaling is None or np.any(found.scale != 1) or np.any(scaling.shift):
        return total
    with np.errstate(all="ignore"):
        rest = (found.shift / scaling.scale).astype(np.float32)
    if not np.all(np.isfinite(rest)):
        return total
    scale = total.scale * _by_channel(scaling.scale, channels)
    return _Folded(scale, total.shift, [*total.found, scaling], (found, rest))


def _scaling(graph: Graph, tensor: str, channels: np.ndarray) -> Affine | None:
    """The operation that scales a tensor, if it is there for one reader."""
    node = graph.producer(tensor)
    if node.name != tensor or graph.only_reader(tensor) is None:
        return None
    found = affine_of(graph, node, channels.shape)
    return found if found is not None and np.any(found.scale != 1) else None


def _add_rest(graph: Graph, found: Affine, rest: np.ndarray) -> None:
    node = found.node
    inputs = [node.input[found.data], graph.add_constant(f"{node.name}/rest", rest)]
    shape = graph.shape(node.name)
    graph.replace(
        node.name, graph.add("AddV2", f"{node.name}/unscaled", inputs, shape, T=FLOAT)
    )


def _by_channel(values: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """One value per channel, from those that broadcast against their numbers."""
    result = np.empty(channels.size)
    result[channels] = values
    return result
