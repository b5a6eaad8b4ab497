"""Layers and operators that move values or do nothing at inference."""

from __future__ import annotations

from typing import Any

import keras

# Private: see kacc/support/activation.py.
from keras.src.ops import numpy as operators

from kacc.core.registry import LayerSpec, Output

layers = keras.layers


def _moves(cls: type, *shape: int, output: Output = Output.SAME, **config: Any) -> Any:
    examples = (lambda: (cls(**config), [shape]),) if shape else ()
    return LayerSpec(cls, output=output, examples=examples)


def _nearest_only(layer: Any) -> str | None:
    if layer.interpolation == "nearest" and layer.data_format == "channels_last":
        return None
    return "only nearest upsampling of channels_last images is supported"


def _upsample(layer: Any, steps: Any, inputs: Any) -> Any:
    """One RESIZE_NEAREST_NEIGHBOR; Keras's own form becomes TILE, which int8 lacks."""
    shape = (inputs.shape[1] * layer.size[0], inputs.shape[2] * layer.size[1])
    return keras.ops.image.resize(inputs, shape, interpolation="nearest")


SPECS = [
    _moves(layers.Flatten, 4, 4, 3),
    _moves(layers.Reshape, 4, 4, 3, target_shape=(16, 3)),
    _moves(layers.ZeroPadding2D, 6, 6, 3, padding=((0, 1), (0, 1))),
    _moves(layers.ZeroPadding1D, 8, 3, padding=2),
    _moves(layers.Cropping1D, 8, 3, cropping=(1, 2)),
    _moves(layers.Cropping2D, 6, 6, 3, cropping=((1, 0), (2, 1))),
    _moves(layers.Permute, 6, 4, 3, dims=(2, 1, 3)),
    LayerSpec(
        layers.UpSampling2D,
        output=Output.SAME,
        call=_upsample,
        supported=_nearest_only,
        examples=(lambda: (layers.UpSampling2D((2, 3)), [(4, 4, 3)]),),
    ),
    _moves(layers.Dropout, 6, 6, 3, rate=0.5, output=Output.IDENTITY),
    _moves(layers.SpatialDropout2D, 6, 6, 3, rate=0.5, output=Output.IDENTITY),
    _moves(layers.SpatialDropout1D, 6, 3, rate=0.5, output=Output.IDENTITY),
    _moves(layers.GaussianNoise, 6, stddev=0.1, output=Output.IDENTITY),
    _moves(layers.GaussianDropout, 6, rate=0.1, output=Output.IDENTITY),
    _moves(layers.AlphaDropout, 6, rate=0.1, output=Output.IDENTITY),
    _moves(layers.ActivityRegularization, 6, output=Output.IDENTITY),
    _moves(layers.Identity, 6, output=Output.IDENTITY),
    _moves(operators.Reshape),
    _moves(operators.Ravel),
    _moves(operators.Transpose),
]
