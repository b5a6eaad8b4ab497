"""How channels pass the operators of `x + y` and `keras.ops`: one `Row` for each."""

from __future__ import annotations

from typing import Any

import numpy as np

# Private: see kacc/support/activation.py.
from keras.src.ops import core, image, nn
from keras.src.ops import numpy as operators

from kacc.core.channels.classes import Channels
from kacc.core.channels.follow import (
    Cut,
    Row,
    Shapes,
    Trail,
    UnfollowedError,
    joined,
)
from kacc.core.channels.layer_rows import last, spread
from kacc.core.graph import Call, Tensor


def _pass(call: Call, trail: Trail) -> Channels:
    if any(_is_wide(x) for x in _constants(call)):
        raise UnfollowedError("it takes an array of one value for each channel")
    return trail.read(call.inputs[0])


def _clip(call: Call, trail: Trail) -> Channels:
    if any(np.ndim(bound) for bound in (call.operation.x_min, call.operation.x_max)):
        raise UnfollowedError("it clips to an array")
    return trail.read(call.inputs[0])


def _merge(call: Call, trail: Trail) -> Channels:
    """Two tensors, or a tensor and a number, or one of a value for each channel."""
    channels = joined(trail, call.inputs)
    for constant in _constants(call):
        if _is_wide(constant) and constant.shape[-1] != len(channels):
            raise UnfollowedError("it joins a tensor with an array of more channels")
    return channels


def _merge_arguments(call: Call, cut: Cut) -> tuple[Any, Any]:
    wide = max(call.inputs, key=lambda x: x.shape[-1] or 0)
    sources = cut.sources(wide)
    args = tuple(
        np.take(np.asarray(x), sources, axis=-1) if _is_wide(x) else x
        for x in call.args
    )
    return args, call.kwargs


def _constants(call: Call) -> list[Any]:
    values = [*call.args, *call.kwargs.values()]
    return [x for x in values if not isinstance(x, Tensor) and hasattr(x, "shape")]


def _is_wide(x: Any) -> bool:
    shape = tuple(getattr(x, "shape", ()))
    return not isinstance(x, Tensor) and bool(shape) and shape[-1] != 1


def _concatenate(call: Call, trail: Trail) -> Channels:
    if call.operation.axis in (-1, len(call.inputs[0].shape) - 1):
        return np.concatenate([trail.read(x) for x in call.inputs])
    return joined(trail, call.inputs)


def _reduce(call: Call, trail: Trail) -> Channels:
    """A mean, sum or maximum over positions, but not over channels."""
    axes, rank = call.operation.axis, len(call.inputs[0].shape)
    axes = [axes] if isinstance(axes, int) else axes
    if axes is None or any(axis in (-1, rank - 1) for axis in axes):
        raise UnfollowedError("it reduces the channels to one value")
    return trail.read(call.inputs[0])


def _expand(call: Call, trail: Trail) -> Channels:
    axes, rank = call.operation.axis, len(call.outputs[0].shape)
    axes = [axes] if isinstance(axes, int) else axes
    if any(axis in (-1, rank - 1) for axis in axes):
        raise UnfollowedError("it moves the channels to another axis")
    return trail.read(call.inputs[0])


def _squeeze(call: Call, trail: Trail) -> Channels:
    if not call.outputs[0].shape or call.inputs[0].shape[-1] == 1:
        raise UnfollowedError("it may take away the axis of the channels")
    return trail.read(call.inputs[0])


def _transpose(call: Call, trail: Trail) -> Channels:
    axes, rank = call.operation.axes, len(call.inputs[0].shape)
    if axes is None or axes[-1] not in (-1, rank - 1):
        raise UnfollowedError("it moves the channels to another axis")
    return trail.read(call.inputs[0])


def _resize(call: Call, trail: Trail) -> Channels:
    if call.operation.data_format != "channels_last":
        raise UnfollowedError("its data_format is not channels_last")
    return trail.read(call.inputs[0])


def _key(call: Call) -> tuple[Any, ...]:
    key = call.args[1] if len(call.args) > 1 else call.kwargs["key"]
    return tuple(key) if isinstance(key, (list, tuple)) else (key,)


