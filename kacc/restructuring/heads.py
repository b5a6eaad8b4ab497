"""Flatten and Dense heads into global average pooling and a smaller Dense."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kacc.core.attach import base_class
from kacc.core.graph import Call
from kacc.core.remake import plain_config, remade
from kacc.restructuring.config import GlobalPoolingHead
from kacc.restructuring.functional import solved
from kacc.restructuring.steps import Change, Outcome, Source, replaced

layers = keras.layers

POOLS = {
    3: layers.GlobalAveragePooling1D,
    4: layers.GlobalAveragePooling2D,
    5: layers.GlobalAveragePooling3D,
}
# Layers that pass each entry on at inference, and may stand between.
_PASSING = (
    *(layers.Dropout, layers.GaussianDropout, layers.GaussianNoise),
    *(layers.AlphaDropout, layers.Identity, layers.ActivityRegularization),
)
RIDGE = 1e-3  # towards the sum over positions, in shares of the mean diagonal


def pool(config: GlobalPoolingHead, source: Source) -> Outcome:
    """Replaces each Flatten that only Dense layers read."""
    changes: dict[int, Change] = {}
    reasons: dict[int, str] = {}
    for key, calls in source.calls.items():
        if not _flattens(calls[0]):
            continue
        dense = _readers(source, calls)
        reason = dense if isinstance(dense, str) else _reason(source, calls, dense)
        if reason is not None:
            reasons[key] = reason
            continue
        assert not isinstance(dense, str)
        shape = calls[0].inputs[0].shape
        pooling = POOLS[len(shape)](
            name=source.new_name(f"{calls[0].operation.name}_pool"),
            dtype=calls[0].operation.dtype_policy,
        )
        changes[key] = Change((pooling,), "global average pooling", (None,))
        for call in dense:
            changes[id(call.operation)] = _smaller(source, calls[0], call)
    return replaced(type(config).__name__, source, changes, reasons)


def _flattens(call: Call) -> bool:
    """Whether a call joins all axes of feature maps."""
    operation = call.operation
    if base_class(operation) not in (layers.Flatten, layers.Reshape):
        return False
    return len(call.inputs[0].shape) in POOLS and len(call.outputs[0].shape) == 2


def _readers(source: Source, calls: Sequence[Call]) -> list[Call] | str:
    """The calls of Dense layers that read what is flattened, or why others do."""
    found: list[Call] = []
    waiting = [tensor for call in calls for tensor in call.outputs]
    while waiting:
        tensor = waiting.pop()
        if tensor in source.outputs:
            return "it makes an output of the model"
        for call, _ in source.consumers.get(tensor, ()):
            if base_class(call.operation) in _PASSING:
                waiting += call.outputs
            elif base_class(call.operation) is layers.Dense:
                found.append(call)
            else:
                return f"{call.path} reads it, which is no Dense"
    return found


def _reason(source: Source, calls: Sequence[Call], dense: Sequence[Call]) -> str | None:
    shape = calls[0].inputs[0].shape
    if len(calls) > 1:
        return "it is called several times"
    if source.is_skipped(calls) or source.is_skipped(dense):
        return "a rule skips it"
    if getattr(calls[0].operation, "data_format", None) == "channels_first":
        return "its channels come first"
    if not dense:
        return "nothing reads it"
    if None in shape[1:]:
        return "its size is free"
    if math.prod(size or 1 for size in shape[1:-1]) == 1:
        return "there is one position only"
    if len(shape) == 3 and _has_mask(source, calls[0].inputs[0]):
        return "its positions have a mask, which pooling would heed"
    if any(len(source.calls[id(call.operation)]) > 1 for call in dense):
        return "a Dense behind it is called several times"
    if any(call.operation.kernel_constraint is not None for call in dense):
        return "the constraint of a kernel behind it would not hold for sums"
    return None


def _has_mask(source: Source, tensor: Any) -> bool:
    """Whether a layer before a tensor makes a mask that Keras passes on to it."""
    waiting = [tensor]
    while waiting:
        call = source.producers.get(waiting.pop())
        if call is None:
            continue
        layer = call.operation
        if isinstance(layer, layers.Masking) or getattr(layer, "mask_zero", False):
            return True
        if getattr(layer, "supports_masking", False):
            waiting += call.inputs
    return False


def _smaller(source: Source, flatten: Call, call: Call) -> Change:
    """The Dense on pooled maps."""
    layer = call.operation
    kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float64)
    channels = flatten.inputs[0].shape[-1] or 0
    summed = kernel.reshape(-1, channels, kernel.shape[-1]).sum(axis=0)
    bias = keras.ops.convert_to_numpy(layer.bias) if layer.use_bias else None
    if source.batches:
        summed, bias = _fitted(source, flatten, kernel, summed, bias)
    new = remade(layer, plain_config(layer), call.path)
    weights = [summed] if bias is None else [summed, bias]
    return Change((new,), "reads pooled maps", (weights,))


def _fitted(
    source: Source, flatten: Call, kernel: np.ndarray, near: np.ndarray, bias: Any
) -> tuple[np.ndarray, Any]:
    """Least squares from pooled maps to what the Dense made of the whole ones."""
    pooled, made = [], []

    def apply(call: Call, args: Any, kwargs: Any) -> None:
        if call is flatten:
            value = args[0] if args else kwargs["inputs"]
            maps = np.asarray(keras.ops.convert_to_numpy(value), np.float64)
            flat = maps.reshape(len(maps), -1)
            made.append(flat @ kernel)
            pooled.append(maps.reshape(len(maps), -1, maps.shape[-1]).mean(axis=1))

    source.run(apply)
    x, y = np.concatenate(pooled), np.concatenate(made)
    mean_x = x.mean(axis=0) if bias is not None else np.zeros(x.shape[1])
    mean_y = y.mean(axis=0) if bias is not None else np.zeros(y.shape[1])
    centered = x - mean_x
    fitted = solved(centered.T @ centered, centered.T @ (y - mean_y), near, RIDGE)
    if bias is not None:
        bias = bias + mean_y - mean_x @ fitted
    return fitted, bias
