"""What rows ask about the tensors and constants that an operation reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


def input_shape(operation: Any) -> tuple[int | None, ...] | None:
    """The shape of the tensor that a layer or operator reads first, where known."""
    built = (getattr(operation, "_build_shapes_dict", None) or {}).get("input_shape")
    if built:
        return tuple(built)
    # Private: the graph's own record, which kacc.core.graph walks as well.
    nodes = operation._inbound_nodes
    return tuple(nodes[-1].input_tensors[0].shape) if nodes else None


def reduced_axes(operation: Any, rank: int) -> tuple[int, ...]:
    """The axes that an operator with an `axis` reduces, counted from the first."""
    axis = operation.axis
    if axis is None:
        return tuple(range(rank))
    axes: Sequence[int] = [axis] if isinstance(axis, int) else axis
    return tuple(sorted(i % rank for i in axes))


def over_batch(operation: Any) -> str | None:
    """The reason against an operator that reduces the batch, too."""
    shape = input_shape(operation)
    if operation.axis is None or (shape and 0 in reduced_axes(operation, len(shape))):
        return "it reduces the batch"
    return None


def constant_second(operator: Any, value: Any = None) -> bool:
    """Whether an operator reads a tensor and then a constant.

    Args:
        operator: with two operands.
        value: what the constant must be; None for any.
    """
    args = _arguments(operator)
    if len(args) < 2 or not isinstance(args[0], keras.KerasTensor):
        return False
    constant = args[1]
    if isinstance(constant, keras.KerasTensor):
        return False
    return value is None or bool(np.all(np.asarray(constant) == value))


def _arguments(operation: Any) -> tuple[Any, ...]:
    nodes = operation._inbound_nodes
    if not nodes:
        return ()
    arguments = nodes[-1].arguments
    return (*arguments.args, *arguments.kwargs.values())


def only_first_computed(operation: Any) -> str | None:
    """The reason against an operator with indices or sizes that are computed."""
    others = keras.tree.flatten(_arguments(operation)[1:])
    if any(isinstance(x, keras.KerasTensor) for x in others):
        return "its indices are computed"
    return None


def no_wide_kernel(operator: str) -> str:
    """The reason against 16 bit activations where the file's operator has none."""
    return f"LiteRT has no 16 bit kernel of {operator}"
