"""Models for restructuring, and what must be equal of them."""

import keras
import numpy as np
from keras import layers, ops

from tests.core import models as small
from tests.pruning.channels import graphs

SHAPE = (8, 8, 3)


def convolutional():
    """One of everything that the options are about."""
    image = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(12, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="stem_norm")(x)
    x = layers.Activation("swish", name="stem_swish")(x)
    y = layers.Conv2D(12, 3, padding="same", activation="tanh", name="conv")(x)
    x = ops.softplus(layers.Add(name="add")([x, y]))
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Conv2D(10, 3, strides=2, name="down")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dropout(0.1, name="drop")(x)
    return _randomized(
        keras.Model(image, layers.Dense(5, name="head")(x), name="convolutional")
    )


def _randomized(model):
    graphs.randomize(model)
    return model


def images(samples=16, seed=0):
    return small.images(samples, seed)


def require_equal(model, other, x, tolerance=1e-5):
    """Outputs are equal up to float32's roundings, in shares of the largest one."""
    for wanted, got in zip(
        small.outputs(model, x), small.outputs(other, x), strict=True
    ):
        scale = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale)
