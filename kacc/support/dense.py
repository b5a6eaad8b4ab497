"""Dense layers."""

from __future__ import annotations

import keras

from kacc.core.registry import LayerSpec, Weight
from kacc.support.activations import (
    call_with_activation,
    linear_integer,
    name_of,
    ranges,
    unsupported,
)

layers = keras.layers

SPECS = [
    LayerSpec(
        layers.Dense,
        weights=(Weight("kernel"),),
        bias="bias",
        activation=name_of,
        absorbs_relu=True,
        folds_batch_norm=True,
        ranges=ranges,
        call=call_with_activation,
        integer=linear_integer,
        supported=unsupported,
        examples=(
            lambda: (layers.Dense(5, activation="relu"), [(7,)]),
            lambda: (layers.Dense(4, activation="softmax", use_bias=False), [(7,)]),
            lambda: (layers.Dense(4, activation="swish"), [(3, 7)]),
        ),
    ),
]
