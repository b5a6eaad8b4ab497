"""How channels pass Keras's layers: one `Row` for each type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kacc.core.channels.classes import Channels
from kacc.core.channels.follow import Row, Shapes, Trail, UnfollowedError, joined
from kacc.core.graph import Call

layers = keras.layers
activations = keras.activations

# Activations in which a channel's values depend on the others of the same position.
_MIXING = (
    activations.softmax,
    activations.log_softmax,
    activations.sparsemax,
    activations.glu,
)
_KNOWN = {
    function
    for function in vars(activations).values()
    if callable(function) and function not in _MIXING
}


def is_channelwise(activation: Any) -> bool:
    """Whether an activation is known to treat each channel by itself.

    Example:
        >>> is_channelwise(keras.activations.relu)
        True
        >>> is_channelwise(keras.activations.softmax)
        False
    """
    if isinstance(activation, keras.Layer):
        return type(activation) in _ACTIVATION_LAYERS
    return activation is None or activation in _KNOWN


_ACTIVATION_LAYERS = (layers.ReLU, layers.LeakyReLU, layers.ELU)


def channels_last(layer: Any) -> None:
    """Raises `UnfollowedError` for a layer of another data format."""
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise UnfollowedError("its data_format is not channels_last")


def _pass(call: Call, trail: Trail) -> Channels:
    channels_last(call.operation)
    return trail.read(call.inputs[0])


def _merge(call: Call, trail: Trail) -> Channels:
    return joined(trail, call.inputs)


def _concatenate(call: Call, trail: Trail) -> Channels:
    parts = [trail.read(x) for x in call.inputs]
    rank = len(call.inputs[0].shape)
    if call.operation.axis in (-1, rank - 1):
        return np.concatenate(parts)
    return joined(trail, call.inputs)


def _activation(call: Call, trail: Trail) -> Channels:
    if not is_channelwise(call.operation.activation):
        raise UnfollowedError(
            "its activation is not known to treat each channel by itself"
        )
    return trail.read(call.inputs[0])


# Layers with kernels


def _biased(call: Call, trail: Trail, channels: Channels) -> Channels:
    """The output of a layer with a bias and an activation."""
    layer = call.operation
    if layer.use_bias:
        trail.weight(layer, "bias", -1, channels)
    if not is_channelwise(layer.activation):
        trail.fix(channels)
    return channels


def _dense(call: Call, trail: Trail) -> Channels:
    layer = call.operation
    trail.weight(layer, "kernel", -2, trail.read(call.inputs[0]))
    return _biased(call, trail, trail.weight(layer, "kernel", -1, produces=True))


def _convolve(call: Call, trail: Trail) -> Channels:
    layer = call.operation
    channels_last(layer)
    x = trail.read(call.inputs[0])
    if layer.groups == 1:
        trail.weight(layer, "kernel", -2, x)
        outputs = trail.weight(layer, "kernel", -1, produces=True)
    else:
        outputs = _grouped(layer, trail, x)
    return _biased(call, trail, outputs)


def _grouped(layer: Any, trail: Trail, x: Channels) -> Channels:
    """Of many small groups whole ones go; of few large ones the same part of each."""
    outputs = trail.weight(layer, "kernel", -1, produces=True)
    read, made = x.reshape(layer.groups, -1), outputs.reshape(layer.groups, -1)
    if read.shape[1] < layer.groups:
        for column in (*read.T, *made.T):
            trail.classes.unite(read[:, 0], column)
        return outputs
    for group in range(1, layer.groups):
        trail.classes.unite(read[0], read[group])
        trail.classes.unite(made[0], made[group])
    trail.weight(layer, "kernel", -2, read[0])
    return outputs


def _transposed(call: Call, trail: Trail) -> Channels:
    layer = call.operation
    channels_last(layer)
    trail.weight(layer, "kernel", -1, trail.read(call.inputs[0]))
    return _biased(call, trail, trail.weight(layer, "kernel", -2, produces=True))


def _depthwise(call: Call, trail: Trail) -> Channels:
    layer = call.operation
    channels_last(layer)
    x = trail.weight(layer, "kernel", -2, trail.read(call.inputs[0]))
    return _biased(call, trail, np.repeat(x, layer.depth_multiplier))


def _separable(call: Call, trail: Trail) -> Channels:
    layer = call.operation
    channels_last(layer)
    x = trail.weight(layer, "depthwise_kernel", -2, trail.read(call.inputs[0]))
    trail.weight(layer, "pointwise_kernel", -2, np.repeat(x, layer.depth_multiplier))
    outputs = trail.weight(layer, "pointwise_kernel", -1, produces=True)
    return _biased(call, trail, outputs)


def _einsum_dense(call: Call, trail: Trail) -> Channels:
    """A product over the last axis, as a Dense makes it."""
    layer = call.operation
    inputs, _, rest = layer.equation.replace(" ", "").partition(",")
    kernel, _, outputs = rest.partition("->")
    is_dense = (
        len(kernel) == 2
        and inputs[-1:] == kernel[0]
        and outputs == inputs[:-1] + kernel[1]
        and layer.bias_axes in (None, kernel[1])
    )
    if not is_dense:
        raise UnfollowedError(f"its equation {layer.equation} is not that of a Dense")
    trail.weight(layer, "kernel", -2, trail.read(call.inputs[0]))
    channels = trail.weight(layer, "kernel", -1, produces=True)
    if layer.bias is not None:
        trail.weight(layer, "bias", -1, channels)
    if not is_channelwise(layer.activation):
        trail.fix(channels)
    return channels


def _embedding(call: Call, trail: Trail) -> Channels:
    return trail.weight(call.operation, "embeddings", -1, produces=True)


def _batch_norm(call: Call, trail: Trail) -> Channels:
    layer = call.operation
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    if axis not in (-1, len(call.inputs[0].shape) - 1):
        raise UnfollowedError("it does not normalize the last axis")
    x = trail.read(call.inputs[0])
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        if getattr(layer, name, None) is not None:
            trail.weight(layer, name, -1, x)
    return x


def _prelu(call: Call, trail: Trail) -> Channels:
    x = trail.read(call.inputs[0])
    if call.operation.alpha.shape[-1] != 1:
        trail.weight(call.operation, "alpha", -1, x)
    return x


# Layers that change the shape


def _flatten(call: Call, trail: Trail) -> Channels:
    channels_last(call.operation)
    return spread(call, trail)


def spread(call: Call, trail: Trail) -> Channels:
    """The channels where axes before them are joined to the last one, or stay."""
    source, target = call.inputs[0].shape[1:], call.outputs[0].shape[1:]
    x = trail.read(call.inputs[0])
    if None in source or not target or target[-1] is None:
        raise UnfollowedError("it reshapes a tensor of free size")
    copies, rest = divmod(target[-1], len(x))
    products = np.cumprod([1, *source[:-1][::-1]]).tolist()
    if rest or copies not in products:
        raise UnfollowedError("it reshapes channels into something else")
    return np.tile(x, copies)


def _permute(call: Call, trail: Trail) -> Channels:
    if call.operation.dims[-1] != len(call.operation.dims):
        raise UnfollowedError("it moves the channels to another axis")
    return trail.read(call.inputs[0])


def _normalization(call: Call, trail: Trail) -> Channels:
    raise UnfollowedError(
        "it normalizes over the channels, which depend on their number"
    )


# What changes in a config


def _filters(
    config: dict[str, Any], shapes: Shapes, inputs: list[int], outputs: list[int]
) -> dict[str, Any]:
    change: dict[str, Any] = {"filters": outputs[0]}
    if config.get("groups", 1) != 1:
        change["groups"] = inputs[0] // shapes["kernel"][-2]
    return change


def _units(
    config: dict[str, Any], shapes: Shapes, inputs: list[int], outputs: list[int]
) -> dict[str, Any]:
    return {"units": outputs[0]}


def _output_dim(
    config: dict[str, Any], shapes: Shapes, inputs: list[int], outputs: list[int]
) -> dict[str, Any]:
    return {"output_dim": outputs[0]}


def _output_shape(
    config: dict[str, Any], shapes: Shapes, inputs: list[int], outputs: list[int]
) -> dict[str, Any]:
    return {"output_shape": last(config["output_shape"], outputs[0])}


def _target_shape(
    config: dict[str, Any], shapes: Shapes, inputs: list[int], outputs: list[int]
) -> dict[str, Any]:
    return {"target_shape": last(config["target_shape"], outputs[0])}


def last(shape: Any, size: int) -> tuple[int, ...]:
    """A shape with another last dimension, unless it is free."""
    shape = tuple(shape) if isinstance(shape, (list, tuple)) else (shape,)
    return (*shape[:-1], size if shape[-1] != -1 else -1)


def _rows(follow: Callable[..., Any], *types: type, **options: Any) -> list[Row]:
    return [Row(cls, follow, **options) for cls in types]


def _named(*names: str) -> list[type]:
    return [getattr(layers, name) for name in names]


_POOLS = _named(
    *(
        f"{kind}Pooling{rank}D"
        for kind in ("Max", "Average", "GlobalMax", "GlobalAverage")
        for rank in (1, 2, 3)
    )
)
_SPATIAL = _named(
    *(
        f"{kind}{rank}D"
        for kind in ("ZeroPadding", "Cropping", "UpSampling", "SpatialDropout")
        for rank in (1, 2, 3)
    )
)
_SAME = _named(
    *("Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout", "Identity"),
    *("ActivityRegularization", "ReLU", "LeakyReLU", "ELU", "RepeatVector", "Resizing"),
)
_OVER_CHANNELS = _named(
    *("LayerNormalization", "GroupNormalization", "UnitNormalization"),
    *("RMSNormalization", "Softmax"),
)

LAYERS = {
    row.type: row
    for row in (
        *_rows(_pass, *_POOLS, *_SPATIAL, *_SAME),
        *_rows(_merge, *_named("Add", "Subtract", "Multiply", "Average")),
        *_rows(_merge, *_named("Maximum", "Minimum")),
        *_rows(_concatenate, layers.Concatenate),
        *_rows(_activation, layers.Activation),
        *_rows(_convolve, layers.Conv1D, layers.Conv2D, layers.Conv3D, resize=_filters),
        *_rows(
            _transposed,
            *_named("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
            resize=_filters,
        ),
        *_rows(_depthwise, layers.DepthwiseConv1D, layers.DepthwiseConv2D),
        *_rows(
            _separable, layers.SeparableConv1D, layers.SeparableConv2D, resize=_filters
        ),
        *_rows(_dense, layers.Dense, resize=_units),
        *_rows(_einsum_dense, layers.EinsumDense, resize=_output_shape),
        *_rows(_embedding, layers.Embedding, resize=_output_dim),
        *_rows(_batch_norm, layers.BatchNormalization),
        *_rows(_prelu, layers.PReLU),
        *_rows(_flatten, layers.Flatten),
        *_rows(spread, layers.Reshape, resize=_target_shape),
        *_rows(_permute, layers.Permute),
        *_rows(_normalization, *_OVER_CHANNELS),
    )
}
