"""Layers and operators that move values or do nothing at inference."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import keras

# Private: see kacc/support/activation.py.
from keras.src.ops import core, image, nn
from keras.src.ops import numpy as operators

from kacc.core.registry import LayerSpec, Output
from kacc.support.operands import input_shape, no_wide_kernel, only_first_computed

layers = keras.layers


def _moves(
    cls: type, *shape: int, supported: Any = None, config: Any = None
) -> LayerSpec:
    """The row of a type that moves values, with an example for a layer."""
    options = config or {}
    examples = (lambda: (cls(**options), [shape]),) if shape else ()
    return LayerSpec(cls, output=Output.SAME, supported=supported, examples=examples)


def _is_gone(cls: type, *shape: int, **config: Any) -> LayerSpec:
    """The row of a layer of which nothing is left at inference."""
    examples = (lambda: (cls(**config), [shape]),) if shape else ()
    return LayerSpec(cls, output=Output.IDENTITY, examples=examples)


def _pad_reason(operator: Any) -> str | None:
    if operator.mode not in ("constant", "reflect", "symmetric"):
        return f"LiteRT does not pad in the mode {operator.mode}"
    widths = operator.pad_width
    if len(widths) == 1 or any(widths[0]):
        return "it pads the batch"
    if _padding_value(operator):
        return "it pads with a number that is not zero"
    return None


def _padding_value(operator: Any) -> Any:
    nodes = operator._inbound_nodes
    return nodes[-1].arguments.kwargs.get("constant_values") if nodes else None


def _crop_reason(layer: Any) -> str | None:
    shape = input_shape(layer)
    if layer.data_format != "channels_last":
        return "data_format must be channels_last"
    if shape is None or None in shape[-3:-1]:
        return "it may resize images, whose size is unknown"
    if shape[-3] < layer.height or shape[-2] < layer.width:
        return "it resizes images that are smaller"
    return None


def _cast_reason(operator: Any) -> str | None:
    if str(operator.dtype).startswith(("float", "bfloat")):
        return None
    return f"a cast to {operator.dtype} is not supported"


def _split(operator: Any, steps: Any, x: Any) -> list[Any]:
    """Slices: a SPLIT of which one part is not used stays in float."""
    axis, parts = operator.axis % len(x.shape), operator.indices_or_sections
    size = x.shape[axis]
    if isinstance(parts, int):
        parts = range(size // parts, size, size // parts)
    ends = [0, *parts, size]
    return [_slice(x, axis, slice(*pair)) for pair in pairwise(ends)]


def _unstack(operator: Any, steps: Any, x: Any) -> list[Any]:
    axis = operator.axis % len(x.shape)
    return [_slice(x, axis, i) for i in range(x.shape[axis])]


def _slice(x: Any, axis: int, part: slice | int) -> Any:
    return x[(*[slice(None)] * axis, part)]


_IMAGE, _SEQUENCE, _VOLUME = (6, 6, 3), (8, 3), (4, 3, 4, 2)

SPECS = [
    _moves(layers.Flatten, 4, 4, 3),
    _moves(layers.Reshape, 4, 4, 3, config={"target_shape": (16, 3)}),
    _moves(layers.Permute, 6, 4, 3, config={"dims": (2, 1, 3)}),
    _moves(layers.ZeroPadding1D, *_SEQUENCE, config={"padding": 2}),
    _moves(layers.ZeroPadding2D, *_IMAGE, config={"padding": ((0, 1), (0, 1))}),
    _moves(layers.ZeroPadding3D, *_VOLUME, config={"padding": (1, 0, 2)}),
    _moves(layers.Cropping1D, *_SEQUENCE, config={"cropping": (1, 2)}),
    _moves(layers.Cropping2D, *_IMAGE, config={"cropping": ((1, 0), (2, 1))}),
    _moves(layers.Cropping3D, *_VOLUME, config={"cropping": (1, 1, 0)}),
    _moves(
        layers.CenterCrop,
        *_IMAGE,
        supported=_crop_reason,
        config={"height": 4, "width": 3},
    ),
    _is_gone(layers.Dropout, *_IMAGE, rate=0.5),
    _is_gone(layers.SpatialDropout1D, *_SEQUENCE, rate=0.5),
    _is_gone(layers.SpatialDropout2D, *_IMAGE, rate=0.5),
    _is_gone(layers.SpatialDropout3D, *_VOLUME, rate=0.5),
    _is_gone(layers.GaussianNoise, 6, stddev=0.1),
    _is_gone(layers.GaussianDropout, 6, rate=0.1),
    _is_gone(layers.AlphaDropout, 6, rate=0.1),
    _is_gone(layers.ActivityRegularization, 6),
    _is_gone(layers.Identity, 6),
    _is_gone(core.StopGradient),
    LayerSpec(core.Cast, output=Output.IDENTITY, supported=_cast_reason),
    *(
        _moves(cls)
        for cls in (
            operators.Reshape,
            operators.Ravel,
            operators.Transpose,
            operators.Squeeze,
            operators.ExpandDims,
            operators.Swapaxes,
            operators.Moveaxis,
            image.PadImages,
            image.CropImages,
        )
    ),
    LayerSpec(
        nn.SpaceToDepth,
        output=Output.SAME,
        supported_wide=lambda operator: no_wide_kernel("SPACE_TO_DEPTH"),
    ),
    LayerSpec(operators.Split, output=Output.SAME, call=_split),
    LayerSpec(core.Unstack, output=Output.SAME, call=_unstack),
    _moves(operators.GetItem, supported=only_first_computed),
    _moves(operators.Take, supported=only_first_computed),
    _moves(operators.Pad, supported=_pad_reason),
]
