"""Multiply-accumulates of models and files."""

from __future__ import annotations

from typing import Any

from kacc.converters.artifact import Artifact
from kacc.converters.formats import TFLITE
from kacc.core import cost
from kacc.core.errors import UsageError

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
    artifact = model_or_artifact
    reported = artifact.manifest.report.get("macs")
    if reported or artifact.format is not TFLITE:
        return int(reported) if reported else None
    return _of_file(artifact)


def _of_file(artifact: Artifact) -> int | None:
    found = artifact.operations()
    if any(operation.kind in _UNCOUNTED for operation in found):
        return None
    return sum(operation.macs for operation in found)
