"""Layers and inputs that tests factor."""

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.dtype.startswith(("float", "bfloat")):
            low = 0.5 if "variance" in variable.path else -1.0
            variable.assign(rng.uniform(low, 1.0, variable.shape))
    return model


def of_layer(layer, shape, dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    return randomize(keras.Model(inputs, layer(inputs)))


def low_rank(shape, rank, seed=0):
    """A kernel (inputs, outputs) of falling singular values, or samples of a rank."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))


@st.composite
def convolutions(draw):
    """(layer, shape of its inputs) of random settings."""
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    plain = strides == (1, 1)
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2))) if plain else 1
    layer = layers.Conv2D(
        draw(st.integers(1, 6)),
        draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        strides=strides,
        padding=draw(st.sampled_from(("same", "valid"))),
        dilation_rate=dilation,
        use_bias=draw(st.booleans()),
        activation=draw(st.sampled_from((None, "relu"))),
        name="conv",
    )
    size = st.integers(7, 10)
    return layer, (draw(size), draw(size), draw(st.integers(1, 5)))
