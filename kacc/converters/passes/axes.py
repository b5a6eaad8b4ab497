"""Where the channels of a linear operation lie in the tensors around it.

Beside a tensor stands an array of channel numbers that broadcasts against it: of shape
(1, 1, 1, 8) for the 8 channels of an image, say. Operations that only move elements
move these numbers; a constant that broadcasts against them has one value per channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kacc.converters.passes.graph import Graph

_MOVES = (
    *("Squeeze", "ExpandDims", "Reshape", "Transpose"),
    *("BatchToSpaceND", "SpaceToBatchND", "Pad", "PadV2", "MirrorPad"),
)


def forward(graph: Graph, node: Any, channels: np.ndarray) -> np.ndarray | None:
    """The channels in the output of an operation from those in its first input.

    Args:
        graph: has the node.
        node: any operation.
        channels: numbers of channels, as wide as the input's rank.

    Returns:
        The same for the output; None if the operation computes, or mixes channels.
    """
    return _moved(graph, node, channels, back=False)


def backward(graph: Graph, node: Any, channels: np.ndarray) -> np.ndarray | None:
    """The channels in an operation's first input from those in its output."""
    return _moved(graph, node, channels, back=True)


def adds_zeros(graph: Graph, node: Any) -> bool:
    """Whether an operation that moves elements also puts zeros among them."""
    if node.op in ("Pad", "PadV2"):
        return True
    if node.op == "SpaceToBatchND":
        paddings = graph.value(node.input[2])
        return paddings is None or bool(np.any(paddings))
    return False


def _moved(
    graph: Graph, node: Any, channels: np.ndarray, back: bool
) -> np.ndarray | None:
    if node.op not in _MOVES or graph.is_tied(node):
        return None
    before, after = graph.shape(node.input[0]), graph.shape(node.name)
    if before is None or after is None:
        return None
    if node.op == "Squeeze":
        axes = [axis % len(before) for axis in node.attr["squeeze_dims"].list.i]
        return _squeezed(channels, axes, back) if axes else None
    if node.op == "Reshape":
        return _reshaped(channels, *((after, before) if back else (before, after)))
    operand = graph.value(node.input[1])
    if operand is None:
        return None
    if node.op == "ExpandDims":
        return _squeezed(channels, [int(operand) % len(after)], not back)
    if node.op == "Transpose":
        return np.transpose(channels, np.argsort(operand) if back else operand)
    if node.op.endswith("ND"):
        # The batch and the spatial axes are split and joined.
        moved = channels.shape[: len(operand) + 1]
        return channels if set(moved) == {1} else None
    return _padded(graph, node, channels, operand)


def _squeezed(channels: np.ndarray, axes: list[int], back: bool) -> np.ndarray | None:
    if back:
        return np.expand_dims(channels, tuple(axes))
    if any(channels.shape[axis] != 1 for axis in axes):
        return None
    return channels.squeeze(tuple(axes))


def _reshaped(
    channels: np.ndarray, before: tuple[Any, ...], after: tuple[Any, ...]
) -> np.ndarray | None:
    """Channels that are the last axes, whole, stay together in a reshape."""
    block = _last_axes(before, channels.size)
    if block is None or channels.shape[len(before) - len(block) :] != block:
        return None
    target = _last_axes(after, channels.size)
    if target is None:
        return None
    return channels.reshape((1,) * (len(after) - len(target)) + target)


def _last_axes(shape: tuple[Any, ...], size: int) -> tuple[int, ...] | None:
    """The last axes that together have so many elements."""
    product = 1
    for start in range(len(shape) - 1, -1, -1):
        if not shape[start]:
            return None
        product *= shape[start]
        if product == size:
            return tuple(shape[start:])
        if product > size:
            return None
    return None


def _padded(
    graph: Graph, node: Any, channels: np.ndarray, paddings: np.ndarray
) -> np.ndarray | None:
    if node.op == "PadV2" and np.any(graph.value(node.input[2]) != 0):
        return None
    wide = [axis for axis, size in enumerate(channels.shape) if size > 1]
    return None if np.any(paddings[wide]) else channels