def _channel_key(call: Call) -> Any:
    """What `x[...]` takes of the last axis: a slice, or None for all of it."""
    key, rank = _key(call), len(call.inputs[0].shape)
    if any(isinstance(part, Tensor) for part in key):
        raise UnfollowedError("it takes parts that another tensor names")
    consumed = sum(part is not None and part is not Ellipsis for part in key)
    if Ellipsis not in key and consumed < rank:
        return None
    return key[-1] if consumed and key[-1] is not Ellipsis else None


def _get_item(call: Call, trail: Trail) -> Channels:
    part = _channel_key(call)
    x = trail.read(call.inputs[0])
    if part is None and _key(call)[-1] is None and Ellipsis in _key(call):
        raise UnfollowedError("it moves the channels to another axis")
    if part is None:
        return x
    if not isinstance(part, slice) or part.step not in (None, 1):
        raise UnfollowedError("it takes single channels")
    return x[part]


def _get_item_arguments(call: Call, cut: Cut) -> tuple[Any, Any]:
    part = _channel_key(call)
    if part is None:
        return call.args, call.kwargs
    kept = cut.kept(call.inputs[0])
    start, stop, _ = part.indices(len(kept))
    new = slice(int(kept[:start].sum()), int(kept[:stop].sum()))
    key = (*_key(call)[:-1], new)
    if len(call.args) > 1:
        return (call.args[0], key), call.kwargs
    return call.args, {**call.kwargs, "key": key}


def _newshape(
    config: dict[str, Any], shapes: Shapes, inputs: list[int], outputs: list[int]
) -> dict[str, Any]:
    return {"newshape": last(config["newshape"], outputs[0])}


def _split(call: Call, trail: Trail) -> list[Channels]:
    axis, rank = call.operation.axis, len(call.inputs[0].shape)
    x = trail.read(call.inputs[0])
    if axis not in (-1, rank - 1):
        return [x for _ in call.outputs]
    ends = np.cumsum([output.shape[-1] for output in call.outputs])
    return np.split(x, ends[:-1])


def _split_config(
    config: dict[str, Any], shapes: Shapes, inputs: list[int], outputs: list[int]
) -> dict[str, Any]:
    if sum(outputs) != inputs[0]:  # along another axis
        return {}
    return {"indices_or_sections": tuple(np.cumsum(outputs)[:-1].tolist())}


_CHANNELWISE = [
    *(
        getattr(nn, name)
        for name in (
            *("Relu", "Relu6", "Sigmoid", "SparseSigmoid", "Softplus", "Softsign"),
            *("SoftShrink", "SparsePlus", "Silu", "Squareplus", "LogSigmoid"),
            *("LeakyRelu", "HardSigmoid", "HardSilu", "Elu", "Selu", "Gelu", "Celu"),
            *("TanhShrink", "HardTanh", "HardShrink", "Threshold"),
        )
    ),
    *(
        getattr(operators, name)
        for name in (
            *("Absolute", "Ceil", "Cos", "Exp", "Expm1", "Floor", "Log"),
            *("Log1p", "Negative", "Reciprocal", "Round", "Sign", "Sin", "Sqrt"),
            *("Square", "Tanh", "Trunc"),
        )
    ),
    core.Cast,
    core.StopGradient,
]
_MERGING = [
    getattr(operators, name)
    for name in (
        *("Add", "Subtract", "Multiply", "Divide", "DivideNoNan", "TrueDivide"),
        *("Maximum", "Minimum", "Power"),
    )
]
_REDUCING = [
    getattr(operators, name) for name in ("Mean", "Sum", "Max", "Min", "Var", "Std")
]

OPERATORS = {
    row.type: row
    for row in (
        *(Row(cls, _pass) for cls in _CHANNELWISE),
        *(Row(cls, _merge, arguments=_merge_arguments) for cls in _MERGING),
        *(Row(cls, _reduce) for cls in _REDUCING),
        Row(operators.Clip, _clip),
        Row(operators.Concatenate, _concatenate),
        Row(operators.ExpandDims, _expand),
        Row(operators.Squeeze, _squeeze),
        Row(operators.Transpose, _transpose),
        Row(operators.Reshape, spread, resize=_newshape),
        Row(operators.GetItem, _get_item, arguments=_get_item_arguments),
        Row(operators.Split, _split, resize=_split_config),
        Row(image.Resize, _resize),
    )
}
