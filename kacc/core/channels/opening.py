"""Following channels inside of layers that have no row of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from kacc.core.channels.follow import Row, Trail, UnfollowedError, find_row
from kacc.core.graph import Call, Tensor, fill, trace


def follow_inside(call: Call, trail: Trail, rows: Mapping[type, Row]) -> Any:
    """Follows what an unknown layer without weights does, operator by operator.

    Its `call` is run once on symbolic tensors. Operators that would have to change with
    the number of channels are not accepted, since they lie inside of the layer.

    Args:
        call: of a layer without a row.
        trail: the channels so far.
        rows: the table.

    Returns:
        The channels of each output.

    Raises:
        UnfollowedError: if the layer has weights or cannot be followed.
    """
    layer = call.operation
    name = type(layer).__name__
    if not isinstance(layer, keras.Layer):
        raise UnfollowedError(f"the operator {name} is not followed")
    if layer.variables:
        raise UnfollowedError(f"the layer type {name} is not followed")
    inner = Trail.__new__(Trail)
    vars(inner).update(vars(trail), tensors={})
    try:
        symbols = [keras.Input(batch_shape=x.shape, dtype=x.dtype) for x in call.inputs]
        args, kwargs = fill(call, symbols)
        graph = trace(
            keras.Model(symbols, keras.tree.flatten(layer.call(*args, **kwargs)))
        )
    except Exception as error:  # whatever a foreign `call` raises
        raise UnfollowedError(f"the layer type {name} cannot be looked into") from error
    inner.tensors.update(
        zip(graph.inputs, [trail.read(x) for x in call.inputs], strict=True)
    )
    for step in graph.calls:
        row = find_row(step.operation, rows)
        if row is None or row.resize is not None or _holds_arrays(step):
            raise UnfollowedError(f"the layer type {name} is not followed")
        found = row.follow(step, inner)
        outputs = found if isinstance(found, list) else [found]
        inner.tensors.update(zip(step.outputs, outputs, strict=True))
    return [inner.read(x) for x in graph.outputs]


def _holds_arrays(call: Call) -> bool:
    flat = keras.tree.flatten((call.args, call.kwargs))
    return any(getattr(x, "shape", None) and not isinstance(x, Tensor) for x in flat)
