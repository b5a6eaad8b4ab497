"""Multiply-accumulates of models and files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kacc.converters import flatbuffer
from kacc.converters.artifact import Artifact
from kacc.core import cost
from kacc.core.errors import UsageError

# Operators whose second input is a kernel, applied at each position of ...
_AT_OUTPUTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "CONV_3D")
# Operators with products that are not counted here.
_UNCOUNTED = (
    *("UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM", "LSTM", "WHILE"),
    *("UNIDIRECTIONAL_SEQUENCE_RNN", "RNN", "CALL_ONCE", "IF", "CONV_3D_TRANSPOSE"),
)


def macs(model_or_artifact: Any) -> int | None:
    """Multiply-accumulates for one sample.

    Args:
        model_or_artifact: a built Keras model, or an `Artifact`.

    Returns:
        The number, or None where a layer or operator has products that kacc cannot
        count.

    Example:
        >>> import keras
        >>> macs(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
        8
    """
    if not isinstance(model_or_artifact, Artifact):
        try:
            counted = cost.cost(model_or_artifact)
        except UsageError:  # its `call` cannot be traced
            return None
        return None if counted.unknown else counted.macs
    reported = model_or_artifact.manifest.report.get("macs")
    return int(reported) if reported else _of_file(model_or_artifact.read())


def _of_file(data: bytes) -> int | None:
    graph = flatbuffer.subgraphs(data)[0]
    total = 0
    for operator in graph.operators:
        if operator.name in _UNCOUNTED:
            return None
        shapes = [graph.tensors[i].shape if i >= 0 else () for i in operator.inputs]
        output = graph.tensors[operator.outputs[0]].shape if operator.outputs else ()
        total += _of_operator(operator.name, shapes, output)
    return total


def _of_operator(
    name: str, inputs: Sequence[Sequence[int | None]], output: Sequence[int | None]
) -> int:
    if name in _AT_OUTPUTS:
        return _size(output[1:-1]) * _size(inputs[1])
    if name == "TRANSPOSE_CONV":  # output shape, kernel, inputs
        return _size(inputs[2][1:-1]) * _size(inputs[1])
    if name == "BATCH_MATMUL":
        return _size(output[1:]) * int(inputs[0][-1] or 1)
    return 0


def _size(shape: Sequence[int | None]) -> int:
    return math.prod(n or 1 for n in shape)
