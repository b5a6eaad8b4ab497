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


SPECS = [
    _moves(layers.Flatten, 4, 4, 3),
    _moves(layers.Reshape, 4, 4, 3, target_shape=(16, 3)),
    _moves(layers.ZeroPadding2D, 6, 6, 3, padding=((0, 1), (0, 1))),
    _moves(layers.Dropout, 6, 6, 3, rate=0.5, output=Output.IDENTITY),
    _moves(layers.SpatialDropout2D, 6, 6, 3, rate=0.5, output=Output.IDENTITY),
    _moves(layers.Identity, 6, output=Output.IDENTITY),
    _moves(operators.Reshape),
    _moves(operators.Ravel),
]
